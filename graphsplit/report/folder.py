"""The plan behind the folder of a split, made again from its manifest and its weightless copy of the source."""

from __future__ import annotations

from math import prod
from pathlib import Path

from graphsplit.errors import ManifestError
from graphsplit.files import inside
from graphsplit.formats.onnx_file import load_weightless
from graphsplit.manifest import Manifest
from graphsplit.network import Network, make, prepare
from graphsplit.planning import Plan


def replan(folder: Path) -> tuple[Network, Plan]:
    """The network and the plan that a split's folder came from. Reads no weights.

    Raises ManifestError for a folder that holds no valid manifest, or whose split this version plans differently.
    """
    manifest = Manifest.read(folder)
    options = manifest.options
    graph = load_weightless(inside(folder, manifest.source.file))
    network = prepare(
        graph, trainable=options.trainable, constant=options.constant, rules=options.rules, sizes=dict(options.sizes)
    )
    plan = make(
        network,
        manifest.parts,
        strategy=options.strategy,
        seed=options.seed,
        shares=options.shares,
        keep=options.keep,
        outputs=options.outputs,  # type: ignore[arg-type]
    )
    _check(folder, manifest, plan)
    return network, plan


def _check(folder: Path, manifest: Manifest, plan: Plan) -> None:
    for number, file in enumerate(manifest.submodels):
        owner = plan.partition.owner
        shapes = [p.selection(owner, number).shape(p.shape) for p in plan.parameters.values()]
        held = sum(prod(shape) for shape in shapes)
        if held != file.elements:
            raise ManifestError(
                f"{folder}: {file.file} holds {file.elements:,} trained elements, "
                f"a plan with the same options gives it {held:,}",
                hint="the folder was split by another version of graphsplit; inspect the model that it was split from",
            )
