"""The package's rooms: who may import whom, and what a module exports."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import graphsplit

ROOT = Path(graphsplit.__path__[0])
STRATA: tuple[tuple[str, ...], ...] = (
    ("errors",),  # layer 0
    ("graph",),
    ("facts", "files", "notation"),
    ("rules",),  # layer 1
    ("formats",),
    ("labels",),  # layer 2
    ("partition",),  # layer 3
    ("selection",),  # layer 4
    ("planning",),
    ("manifest",),
    ("narrow",),  # layer 5
    ("recombine", "assemble"),
    ("network",),
    ("torch_network", "options"),
    ("splitting", "merging"),
    ("modules", "executor"),
    ("stacking",),
    ("verification",),  # layer 6
    ("report",),
    ("draw",),
    ("api",),
    ("training",),
    ("__init__", "__main__", "cli"),  # layer 7
)
LAYERS = {name: height for height, stratum in enumerate(STRATA) for name in stratum}
ONNX_HOMES = {"formats"}
HEAVY = {"torch", "onnxruntime"}
TORCH_ROOMS = {"executor", "stacking", "training"}
TORCH_HOMES = [*(ROOT / "formats").glob("torch_*.py"), *(p for r in TORCH_ROOMS for p in (ROOT / r).glob("*.py"))]
MODULES = sorted(ROOT.rglob("*.py"))
PROGRAMS = sorted(path for folder in ("tools", "models", "tests") for path in (ROOT.parent / folder).rglob("*.py"))


def room(path: Path) -> str:
    """The module or package directly under graphsplit that a file belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, at_start: bool = False) -> list[tuple[int, str]]:
    """Line and dotted name of everything that a file imports; `at_start`: only when it is itself imported."""
    tree = ast.parse(path.read_text())
    found: list[tuple[int, str]] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if at_start and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if at_start and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno}: a relative import"
            found += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
        pending += ast.iter_child_nodes(node)
    return sorted(found)


def imported_room(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "graphsplit":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in LAYERS else "__init__"


def upward(path: Path, found: list[tuple[int, str]]) -> list[str]:
    """The imports of a file that the layers forbid."""
    own = room(path)
    broken = []
    for line, name in found:
        other = imported_room(name)
        if other is not None and other != own and LAYERS[other] >= LAYERS[own]:
            # the package itself ties its rooms together; __main__ only starts the command line
            if (own, other) in {("__init__", "cli"), ("cli", "__init__"), ("__main__", "cli")}:
                continue
            broken.append(f"{path.name}:{line}: {own} imports {name}, which is not below it")
    return broken


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    assert room(path) in LAYERS, f"{room(path)!r} has no layer: add it to the table, and to docs/design.md"
    assert upward(path, imports(path)) == []


def test_the_check_of_layers_sees_an_upward_import() -> None:
    rules, errors = ROOT / "rules" / "x.py", ROOT / "errors.py"
    assert upward(errors, [(1, "graphsplit.graph.Graph")])
    assert upward(ROOT / "files.py", [(1, "graphsplit.notation.parse")])  # beside it, in another room
    assert upward(rules, [(1, "graphsplit.labels.flow.run")])
    assert upward(rules, [(1, "graphsplit.formats.onnx_file.load")])
    assert upward(rules, [(1, "graphsplit.load")])
    assert not upward(rules, [(1, "graphsplit.rules.table.RULES"), (2, "graphsplit.errors.RuleError"), (3, "numpy")])


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_formats_imports_onnx(path: Path) -> None:
    if room(path) not in ONNX_HOMES:
        assert [name for _, name in imports(path) if name.split(".")[0] in {"onnx", "onnx_ir", "google"}] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_torch_and_onnxruntime_are_imported_only_when_needed(path: Path) -> None:
    if path in TORCH_HOMES:
        return
    named = [name for _, name in imports(path, at_start=True)]
    assert [name for name in named if name.startswith("graphsplit.formats.torch_")] == []
    assert [name for name in named if name.startswith("graphsplit.") and name.split(".")[1] in TORCH_ROOMS] == []
    assert [name for _, name in imports(path, at_start=True) if name.split(".")[0] in HEAVY] == []


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_a_module_is_short(path: Path) -> None:
    source = path.read_text()
    assert len(source.splitlines()) < 400
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is longer than 60 lines"


def after(code: str) -> str:
    """The heavy packages that are imported once `code` has run in a fresh interpreter."""
    code += f"\nimport sys; print('loaded:', sorted({sorted(HEAVY)!r} & sys.modules.keys()))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()[
        -1
    ]


def test_importing_the_package_imports_neither_torch_nor_onnxruntime() -> None:
    assert after("import graphsplit") == "loaded: []"


def test_reading_files_imports_neither_torch_nor_onnxruntime() -> None:
    assert after("import graphsplit.formats.onnx_file, graphsplit.formats.weights") == "loaded: []"


def test_help_imports_neither_torch_nor_onnxruntime() -> None:
    if not (ROOT / "cli.py").exists() and not (ROOT / "cli").is_dir():
        pytest.skip("there is no command line yet")
    code = "from graphsplit.cli import main\ntry: main(['--help'])\nexcept SystemExit as done: assert not done.code"
    assert after(code) == "loaded: []"


def modules() -> list[ModuleType]:
    names = [
        info.name for info in pkgutil.walk_packages([str(ROOT)], "graphsplit.") if not info.name.endswith("__main__")
    ]
    return [graphsplit, *(importlib.import_module(name) for name in names)]


def test_no_name_is_exported_by_accident() -> None:
    for module in modules():
        listed = getattr(module, "__all__", None)
        if listed is None:
            continue
        assert len(set(listed)) == len(listed), module.__name__
        missing = [name for name in listed if not hasattr(module, name)]
        assert missing == [], module.__name__
        accidental = [
            name
            for name, item in vars(module).items()
            if not name.startswith("_")
            and name not in listed
            and not isinstance(item, ModuleType)
            and getattr(item, "__module__", None) == module.__name__
        ]
        assert accidental == [], f"{module.__name__}: list these in __all__, or give them a leading underscore"


def test_the_package_lists_its_public_names() -> None:
    assert [name for name in dir(graphsplit) if not name.startswith("_")] == sorted(graphsplit.__all__)


def test_no_room_hides_a_public_name() -> None:
    """A module called like a public function would take its place as soon as it is imported."""
    rooms = {room(path) for path in MODULES}
    assert rooms & set(graphsplit.__all__) == set()
    assert all(callable(getattr(graphsplit, name)) for name in graphsplit.__all__)
