"""Each structure by itself: exact on changed sub-models at another batch size, narrow, trainable (tests/torch_structures.py)."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from tests.torch_attention import Language, Windows  # noqa: E402
from tests.torch_structures import CASES, IMAGES, Planes  # noqa: E402
from tools.shared.ways import Way  # noqa: E402
from tools.zoos.example import Example, ready  # noqa: E402
from tools.zoos.law import examine  # noqa: E402


@pytest.mark.parametrize("name", CASES)
def test_it_is_exact_and_narrow(name: str) -> None:
    torch.manual_seed(0)
    make, args, share = CASES[name]
    found = examine(ready(Example(make(), args)), Way(2))
    assert found["status"] == "exact", found["reason"]
    assert found["worst"] < 1e-11
    assert found["share"] <= share


@pytest.mark.parametrize("strategy", ["random", "interleaved"])
@pytest.mark.parametrize(
    "name", ["fused 3 H d", "a table row a head", "gated, chunked", "shifted windows and merged patches"]
)
def test_other_strategies(name: str, strategy: str) -> None:
    torch.manual_seed(0)
    make, args, _ = CASES[name]
    found = examine(ready(Example(make(), args)), Way(2, strategy))
    assert found["status"] == "exact", found["reason"]


@pytest.mark.parametrize("name", ["fused H 3 d", "group norm", "a backbone", "experts, the best two"])
def test_four_parts(name: str) -> None:
    torch.manual_seed(0)
    make, args, _ = CASES[name]
    found = examine(ready(Example(make(), args)), Way(4))
    assert found["status"] == "exact", found["reason"]


def test_a_wrong_merge_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check that these tests rest on: one element of the merged network's weights off, and it says so."""
    from graphsplit.modules.split import ModuleSplit

    merged = ModuleSplit._graph

    def off(self: ModuleSplit, leaves: object, layers: str) -> object:
        graph = merged(self, leaves, layers)  # type: ignore[arg-type]
        if layers != "duplicated":
            return graph
        from graphsplit.graph import ArrayTensor

        array = graph.tensors["last.weight"].numpy().copy()
        array.flat[0] *= 1.01
        return graph.replace(tensors={**graph.tensors, "last.weight": ArrayTensor(array)})

    monkeypatch.setattr(ModuleSplit, "_graph", off)
    found = examine(ready(Example(Planes(torch.nn.Identity()), (IMAGES,))), Way(2))
    assert found["status"] == "FAILED"
    assert "law 1" in found["reason"]


def test_original_layers_report_their_difference() -> None:
    import graphsplit

    split = graphsplit.split(Language().eval(), (torch.randint(0, 11, (2, 6)),), k=2)
    assert split.repeats
    assert split.difference(torch.randint(0, 11, (3, 6))) > 1e-3
    plain = graphsplit.split(Planes(torch.nn.Identity()).eval(), (IMAGES,), k=2)
    assert not plain.repeats
    assert plain.difference(IMAGES) < 1e-6


def test_what_windows_are_made_of_stays_free() -> None:
    import graphsplit

    split = graphsplit.split(Windows().eval(), (IMAGES,), k=2)
    assert split.submodels[0](torch.randn(5, 3, 8, 8)).shape == (5, 3)
