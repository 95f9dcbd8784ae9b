"""Files that survive a kill: replaced whole, cut back exactly, locked only as long as their process lives."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from pullback.errors import RunError
from pullback.files import JsonLines, locked, read_json_lines, replace


def no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_replace(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace(path, b"old")
    replace(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    replace(path, b"old")
    monkeypatch.setattr(os, call, no_space)
    with pytest.raises(RunError, match=r"the disk is full.*make room.*pullback resume"):
        replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_rows_read_back_to_the_bit(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 0.1 + 0.2}, {"step": 2, "loss": 5e-324}]
    with closing(JsonLines(tmp_path / "rows", 0)) as lines:
        for row in rows:
            lines.append(row)
        assert lines.size == (tmp_path / "rows").stat().st_size
    assert read_json_lines(tmp_path / "rows") == rows


def test_a_torn_line_is_cut_off_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    with closing(JsonLines(path, 0)) as lines:
        lines.append({"step": 1})
        size = lines.size
        lines.append({"step": 2})
    whole = path.read_bytes()
    path.write_bytes(whole[:-4])
    assert read_json_lines(path) == [{"step": 1}]
    with closing(JsonLines(path, size)) as lines:
        lines.append({"step": 2})
    assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"", b'{"step": 1', b'{"step": 1}  \n\n'])
def test_rows_that_were_lost_or_edited_are_noticed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows"
    path.write_bytes(content)
    with pytest.raises(RunError, match="does not hold the 12 bytes"):
        JsonLines(path, 12)
    assert path.read_bytes() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device /dev/full, which Linux has")
def test_a_full_disk_stops_the_rows() -> None:
    with closing(JsonLines(Path("/dev/full"), 0)) as lines, pytest.raises(RunError, match="the disk is full"):
        lines.append({"step": 1})


HOLD = """
import sys, time
from pathlib import Path
from pullback.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_lasts_as_long_as_its_process(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match="is being trained by another process"), locked(path):
            pass
        process.kill()  # SIGKILL: it has no chance to let the lock go by itself
    with locked(path):
        pass
