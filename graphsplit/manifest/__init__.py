"""The manifest of a split: what each sub-model holds of each tensor, and how the merge puts it back.

The file format is specified in `docs/manifest.md`. Reading one validates everything.
"""

from graphsplit.manifest.content import (
    BlockedAxis,
    Note,
    Options,
    OutputEntry,
    ParameterEntry,
    Source,
    SubModelFile,
)
from graphsplit.manifest.document import FORMAT, VERSION, Manifest, part_elements
from graphsplit.manifest.entries import GroupTable, parameter_entries
from graphsplit.manifest.kinds import Counts, Kind, Region
from graphsplit.manifest.ranges import Group, Ranges

__all__ = [
    "FORMAT",
    "VERSION",
    "BlockedAxis",
    "Counts",
    "Group",
    "GroupTable",
    "Kind",
    "Manifest",
    "Note",
    "Options",
    "OutputEntry",
    "ParameterEntry",
    "Ranges",
    "Region",
    "Source",
    "SubModelFile",
    "parameter_entries",
    "part_elements",
]
