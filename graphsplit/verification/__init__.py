"""Verification: what of the laws can be checked from outside, on a split's folder and on a merged file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from graphsplit.errors import FormatError, MergeError
from graphsplit.graph import Array
from graphsplit.merging import LeafModel, Opened, open_split
from graphsplit.verification.file import check_merged
from graphsplit.verification.laws import exact_merge, identity, order
from graphsplit.verification.result import Check, Verification
from graphsplit.verification.running import Bench, Subject, subjects
from graphsplit.verification.runtime import runtime_of
from graphsplit.verification.statics import coverage, narrowness, valid_parts
from graphsplit.verification.wide import in_single_precision

__all__ = ["Check", "Verification", "verify", "verify_opened"]

Progress = Callable[[str, int, int], None]
STAGES = ("sub-models", "coverage", "narrowness", "identity", "order", "exact merge")


def verify(
    folder: str | os.PathLike[str],
    merged: str | os.PathLike[str] | None = None,
    *,
    trained: Sequence[str | os.PathLike[str]] = (),
    inputs: str | os.PathLike[str] | Mapping[str, Array] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Check every law that can be checked from outside on a split's folder, and on the merged file if one is given.

    `trained` are trained files instead of the sub-models in `folder`, as for `merge`; `inputs` are arrays to run on (an
    .npz file or by name) instead of random ones. A law that doesn't hold is a failed check.

    Raises ManifestError, MergeError, FormatError or GraphsplitError for what isn't a split, trained files that don't
    fit it and inputs that don't fit the network.
    """
    (progress or (lambda *_: None))("planning", 0, 1)
    opened = open_split(folder)
    try:
        leaves = runtime_of(opened.network).leaves(opened, trained)
    except (MergeError, FormatError) as error:
        if trained:
            raise
        return Verification((Check("coverage", False, error.message),), "no runtime: the sub-models can't be read")
    return verify_opened(
        opened,
        leaves,
        merged,
        trained=trained,
        inputs=inputs,
        again=lambda: _again(opened, leaves, trained),
        progress=progress,
    )


def verify_opened(
    opened: Opened,
    leaves: Sequence[LeafModel],
    merged: str | os.PathLike[str] | None = None,
    *,
    trained: Sequence[str | os.PathLike[str]] = (),
    inputs: str | os.PathLike[str] | Mapping[str, Array] | None = None,
    again: Callable[[], Sequence[LeafModel]] | None = None,
    progress: Progress | None = None,
) -> Verification:
    """The same of a split that is planned and read already: of a folder's, or of a module's (`split.opened, split.leaves()`).

    `again` gives the sub-models another time, read in reversed order; `trained` are the files that they came from.
    """
    with tempfile.TemporaryDirectory(prefix="graphsplit-") as work:
        bench = Bench.on(opened, Path(work), inputs)
        parts = subjects(opened, leaves)
        reread = again or (lambda: leaves[::-1])
        checks = tuple(_checks(bench, leaves, parts, merged, trained, reread, progress or (lambda *_: None)))
    return Verification(checks, bench.runtime.title)


def _checks(
    bench: Bench,
    leaves: Sequence[LeafModel],
    parts: Sequence[Subject],
    merged: str | os.PathLike[str] | None,
    trained: Sequence[str | os.PathLike[str]],
    again: Callable[[], Sequence[LeafModel]],
    report: Progress,
) -> Iterator[Check]:
    opened = bench.opened
    total = len(STAGES) + (merged is not None)
    direct = [(Path(leaf.label).name, leaf.path[0], leaf.tensors) for leaf in leaves if len(leaf.path) == 1]
    report(STAGES[0], 0, total)
    unusable = bench.settle(leaves)
    yield valid_parts(bench, parts, leaves)
    report(STAGES[1], 1, total)
    yield coverage(opened, direct)
    report(STAGES[2], 2, total)
    yield narrowness(opened, direct)
    report(STAGES[3], 3, total)
    yield identity(opened, leaves)
    report(STAGES[4], 4, total)
    yield order(bench, leaves, again())
    report(STAGES[5], 5, total)
    exact = Check("exact merge", False, unusable) if unusable else exact_merge(bench, parts)
    yield in_single_precision(bench, leaves, exact, exact_merge)
    if merged is not None:
        report("merged file", 6, total)
        yield from check_merged(bench, merged, leaves, trained, parts)
    report("done", total, total)


def _again(
    opened: Opened, leaves: Sequence[LeafModel], trained: Sequence[str | os.PathLike[str]]
) -> Sequence[LeafModel]:
    """The sub-models read again from files in reversed order; the leaves reversed where files go by position."""
    files = list(trained) or [opened.folder / entry.file for entry in opened.manifest.submodels]
    try:
        found = runtime_of(opened.network).leaves(opened, files[::-1])
    except MergeError:
        return leaves[::-1]
    moved = {leaf.path: leaf.label for leaf in found} != {leaf.path: leaf.label for leaf in leaves}
    return leaves[::-1] if moved and trained else found
