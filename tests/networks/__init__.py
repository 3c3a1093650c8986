"""Networks that the tests split.

NETWORKS have to split exactly; EXACT_OR_REFUSED may be refused, but never be silently wrong; REFUSED come with
the word (a node's name or its operator) that the refusal has to name.
"""

import importlib

from tests.networks.registry import EXACT_OR_REFUSED, NETWORKS, REFUSED

ROOMS = (
    "classic", "residual", "mobile", "spatial", "norms", "sequences", "structures", "computed", "spellings", "refused",
    "attention", "heads", "mixtures", "windows",
)  # fmt: skip

# Imported for what they register.
for _room in ROOMS:
    importlib.import_module(f"tests.networks.{_room}")

__all__ = ["EXACT_OR_REFUSED", "NETWORKS", "REFUSED"]
