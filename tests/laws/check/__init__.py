"""The laws of docs/design.md as checkers: each looks at files and at values, and gives its complaints.

A checker gives a list of texts, empty where the law holds: so a test can assert that it is, and a negative control that
it isn't. `trained` is the way in: it splits a network, perturbs every parameter of every sub-model, and merges them.
"""

from tests.laws.check.law1 import exact_merge
from tests.laws.check.law2 import claimed, coverage, holders
from tests.laws.check.law3 import same_network, untrained_merge
from tests.laws.check.law4 import valid_parts
from tests.laws.check.law7 import narrowness
from tests.laws.check.making import (
    STRATEGIES,
    Array,
    Arrays,
    Case,
    Found,
    Part,
    change,
    perturb,
    perturb_all,
    refusal,
    tolerance,
    trained,
    write,
)
from tests.laws.check.running import Runner, off, planned_inputs

__all__ = [
    "STRATEGIES",
    "Array",
    "Arrays",
    "Case",
    "Found",
    "Part",
    "Runner",
    "change",
    "claimed",
    "coverage",
    "exact_merge",
    "holders",
    "narrowness",
    "off",
    "perturb",
    "perturb_all",
    "planned_inputs",
    "refusal",
    "same_network",
    "tolerance",
    "trained",
    "untrained_merge",
    "valid_parts",
    "write",
]
