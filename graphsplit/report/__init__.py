"""What a split does and why, as facts: inspections, comparisons and explanations, and as text.

`docs/inspect.schema.json` describes the JSON of every report.
"""

from graphsplit.report.ask import compare_splits, explain_model, inspect_folder, inspect_model, inspect_split
from graphsplit.report.content import (
    Comparison,
    Explanation,
    GraphInspection,
    Inspection,
    PairExplanation,
    Report,
    plain,
    split_summary,
)
from graphsplit.report.explain import Explainer, explain, explain_pair
from graphsplit.report.facts import inspect
from graphsplit.report.schema import schema
from graphsplit.report.whole import compare, inspect_graph

__all__ = [
    "Comparison",
    "Explainer",
    "Explanation",
    "GraphInspection",
    "Inspection",
    "PairExplanation",
    "Report",
    "compare",
    "compare_splits",
    "explain",
    "explain_model",
    "explain_pair",
    "inspect",
    "inspect_folder",
    "inspect_graph",
    "inspect_model",
    "inspect_split",
    "plain",
    "schema",
    "split_summary",
]
