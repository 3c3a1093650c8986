"""How far a merged network with the original layers is from the mean of its parts: law 1 given up, in a number."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from graphsplit.graph import Graph
from graphsplit.merging import LeafModel, Opened
from graphsplit.verification.laws import compared_values
from graphsplit.verification.running import Bench, subjects

__all__ = ["difference"]


def difference(opened: Opened, leaves: Sequence[LeafModel], merged: Graph) -> float | None:
    """The largest error of any compared value on random inputs, relative to that value's size; None where nothing runs."""
    with tempfile.TemporaryDirectory(prefix="graphsplit-") as work:
        bench = Bench.on(opened, Path(work), None)
        if bench.settle(leaves) is not None:
            return None
        names = compared_values(opened)
        references = bench.references(subjects(opened, leaves), names)
        found = bench.compared(references, bench.session(merged, names), merged)
    return max((c.worst for c in found if c.compared), default=None)
