"""Checkpoints as trainers leave them: the state dict that is meant, under the network's own names, in memory and in files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import safetensors.torch  # noqa: E402 - it imports torch
from torch import nn  # noqa: E402
from torch.optim.swa_utils import AveragedModel  # noqa: E402

from graphsplit.errors import FormatError, MergeError  # noqa: E402
from graphsplit.formats.checkpoints import renamed, state_dict  # noqa: E402
from graphsplit.formats.weights import read_trained  # noqa: E402
from graphsplit.modules import ModuleSplit, split_module  # noqa: E402
from tests.torch_checkpoints import lightning, same, split  # noqa: E402
from tests.torch_nets import Transformer  # noqa: E402

__all__ = ["split"]  # fixtures

Wrap = Callable[[nn.Module], dict[str, Any]]


class Trainer(nn.Module):
    """Shaped like a LightningModule: the network under a name that its author chose."""

    def __init__(self, network: nn.Module, name: str = "model") -> None:
        super().__init__()
        self.add_module(name, network)


class Inner(nn.Module):
    """A network with layers called `model` and `module`."""

    def __init__(self, hidden: int = 6) -> None:
        super().__init__()
        self.model, self.module, self.head = nn.Linear(4, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 2)

    def forward(self, x: Any) -> Any:
        return self.head(self.module(self.model(x).relu()).relu())


def parts_wrapped(module: nn.Module, *paths: str) -> nn.Module:
    """A copy whose inner modules are wrapped, as they are where some are compiled or parallel."""
    module = copy.deepcopy(module)
    for path in paths:
        owner, _, last = path.rpartition(".")
        inner = module.get_submodule(path)
        setattr(module.get_submodule(owner), last, nn.DataParallel(inner))
    return module


def averaged(module: nn.Module) -> dict[str, Any]:
    found = AveragedModel(module, use_buffers=True)
    found.update_parameters(module)
    return found.state_dict()


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def sharded(module: nn.Module, part: str = "_fsdp_wrapped_module.") -> dict[str, Any]:
    """The names of a module whose layers and which itself are wrapped for FSDP."""
    state = module.state_dict()
    return {
        part + "".join(f"{step}.{part}" for step in n.split(".")[:-1]) + n.rpartition(".")[2]: t
        for n, t in state.items()
    }


WRAPS: dict[str, Wrap] = {
    "plain": lambda m: m.state_dict(),
    "DataParallel": lambda m: nn.DataParallel(m).state_dict(),
    "compiled": lambda m: compiled(m).state_dict(),
    "compiled in DataParallel": lambda m: nn.DataParallel(compiled(m)).state_dict(),
    "DataParallel compiled": lambda m: compiled(nn.DataParallel(m)).state_dict(),
    "Lightning": lambda m: Trainer(m).state_dict(),
    "Lightning, another name": lambda m: Trainer(m, "backbone").state_dict(),
    "compiled in Lightning in DataParallel": lambda m: nn.DataParallel(Trainer(compiled(m))).state_dict(),
    "AveragedModel": averaged,
    "compiled in AveragedModel": lambda m: averaged(compiled(m)),
    "AveragedModel in Lightning": lambda m: {f"ema.{n}": t for n, t in averaged(m).items()},
    "FSDP": sharded,
    "checkpointed activations": lambda m: sharded(m, "_checkpoint_wrapped_module."),
    "some layers parallel": lambda m: parts_wrapped(m, "bn1", "fc").state_dict(),
    "some layers parallel, in DataParallel": lambda m: nn.DataParallel(parts_wrapped(m, "bn1", "fc")).state_dict(),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_state_dicts_in_memory(split: ModuleSplit, wrap: str) -> None:
    wanted = split.merge()
    states = [WRAPS[wrap](copy.deepcopy(module)) for module in split.submodels]
    assert same(split.merge(states), wanted)
    assert same(split.merge([states[0], split.submodels[1].state_dict()]), wanted)  # each part in its own way


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_state_dicts_in_files(split: ModuleSplit, wrap: str, suffix: str, tmp_path: Path) -> None:
    files = []
    for part, module in enumerate(split.submodels):
        state = WRAPS[wrap](copy.deepcopy(module))
        files.append(tmp_path / f"{part}{suffix}")
        if suffix == ".pt":
            torch.save(state, files[-1])
        else:
            safetensors.torch.save_file({n: t.contiguous() for n, t in state.items()}, files[-1])
        found, _ = read_trained(files[-1], names=list(module.state_dict()))
        assert {n: t.shape for n, t in found.items()} == {n: tuple(t.shape) for n, t in module.state_dict().items()}
    assert same(split.merge(files), split.merge())


NESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    **{
        key: lambda state, key=key: {key: state, "epoch": 3, "optimizer": {"state": {0: {"step": torch.ones(1)}}}}
        for key in (
            "state_dict",
            "model",
            "model_state_dict",
            "model_state",
            "net",
            "network",
            "module",
            "ema",
            "weights",
        )
    },
    "two levels": lambda state: {"model": {"state_dict": state, "name": "residual"}},
    "with buffers of a metric": lambda state: {"model": state, "metric": {"total": torch.ones(1)}},
    "with named optimizer state": lambda state: {
        "model": state,
        "optimizer": {"state": {name: {"exp_avg": tensor, "step": torch.ones(1)} for name, tensor in state.items()}},
    },
    "a generator and a discriminator": lambda state: {
        "D": {"conv.weight": torch.ones(2), "fc.bias": torch.ones(2)},
        "G": state,
    },
    "Lightning": lightning,
}


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("nest", NESTS)
def test_checkpoints(split: ModuleSplit, nest: str, prefix: str, tmp_path: Path) -> None:
    wanted, files, held = split.merge(), [], []
    for part, module in enumerate(split.submodels):
        held.append(NESTS[nest]({prefix + name: tensor for name, tensor in module.state_dict().items()}))
        files.append(tmp_path / f"{part}.ckpt")
        torch.save(held[-1], files[-1])
    assert same(split.merge(held), wanted)
    assert same(split.merge(files), wanted)


@pytest.mark.parametrize(
    "keys", [("model", "ema"), ("state_dict", "state_dict_ema"), ("net", "ema"), ("teacher", "student")]
)
def test_weights_and_their_average_are_told_apart_by_the_user(
    split: ModuleSplit, keys: tuple[str, str], tmp_path: Path
) -> None:
    state = split.submodels[0].state_dict()
    checkpoint = dict.fromkeys(keys, state)
    torch.save(checkpoint, tmp_path / "a.pt")
    message = rf"2 state dicts of the network: '{keys[0]}' and '{keys[1]}'\n.*checkpoint\['{keys[0]}'\]"
    for given in (checkpoint, tmp_path / "a.pt"):
        with pytest.raises(FormatError, match=message):
            split.merge([given, split.submodels[1]])
    with pytest.raises(FormatError, match="2 state dicts"):
        read_trained(tmp_path / "a.pt", names=list(state))


def test_the_networks_own_names_decide() -> None:
    split = split_module(Inner(), (torch.randn(3, 4),), k=2)
    wanted = split.merge()
    for wrap in ("plain", "DataParallel", "compiled", "Lightning", "AveragedModel", "compiled in AveragedModel"):
        states = [WRAPS[wrap](copy.deepcopy(module)) for module in split.submodels]
        assert same(split.merge(states), wanted), wrap
    for name in ("module", "model"):
        states = [Trainer(Trainer(module, name), name).state_dict() for module in split.submodels]
        assert same(split.merge(states), wanted), name


@pytest.mark.parametrize(
    ("state", "names", "wanted"),
    [
        (["a", "model.a"], ["a", "model.a"], ["a", "model.a"]),
        (["model.a", "model.model.a"], ["a", "model.a"], ["a", "model.a"]),
        (["module.a", "b"], ["module.a", "b"], ["module.a", "b"]),
        (["module.a", "b"], ["a", "b"], ["a", "b"]),
        (["a", "b"], ["module.a", "module.b"], ["module.a", "module.b"]),  # the source was wrapped, the sub-model isn't
        (["_orig_mod.a"], ["_orig_mod.a"], ["_orig_mod.a"]),
        (["n_averaged", "module.a"], ["a"], ["a"]),
        (["n_averaged", "module.a"], ["n_averaged", "module.a"], ["n_averaged", "module.a"]),
        (["n_averaged"], ["n_averaged"], ["n_averaged"]),
        (["x.a", "x.b", "loss.a"], ["a", "b"], ["a", "b", "loss.a"]),  # what is no part of the network keeps its name
        (["x.a"], ["b"], ["x.a"]),
        (["x.a", "a"], ["a", "b"], ["x.a", "a"]),
        (
            ["model.a", "model.b", "a"],
            ["a", "b"],
            ["model.a", "model.b", "a"],
        ),  # two tensors for one name: nothing is guessed
        (["module.a", "module.module.a"], [], ["a", "module.a"]),
        (["model.a"], [], ["model.a"]),
    ],
)
def test_names(state: list[str], names: list[str], wanted: list[str]) -> None:
    assert list(renamed(dict.fromkeys(state, 0), names)) == wanted


def test_a_mapping_without_tensors_is_none() -> None:
    def is_tensor(item: object) -> bool:
        return isinstance(item, torch.Tensor)

    deep: Any = {"weight": torch.ones(1)}
    for _ in range(6):
        deep = {"model": deep}
    for found in ({}, {"a": 1}, {"a": torch.ones(1), "lr": 0.1}, [torch.ones(1)], deep, {3: torch.ones(1)}):
        assert state_dict(found, is_tensor, names=["weight"]) is None


def test_what_is_no_state_dict_is_said(split: ModuleSplit) -> None:
    with pytest.raises(MergeError, match=r"a mapping with 'epoch', 'lr' was given.*\n.*module\.state_dict\(\)"):
        split.merge([{"epoch": 1, "lr": 0.1}, split.submodels[1]])
    more = {**split.submodels[0].state_dict(), "loss.weight": torch.ones(1)}
    with pytest.raises(MergeError, match=r"holds the tensor 'loss\.weight'"):
        split.merge([more, split.submodels[1]])
    less = {n: t for n, t in split.submodels[0].state_dict().items() if n != "fc.bias"}
    with pytest.raises(MergeError, match=r"lacks the tensor 'fc\.bias'"):
        split.merge([{f"module.{n}": t for n, t in less.items()}, split.submodels[1]])


def test_wrapped_modules_in_memory(split: ModuleSplit) -> None:
    wanted = split.merge()
    for wrap in (
        nn.DataParallel,
        compiled,
        Trainer,
        lambda m: nn.DataParallel(Trainer(compiled(m), "net")),
        lambda m: AveragedModel(m, use_buffers=True),
    ):
        assert same(split.merge([wrap(module) for module in split.submodels]), wanted)


def test_tied_tensors_under_some_of_their_names(tmp_path: Path) -> None:
    split = split_module(Transformer(tied=True, depth=1), (torch.randint(0, 40, (2, 7)),), k=2)
    wanted, states = split.merge(), [module.state_dict() for module in split.submodels]
    for left in ("head.weight", "embed.weight"):  # safetensors keeps one name of a tied tensor
        less = [{n: t for n, t in state.items() if n != left} for state in states]
        for part, state in enumerate(less):
            safetensors.torch.save_file(state, tmp_path / f"{part}.safetensors")
        assert same(split.merge(less), wanted)
        assert same(split.merge([tmp_path / f"{part}.safetensors" for part in range(2)]), wanted)
    states[0]["head.weight"] = states[0]["head.weight"] + 1
    torch.save(states[0], tmp_path / "untied.pt")
    untied = copy.deepcopy(split.submodels[0])
    untied.head.weight = nn.Parameter(untied.head.weight + 1)
    for given in (states[0], tmp_path / "untied.pt", untied):
        with pytest.raises(MergeError, match=r"'embed\.weight' and 'head\.weight' are one tied tensor"):
            split.merge([given, states[1]])


def test_checkpoints_of_onnx_sub_models(tmp_path: Path) -> None:
    """What trains an ONNX sub-model in torch leaves checkpoints too."""
    import graphsplit

    split = graphsplit.split("models/lenet.onnx", 2, out=tmp_path / "parts")
    states = [
        {name: torch.from_numpy(tensor.numpy().copy()) * 1.5 for name, tensor in graphsplit.load(path).tensors.items()}
        for path in split.submodels
    ]
    torch.save({"state_dict": {f"module.{n}": t for n, t in states[0].items()}, "epoch": 1}, tmp_path / "first.ckpt")
    (tmp_path / "checkpoint-10").mkdir()
    prefixed = {f"model.{n}": t for n, t in states[1].items()}
    safetensors.torch.save_file(prefixed, tmp_path / "checkpoint-10" / "model.safetensors")
    merged = graphsplit.merge(tmp_path / "parts", [tmp_path / "first.ckpt", tmp_path / "checkpoint-10"])
    bias = torch.from_numpy(merged.graph.tensors["conv1.bias"].numpy())
    assert torch.equal(bias, torch.cat([state["conv1.bias"] for state in states]))
