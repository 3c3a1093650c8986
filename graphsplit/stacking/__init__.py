"""K sub-models of equal shapes trained on one device as one batched computation."""

from graphsplit.stacking.choice import Choice, choose, fastest, part_losses, unbound
from graphsplit.stacking.modules import parts_of, stack, unstack
from graphsplit.stacking.optimizers import clip_grad_norm_, stack_optimizers, unstack_optimizer

__all__ = [
    "Choice",
    "choose",
    "clip_grad_norm_",
    "fastest",
    "part_losses",
    "parts_of",
    "stack",
    "stack_optimizers",
    "unbound",
    "unstack",
    "unstack_optimizer",
]
