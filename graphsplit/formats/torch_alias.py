"""Writes into views, as values: after one, whoever looks at the same memory under another name reads a new value.

`x[:, :4] = y` is a slice and a copy into it, and whoever reads `x` later expects to find `y` there. In the neutral graph
each value is computed once, so a write into a view is followed by nodes that put it back into what it is a view of
(slice_scatter, select_scatter, …), and other views are taken again. Ops that write into a value of their own
(`relu_` behind a convolution) stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from graphsplit.errors import UnsupportedError

WHOLE = ("slice", "alias", "detach", "view", "reshape", "_unsafe_view", "contiguous", "to", "expand", "type_as")
"""Views that, where nothing of their shape changes, are the thing itself."""
RESHAPING = ("view", "reshape", "_unsafe_view", "unsqueeze", "squeeze", "flatten", "unflatten")


def storage(node: fx.Node) -> int | None:
    """What tells whether two values share memory: the identity of the storage behind a node's value."""
    value = node.meta.get("val")
    if not isinstance(value, torch.Tensor):
        return None
    try:
        return int(value.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):
        return None


def written(node: fx.Node) -> fx.Node | None:
    """The value that a node's op writes into."""
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return None
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = node.args[position] if position < len(node.args) else node.kwargs.get(argument.name)
            return value if isinstance(value, fx.Node) else None
    return None


@dataclass
class Memory:
    """Which values share memory, and the newest name of each, while the nodes are read in order.

    `current` stands for a node wherever it is read later: another node, or what `emit(near, op, arguments)` gave back.
    """

    position: Mapping[fx.Node, int]
    emit: Callable[[fx.Node, Any, tuple[Any, ...]], Any]
    refuse: Callable[[fx.Node, str], UnsupportedError]
    current: dict[fx.Node, Any] = field(default_factory=dict)
    groups: dict[int, list[fx.Node]] = field(default_factory=dict)

    def seen(self, node: fx.Node) -> None:
        """Note a node whose value now exists."""
        key = storage(node)
        if key is not None:
            self.groups.setdefault(key, []).append(node)

    def shares(self, one: fx.Node, other: fx.Node) -> bool:
        """Whether two values lie in the same memory."""
        return storage(one) is not None and storage(one) == storage(other)

    def write(self, node: fx.Node, target: fx.Node) -> None:
        """A node wrote into a value: bring everything that shares its memory and is read later up to date."""
        now = self.position[node]
        self.current[target] = node
        others = [n for n in self.groups.get(storage(node) or 0, []) if n not in (node, target)]
        late = {n for n in others if self.latest(n) is not node and any(self.position[user] > now for user in n.users)}
        if not late:
            return
        fresh = {target}
        self._upward(node, target, fresh)
        for other in sorted(late, key=lambda n: self.position[n]):
            self._downward(node, other, fresh)

    def _upward(self, near: fx.Node, view: fx.Node, fresh: set[fx.Node]) -> None:
        """Put what was written back into what it is a view of, and so on to the whole."""
        parent = self._parent(view)
        while parent is not None:
            self.current[parent] = self._put_back(near, view, parent)
            fresh.add(parent)
            view, parent = parent, self._parent(parent)

    def _downward(self, near: fx.Node, view: fx.Node, fresh: set[fx.Node]) -> None:
        """Take a view again of what it is a view of."""
        if view in fresh:
            return
        parent = self._parent(view)
        if parent is None:
            raise self.refuse(near, f"it writes into memory that {view.name!r} looks at as well")
        self._downward(near, parent, fresh)
        fresh.add(view)
        if written(view) is not None:  # the result of an earlier write is what it wrote into
            self.current[view] = self.current[parent]
            return
        args = tuple(self.latest(a) if isinstance(a, fx.Node) else a for a in view.args)
        self.current[view] = self.emit(near, view.target, args)

    def latest(self, node: fx.Node) -> Any:
        """What stands for a node by now."""
        found: Any = node
        while isinstance(found, fx.Node) and found in self.current:
            found = self.current[found]
        return found

    def _parent(self, view: fx.Node) -> fx.Node | None:
        """What a value is a view of."""
        if view.op != "call_function":
            return None
        mine = storage(view)
        for argument in view.args[:1]:
            if isinstance(argument, fx.Node) and storage(argument) == mine:
                return argument
        return None

    def _put_back(self, near: fx.Node, view: fx.Node, parent: fx.Node) -> Any:
        """The parent with what was written into one of its views."""
        source, base, args = self.latest(view), self.latest(parent), view.args[1:]
        here, there = view.meta["val"], parent.meta["val"]
        name = getattr(view.target, "_schema", None)
        op = name.name.partition("::")[2] if name is not None else ""
        aten = torch.ops.aten
        if written(view) is not None or (op in WHOLE and tuple(here.shape) == tuple(there.shape)):
            return source
        if op == "slice":
            return self.emit(near, aten.slice_scatter.default, (base, source, *args))
        if op == "select":
            return self.emit(near, aten.select_scatter.default, (base, source, *args))
        if op in ("transpose", "swapaxes", "t"):
            return self.emit(near, view.target, (source, *args))
        if op == "permute":
            order = [int(d) % there.dim() for d in args[0]]  # type: ignore[union-attr, arg-type]
            return self.emit(near, view.target, (source, [order.index(d) for d in range(len(order))]))
        if op in RESHAPING and all(isinstance(size, int) for size in there.shape):
            return self.emit(near, aten.reshape.default, (source, list(there.shape)))
        raise self.refuse(near, f"it writes into a view that {op or view.name} makes, and the whole is read later")
