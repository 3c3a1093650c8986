"""Multiply-adds: what training counts as it runs is what `inspect` reads off the graph."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

import graphsplit  # noqa: E402
from graphsplit.network import prepare  # noqa: E402
from graphsplit.report.ask import inspect_model  # noqa: E402
from graphsplit.torch_network import prepare_torch  # noqa: E402
from graphsplit.training.flops import flop_counter  # noqa: E402
from models.char_lm import CharLM  # noqa: E402
from models.cuda_convnet import CudaConvnet  # noqa: E402
from models.lenet import LeNet  # noqa: E402
from tests import networks  # noqa: E402

ROOT = Path(__file__).parent.parent

Inputs = tuple[Tensor, ...]


class First(nn.Module):
    """A layer of which the first result is wanted."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *x: Tensor) -> Tensor:
        found = self.layer(*x)
        return found[0] if isinstance(found, tuple) else found


class Function(nn.Module):
    """A function as a module, which has a parameter only so that there is something to train."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function, self.scale = function, nn.Parameter(torch.ones(1))

    def forward(self, *x: Tensor) -> Tensor:
        return self.function(*x) * self.scale


def counted(run: Callable[[], Any], counter: Any = None) -> int:
    """The multiply-adds that a function runs."""
    with counter or flop_counter() as counter:
        run()
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def said(module: nn.Module, inputs: Inputs) -> int:
    """What `inspect` says of a module for inputs of these shapes."""
    return inspect_model(prepare_torch(module, inputs)).network.multiply_adds


def step(module: nn.Module, inputs: Inputs) -> int:
    """The multiply-adds of a forward and a backward."""
    return counted(lambda: module(*inputs).sum().backward())


def rnn(kind: type[nn.Module], **options: Any) -> Callable[[], tuple[nn.Module, Inputs]]:
    return lambda: (First(kind(3, 4, **options)), (torch.randn(5, 2, 3),))


def plain(layer: Callable[[], nn.Module], *shape: int) -> Callable[[], tuple[nn.Module, Inputs]]:
    return lambda: (layer(), (torch.randn(*shape),))


def between(function: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Callable[[], tuple[nn.Module, Inputs]]:
    return lambda: (Function(function), tuple(torch.randn(*shape) for shape in shapes))


def unfused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.softmax(q @ k.transpose(-1, -2), -1) @ v


def shared(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def lenet() -> tuple[nn.Module, Inputs]:
    return LeNet(), (torch.randn(3, 1, 28, 28),)


def convnet() -> tuple[nn.Module, Inputs]:
    return CudaConvnet((8, 8, 8, 4)), (torch.randn(2, 3, 24, 24),)


def language() -> tuple[nn.Module, Inputs]:
    return CharLM(width=16, depth=2, heads=2, length=12), (torch.randint(0, 11, (2, 12)),)


QUERY, KEY, NARROW = (2, 6, 7, 5), (2, 6, 9, 5), (2, 6, 9, 4)
SCORES, VALUES = 2 * 6 * 7 * 9 * 5, 2 * 6 * 7 * 9 * 4  # the two products: scores of keys, and sums of narrow values
SPELLED_OUT = {"attention, one head", "attention, narrow", "attention, unfused"}  # the CPU has these as products

# what a hand computes for one forward, where it is short to say
NETWORKS: dict[str, tuple[Callable[[], tuple[nn.Module, Inputs]], int | None]] = {
    "linear": (plain(lambda: nn.Linear(6, 4), 5, 6), 5 * 6 * 4),
    "linear over steps": (plain(lambda: nn.Linear(6, 4, bias=False), 2, 5, 6), 10 * 6 * 4),
    "a vector": (plain(lambda: Function(lambda x: torch.ones(4, 6) @ x), 6), 4 * 6),
    "bilinear": (lambda: (nn.Bilinear(3, 5, 4), (torch.randn(2, 3), torch.randn(2, 5))), 2 * 3 * 5 * 4),
    "einsum": (between(lambda a, b: torch.einsum("bij,bkj->bik", a, b), (2, 3, 4), (2, 5, 4)), 2 * 3 * 5 * 4),
    "conv1d": (plain(lambda: nn.Conv1d(3, 8, 3), 2, 3, 9), 2 * 8 * 7 * 3 * 3),
    "conv2d": (plain(lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), 2, 3, 9, 9), 2 * 8 * 25 * 3 * 9),
    "grouped": (plain(lambda: nn.Conv2d(4, 8, 3, groups=2), 2, 4, 6, 6), 2 * 8 * 16 * 2 * 9),
    "depthwise": (plain(lambda: nn.Conv2d(4, 4, 3, groups=4), 2, 4, 6, 6), 2 * 4 * 16 * 9),
    "conv3d": (plain(lambda: nn.Conv3d(2, 3, 2), 2, 2, 4, 4, 4), 2 * 3 * 27 * 2 * 8),
    "transposed": (plain(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), 2, 4, 5, 5), 2 * 4 * 25 * 3 * 9),
    "lstm": (rnn(nn.LSTM), 10 * 4 * 4 * (3 + 4)),
    "lstm, batch first": (rnn(nn.LSTM, batch_first=True), 10 * 4 * 4 * (3 + 4)),
    "lstm, two ways": (rnn(nn.LSTM, bidirectional=True), 2 * 10 * 4 * 4 * (3 + 4)),
    "lstm, stacked": (rnn(nn.LSTM, bidirectional=True, num_layers=2, bias=False), 2 * 10 * 16 * (3 + 4 + 8 + 4)),
    "gru": (rnn(nn.GRU, bidirectional=True, num_layers=2), 2 * 10 * 12 * (3 + 4 + 8 + 4)),
    "rnn": (rnn(nn.RNN, num_layers=2), 10 * 4 * (3 + 4 + 4 + 4)),
    "lstm cell": (lambda: (First(nn.LSTMCell(3, 4)), (torch.randn(2, 3),)), 2 * 16 * (3 + 4)),
    "gru cell": (lambda: (First(nn.GRUCell(3, 4)), (torch.randn(2, 3),)), 2 * 12 * (3 + 4)),
    "attention": (between(F.scaled_dot_product_attention, QUERY, KEY, KEY), 2 * SCORES),
    "attention, narrow": (between(F.scaled_dot_product_attention, QUERY, KEY, NARROW), SCORES + VALUES),
    "attention, causal": (between(causal, QUERY, KEY, KEY), 2 * SCORES),
    "attention, shared": (between(shared, QUERY, (2, 2, 9, 5), (2, 2, 9, 5)), 2 * SCORES),
    "attention, one head": (between(F.scaled_dot_product_attention, (2, 7, 5), (2, 9, 5), (2, 9, 4)), 2 * 63 * 9),
    "attention, unfused": (between(unfused, QUERY, KEY, NARROW), SCORES + VALUES),
    "lenet": (lenet, 3 * 2_293_000),
    "cuda-convnet": (convnet, None),
    "char_lm": (language, None),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_forward_counts_what_inspect_says(name: str) -> None:
    make, by_hand = NETWORKS[name]
    module, inputs = make()
    run = counted(lambda: module(*inputs))
    assert run == said(module, inputs)
    assert run == by_hand or by_hand is None
    assert run > 0


def test_a_model_read_from_a_file_says_what_runs() -> None:
    found = inspect_model(ROOT / "models" / "lenet.onnx")
    batch = found.network.inputs[0].probe[0]
    images = torch.randn(batch, 1, 28, 28)
    assert found.network.multiply_adds == counted(lambda: LeNet()(images))


@pytest.mark.parametrize("name", ["alexnet", "shufflenet_v1_g2", "transformer", "multi_query", "stacked_recurrent"])
def test_an_onnx_network_counts_what_inspect_says(tmp_path: Path, name: str) -> None:
    path = tmp_path / "network.onnx"
    onnx.save(networks.NETWORKS[name](), path)
    network = prepare(path)
    known = [network.facts[value.name] for value in network.graph.inputs]
    inputs = [torch.from_numpy(np.zeros(fact.shape or (), fact.dtype)) for fact in known]
    module = graphsplit.trainable(path)
    assert counted(lambda: module(*inputs)) == inspect_model(network).network.multiply_adds > 0


# -- a step ------------------------------------------------------------------------------------------------------------

# A contraction of a weight takes as much again for the weight's gradient, and again for that of what it is applied to:
# three times the forward, less what nobody needs the gradient of, which is what comes before the first weight.
# Here is what that leaves over, for each network, where its inputs need no gradient, and where they do.
STEPS: dict[str, tuple[int, int]] = {
    "linear": (-5 * 6 * 4, 0),
    "conv1d": (-2 * 8 * 7 * 3 * 3, 0),
    "conv2d": (-2 * 8 * 25 * 3 * 9, 0),
    "grouped": (-2 * 8 * 16 * 2 * 9, 0),
    "depthwise": (-2 * 4 * 16 * 9, 0),
    "conv3d": (-2 * 3 * 27 * 2 * 8, 0),
    "transposed": (-2 * 4 * 25 * 3 * 9, 0),
    # three operands, so four times
    "bilinear": (-2 * 3 * 5 * 4, 2 * 3 * 5 * 4),
    # one fused op, which computes the gradient of its input and of its first state whether they're needed or not
    "lstm": (0, 0),
    "lstm, two ways": (0, 0),
    "lstm, stacked": (0, 0),
    # step by step: the first state needs no gradient, in any layer and direction
    "gru": (-4 * 2 * 12 * 4 - 2 * 10 * 12 * 3, -4 * 2 * 12 * 4),
    "rnn": (-2 * 2 * 4 * 4 - 10 * 4 * 3, -2 * 2 * 4 * 4),
    "lstm cell": (-2 * 16 * (3 + 4), -2 * 16 * 4),
    # no weights: all is for the inputs. Fused, the scores are computed once more on the way back
    "attention": (-4 * SCORES, SCORES),
    "attention, causal": (-4 * SCORES, SCORES),
    "attention, shared": (-4 * SCORES, SCORES),
    "attention, narrow": (-2 * (SCORES + VALUES), 0),
    "attention, unfused": (-2 * (SCORES + VALUES), 0),
    "lenet": (-3 * 24 * 24 * 25 * 20, 0),
    "cuda-convnet": (-2 * 24 * 24 * 25 * 3 * 8, 0),
}


@pytest.mark.parametrize("needed", [False, True])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_takes_three_times_a_forward_less_what_nobody_needs(name: str, needed: bool) -> None:
    module, inputs = NETWORKS[name][0]()
    if needed:
        inputs = tuple(x.requires_grad_() for x in inputs)
    assert step(module, inputs) == 3 * counted(lambda: module(*inputs)) + STEPS[name][needed]


def test_a_step_of_a_language_model_computes_its_scores_twice() -> None:
    module, inputs = language()
    scores = 2 * (2 * 2 * 12 * 12 * 8)  # of two layers; tokens have no gradient, and what embeds them no contraction
    assert step(module, inputs) == 3 * said(module, inputs) + scores


# -- ops that torch doesn't count --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm", "lstm, two ways", "lstm, stacked"])
def test_a_fused_layer_counts_as_its_matrix_products(name: str) -> None:
    module, (x,) = NETWORKS[name][0]()
    wide, y = module.double(), x.double()  # in double precision it is written out as products, which torch counts
    products = counted(lambda: wide(y), FlopCounterMode(display=False))
    module, (x,) = NETWORKS[name][0]()
    assert counted(lambda: module(x)) == products > 0


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_a_projected_state_counts() -> None:
    module, x = First(nn.LSTM(3, 4, proj_size=2)), torch.randn(5, 2, 3)
    assert counted(lambda: module(x)) == 10 * (16 * (3 + 2) + 2 * 4)


@pytest.mark.parametrize("mask", [[True, False, False, False], [True, True, True, True]])
def test_recurrent_layers_of_accelerators_count(mask: list[bool]) -> None:
    # two layers in two directions, a state projected to 2 of 4: shapes alone, there needn't be such a device
    with torch.device("meta"):
        layer, x = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2), torch.randn(5, 2, 3)
        h, c = torch.zeros(4, 2, 2), torch.zeros(4, 2, 4)
    by_hand = 2 * 10 * (16 * (3 + 2) + 8 + 16 * (4 + 2) + 8)
    weights, options = list(layer.parameters()), (2, 4, 2, 2, False, 0.0, True, True, [], None)
    run = torch.ops.aten._cudnn_rnn
    assert counted(lambda: run(x, weights, 5, None, h, c, *options)) == by_hand
    back = flop_counter().flop_registry[torch.ops.aten._cudnn_rnn_backward]
    found = back(x, weights, 5, x, h, c, x, x, None, None, *options, x, mask, out_val=())
    assert found == 2 * by_hand * (2 if mask[-1] else 1)


# -- negative controls -------------------------------------------------------------------------------------------------


def test_torch_alone_would_miss_what_we_count() -> None:
    missed = set()
    for name, (make, _) in NETWORKS.items():
        module, inputs = make()
        if counted(lambda: module(*inputs), FlopCounterMode(display=False)) != said(module, inputs):  # noqa: B023
            missed.add(name)
    lstms = {name for name in NETWORKS if name.startswith("lstm") and name != "lstm cell"}
    fused = {name for name in NETWORKS if name.startswith("attention") and name not in SPELLED_OUT}
    assert missed == lstms | fused | {"a vector", "bilinear", "char_lm"}


def test_a_wrong_rule_says_another_number() -> None:
    module, inputs = NETWORKS["attention, narrow"][0]()
    line = "aten::scaled_dot_product_attention ... q d, ... s d, ... s e -> ... q e | whole s d"
    run = counted(lambda: module(*inputs))
    for work, found in [
        ("", 0),
        (" | work ...*q*s*d", SCORES),
        (" | work ...*q*s*d ...*q*s*e", run),
        (" | work ...*q*s*d ...*q*s*e ...*q*s*e", run + VALUES),
    ]:
        network = prepare_torch(module, inputs, rules=[line + work])
        assert inspect_model(network).network.multiply_adds == found


def test_a_layer_that_runs_twice_is_seen() -> None:
    layer, x = nn.Linear(6, 6), torch.randn(2, 6)
    assert counted(lambda: layer(layer(x))) == 2 * said(layer, (x,))
