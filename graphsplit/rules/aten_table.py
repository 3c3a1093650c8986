"""The rule table of torch programs: all lines of the `aten_*` modules."""

from graphsplit.rules import aten_elementwise, aten_layers, aten_movement, aten_recurrent

TABLE = "".join(module.TABLE for module in (aten_elementwise, aten_layers, aten_movement, aten_recurrent))
