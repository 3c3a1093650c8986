"""A drawing as a figure: the page's own drawing function, run by QuickJS where there is no browser."""

from __future__ import annotations

import json

from graphsplit.draw.content import Drawing
from graphsplit.draw.files import asset
from graphsplit.errors import GraphsplitError
from graphsplit.report import plain

SCRIPTS = ("vendor/dagre.min.js", "layout.js", "draw.js")
STACK = 64 << 20
MISSING = "globalThis.structuredClone = (value) => JSON.parse(JSON.stringify(value));"
"""Of what browsers have, QuickJS lacks this alone that the layout uses, on plain objects."""


def figure(drawing: Drawing) -> str:
    """The drawing as SVG text, folded as the page opens. Raises GraphsplitError without the extra `svg`."""
    try:
        import quickjs
    except ImportError as error:
        raise GraphsplitError(
            "figures are drawn by the page's own code, which needs quickjs-ng", hint="pip install 'graphsplit[svg]'"
        ) from error
    context = quickjs.Context()
    context.set_max_stack_size(STACK)
    context.eval(MISSING)
    for name in SCRIPTS:
        context.eval(asset(name))
    context.set("facts", json.dumps(plain(drawing)))
    context.set("style", asset("drawing.css"))
    # joined, because a string that is still a rope of pieces doesn't come back
    return str(context.eval("[graphsplit.figure(JSON.parse(facts), style)].join(String())"))
