"""The label flow: which neuron computed each element, and which neurons must stay together."""

from graphsplit.labels.arrays import COMMON, OUTPUT, PRIVATE, Labels
from graphsplit.labels.decide import Flowed, Outputs, flow, less_divided, stored
from graphsplit.labels.decisions import Block
from graphsplit.labels.flow import Dialect
from graphsplit.labels.operands import refuse_unknown
from graphsplit.labels.parameters import UNUSED, Claim
from graphsplit.labels.trainable import parameters

__all__ = [
    "COMMON",
    "OUTPUT",
    "PRIVATE",
    "UNUSED",
    "Block",
    "Claim",
    "Dialect",
    "Flowed",
    "Labels",
    "Outputs",
    "flow",
    "less_divided",
    "parameters",
    "refuse_unknown",
    "stored",
]
