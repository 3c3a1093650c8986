"""The plan behind the folder of a split, made again from its manifest and its weightless copy of the source."""

from __future__ import annotations

from math import prod
from pathlib import Path

from graphsplit.errors import ManifestError
from graphsplit.manifest import Manifest
from graphsplit.merging import open_split
from graphsplit.network import Network
from graphsplit.planning import Plan


def replan(folder: Path) -> tuple[Network, Plan]:
    """The network and the plan that a split's folder came from. Reads no weights.

    Raises ManifestError for a folder that holds no valid manifest, or whose split this version plans differently.
    """
    opened = open_split(folder)
    _check(folder, opened.manifest, opened.plan)
    return opened.network, opened.plan


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
