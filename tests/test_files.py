"""A file is there whole, as it was before or as it is now, whatever happens while it is written."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ppl_vae.machine.files import remove_unfinished, whole_file

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from ppl_vae.machine.files import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half of the new")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "numbers.json"
    path.write_bytes(b"old")
    return path


def test_the_new_content_appears_when_the_block_ends(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert os.listdir(path.parent) == ["numbers.json"]


def test_the_bytes_reach_the_disk_before_the_name_does(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor: int) -> None:
        calls.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    with whole_file(path) as file:
        file.write(b"new")
    written = str(path.with_name(f".numbers.json.{os.getpid()}.unfinished"))
    assert calls == [written, "rename", str(path.parent)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_the_block_leaves_the_old_content(
    path: Path, error: type[BaseException]
) -> None:
    with pytest.raises(error), whole_file(path) as file:  # noqa: PT012
        file.write(b"half of the new")
        raise error
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["numbers.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_content(
    path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left") as caught, whole_file(path) as file:
        file.write(b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == ["numbers.json"]


def test_a_file_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "nowhere" / "numbers.json"):
        pytest.fail("the block must not run")
    assert not list(tmp_path.iterdir())


def test_a_kill_in_the_middle_leaves_the_old_content(path: Path) -> None:
    # `ppl_vae.machine.files` needs nothing but the standard library; a stub spares the child torch.
    program = "import sys, types\n" + (
        "package = types.ModuleType('ppl_vae')\n"
        f"package.__path__ = [{str(Path(__file__).resolve().parent.parent / 'ppl_vae')!r}]\n"
        "sys.modules['ppl_vae'] = package\n"
    )
    child = subprocess.run([sys.executable, "-c", program + KILLED_WHILE_WRITING, str(path)])
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    (unfinished,) = path.parent.glob(".numbers.json.*.unfinished")
    assert unfinished.read_bytes() == b"half of the new"
    below = path.parent / "pictures"
    below.mkdir()
    (below / ".samples.png.unfinished").write_bytes(b"half")
    (below / "samples.png").write_bytes(b"whole")
    remove_unfinished(path.parent)
    left = {str(p.relative_to(path.parent)) for p in path.parent.rglob("*") if p.is_file()}
    assert left == {"numbers.json", "pictures/samples.png"}
