"""Splitting a torch module into sub-models that train like it, and merging them again."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from graphsplit.assemble import Leaf as GraphLeaf
from graphsplit.errors import FormatError, MergeError, UnsupportedError
from graphsplit.graph import ArrayTensor, Graph, Node, Tensor
from graphsplit.merging import Layers, LeafModel, Needs, Opened, merged_graph, merged_tensor_of, outward
from graphsplit.modules.fold import folded
from graphsplit.modules.folder import SOURCE, SUFFIX, Given, metadata_of, write_folder
from graphsplit.modules.groups import Settings
from graphsplit.modules.optimizers import merge_into
from graphsplit.modules.source import by_graph_names, held_tensors, in_memory, source_of, unwrapped
from graphsplit.options import Choices, SplitOptions
from graphsplit.recombine.match import PART_KEY, SPLIT_KEY, match_parts
from graphsplit.splitting import Progress, Split, describe, rescaled
from graphsplit.torch_network import prepare_torch

if TYPE_CHECKING:
    import torch
    from torch import nn

    from graphsplit.formats.torch_holders import Source


def split_module(
    model: nn.Module,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    k: int,
    dynamic_shapes: Mapping[str, Any] | Sequence[Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Unpack[SplitOptions],
) -> ModuleSplit:
    """Cut a module by width into `k` sub-models. `args`, `kwargs` and `dynamic_shapes` are those of `torch.export.export`.

    The module is exported in evaluation and in training mode, and planned once for both; it is left as it is. A sub-model of
    an earlier split can be split again: it needs no arguments. `out` is a folder to write the split into, too.

    Raises GraphsplitError for whatever can't be split exactly, with the reason and the line of the user's source.
    """
    if not callable(getattr(model, "named_parameters", None)):
        raise FormatError(f"{type(model).__name__} is no torch module", hint="give an nn.Module and its inputs")
    chosen, report = Choices.of(options), progress or (lambda *_: None)
    report("exporting", 0, 1)
    source = source_of(model, args, kwargs, dynamic_shapes)
    report("planning", 0, 1)
    aliases = source.modes.program.aliases
    chosen = replace(chosen, keep=tuple(aliases.get(name, name) for name in chosen.keep))
    network = prepare_torch(source, **chosen.preparing)
    plan, narrowed = chosen.narrowed(network, k, report=lambda part: report("narrowing", part, k))
    manifest = describe(network, plan, chosen.record(network, plan), narrowed, source=SOURCE, suffix=SUFFIX)
    opened = Opened(Path(), manifest, network, plan, narrowed, manifest.parameters)
    graphs = [
        found.graph.replace(metadata={**found.graph.metadata, PART_KEY: str(part), SPLIT_KEY: manifest.split})
        for part, found in enumerate(narrowed)
    ]
    if chosen.init == "rescale":
        graphs = [rescaled(plan, graph, part) for part, graph in enumerate(graphs)]
    if out is not None:
        write_folder(opened, source, graphs, out, force=force, progress=report)
    submodels = [_submodel(source, graph).train(model.training) for graph in graphs]
    return ModuleSplit(submodels, source, opened, model, None if out is None else Path(out))


def _submodel(source: Source, graph: Graph) -> nn.Module:
    from graphsplit.formats.torch_module import write

    module = write(source.with_graph(graph))
    module.split_source = source.narrowed(graph)
    return module


class ModuleSplit(Split["nn.Module"]):
    """A module's split: its sub-models, to be trained as any module is, and the way back."""

    submodels: list[nn.Module]

    def __init__(
        self,
        submodels: list[nn.Module],
        source: Source,
        opened: Opened,
        model: nn.Module | None = None,
        folder: Path | None = None,
    ) -> None:
        super().__init__(folder, opened.manifest, opened.plan, submodels)
        self.source, self.opened, self.model = source, opened, model
        self.written: list[weakref.ref[nn.Module]] = []

    def merge(self, trained: Sequence[Any] | None = None, *, allow_nonfinite: bool = False) -> nn.Module:
        """The merged network: in evaluation mode each tap is the mean of the sub-models'. It trains, in both modes.

        Where a layer takes statistics over all of its vertices, it is there once for each part. `trained` replaces the
        sub-models, in part order: modules, their state dicts, checkpoints or files of them, or further splits of them.
        """
        from graphsplit.formats.torch_module import write

        module = write(self.merged_source(self.leaves(trained, allow_nonfinite=allow_nonfinite)))
        self.written.append(weakref.ref(module))
        return module.train(self.model is None or self.model.training)

    def merged_source(self, leaves: Sequence[LeafModel], *, layers: Layers = "duplicated") -> Source:
        """All that the merged module is written by."""
        from graphsplit.formats.torch_holders import with_copies

        graph = self._graph(leaves, layers)
        if layers == "original":
            return self.source.with_graph(graph)
        refuse_sliced_state(graph, self.source.modes.program.state)
        holders = with_copies(self.source.holders, graph, self._copies(graph, leaves))
        return replace(self.source.with_graph(apart(graph, leaves)), holders=holders)

    def merge_state_dict(
        self,
        trained: Sequence[Any] | None = None,
        *,
        allow_nonfinite: bool = False,
        base: Mapping[str, torch.Tensor] | None = None,
    ) -> dict[str, torch.Tensor]:
        """The merged weights for the user's own module, under its own names.

        The module has each layer once. Where the merged network repeats one for each part (`repeats` counts these nodes),
        this one isn't the exact mean of the sub-models: what was copied is averaged; `difference` measures by how much. With
        `base`, the state dict of the module as it was split, cut weights keep their values, and it is no mean of any kind.
        Raises MergeError where the module has no place for what the merge needs.
        """
        from graphsplit.formats.torch_module import copied

        old = None if base is None else self._tensors(base, [])
        graph = self._graph(self.leaves(trained, allow_nonfinite=allow_nonfinite), "original", old)
        holders, made = self.source.holders, dict[str, "torch.Tensor"]()
        kept = [(name, known) for name, known in holders.names.items() if known not in holders.temporary]
        for _, known in kept:
            if known not in made:
                made[known] = copied(graph.tensors[known], holders.devices.get(known))
        return {name: made[known] for name, known in kept}

    @property
    def repeats(self) -> int:
        """How many nodes of the merged network are computed once for each part."""
        return len(self.plan.part_nodes)

    def difference(self, *args: Any, **kwargs: Any) -> float:
        """The largest difference between outputs of the original layers with merged weights and of the merged network."""
        import torch
        from torch.utils import _pytree as pytree

        from graphsplit.formats.torch_module import write

        graph = self._graph(self.leaves(), "original")
        one = write(self.source.with_graph(graph)).eval()
        other = self.merge().eval()
        with torch.no_grad():
            pairs = zip(
                pytree.tree_leaves(one(*args, **kwargs)), pytree.tree_leaves(other(*args, **kwargs)), strict=True
            )
            return max(
                (float((a - b).abs().max()) for a, b in pairs if isinstance(a, torch.Tensor) and a.numel()), default=0.0
            )

    def merge_optimizers(
        self,
        optimizers: Sequence[Any],
        into: torch.optim.Optimizer,
        *,
        trained: Sequence[Any] | None = None,
        settings: Settings = "submodels",
    ) -> None:
        """Put the state of the sub-models' optimizers into one for the user's module, or for a merged one.

        Parameters are matched by identity. The pending update merges like its weight: momentum by Eq. 1; Adam's and
        RMSprop's so that the merged step is what the steps of the parts would merge to. `trained` is what `merge` takes, if
        it isn't the sub-models: with further splits in it, `optimizers` are those of their sub-models in order. Groups,
        learning rates and decay come from the sub-models' optimizers, or with `settings="into"` stay as they are. Raises
        MergeError for an optimizer whose state has no such rule.
        """
        merge_into(self, optimizers, into, trained, settings)

    # -- the pieces ----------------------------------------------------------------------------------------------

    def leaves(self, trained: Sequence[Any] | None = None, *, allow_nonfinite: bool = False) -> list[LeafModel]:
        """The trained sub-models at the ends of the tree of splits, checked."""
        from graphsplit.modules.folder import read_given

        names = self.source.holders.names
        given = [read_given(item, names) for item in (self.submodels if trained is None else trained)]
        opened = self.opened
        if len(given) != self.parts:
            raise MergeError(f"{len(given)} sub-models were given, and the split has {self.parts} parts")
        inner = [
            item.leaves(allow_nonfinite=allow_nonfinite) if isinstance(item, ModuleSplit) else [] for item in given
        ]
        held = [self._tensors(item, leaves) for item, leaves in zip(given, inner, strict=True)]
        known = {name for submodel in opened.submodels for name in submodel.graph.tensors}
        known |= opened.network.graph.tensors.keys()
        labelled = [
            (item.label if isinstance(item, Given) else f"sub-model {part}", tensors, metadata_of(item))
            for part, (item, tensors) in enumerate(zip(given, held, strict=True))
        ]
        matched = match_parts(self.manifest, labelled, known=known, allow_nonfinite=allow_nonfinite)
        found: list[LeafModel] = []
        weight = Fraction(1, self.parts)
        placed = {id(tensors): number for number, tensors in enumerate(held)}
        for part, one in enumerate(matched):
            number = placed[id(one.tensors)]
            item = given[number]
            if isinstance(item, ModuleSplit):
                self._check_nested(part, item)
                found.extend(outward(opened, part, weight, item.opened, leaf) for leaf in inner[number])
                continue
            self._check_constants(part, one.tensors)
            submodel = opened.submodels[part]
            slices = {name: self.manifest.selection(name, part) for name in opened.entries}
            leaf = GraphLeaf(
                (part,),
                float(weight),
                submodel.graph,
                submodel.origin,
                submodel.selected,
                slices,
                submodel.differing,
            )
            found.append(LeafModel((part,), weight, one.label, one.tensors, leaf, Needs()))
        return found

    def _tensors(self, item: Any, leaves: Sequence[LeafModel]) -> Mapping[str, Tensor]:
        from graphsplit.formats.torch_tensors import TorchTensor

        if isinstance(item, ModuleSplit):
            return item._graph(leaves, "weights").tensors
        names = self.source.holders.names
        if isinstance(item, Given):
            return by_graph_names(item.tensors, names)
        if isinstance(item, Mapping):
            state = in_memory(item, names)
            return by_graph_names({name: TorchTensor(tensor.detach()) for name, tensor in state.items()}, names)
        return held_tensors(unwrapped(item), self.source)

    def _check_nested(self, part: int, inner: ModuleSplit) -> None:
        if inner.manifest.source.digest != self.manifest.submodels[part].digest:
            raise MergeError(
                f"the split given for part {part} is one of another network than sub-model {part}",
                hint="give the splits in part order, made of the sub-models of this split",
            )

    @property
    def counters(self) -> frozenset[str]:
        """Buffers that count: what running the module changes, and training does not."""
        return self.source.modes.program.state - self.opened.network.trained

    def _check_constants(self, part: int, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self.opened.submodels[part].graph.tensors.items():
            if name in self.opened.network.trained or name in self.counters or name not in tensors:
                continue
            if tensors[name].shape != tensor.shape or not np.array_equal(tensors[name].numpy(), tensor.numpy()):
                raise MergeError(
                    f"sub-model {part}: {name!r} does not train, and it has changed",
                    hint=f"split with trainable=[{name!r}] if it is to train",
                )

    def _graph(
        self, leaves: Sequence[LeafModel], layers: Layers | str, base: Mapping[str, Tensor] | None = None
    ) -> Graph:
        """The merged graph, with its counters and everything that nothing computes with."""
        opened = self.opened.over(base)
        if layers == "weights":
            found = self.opened.network.graph.replace(tensors=merged_tensors(opened, leaves))
        elif layers == "original" and self.plan.activation and self.parts > 1:
            found = self.opened.network.graph.replace(tensors=self._folded(opened, leaves))
        else:
            found, _ = merged_graph(opened, leaves, layers=layers)  # type: ignore[arg-type]
        tensors = dict(found.tensors)
        copied = {name.rpartition(".part_")[0] for name in tensors}
        for name in self.source.holders.names.values():
            if name not in copied or name in self.counters:
                tensors.setdefault(name, self.opened.network.graph.tensors[name])
        for name in self.counters & tensors.keys():
            arrays = [leaf.tensors[name].numpy() for leaf in leaves if name in leaf.tensors]
            if arrays:
                tensors[name] = ArrayTensor(np.asarray(np.maximum.reduce(arrays), tensors[name].dtype))
        return found.replace(tensors=tensors)

    def _folded(self, opened: Opened, leaves: Sequence[LeafModel]) -> dict[str, Tensor]:
        """The merged weights, with the scale behind an output layer in what stands in front of it: each leaf's by its weight."""
        tensors = merged_tensors(opened, leaves)
        names = folded(self.plan, self.opened.network.dialect)
        light = [replace(leaf, tensors={n: times(leaf.tensors[n], leaf.weight) for n in names}) for leaf in leaves]
        tensors.update({name: merged_tensor_of(opened, name, light) for name in names})
        return tensors

    def _copies(self, graph: Graph, leaves: Sequence[LeafModel]) -> dict[str, str]:
        """The copies that a merged graph holds for its parts, and what they are copies of."""
        held = set(self.source.holders.names.values())
        suffixes = tuple(f".{leaf.graph.suffix}" for leaf in leaves)
        found = {}
        for name in graph.tensors:
            for suffix in suffixes:
                if name.endswith(suffix) and name.removesuffix(suffix) in held and name not in held:
                    found[name] = name.removesuffix(suffix)
        return found


def times(tensor: Tensor, weight: Fraction) -> Tensor:
    """A tensor times a leaf's weight, rounded once."""
    array = tensor.numpy()
    return ArrayTensor((array.astype(np.float64) * weight.numerator / weight.denominator).astype(array.dtype))


def merged_tensors(opened: Opened, leaves: Sequence[LeafModel]) -> dict[str, Tensor]:
    """The merged weights of a split whose graph is split further up: what a part's own split gives for it."""
    tensors: dict[str, Tensor] = dict(opened.network.graph.tensors)
    tensors.update({name: merged_tensor_of(opened, name, leaves) for name in opened.entries})
    return tensors


def refuse_sliced_state(graph: Graph, state: frozenset[str]) -> None:
    """A buffer that running the module updates must be there as a whole, or as a copy: a slice's update would be lost."""
    for node in graph.nodes:
        held = next((name for name in node.inputs[:1] if name in state and name in graph.tensors), None)
        if held is not None and node.op.startswith("index_select"):
            raise UnsupportedError(
                f"{node.title} takes a part's slice of {held!r}, which the merged network updates as it trains",
                hint="merge_state_dict() puts the weights into the original layers",
            )


def apart(graph: Graph, leaves: Sequence[LeafModel]) -> Graph:
    """A merged graph whose repeated nodes write into nothing that other repeated nodes read."""
    suffixes = tuple(f".{leaf.graph.suffix}" for leaf in leaves)
    if len(leaves) < 2:
        return graph
    nodes = [piece for node in graph.nodes for piece in (_unwritten(node) if node.name.endswith(suffixes) else (node,))]
    return graph.replace(nodes=tuple(nodes))


def _unwritten(node: Node) -> tuple[Node, ...]:
    """A node that writes into no operand, or into a copy of it.

    With several operands the op that gives a new value may give another type, and that of `copy_` has no gradient.
    """
    from graphsplit.formats.torch_code import functional

    new = functional(node)
    if new is node or len(node.inputs) == 1:
        return (new,)
    own = f"{node.outputs[0]}.own"
    copy = Node(f"{node.name}.own", "clone.default", "aten", 1, node.inputs[:1], (own,))
    return (copy, replace(node, inputs=(own, *node.inputs[1:])))
