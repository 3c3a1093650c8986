"""Pictures of a partition: a page to explore in a browser, a figure, and the facts behind them.

`docs/drawing.schema.json` describes those.
"""

from graphsplit.draw.ask import draw_folder, draw_graph, draw_model, draw_plan
from graphsplit.draw.content import Drawing
from graphsplit.draw.figure import figure
from graphsplit.draw.page import page
from graphsplit.draw.write import facts, write, writer

__all__ = [
    "Drawing",
    "draw_folder",
    "draw_graph",
    "draw_model",
    "draw_plan",
    "facts",
    "figure",
    "page",
    "write",
    "writer",
]
