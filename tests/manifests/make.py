"""The example manifest, and attacks on it: each changes one thing, and must be refused in these words.

    python -m tests.manifests.make          writes golden.json, attacks/ and refusals.txt beside this file

A change of `refusals.txt` is a change of what users read: look at the diff.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from graphsplit.errors import ManifestError
from graphsplit.manifest import (
    BlockedAxis,
    Counts,
    Group,
    Manifest,
    Note,
    Options,
    OutputEntry,
    ParameterEntry,
    Ranges,
    Source,
    SubModelFile,
    part_elements,
)
from graphsplit.manifest.content import role_of
from graphsplit.manifest.kinds import count

HERE = Path(__file__).parent
SCHEMA = json.loads((HERE.parent.parent / "docs" / "manifest.schema.json").read_text())
Json = Any


def parameter(
    groups: list[Group],
    name: str,
    shape: tuple[int, ...],
    *axes: int | None,
    blocked: BlockedAxis | None = None,
    constant: bool = False,
    scale: str = "weights",
    dtype: str = "float32",
) -> ParameterEntry:
    """An entry whose role and counts are those of its layout."""
    draft = ParameterEntry(name, shape, dtype, "constant", tuple(axes), blocked, scale, Counts())  # type: ignore[arg-type]
    if constant:
        counts, role = Counts(constant=draft.elements), "constant"
    else:
        counts = count(*draft.layout(groups))
        role = role_of(counts)
    return ParameterEntry(name, shape, dtype, role, tuple(axes), blocked, scale, counts)  # type: ignore[arg-type]


def build(groups: list[Group], entries: list[ParameterEntry], parts: int, **rest: Any) -> Manifest:
    """A manifest around groups and entries."""
    content: dict[str, Any] = {
        "generator": "graphsplit 0.1.0",
        "options": Options(shares=(1 / parts,) * parts),
        "source": Source("source.onnx", "0" * 64),
        "outputs": [OutputEntry("y", "mean")],
    }
    files = [SubModelFile(f"submodel_{p}.onnx", f"{p:064x}", part_elements(entries, groups, p)) for p in range(parts)]
    return Manifest.build(
        submodels=files, groups=groups, parameters={e.name: e for e in entries}, **{**content, **rest}
    )


def example() -> Manifest:
    """One of everything: owned, blocked, output, activation, duplicated, constant and unused."""
    none = Ranges()
    hidden = Group(6, (Ranges([[0, 3]]), Ranges([[3, 6]])))
    classes = Group(4, (none, none), output=Ranges([[0, 4]]))
    joined = Group(8, (Ranges([[0, 2], [4, 5]]), Ranges([[2, 4], [5, 6]])), common=Ranges([[6, 8]]))
    gain = Group(3, (none, none), private=Ranges([[0, 3]]))
    rows = Group(8, (Ranges([[0, 2], [4, 6]]), Ranges([[2, 4], [6, 8]])))
    first = Group(4, (Ranges([[0, 2]]), Ranges([[2, 4]])))
    second = Group(4, (Ranges([[1, 3]]), Ranges([[0, 1], [3, 4]])))
    groups = [hidden, classes, joined, gain, rows, first, second]
    entries = [
        parameter(groups, "conv.weight", (6, 3, 5, 5), 0, None, None, None),
        parameter(groups, "conv.bias", (6,), 0),
        parameter(groups, "grouped.weight", (8, 4, 1), 4, None, None, blocked=BlockedAxis(1, 0, (5, 6))),
        parameter(groups, "head.weight", (4, 8), 1, 2),
        parameter(groups, "head.bias", (4,), 1),
        parameter(groups, "norm.weight", (3,), 3),
        parameter(groups, "mask", (6, 1), 0, None, constant=True, dtype="bool"),
        parameter(groups, "old.weight", (5,), None),
        parameter(groups, "tied.weight", (4, 6), 1, 0, scale="activation", dtype="bfloat16"),
    ]
    return build(
        groups,
        entries,
        2,
        options=Options(
            shares=(0.5, 0.5),
            keep=("norm",),
            rules=("my::Op  n c -> n c",),
            sizes={"batch": 2},
        ),
        outputs=[OutputEntry("y", "mean"), OutputEntry("features", "concat", 1, 0), OutputEntry("size", "common")],
        taps=("logits",),
        repeated=(Note("norm", "takes statistics over labelled axes"),),
        private=(Note("norm", "--keep norm"),),
        averaged=("logits",),
    )


def at(content: Json, *path: str | int) -> Json:
    for step in path:
        content = content[step]
    return content


def put(*path_and_value: Any) -> Callable[[Json], Json]:
    """Puts a value at a path."""

    def change(content: Json) -> Json:
        *path, last, value = path_and_value
        at(content, *path)[last] = value
        return content

    return change


def drop(*path: str | int) -> Callable[[Json], Json]:
    def change(content: Json) -> Json:
        del at(content, *path[:-1])[path[-1]]
        return content

    return change


def several(*changes: Callable[[Json], Json]) -> Callable[[Json], Json]:
    def change(content: Json) -> Json:
        for one in changes:
            content = one(content)
        return content

    return change


def first_sub_model(text: str) -> Callable[[Json], Json]:
    return put("submodels", 0, "file", text)


HEAD = ("parameters", "head.weight")
BLOCKED = ("parameters", "grouped.weight", "blocked")
# Group numbers after renumbering: 0 hidden, 1 rows, 2 first, 3 second, 4 classes, 5 joined, 6 gain.
CONTENT: dict[str, Callable[[Json], Json]] = {
    "an_array": lambda content: [content],
    "another_format": put("format", "safetensors"),
    "no_format": drop("format"),
    "version_2": several(put("version", 2), put("more", 1)),
    "version_text": put("version", "1"),
    "no_version": drop("version"),
    "unknown_key": put("comment", "hello"),
    "missing_key": drop("averaged"),
    "unknown_key_in_an_entry": put(*HEAD, "group", 1),
    "missing_key_in_an_entry": drop(*HEAD, "scale"),
    "empty_generator": put("generator", ""),
    "zero_parts": put("parts", 0),
    "parts_true": put("parts", True),
    "parts_float": put("parts", 2.0),
    "parts_beyond_sub_models": put("parts", 3),
    "split_of_something_else": put("split", "f" * 64),
    "split_in_capitals": lambda content: put("split", content["split"].upper())(content),
    "changed_content": put("options", "seed", 7),
    "path_up": first_sub_model("../submodel_0.onnx"),
    "path_up_inside": first_sub_model("a/../../submodel_0.onnx"),
    "path_absolute": first_sub_model("/etc/passwd"),
    "path_windows": first_sub_model("C:submodel_0.onnx"),
    "path_backslash": first_sub_model("..\\submodel_0.onnx"),
    "path_nul": first_sub_model("submodel_0.onnx\0.txt"),
    "path_empty": first_sub_model(""),
    "path_source": put("source", "file", "../../source.onnx"),
    "path_manifest": first_sub_model("manifest.json"),
    "path_manifest_again": first_sub_model("./manifest.json"),
    "path_manifest_in_capitals": first_sub_model("Manifest.json"),
    "path_with_a_dot": first_sub_model("./submodel_0.onnx"),
    "path_twice": first_sub_model("submodel_1.onnx"),
    "path_twice_in_capitals": first_sub_model("SUBMODEL_1.onnx"),
    "path_of_the_source": first_sub_model("source.onnx"),
    "digest_short": put("submodels", 0, "digest", "0" * 63),
    "digest_prefixed": put("source", "digest", "sha256:" + "0" * 57),
    "elements_wrong": put("submodels", 1, "elements", 1),
    "elements_negative": put("submodels", 1, "elements", -1),
    "submodel_missing": drop("submodels", 1),
    "strategy_number": put("options", "strategy", 3),
    "seed_negative": put("options", "seed", -1),
    "seed_huge": put("options", "seed", 2**53),
    "init_unknown": put("options", "init", "scale"),
    "outputs_unknown": put("options", "outputs", "sum"),
    "shares_sum": put("options", "shares", [0.5, 0.6]),
    "shares_count": put("options", "shares", [1.0]),
    "shares_zero": put("options", "shares", [1.0, 0]),
    "shares_text": put("options", "shares", ["0.5", "0.5"]),
    "keep_unsorted": put("options", "keep", ["b", "a"]),
    "keep_twice": put("options", "keep", ["a", "a"]),
    "sizes_zero": put("options", "sizes", {"batch": 0}),
    "ranges_missing": put("groups", 0, "parts", 1, [[3, 5]]),
    "ranges_missing_first": put("groups", 0, "parts", 0, [[1, 3]]),
    "ranges_overlap": put("groups", 0, "parts", 1, [[2, 6]]),
    "ranges_overlap_inside": put("groups", 5, "parts", 0, [[0, 2], [1, 5]]),
    "ranges_out_of_order": put("groups", 5, "parts", 0, [[4, 5], [0, 2]]),
    "ranges_unmerged": put("groups", 0, "parts", 0, [[0, 1], [1, 3]]),
    "ranges_empty": put("groups", 0, "parts", 0, [[0, 3], [5, 5]]),
    "ranges_backwards": put("groups", 0, "parts", 0, [[3, 0]]),
    "ranges_beyond": put("groups", 0, "parts", 1, [[3, 7]]),
    "ranges_negative": put("groups", 0, "parts", 0, [[-1, 3]]),
    "ranges_of_three": put("groups", 0, "parts", 0, [[0, 2, 3]]),
    "ranges_float": put("groups", 0, "parts", 0, [[0, 3.0]]),
    "ranges_true": put("groups", 0, "parts", 0, [[False, 3]]),
    "ranges_null": put("groups", 0, "common", None),
    "group_size_huge": put("groups", 0, "size", 2**53 - 1),
    "group_of_three_parts": put("groups", 0, "parts", [[[0, 3]], [[3, 6]], []]),
    "groups_equal": lambda content: several(
        put("groups", 3, content["groups"][2]),
    )(content),
    "group_not_used": lambda content: put("groups", [*content["groups"], content["groups"][0]])(content),
    "groups_in_another_order": lambda content: several(
        put("groups", 2, content["groups"][3]),
        put("groups", 3, content["groups"][2]),
        put(*BLOCKED, "groups", [3, 2]),
    )(copy.deepcopy(content)),
    "group_unknown": put(*HEAD, "axes", [4, 7]),
    "group_negative": put(*HEAD, "axes", [4, -1]),
    "group_of_another_size": put(*HEAD, "axes", [5, 4]),
    "axes_too_few": put(*HEAD, "axes", [4]),
    "shape_huge": put("parameters", "old.weight", "shape", [2**53]),
    "shape_changed": put("parameters", "old.weight", "shape", [6]),
    "shape_product_huge": several(
        put("parameters", "old.weight", "shape", [2**52] * 3), put("parameters", "old.weight", "axes", [None] * 3)
    ),
    "shape_of_33_axes": put("parameters", "old.weight", "shape", [1] * 33),
    "part_without_an_index": several(
        put("groups", 6, "private", []),
        put("groups", 6, "parts", [[[0, 3]], []]),
        put("parameters", "norm.weight", "role", "owned"),
        put("parameters", "norm.weight", "counts", "duplicated", 0),
        put("parameters", "norm.weight", "counts", "owned", 3),
    ),
    "dtype_unknown": put(*HEAD, "dtype", "float33"),
    "role_unknown": put(*HEAD, "role", "shared"),
    "role_wrong": put(*HEAD, "role", "owned"),
    "scale_unknown": put(*HEAD, "scale", "both"),
    "scale_of_an_owned_tensor": put("parameters", "conv.bias", "scale", "activation"),
    "counts_do_not_add_up": put(*HEAD, "counts", "output", 33),
    "counts_of_another_layout": several(put(*HEAD, "counts", "owned", 1), put(*HEAD, "counts", "output", 31)),
    "counts_huge": put(*HEAD, "counts", "output", 2**53 - 1),
    "blocked_axis_beyond": put(*BLOCKED, "axis", 3),
    "blocked_along_itself": put(*BLOCKED, "along", 1),
    "blocked_and_grouped": put("parameters", "grouped.weight", "axes", [1, 2, None]),
    "blocks_uneven": put(*BLOCKED, "groups", [2, 3, 2]),
    "blocks_none": put(*BLOCKED, "groups", []),
    "block_of_another_size": put(*BLOCKED, "groups", [2, 0]),
    "blocks_ragged": several(
        put("groups", 3, "parts", [[[1, 4]], [[0, 1]]]),
        put("parameters", "grouped.weight", "counts", "owned", 16),
    ),
    "output_twice": put("outputs", 2, "name", "y"),
    "output_merge_unknown": put("outputs", 0, "merge", "sum"),
    "output_mean_with_axis": put("outputs", 0, "axis", 1),
    "output_concat_without_group": put("outputs", 1, "group", None),
    "output_axis_huge": put("outputs", 1, "axis", 32),
    "tap_twice": put("taps", ["a", "a"]),
    "tap_empty": put("taps", [""]),
    "note_without_reason": drop("repeated", 0, "reason"),
    "surrogate": put("taps", ["\ud800"]),
}
TEXT: dict[str, Callable[[str], str]] = {
    "empty": lambda text: "",
    "not_json": lambda text: text[: len(text) // 2],
    "byte_order_mark": lambda text: "\ufeff" + text,
    "trailing": lambda text: text + "{}",
    "duplicate_key": lambda text: text.replace('"version": 1', '"version": 1,\n  "version": 1'),
    "duplicate_key_in_an_entry": lambda text: text.replace('"dtype": "bool"', '"dtype": "bool", "dtype": "bool"'),
    "nan": lambda text: text.replace("[0.5, 0.5]", "[NaN, 0.5]"),
    "infinity": lambda text: text.replace("[0.5, 0.5]", "[0.5, Infinity]"),
    "float_huge": lambda text: text.replace("[0.5, 0.5]", "[0.5, 1e999]"),
    "integer_huge": lambda text: text.replace('"seed": 0', '"seed": 9007199254740993'),
    "integer_of_5000_digits": lambda text: text.replace('"seed": 0', '"seed": ' + "9" * 5000),
    "nested": lambda text: "[" * 100_000,
}


def attacks() -> dict[str, str]:
    """The text of every attack, by name."""
    text = example().dumps()
    content = json.loads(text)
    found = {name: change(text) for name, change in TEXT.items()}
    for name, change in CONTENT.items():
        found[name] = json.dumps(change(copy.deepcopy(content)), indent=1) + "\n"
    assert all(changed != text for changed in found.values())
    return dict(sorted(found.items()))


def refusal(text: str) -> str:
    """What a reader says to a text, and whether the schema says no as well."""
    try:
        Manifest.loads(text)
    except ManifestError as error:
        said = str(error)
    else:
        raise AssertionError("this text is read")
    try:
        valid = jsonschema.Draft202012Validator(SCHEMA).is_valid(json.loads(text))
    except (ValueError, RecursionError):
        return f"not JSON\n{said}"
    return f"{'schema allows' if valid else 'schema refuses'}\n{said}"


def write() -> None:
    (HERE / "golden.json").write_text(example().dumps())
    shutil.rmtree(HERE / "attacks", ignore_errors=True)
    (HERE / "attacks").mkdir()
    blocks = []
    for name, text in attacks().items():
        (HERE / "attacks" / f"{name}.json").write_text(text, encoding="utf-8")
        blocks.append(f"{name}: {refusal(text)}\n")
    (HERE / "refusals.txt").write_text("\n".join(blocks))


if __name__ == "__main__":
    write()
