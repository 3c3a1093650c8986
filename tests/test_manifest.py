"""graphsplit.manifest: the format is what docs/manifest.md says, whatever reads or writes it."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import jsonschema
import numpy as np
import onnx
import pytest
from hypothesis import given, settings

from graphsplit import network
from graphsplit.errors import ManifestError, UnsupportedError
from graphsplit.files import MANIFEST_NAME
from graphsplit.graph import ArrayTensor
from graphsplit.manifest import Group, Manifest, Options, ParameterEntry, Ranges, Source, parameter_entries
from graphsplit.manifest.kinds import kind_of
from graphsplit.manifest.ranges import COMMON, OUTPUT, PRIVATE
from graphsplit.planning import Plan
from tests.manifests.make import HERE, SCHEMA, attacks, build, example, parameter, refusal
from tests.manifests.strategies import brute_kind, dense_kinds, layouts
from tests.networks import NETWORKS

DOCS = HERE.parent.parent / "docs"
GOLDEN = (HERE / "golden.json").read_text()
REFUSALS = dict(block.split(": ", 1) for block in (HERE / "refusals.txt").read_text().removesuffix("\n").split("\n\n"))


def validates(text: str) -> bool:
    return bool(jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text)))


# -- the golden manifest ----------------------------------------------------------------------------------------------


def test_golden_bytes() -> None:
    assert example().dumps() == GOLDEN
    assert Manifest.loads(GOLDEN) == example()
    assert Manifest.loads(GOLDEN).dumps() == GOLDEN


def test_golden_bytes_are_ascii_and_end_with_a_newline() -> None:
    assert GOLDEN.isascii()
    assert GOLDEN.endswith("}\n")
    assert not GOLDEN.endswith("\n\n")


def test_other_spacing_and_order_read_the_same() -> None:
    shuffled = json.dumps(dict(reversed(json.loads(GOLDEN).items())), indent=7)
    assert shuffled != GOLDEN
    assert Manifest.loads(shuffled).dumps() == GOLDEN


def test_equal_content_gives_equal_bytes() -> None:
    one = example()
    options = replace(one.options, keep=("b", "a", "b"))
    assert options == replace(one.options, keep=("a", "b"))
    again = build(
        list(reversed(one.groups)),
        [renumbered(entry, len(one.groups)) for entry in reversed(list(one.parameters.values()))],
        2,
        outputs=[replace(o, group=None if o.group is None else len(one.groups) - 1 - o.group) for o in one.outputs],
        **{name: getattr(one, name) for name in ("options", "taps", "repeated", "private", "averaged")},
    )
    assert again == one
    assert again.dumps() == GOLDEN


def renumbered(entry: ParameterEntry, groups: int) -> ParameterEntry:
    axes = tuple(None if index is None else groups - 1 - index for index in entry.axes)
    blocked = entry.blocked
    if blocked is not None:
        blocked = replace(blocked, groups=tuple(groups - 1 - index for index in blocked.groups))
    return replace(entry, axes=axes, blocked=blocked)


@pytest.mark.parametrize(
    "change",
    [
        {"options": Options(shares=(0.5, 0.5), seed=1)},
        {"source": Source("source.onnx", "1" * 64)},
        {"taps": ("x",)},
        {"generator": "graphsplit 0.1.1"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_another_split_has_another_digest(change: dict[str, Any]) -> None:
    one = example()
    rest = {name: getattr(one, name) for name in ("options", "outputs", "taps", "repeated", "private", "averaged")}
    parts = build(list(one.groups), list(one.parameters.values()), 2, **rest)
    other = build(list(one.groups), list(one.parameters.values()), 2, **{**rest, **change})
    assert parts.split == one.split
    assert other.split != one.split


def test_a_manifest_that_breaks_the_specification_is_not_built() -> None:
    with pytest.raises(ManifestError, match=r"^the manifest of this split: options\.init: 'twice' is none of"):
        build(list(example().groups), list(example().parameters.values()), 2, options=Options((0.5, 0.5), init="twice"))


# -- attacks ----------------------------------------------------------------------------------------------------------


def test_the_attacks_are_those_that_make_writes() -> None:
    stored = {path.stem: path.read_text(encoding="utf-8") for path in (HERE / "attacks").iterdir()}
    assert stored == attacks()
    assert stored.keys() == REFUSALS.keys()


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_an_attack_is_refused_in_these_words(name: str) -> None:
    assert refusal((HERE / "attacks" / f"{name}.json").read_text(encoding="utf-8")) == REFUSALS[name]


def test_refusals_say_where_and_stay_short() -> None:
    for said in REFUSALS.values():
        assert "\nmanifest.json: " in said
        assert len(said) < 400


def test_every_refusal_of_the_reader_has_an_attack() -> None:
    """Each message in the reader's source is the message of at least one attack."""
    said = "\n".join(REFUSALS.values())
    folder = Path(__file__).parent.parent / "graphsplit" / "manifest"
    found = 0
    for module in ("strict.py", "read.py", "document.py"):
        source = (folder / module).read_text()
        for literal in re.findall(r"refuse\(\s*f?\"([^\"]*)\"", source):
            fixed = max(re.split(r"\{[^}]*(?:\{[^}]*\}[^}]*)*\}", literal), key=len)
            assert fixed.strip() in said, f"{module}: no attack is refused with {literal!r}"
            found += 1
    assert found > 25


def test_the_schema_knows_what_it_can() -> None:
    """Most attacks on types and forms are caught by the schema as well; sums and cross references are the reader's."""
    by_schema = {name for name, said in REFUSALS.items() if said.startswith("schema refuses")}
    assert {"path_up", "digest_short", "unknown_key", "ranges_negative", "seed_huge", "dtype_unknown"} <= by_schema
    assert not {"ranges_overlap", "counts_do_not_add_up", "split_of_something_else", "duplicate_key"} & by_schema
    assert validates(GOLDEN)


def folder_with(tmp_path: Path, content: bytes | str) -> Path:
    folder = tmp_path / "split"
    folder.mkdir()
    (folder / MANIFEST_NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def test_a_folder_is_read(tmp_path: Path) -> None:
    assert Manifest.read(folder_with(tmp_path, GOLDEN)) == example()


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError) as refused:
        Manifest.read(tmp_path)
    assert str(refused.value) == (
        f"cannot read '{tmp_path}/manifest.json': No such file or directory\n"
        "  hint: name a folder that `graphsplit split` wrote: it holds manifest.json"
    )


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"manifest\.json': not UTF-8 \(byte 1\)$"):
        Manifest.read(folder_with(tmp_path, b"{\xff}"))


def test_a_link_that_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, GOLDEN)
    (tmp_path / "elsewhere.onnx").write_text("")
    (folder / "submodel_0.onnx").symlink_to(tmp_path / "elsewhere.onnx")
    with pytest.raises(ManifestError, match=r"submodels\[0\]\.file: the path 'submodel_0.onnx' leaves its folder"):
        Manifest.read(folder)
    (folder / "submodel_0.onnx").unlink()
    (folder / "submodel_0.onnx").symlink_to("inner.onnx")
    assert Manifest.read(folder) == example()


def test_another_structure_than_the_manifests() -> None:
    manifest = example()
    manifest.check_digest("source.onnx", "0" * 64)
    manifest.check_digest("submodel_1.onnx", f"{1:064x}")
    with pytest.raises(
        ManifestError, match=r"^'submodel_1\.onnx' is not the network that was split: its structure has"
    ):
        manifest.check_digest("submodel_1.onnx", "0" * 64)


# -- ranges and groups ------------------------------------------------------------------------------------------------


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(0, 60)), st.integers(0, 60), st.integers(0, 60))
def test_ranges_are_sets(one: set[int], other: set[int], low: int, high: int) -> None:
    a, b = Ranges.of(np.array(sorted(one), np.int64)), Ranges.of(np.array(sorted(other - one), np.int64))
    assert a.indices().tolist() == sorted(one)
    assert a.size == len(one)
    assert (a | b).indices().tolist() == sorted(one | other)
    assert a | b == Ranges.of(np.array(sorted(one | other), np.int64))
    assert a.clip(low, high).indices().tolist() == [i for i in sorted(one) if low <= i < high]
    assert a.touches(5, 13).tolist() == [any(5 * k <= i < 5 * k + 5 for i in one) for k in range(13)]
    pairs = a.pairs.tolist()
    assert all(end < start for (_, end), (start, _) in itertools.pairwise(pairs))


@given(st.lists(st.integers(OUTPUT, 2), max_size=40))
def test_a_group_says_whose_each_index_is(who: list[int]) -> None:
    vector = np.array(who, np.int64)
    group = Group.of(vector, 3)
    assert group.who().tolist() == who
    for part in range(3):
        mine = [i for i, w in enumerate(who) if w in (part, COMMON, PRIVATE, OUTPUT)]
        assert group.kept(part).indices().tolist() == mine
        assert group.width(part) == len(mine)


def test_a_million_vertices_take_no_time() -> None:
    who = np.arange(1_000_000) % 2  # interleaved: the worst case, a range for every index
    group = Group.of(who, 2)
    assert group.parts[1].size == 500_000
    entry = parameter([group], "w", (1_000_000,), 0)
    manifest = build([group], [entry], 2)
    assert Manifest.loads(manifest.dumps()).groups == (group,)
    shape = (5_000_000, 3)
    wide = Group.of(np.repeat([0, 1], 2_500_000), 2)
    assert wide.parts[0].pairs.tolist() == [[0, 2_500_000]]
    assert parameter([wide], "w", shape, 0, None).part_shape([wide], 1) == (2_500_000, 3)


# -- random manifests -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(OUTPUT, 2), max_size=4))
def test_the_kind_of_an_element(owners: list[int]) -> None:
    assert kind_of(owners) == brute_kind(owners)


@settings(max_examples=150)
@given(layouts())
def test_random_manifests_read_as_they_were_written(drawn: tuple[int, list[Group], list[ParameterEntry]]) -> None:
    parts, groups, entries = drawn
    manifest = build(groups, entries, parts)
    text = manifest.dumps()
    assert Manifest.loads(text) == manifest
    assert Manifest.loads(text).dumps() == text
    assert validates(text)


@settings(max_examples=150)
@given(layouts())
def test_counts_are_those_of_the_elements(drawn: tuple[int, list[Group], list[ParameterEntry]]) -> None:
    parts, groups, entries = drawn
    for entry in entries:
        kinds = dense_kinds(entry, groups)
        for name in ("owned", "output", "duplicated", "unused", "cut", "constant"):
            assert getattr(entry.counts, name) == int((kinds == name).sum())
        if entry.role != "constant":
            covered = np.zeros(entry.shape, int)
            for region in entry.regions(groups):
                spot = np.ix_(*(r.indices() for r in region.axes)) if entry.shape else ()
                assert np.all(kinds[spot] == region.kind)
                covered[spot] += 1
            assert (covered == (kinds != "cut")).all()
        for part in range(parts):
            selection = entry.selection(groups, part)
            assert selection.shape(entry.shape) == entry.part_shape(groups, part)


def test_a_wrong_count_is_seen() -> None:
    """The negative control of the two tests above: each figure of the golden manifest, changed, is refused."""
    content = json.loads(GOLDEN)
    for name, entry in content["parameters"].items():
        for key, other in itertools.permutations(entry["counts"], 2):
            changed = json.loads(GOLDEN)
            counts = changed["parameters"][name]["counts"]
            counts[key] += 1
            with pytest.raises(ManifestError, match="the counts add up to"):
                Manifest.loads(json.dumps(changed))
            if counts[other]:
                counts[other] -= 1
                with pytest.raises(ManifestError, match="and the layout has"):
                    Manifest.loads(json.dumps(changed))


# -- the specification ------------------------------------------------------------------------------------------------


def test_the_example_of_the_specification_is_a_manifest() -> None:
    blocks = re.findall(r"```json\n(.*?)```", (DOCS / "manifest.md").read_text(), flags=re.DOTALL)
    texts = [block for block in blocks if '"format"' in block]
    assert len(texts) == 1
    assert Manifest.loads(texts[0]).dumps() == texts[0]
    assert validates(texts[0])


def test_the_specification_names_every_key() -> None:
    text = (DOCS / "manifest.md").read_text()

    def keys(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = set(value.get("properties", {}))
            return own.union(*(keys(item) for item in value.values()))
        return set().union(*(keys(item) for item in value)) if isinstance(value, list) else set()

    missing = [key for key in sorted(keys(SCHEMA)) if f"`{key}`" not in text]
    assert missing == []


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


# -- entries of a plan ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("name", ["lenet", "densenet", "resnext", "float16"])
def test_entries_say_what_the_plan_says(name: str, parts: int, tmp_path: Path) -> None:
    """Kinds, slices and shapes of every parameter, against the plan that they were made from."""
    candidates = [n for n in sorted(NETWORKS) if n.startswith(name)]
    onnx.save(NETWORKS[candidates[0]](), tmp_path / "model.onnx")
    made = network.prepare(tmp_path / "model.onnx")
    plan = network.make(made, parts, strategy="interleaved")
    groups, entries = parameter_entries(plan, {"a part's own": [None] * parts})
    assert sorted(entries) == sorted(plan.parameters)
    for entry, planned in ((entries[n], plan.parameters[n]) for n in entries):
        told = planned.counts(plan.partition.owner, parts)
        assert told == {kind: getattr(entry.counts, kind) for kind in told}
        assert entry.role == planned.role
        whole = np.arange(entry.elements).reshape(entry.shape)
        for part in range(parts):
            expected = planned.selection(plan.partition.owner, part).take(whole)
            assert np.array_equal(entry.selection(groups, part).take(whole), expected)
            assert entry.part_shape(groups, part) == expected.shape


@pytest.mark.parametrize(
    ("cuts", "axes"),
    [
        ([[0, 1], [2, 3]], [[[0, 2]], [[2, 4]], []]),
        ([[0, 1, 3], [2, 3]], [[[0, 2]], [[2, 3]], [[3, 4]]]),
        ([[0, 1], None], [[], [[2, 4]], [[0, 2]]]),
    ],
)
def test_a_constant_that_was_cut(cuts: list[list[int] | None], axes: list[list[list[int]]], tmp_path: Path) -> None:
    plan = lenet_with_a_constant(tmp_path)
    chosen = [None if cut is None else (np.array(cut), None) for cut in cuts]
    groups, entries = parameter_entries(plan, {"table": chosen})
    entry = entries["table"]
    assert (entry.role, entry.counts.constant, entry.axes[1]) == ("constant", 8, None)
    assert entry.axes[0] is not None
    group = groups[entry.axes[0]]
    assert [r.pairs.tolist() for r in (*group.parts, group.common)] == axes


def test_a_constant_that_an_index_is_lost_of(tmp_path: Path) -> None:
    plan = lenet_with_a_constant(tmp_path)
    with pytest.raises(
        UnsupportedError, match=r"^constant 'table': some parts share an index of axis 0 that others lack"
    ):
        parameter_entries(plan, {"table": [(np.array([0]), None), (np.array([1]), None)]})


def lenet_with_a_constant(folder: Path) -> Plan:
    onnx.save(NETWORKS["lenet"](), folder / "model.onnx")
    made = network.prepare(folder / "model.onnx")
    plan = network.make(made, 2)
    table = ArrayTensor(np.zeros((4, 2), np.float32))
    graph = plan.graph.replace(tensors={**plan.graph.tensors, "table": table})
    return replace(plan, flowed=replace(plan.flowed, graph=graph))
