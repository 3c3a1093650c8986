"""A drawing as one HTML file that needs nothing else: facts, styles, code and libraries are all in it."""

from __future__ import annotations

import html
import json
import re

from graphsplit.draw.content import Drawing
from graphsplit.draw.files import asset
from graphsplit.report import plain

STYLES = ("drawing.css", "page.css")
SCRIPTS = (
    "vendor/dagre.min.js",
    "vendor/d3-zoom.min.js",
    "layout.js",
    "draw.js",
    "charts.js",
    "chains.js",
    "panel.js",
    "app.js",
)


def page(drawing: Drawing) -> str:
    """The drawing as HTML. Names come from models: they are escaped, and can't end the element that they stand in."""
    pieces = {
        "title": html.escape(drawing.title),
        "version": html.escape(drawing.version),
        "style": "\n".join(asset(name) for name in STYLES),
        "facts": embedded(plain(drawing)),
        "script": "\n".join(asset(name) for name in SCRIPTS),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: pieces[found[1]], asset("page.html"))


def embedded(content: object) -> str:
    """JSON that can stand in a script element: no `<` in it, so nothing in it is markup."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
