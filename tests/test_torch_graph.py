"""Reading torch modules: the neutral graph computes what the module computes, and refusals name the user's line."""

from __future__ import annotations

import copy
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor, nn  # noqa: E402

from graphsplit.errors import UnsupportedError  # noqa: E402
from graphsplit.formats.torch_graph import TorchProgram, read  # noqa: E402
from graphsplit.formats.torch_run import run  # noqa: E402
from tests.torch_networks import NETWORKS, example  # noqa: E402


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    state = copy.deepcopy(dict(module.named_buffers()))
    return {**dict(module.named_parameters()), **state}


def computed(program: TorchProgram, module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    values = {value.name: x.clone() for value, x in zip(program.graph.inputs, inputs, strict=True)}
    torch.manual_seed(7)
    return run(program.graph, values, tensors_of(module))


def expected(module: nn.Module, inputs: tuple[Any, ...]) -> list[Tensor]:
    torch.manual_seed(7)
    leaves = torch.utils._pytree.tree_leaves(copy.deepcopy(module)(*[x.clone() for x in inputs]))
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_graph_computes_what_the_module_computes(name: str, training: bool) -> None:
    module, inputs = example(name, training=training)
    program = read(module, inputs)
    assert program.training == training
    assert equal(computed(program, module, inputs), expected(module, inputs))


def test_the_comparison_sees_another_answer() -> None:
    module, inputs = example("residual", training=False)
    program = read(module, inputs)
    with torch.no_grad():
        module[0].weight[3] *= 1.01
    assert not equal(
        computed(program, copy.deepcopy(example("residual", training=False)[0]), inputs), expected(module, inputs)
    )


@pytest.mark.parametrize("name", [n for n in NETWORKS if n not in ("encoder_layer",)])
def test_a_dynamic_batch_stays_dynamic(name: str) -> None:
    module, inputs = example(name, training=False)
    program = read(module, inputs, dynamic_shapes=tuple({0: torch.export.Dim.AUTO} for _ in inputs))
    assert [isinstance(value.shape[0], str) for value in program.graph.inputs if value.shape] == [True] * len(inputs)
    more = tuple(torch.cat([x, x.flip(0)]) for x in inputs)
    for a, b in zip(computed(program, module, more), expected(module, more), strict=True):
        torch.testing.assert_close(a, b)


def test_every_argument_survives() -> None:
    """Attributes hold what the schema says, types and devices as text."""

    class Casts(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.full((3,), 2.5, dtype=torch.float64, device=x.device)
            return x.to(torch.float64).mul(y).to(torch.float16).add(1, alpha=2) + torch.arange(3)

    program = read(Casts(), (torch.randn(3),))
    texts = [value for node in program.graph.nodes for value in node.attributes.values() if isinstance(value, str)]
    assert {"torch.float64", "torch.float16", "device:cpu"} <= set(texts)
    assert equal(computed(program, Casts(), (torch.ones(3),)), expected(Casts(), (torch.ones(3),)))


def test_names_are_the_modules() -> None:
    module, inputs = example("transformer_tied", training=True)
    program = read(module, inputs)
    assert set(program.parameters) | set(program.aliases) == set(dict(module.named_parameters(remove_duplicate=False)))
    assert program.aliases == {"head.weight": "embedding.weight"}
    module, inputs = example("computed", training=True)
    program = read(module, inputs)
    assert program.frozen == {"second.weight"}
    assert program.state == {"steps"}
    assert program.temporary == {"scale"}
    assert program.graph.nodes[program.effects[0]].inputs == ("steps",)
    assert read(module.eval(), inputs).effects == ()
    assert [result for result in program.results if isinstance(result, str)] == [v.name for v in program.graph.outputs]
    assert len(program.results) == 3


def test_equal_values_are_no_tie() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    module[1].load_state_dict(module[0].state_dict())
    assert read(module, (torch.randn(2, 4),)).aliases == {}


def test_running_statistics_are_state_in_both_modes() -> None:
    for training in (True, False):
        module, inputs = example("residual", training=training)
        state = read(module, inputs).state
        assert {"1.bn1.running_mean", "2.bn2.running_var"} <= state
        assert ("1.bn1.num_batches_tracked" in state) == training


def test_sources_are_the_users_lines() -> None:
    module, inputs = example("unet", training=True)
    program = read(module, inputs)
    node = next(node for node in program.graph.nodes if node.op == "pixel_shuffle.default")
    assert program.sources[node.name].startswith("at torch_networks.py:")
    assert "F.pixel_shuffle(self.shuffle(b), 2)" in program.sources[node.name]


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x * 2
        return x


def test_a_module_that_cannot_be_exported_is_refused_with_its_line() -> None:
    with pytest.raises(UnsupportedError, match=r"can't follow Branches \(test_torch_graph.py:\d+: if x.sum\(\) > 0:\)"):
        read(Branches(), (torch.randn(3),))


class Overlapping(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y.as_strided((2, 2), (1, 1)).add_(1)
        return y


def test_a_write_that_cannot_be_followed_is_refused_with_its_line() -> None:
    with pytest.raises(
        UnsupportedError, match=r"torch_graph.py:\d+: y.as_strided.*writes into a view that as_strided makes"
    ):
        read(Overlapping(), (torch.randn(2, 3),))


class Averaging(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.mean(0), 0.1)
        return x * 2


def test_a_buffer_that_follows_activations_is_refused_with_its_line() -> None:
    with pytest.raises(UnsupportedError, match=r"torch_graph.py:\d+: self.mean.lerp_.*updates a buffer with 'x'"):
        read(Averaging(), (torch.randn(2, 4),))


class Written(nn.Module):
    """Writes through views of views, and reads older views afterwards."""

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        turned = y.transpose(0, 1)
        rows = y.view(2, 3, 2)
        turned[1:3].mul_(2)
        rows[1, 2] = 7.0
        y.unsqueeze(0)[0, :, 0] -= 1
        first = y.select(0, 0)
        y.add_(x.sum())
        return turned.sum(1) * rows.flatten()[:6].sum() + first.sum() + y.permute(1, 0)[:, 0].sum()


def test_writes_into_views() -> None:
    x = torch.randn(2, 6, dtype=torch.float64)
    assert equal(computed(read(Written(), (x,)), Written(), (x,)), expected(Written(), (x,)))
