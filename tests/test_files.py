"""graphsplit.files: outputs are whole or absent, also when the run is killed."""

import contextlib
import hashlib
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from graphsplit.errors import FormatError, GraphsplitError
from graphsplit.files import OutputError, OutputFolder, atomic_file, inside, sha256


def tree(folder: Path) -> dict[str, str]:
    """Every file below a folder with its text; links by their target."""
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def write_split(target: Path, text: str, **options: object) -> None:
    with OutputFolder(target, **options) as folder:  # type: ignore[arg-type]
        (folder / "submodel_0.onnx").write_text(text)
        (folder / "manifest.json").write_text(text)


def test_a_folder_appears_at_the_end(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("new")
        assert not (tmp_path / "out").exists()
        assert folder.parent.parent == tmp_path  # the same file system, so that renaming is atomic
    assert tree(tmp_path) == {"out/manifest.json": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_has_ordinary_permissions(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "new")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error), OutputFolder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "old")
    before = tree(tmp_path)
    with pytest.raises(RuntimeError), OutputFolder(tmp_path / "out", force=True) as folder:
        (folder / "manifest.json").write_text("half")
        assert tree(tmp_path / "out") == {"manifest.json": "old", "submodel_0.onnx": "old"}
        raise RuntimeError
    assert tree(tmp_path) == before


def test_an_existing_folder_is_refused_without_force(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"out' exists already\n  hint: add --force"):
        write_split(tmp_path / "out", "new")
    write_split(tmp_path / "out", "new", force=True)
    assert tree(tmp_path) == {"out/manifest.json": "new", "out/submodel_0.onnx": "new"}


def test_an_empty_folder_is_replaced_with_force_only(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        write_split(tmp_path / "out", "new")
    write_split(tmp_path / "out", "new", force=True)
    assert tree(tmp_path)["out/manifest.json"] == "new"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["thesis.txt"], "is not a graphsplit folder"),
        (["manifest.json", "trained_by_hand.pt"], "holds 'trained_by_hand.pt', which graphsplit did not write"),
    ],
)
def test_a_folder_of_someone_elses_is_never_replaced(tmp_path: Path, files: list[str], message: str) -> None:
    (tmp_path / "out").mkdir()
    for name in files:
        (tmp_path / "out" / name).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match=message):
        write_split(tmp_path / "out", "new", force=True)
    assert tree(tmp_path) == before


def test_a_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        write_split(tmp_path / "out", "new", force=True)
    assert tree(tmp_path) == {"out": "precious"}


def test_the_inputs_of_a_run_are_never_replaced(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "old")
    with pytest.raises(OutputError, match=r"submodel_0.onnx', an input of this run"):
        write_split(tmp_path / "out", "new", force=True, protect=[tmp_path / "out" / "submodel_0.onnx"])
    assert tree(tmp_path / "out")["submodel_0.onnx"] == "old"


def test_a_target_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists already"), OutputFolder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("mine")
        write_split(tmp_path / "out", "theirs")
    assert tree(tmp_path) == {"out/manifest.json": "theirs", "out/submodel_0.onnx": "theirs"}


def test_a_missing_parent_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder '.*nowhere' does not exist"):
        write_split(tmp_path / "nowhere" / "out", "new")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    write_split(tmp_path / "disk" / "real", "old")
    (tmp_path / "out").symlink_to("disk/real")
    write_split(tmp_path / "out", "new", force=True)
    assert tree(tmp_path / "disk") == {"real/manifest.json": "new", "real/submodel_0.onnx": "new"}
    assert (tmp_path / "out").is_symlink()


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to("gone")
    for write in (lambda: write_split(tmp_path / "out", "new", force=True), lambda: write_file(tmp_path / "out")):
        with pytest.raises(OutputError, match="a link that leads nowhere"):
            write()


def write_file(path: Path, text: str = "new", side: str | None = None, *, force: bool = False) -> None:
    with atomic_file(path, force=force) as staged:
        assert staged.name == path.name
        staged.write_text(text)
        if side is not None:
            staged.with_name(path.name + ".data").write_text(side)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "merged.onnx") as staged:
        staged.write_text("new")
        assert not (tmp_path / "merged.onnx").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["merged.onnx"]


def test_a_file_and_its_data_appear_together(tmp_path: Path) -> None:
    write_file(tmp_path / "merged.onnx", "new", "data")
    assert tree(tmp_path) == {"merged.onnx": "new", "merged.onnx.data": "data"}


@pytest.mark.parametrize("existing", ["merged.onnx", "merged.onnx.data"])
def test_an_existing_file_is_refused_without_force(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("old")
    with pytest.raises(OutputError, match=r"exists already\n  hint: add --force"):
        write_file(tmp_path / "merged.onnx", "new", "data")
    assert tree(tmp_path) == {existing: "old"}
    write_file(tmp_path / "merged.onnx", "new", "data", force=True)
    assert tree(tmp_path) == {"merged.onnx": "new", "merged.onnx.data": "data"}


def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "merged.onnx").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_file(tmp_path / "merged.onnx", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.onnx"]


def test_an_exception_leaves_the_old_files(tmp_path: Path) -> None:
    write_file(tmp_path / "merged.onnx", "old", "old data")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "merged.onnx", force=True) as staged:
        staged.write_text("half")
        raise RuntimeError
    assert tree(tmp_path) == {"merged.onnx": "old", "merged.onnx.data": "old data"}


def test_an_error_while_renaming_brings_the_old_files_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file(tmp_path / "merged.onnx", "old", "old data")
    replace = Path.replace

    def failing(self: Path, target: Path) -> Path:
        if self.name == "merged.onnx":
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with pytest.raises(OutputError, match="No space left on device"):
        write_file(tmp_path / "merged.onnx", "new", "new data", force=True)
    assert tree(tmp_path) == {"merged.onnx": "old", "merged.onnx.data": "old data"}


def killed(code: str) -> None:
    """Run code in a process of its own that must kill itself."""
    code = "import os, signal\nfrom pathlib import Path\nfrom graphsplit.files import *\n" + textwrap.dedent(code)
    code = code.replace("KILL()", "os.kill(os.getpid(), signal.SIGKILL)")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_run_leaves_the_old_folder_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "old")
    killed(f"""
        with OutputFolder({str(tmp_path / "out")!r}, force=True) as folder:
            (folder / "manifest.json").write_text("half")
            KILL()
    """)
    assert tree(tmp_path / "out") == {"manifest.json": "old", "submodel_0.onnx": "old"}
    assert len(list(tmp_path.iterdir())) == 2
    write_split(tmp_path / "out", "new", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_run_killed_between_the_renames_gets_its_old_folder_back(tmp_path: Path) -> None:
    write_split(tmp_path / "out", "old")
    killed(f"""
        rename = Path.rename
        def deadly(self, target):
            rename(self, target)
            KILL()
        Path.rename = deadly
        with OutputFolder({str(tmp_path / "out")!r}, force=True) as folder:
            (folder / "manifest.json").write_text("new")
    """)
    assert not (tmp_path / "out").exists()
    with pytest.raises(OutputError, match="exists already"):  # it is back, so it is refused as ever
        write_split(tmp_path / "out", "newer")
    assert tree(tmp_path) == {"out/manifest.json": "old", "out/submodel_0.onnx": "old"}


@pytest.mark.parametrize("step", ["rename", "replace"])
def test_a_file_killed_between_the_renames_is_never_paired_with_other_data(tmp_path: Path, step: str) -> None:
    write_file(tmp_path / "merged.onnx", "old", "old data")
    killed(f"""
        step = Path.{step}
        def deadly(self, target):
            step(self, target)
            KILL()
        Path.{step} = deadly
        with atomic_file({str(tmp_path / "merged.onnx")!r}, force=True) as staged:
            staged.write_text("new")
            staged.with_name("merged.onnx.data").write_text("new data")
    """)
    assert not (tmp_path / "merged.onnx").exists()
    write_file(tmp_path / "merged.onnx", "new", "new data", force=True)
    assert tree(tmp_path) == {"merged.onnx": "new", "merged.onnx.data": "new data"}


def test_the_folder_of_a_run_that_lives_is_left_alone(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out") as folder:
        (folder / "manifest.json").write_text("mine")
        (tmp_path / "out").mkdir()
        write_split(tmp_path / "out", "theirs", force=True)
        assert (folder / "manifest.json").read_text() == "mine"
        (tmp_path / "out" / "manifest.json").unlink()
        (tmp_path / "out" / "submodel_0.onnx").unlink()
        (tmp_path / "out").rmdir()
    assert tree(tmp_path) == {"out/manifest.json": "mine"}


@pytest.mark.parametrize("name", [".out.notours.graphsplit-tmp", ".other.0123456789ab.graphsplit-tmp", ".out.x"])
def test_only_our_own_leftovers_are_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    write_split(tmp_path / "out", "new")
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("relative", ["a", "a/b.onnx", "./a", "link_in/x", "..a", "a..b"])
def test_inside_takes_what_stays(tmp_path: Path, relative: str) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link_in").symlink_to("real")
    assert inside(tmp_path, relative) == tmp_path / relative


@pytest.mark.parametrize(
    "relative",
    [
        *(
            "",
            ".",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a/../b",
            "C:x",
            "C:/x",
            "C:\\x",
            "\\\\host\\x",
            "a\\..\\b",
        ),
        *("a\0b", "link_out", "link_out/x", "loop", "x" * 300 + "/../y"),
    ],
)
def test_inside_refuses_what_leaves(tmp_path: Path, relative: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link_out").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    with pytest.raises(FormatError, match="leaves its folder or is not a plain relative path"):
        inside(folder, relative)


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    with pytest.raises(FormatError, match="cannot read"):
        sha256(tmp_path / "missing")


def test_every_refusal_is_one_of_ours() -> None:
    assert issubclass(OutputError, GraphsplitError)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_may_not_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="cannot write in"):
        write_split(tmp_path / "out", "new")


def test_many_runs_at_once_leave_one_whole_result(tmp_path: Path) -> None:
    code = "import sys\nfrom graphsplit.files import OutputFolder\n" + textwrap.dedent(f"""
        with OutputFolder({str(tmp_path / "out")!r}, force=True) as folder:
            for name in ("manifest.json", "submodel_0.onnx"):
                (folder / name).write_text(sys.argv[1])
    """)
    runs = [subprocess.Popen([sys.executable, "-c", code, str(i)], stderr=subprocess.PIPE) for i in range(6)]
    for run in runs:
        run.communicate()
    assert len(set(tree(tmp_path / "out").values())) == 1
    with contextlib.suppress(OutputError):
        write_split(tmp_path / "out", "last", force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
