"""Writing that survives a kill at any instant: whole-file replacement, an append-only log of JSON lines, and a lock.
Nothing here knows what is written, so every room may import it, as it may the errors.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pullback.errors import RunError


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path`, so that at every instant `path` is either the old file or the whole new one.

    Raises RunError where it cannot be written (a full disk, no permission); the old file is then untouched.
    """
    part = path.with_name(path.name + ".part")  # in the same folder: a rename is atomic only within one file system
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut could leave the new name on an empty file
        os.replace(part, path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise cannot_write(path, error) from error


def make_folder(path: Path) -> Path:
    """Make the folder `path`, and those above it, where there is none. Raises RunError where that cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    return path


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error for a file that cannot be written, with the way out where the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(
            f"cannot write {path}: the disk is full. What was saved before is untouched; "
            f"make room and run the same command again, or `pullback resume`: it continues where it was."
        )
    return RunError(f"cannot write {path}: {error.strerror or error}.")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows has no handle on a folder; its rename is durable by itself
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class JsonLines:
    """A file of one JSON object a line, written through to the file system line by line.

    `size` is the length in bytes of what has been written. Opened again with a size that was remembered, the file is
    cut back to exactly that state, which also removes a last line that a kill tore in half.
    Raises RunError where the file cannot be written, or holds less than `size`.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.size = size
        try:
            self._file = path.open("a+b", buffering=0)
            length = path.stat().st_size
            if size:
                self._file.seek(size - 1)
            whole = length >= size and (size == 0 or self._file.read(1) == b"\n")
            if whole and length > size:
                self._file.truncate(size)
        except OSError as error:
            raise cannot_write(path, error) from error
        if not whole:
            self._file.close()
            raise RunError(
                f"{path} does not hold the {size} bytes that the checkpoint knows of: it was edited or cut since. "
                f"Put the file back, or train again into another folder."
            )

    def append(self, row: dict[str, Any]) -> None:
        """Write one row. Floats are written so that they read back to the same bits."""
        line = json.dumps(row).encode() + b"\n"
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise cannot_write(self.path, error) from error
        self.size += len(line)

    def sync(self) -> None:
        """Make sure that what was appended survives a power cut."""
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or a device has nothing to synchronise
                raise cannot_write(self.path, error) from error

    def close(self) -> None:
        """Close the file; further rows cannot be appended."""
        self._file.close()


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that `JsonLines` wrote; a last line that is still being written is left out.

    Raises RunError where the file is missing, or a line is not a JSON object.
    """
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}.") from error
    try:
        return [dict(json.loads(line)) for line in lines]
    except ValueError as error:
        raise RunError(f"{path} is not a file of JSON lines: {error}.") from error


@contextmanager
def locked(path: Path, doing: str = "trained") -> Iterator[None]:
    """Hold the lock file `path` while the block runs. Raises RunError at once where another process holds it, saying
    what is being done to its folder.

    The lock belongs to the open file, so that the system lets it go however the process ends: none is ever left behind.
    """
    try:
        file = path.open("a+b")
    except OSError as error:
        raise cannot_write(path, error) from error
    with file:
        try:
            _lock(file.fileno())
        except OSError as error:
            raise RunError(
                f"{path.parent} is being {doing} by another process. Wait until it has ended, or use another folder."
            ) from error
        yield


def _lock(handle: int) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
