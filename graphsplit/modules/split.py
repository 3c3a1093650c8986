"""Splitting a torch module into sub-models that train like it, and merging them again."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphsplit.assemble import Leaf as GraphLeaf
from graphsplit.errors import FormatError, MergeError, PlanError, UnsupportedError
from graphsplit.graph import ArrayTensor, Graph, Tensor
from graphsplit.labels.decide import Outputs
from graphsplit.manifest import Manifest, Options
from graphsplit.merging import Layers, LeafModel, Needs, Opened, merged_graph, merged_tensor_of, outward
from graphsplit.modules.fold import folded
from graphsplit.modules.optimizers import merge_into
from graphsplit.modules.source import held_tensors, source_of
from graphsplit.narrow import narrow
from graphsplit.network import make
from graphsplit.planning import Plan
from graphsplit.recombine.match import match_parts
from graphsplit.splitting import Init, describe, rescaled
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
    strategy: str = "contiguous",
    seed: int = 0,
    shares: Sequence[float] | None = None,
    keep: Iterable[str] = (),
    trainable: Iterable[str] = (),
    constant: Iterable[str] = (),
    outputs: Outputs = "auto",
    rules: Iterable[str] = (),
    sizes: Mapping[str, int] | None = None,
    init: Init = "keep",
) -> ModuleSplit:
    """Cut a module by width into `k` sub-models. `args`, `kwargs` and `dynamic_shapes` are those of `torch.export.export`.

    The module is exported in evaluation and in training mode, and planned once for both; it is left as it is. A sub-model of
    an earlier split can be split again: it needs no arguments.

    Raises GraphsplitError for whatever can't be split exactly, with the reason and the line of the user's source.
    """
    from graphsplit.formats.torch_module import write

    if not callable(getattr(model, "named_parameters", None)):
        raise FormatError(f"{type(model).__name__} is no torch module", hint="give an nn.Module and its inputs")
    if init not in ("keep", "rescale"):
        raise PlanError(f"there is no initialisation {init!r}", hint="choose keep or rescale")
    keep, trainable, constant, rules = tuple(keep), tuple(trainable), tuple(constant), tuple(rules)
    source = source_of(model, args, kwargs, dynamic_shapes)
    program = source.modes.program
    keep = tuple(program.aliases.get(name, name) for name in keep)
    network = prepare_torch(program, trainable=trainable, constant=constant, rules=rules, sizes=sizes)
    plan = make(network, k, strategy=strategy, seed=seed, shares=shares, keep=keep, outputs=outputs)
    narrowed = tuple(narrow(plan, network.dialect, part) for part in range(k))
    options = Options(
        plan.partition.shares, strategy, seed, init, keep, trainable, constant, outputs, rules, dict(network.sizes)
    )
    manifest = describe(network, plan, options, narrowed)
    opened = Opened(Path(), manifest, network, plan, narrowed, manifest.parameters)
    submodels: list[nn.Module] = []
    for part, found in enumerate(narrowed):
        graph = rescaled(plan, found.graph, part) if init == "rescale" else found.graph
        module = write(source, graph)
        module.source = source.narrowed(found.graph)
        submodels.append(module.train(model.training))
    return ModuleSplit(submodels, source, opened, model)


@dataclass(eq=False)
class ModuleSplit:
    """A module's split: its sub-models, to be trained as any module is, and the way back."""

    submodels: list[nn.Module]
    source: Source
    opened: Opened
    model: nn.Module
    written: list[weakref.ref[nn.Module]] = field(default_factory=list)

    @property
    def plan(self) -> Plan:
        """Which part owns what."""
        return self.opened.plan

    @property
    def manifest(self) -> Manifest:
        """The split's manifest, as its folder would hold it."""
        return self.opened.manifest

    @property
    def parts(self) -> int:
        """The number of sub-models."""
        return self.manifest.parts

    def merge(self, trained: Sequence[Any] | None = None, *, allow_nonfinite: bool = False) -> nn.Module:
        """The merged network: in evaluation mode each tap is the mean of the sub-models'. It trains, in both modes.

        Where a layer takes statistics over all of its vertices, it is there once for each part. `trained` replaces the
        sub-models, in part order: modules, their state dicts, or further splits of them.
        """
        from graphsplit.formats.torch_holders import with_copies
        from graphsplit.formats.torch_module import write

        leaves = self.leaves(trained, allow_nonfinite=allow_nonfinite)
        graph = self._graph(leaves, "duplicated")
        refuse_sliced_state(graph, self.source.modes.program.state)
        copies = self._copies(graph, leaves)
        graph = apart(graph, leaves)
        module = write(self.source, graph, with_copies(self.source.holders, graph, copies))
        self.written.append(weakref.ref(module))
        return module.train(self.model.training)

    def merge_state_dict(
        self, trained: Sequence[Any] | None = None, *, allow_nonfinite: bool = False
    ) -> dict[str, torch.Tensor]:
        """The merged weights for the user's own module, under its own names.

        The module has each layer once. Where the merged network repeats one for each part (`repeats` counts these nodes),
        this one isn't the exact mean of the sub-models: what was copied is averaged; `difference` measures by how much.
        Raises MergeError where the module has no place for what the merge needs.
        """
        from graphsplit.formats.torch_module import copied

        graph = self._graph(self.leaves(trained, allow_nonfinite=allow_nonfinite), "original")
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
        one = write(self.source, graph).eval()
        other = self.merge().eval()
        with torch.no_grad():
            pairs = zip(
                pytree.tree_leaves(one(*args, **kwargs)), pytree.tree_leaves(other(*args, **kwargs)), strict=True
            )
            return max(
                (float((a - b).abs().max()) for a, b in pairs if isinstance(a, torch.Tensor) and a.numel()), default=0.0
            )

    def merge_optimizers(self, optimizers: Sequence[torch.optim.Optimizer], into: torch.optim.Optimizer) -> None:
        """Put the state of the sub-models' optimizers into one for the user's module, or for a merged one.

        Parameters are matched by identity. The pending update merges like its weight: momentum by Eq. 1; Adam's and
        RMSprop's so that the merged step is what the steps of the parts would merge to. Groups, learning rates and decay
        come from the sub-models' optimizers. Raises MergeError for an optimizer whose state has no such rule.
        """
        leaves = self.leaves(allow_nonfinite=True)
        merge_into(self, leaves, optimizers, into)

    # -- the pieces ----------------------------------------------------------------------------------------------

    def leaves(self, trained: Sequence[Any] | None = None, *, allow_nonfinite: bool = False) -> list[LeafModel]:
        """The trained sub-models at the ends of the tree of splits, checked."""
        given = list(self.submodels if trained is None else trained)
        opened = self.opened
        if len(given) != self.parts:
            raise MergeError(f"{len(given)} sub-models were given, and the split has {self.parts} parts")
        inner = [
            item.leaves(allow_nonfinite=allow_nonfinite) if isinstance(item, ModuleSplit) else [] for item in given
        ]
        held = [self._tensors(item, leaves) for item, leaves in zip(given, inner, strict=True)]
        known = {name for submodel in opened.submodels for name in submodel.graph.tensors}
        known |= opened.network.graph.tensors.keys()
        labelled = [(f"sub-model {part}", tensors, dict[str, str]()) for part, tensors in enumerate(held)]
        matched = match_parts(self.manifest, labelled, known=known, allow_nonfinite=allow_nonfinite)
        found: list[LeafModel] = []
        weight = Fraction(1, self.parts)
        for part, one in enumerate(matched):
            item = given[part]
            if isinstance(item, ModuleSplit):
                found.extend(outward(opened, part, weight, item.opened, leaf) for leaf in inner[part])
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
        if isinstance(item, Mapping):
            found = unprefixed(item, names)
            return {names.get(name, name): TorchTensor(tensor.detach()) for name, tensor in found.items()}
        return held_tensors(unwrapped(item), self.source)

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

    def _graph(self, leaves: Sequence[LeafModel], layers: Layers | str) -> Graph:
        """The merged graph, with its counters and everything that nothing computes with."""
        if layers == "weights":
            found = self.opened.network.graph.replace(tensors=merged_tensors(self.opened, leaves))
        elif layers == "original" and self.plan.activation and self.parts > 1:
            found = self.opened.network.graph.replace(tensors=self._folded(leaves))
        else:
            found, _ = merged_graph(self.opened, leaves, layers=layers)  # type: ignore[arg-type]
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

    def _folded(self, leaves: Sequence[LeafModel]) -> dict[str, Tensor]:
        """The merged weights, with the scale behind an output layer in what stands in front of it."""
        tensors = merged_tensors(self.opened, leaves)
        for name in folded(self.plan, self.opened.network.dialect):
            array = tensors[name].numpy()
            tensors[name] = ArrayTensor((array.astype(np.float64) / self.parts).astype(array.dtype))
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


PREFIXES = ("module.", "_orig_mod.", "model.")
"""What wrappers and trainers put in front of every name of a state dict."""


def unprefixed(state: Mapping[str, Any], names: Mapping[str, str]) -> Mapping[str, Any]:
    """A state dict without what a wrapper put in front of its names."""
    while state and not any(name in names for name in state):
        prefix = next((p for p in PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def unwrapped(module: Any) -> Any:
    """The sub-model in a compiled module or in one that copies it over devices."""
    from graphsplit.formats.torch_module import SplitModule

    while not isinstance(module, SplitModule):
        inner = getattr(module, "_orig_mod", None) or getattr(module, "module", None)
        if inner is None:
            break
        module = inner
    return module


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
    from graphsplit.formats.torch_code import functional

    suffixes = tuple(f".{leaf.graph.suffix}" for leaf in leaves)
    if len(leaves) < 2:
        return graph
    nodes = tuple(functional(node) if node.name.endswith(suffixes) else node for node in graph.nodes)
    return graph.replace(nodes=nodes)
