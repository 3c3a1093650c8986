"""State dicts as trainers leave them: found in a checkpoint, under the names that the network knows.

Wrappers and trainers put something in front of every name (`module.`, `model.`), or into it (`_fsdp_wrapped_module.`), and
networks have layers of those names as well. So a name is never read by its look alone where the network's are known: the
reading that finds most of them is the right one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from graphsplit.errors import FormatError

__all__ = ["renamed", "state_dict"]

_T = TypeVar("_T")

NESTS = ("state_dict", "model_state_dict", "model", "model_state", "module", "net", "network")
"""Where checkpoints hold a network's weights."""
INNER = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
"""Parts of names that only wrappers make, wherever they stand."""
WRAPPERS = (*INNER, "module")
AVERAGED = "n_averaged"
"""What torch.optim.swa_utils.AveragedModel counts."""
DEPTH = 3


def state_dict(
    loaded: object, is_tensor: Callable[[object], bool], *, names: Collection[str] = (), title: str = "the checkpoint"
) -> dict[str, Any] | None:
    """The mapping of names to tensors in what a checkpoint holds; None where there is none.

    Of several the one that has most of the network's names; without names, the one under a usual key. Raises FormatError where
    several are as good: weights and their moving average, say.
    """
    found = list(_found(loaded, is_tensor, ()))
    if not found:
        return None
    covered = [_covered(state, names) for _, state in found]
    best = [item for item, count in zip(found, covered, strict=True) if count == max(covered)]
    if not max(covered):
        usual = [(path, state) for path, state in best if all(key in NESTS for key in path)]
        best = usual or best
    if len(best) > 1:
        places = [repr(".".join(path)) for path, _ in best]
        keys = "".join(f"[{key!r}]" for key in best[0][0])
        raise FormatError(
            f"{title} holds {len(best)} state dicts of the network: {', '.join(places[:-1])} and {places[-1]}",
            hint=f"give the one that is meant by itself, such as checkpoint{keys}",
        )
    return best[0][1]


def _found(
    loaded: object, is_tensor: Callable[[object], bool], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """All state dicts in nested mappings, and the keys that lead to them."""
    if not isinstance(loaded, Mapping):
        return
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and is_tensor(value)}
    extra = {name for name in loaded if str(name).endswith("_extra_state")} - tensors.keys()
    if tensors and len(tensors) + len(extra) == len(loaded):
        yield path, tensors
    elif len(path) < DEPTH:
        for key, value in loaded.items():
            if isinstance(key, str):
                yield from _found(value, is_tensor, (*path, key))


def renamed(state: Mapping[str, _T], names: Collection[str] = ()) -> dict[str, _T]:
    """A state dict under the names that the network knows, as far as it has them; what else it holds keeps its name.

    Without `names` only what torch's own wrappers write is taken off.
    """
    if not names:
        return _unwrapped(state)
    known = set(names)
    readings = [_reading(state, known, parts) for parts in ((), INNER, WRAPPERS)]
    best = max(readings, key=len)  # of equal ones the first, which changes least
    if not best:
        return dict(state)
    left = {name for name in state if name not in best and _counts(name)}
    found = {best.get(name, name): tensor for name, tensor in state.items() if name not in left}
    return found if len(found) == len(state) - len(left) else dict(state)  # of two tensors for one name none is guessed


def _counts(name: str) -> bool:
    return name.rpartition(".")[2] == AVERAGED


def _covered(state: Mapping[str, Any], names: Collection[str]) -> int:
    """How many of the network's names a state dict has, under whatever reading."""
    known = set(names)
    return len(known & renamed(state, known).keys()) if known else 0


def _reading(state: Mapping[str, Any], known: Collection[str], parts: Collection[str]) -> dict[str, str]:
    """The network's name of each tensor, with these parts left out of names and the prefix that fits most of them off."""
    ours = {_squeezed(name, parts): name for name in known}
    theirs = {_squeezed(name, parts): name for name in state}
    if len(ours) < len(known) or len(theirs) < len(state):  # what the parts tell apart
        return {}
    prefixes = Counter(prefix for name in theirs for prefix, rest in _endings(name) if rest in ours)
    if not prefixes:
        return {}
    prefix = min(prefixes, key=lambda found: (-prefixes[found], len(found), found))
    return {
        name: ours[short.removeprefix(prefix)]
        for short, name in theirs.items()
        if short.startswith(prefix) and short.removeprefix(prefix) in ours
    }


def _squeezed(name: str, parts: Collection[str]) -> str:
    """A name without these parts, but for its last one."""
    *front, last = name.split(".")
    return ".".join((*(part for part in front if part not in parts), last))


def _endings(name: str) -> Iterator[tuple[str, str]]:
    """A name cut at each of its dots, and before its start."""
    yield "", name
    for at, letter in enumerate(name):
        if letter == ".":
            yield name[: at + 1], name[at + 1 :]


def _unwrapped(state: Mapping[str, _T]) -> dict[str, _T]:
    found = {_squeezed(name, INNER): tensor for name, tensor in state.items()}
    found = found if len(found) == len(state) else dict(state)
    while True:
        rest = [name for name in found if name != AVERAGED]
        if not rest or not all(name.startswith("module.") for name in rest):
            return found
        found = {name.removeprefix("module."): found[name] for name in rest}
