"""What stacking knows of torch ops beyond the rule lines: where an op's arguments name axes and sizes, and what it draws.

Specification: https://docs.pytorch.org/docs/stable/torch.html#indexing-slicing-joining-mutating-ops
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MOVES = """
# op                  arguments that are axes, or all sizes of the result ("order": all axes in a new order)
_unsafe_view          sizes=size as=reshape.default:shape
broadcast_to          sizes=size
cat                   axes=dim
chunk                 axes=dim
constant_pad_nd
diagonal              axes=dim1,dim2
expand                sizes=size
expand_copy           sizes=size
flatten               axes=start_dim,end_dim
flip                  axes=dims
gather                axes=dim
mT
movedim               axes=source,destination
moveaxis              axes=source,destination
narrow                axes=dim
permute               order=dims
permute_copy          order=dims
pixel_shuffle
pixel_unshuffle
repeat                times=repeats
reshape               sizes=shape
roll                  axes=dims
rot90                 axes=dims
scatter               axes=dim
select                axes=dim
select_scatter        axes=dim
slice                 axes=dim
slice_scatter         axes=dim
split                 axes=dim
split_with_sizes      axes=dim
squeeze               axes=dim
stack                 axes=dim
swapaxes              axes=axis0,axis1
swapdims              axes=dim0,dim1
take_along_dim        axes=dim
tensor_split          axes=dim
transpose             axes=dim0,dim1
tril
triu
unbind                axes=dim
unflatten             axes=dim
unfold                axes=dimension
unsqueeze             axes=dim
view                  sizes=size as=reshape.default:shape
view_copy             sizes=size as=reshape.default:shape
# the same in a batch of matrices: the axes of operands stay behind that of the parts
addmm                 as=baddbmm.default pads=1
mm                    as=bmm.default
"""

_BORDERS = [f"{how}_pad{axes}d" for how in ("reflection", "replication") for axes in (1, 2, 3)]
SAMPLES = frozenset(["channel_shuffle", "pad", *_BORDERS])
"""Movement ops that do the same along the first axis of their operand, and take a fixed number of axes."""

CONTRACTS: Mapping[str, bool] = {"linear": True, "matmul": False}
"""Ops that contract the last axis of their first operand with a matrix; whether that is given as (out, in)."""

AFFINE = ("layer_norm", "rms_norm")
"""Norms with a gain, and maybe a bias, that are multiplied and added behind the statistics, along the last axes."""

DRAWS_EACH = frozenset(
    ["alpha_dropout", "bernoulli", "dropout", "exponential", "native_dropout", "normal", "rand_like", "randint_like"]
).union(["randn_like", "rrelu", "scaled_dot_product_attention", "uniform"])
"""Ops that draw a random number for each element by itself, so that parts side by side draw apart."""

IN_PLACE_ONLY = frozenset(["copy"])
"""Ops of whose two forms only the one that writes has a gradient."""

RISING = ("hardtanh", "relu", "relu6")
SELECTING = ("max_pool1d", "max_pool2d", "max_pool3d")
"""Functions that never fall and are flat only where their gradient is zero, and ops that select the largest element: these
two can change places, and the function then runs on what was selected."""


@dataclass(frozen=True)
class Move:
    """A movement op's arguments by what they mean.

    `op` is another op that does the same with one more axis in front, `renamed` what it calls the argument that holds sizes;
    `pads` is one where the first operand lacks an axis.
    """

    axes: tuple[str, ...] = ()
    sizes: str = ""
    order: str = ""
    times: str = ""
    op: str = ""
    renamed: str = ""
    pads: int = 0


def _parsed(text: str) -> dict[str, Move]:
    found = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, *words = line.split()
        given = dict(word.split("=") for word in words)
        op, _, renamed = given.get("as", "").partition(":")
        axes = tuple(given["axes"].split(",")) if "axes" in given else ()
        sizes, order, times = (given.get(key, "") for key in ("sizes", "order", "times"))
        found[name] = Move(axes, sizes, order, times, op, renamed, int(given.get("pads", 0)))
    return found


MOVED = _parsed(MOVES)
