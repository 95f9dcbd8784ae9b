"""Images straight from archives, without unpacking them: .zip, .tar (compressed or not), and rows of .npz files."""

from __future__ import annotations

import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pullback.data.images import MAX_BYTES, TOO_LONG
from pullback.data.source import Content, ImageSource, Listing, Read, ascii_if_needed, is_image_name
from pullback.errors import DataError


class ZipImages(ImageSource):
    """The images of a .zip archive."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        try:
            self._archive = zipfile.ZipFile(root)
        except (OSError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{root}: it is no readable .zip archive ({error})") from None

    def listing(self) -> Listing:
        modified_ns = self.root.stat().st_mtime_ns
        found = Listing()
        # A name that occurs twice means its last entry, as in every tool that unpacks.
        for name in dict.fromkeys(self._archive.namelist()):
            info = self._archive.getinfo(name)
            if not is_image_name(name) or info.is_dir():
                continue
            if info.flag_bits & 1:
                found.refused[name] = "it is encrypted"
            elif info.file_size > MAX_BYTES:
                found.refused[name] = TOO_LONG
            else:
                found.add(name, info.file_size, modified_ns)
        found.sort()
        return found

    def contents(self, paths: Iterable[str]) -> Iterator[Read]:
        return map(self._reader, paths)

    def _reader(self, path: str) -> Read:
        def read() -> bytes:
            try:
                with self._archive.open(path) as member:
                    # The archive's directory may lie about a length, but cannot fill the memory.
                    return member.read(MAX_BYTES)
            except Exception as error:  # of zipfile, zlib, lzma and bz2, and KeyError
                raise DataError(f"cannot be read from the archive ({error})") from error

        return read


class TarImages(ImageSource):
    """The images of a .tar archive. A plain one is read in any order, a compressed one from end to end."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._places: dict[str, tuple[int, int]] = {}
        try:
            with tarfile.open(root, "r:"):
                self._plain = True
        except tarfile.ReadError:
            self._plain = False
            self.end_to_end = True
        except OSError as error:
            raise DataError(f"{root}: cannot be read ({error.strerror})") from None

    def listing(self) -> Listing:
        modified_ns = self.root.stat().st_mtime_ns
        found = Listing()
        places: dict[str, tuple[int, int]] = {}
        for member in self._members():
            path = _plain_name(member)
            if not is_image_name(path) or member.isdir():
                continue
            if not member.isreg() or member.issparse():
                found.refused[ascii_if_needed(path)] = "is a link, or no ordinary file"
            elif member.size > MAX_BYTES:
                found.refused[ascii_if_needed(path)] = TOO_LONG
            elif path in places:
                found.refused[ascii_if_needed(path)] = "occurs several times; the first one counts"
            else:
                places[path] = (member.offset_data, member.size)
                found.add(path, member.size, modified_ns)
        self._places = places
        if self._plain:
            found.sort()
        return found

    def contents(self, paths: Iterable[str]) -> Iterator[Read]:
        return self._in_any_order(paths) if self._plain else self._end_to_end(paths)

    def _in_any_order(self, paths: Iterable[str]) -> Iterator[Read]:
        if not self._places:
            self.listing()
        for path in paths:
            yield self._reader(path)

    def _reader(self, path: str) -> Read:
        def read() -> bytes:
            try:
                start, length = self._places[path]
            except KeyError:
                raise DataError("is not in the archive") from None
            with self.root.open("rb") as archive:
                archive.seek(start)
                content = archive.read(length)
            if len(content) != length:
                raise DataError("the archive ends before it does")
            return content

        return read

    def _end_to_end(self, paths: Iterable[str]) -> Iterator[Read]:
        members = self._members(contents=True)
        for path in paths:
            content = next((content for name, content in members if name == path), None)
            yield _ready(content)

    def _members(self, contents: bool = False) -> Iterator[Any]:
        try:
            with tarfile.open(self.root, "r:" if self._plain else "r|*") as archive:
                for member in archive:
                    if not contents:
                        yield member
                    elif is_image_name(_plain_name(member)) and member.isreg() and member.size <= MAX_BYTES:
                        file = archive.extractfile(member)
                        yield _plain_name(member), file.read() if file else b""
        except (OSError, EOFError, ValueError, tarfile.TarError) as error:
            raise DataError(f"{self.root}: it is no readable .tar archive ({error})") from None


def _plain_name(member: tarfile.TarInfo) -> str:
    return member.name.removeprefix("./")


def _ready(content: bytes | None) -> Read:
    def read() -> bytes:
        if content is None:
            raise DataError("is not in the archive, or not where it was")
        return content

    return read


class NpzImages(ImageSource):
    """The rows of the array `data` in an .npz file, as downsampled ImageNet comes: uint8 `(N, 3 * side * side)`, the
    planes of red, green and blue one after another; or `(N, H, W, 3)`.

    The paths are the numbers of the rows. Rows are read as they are needed; nothing is unpickled.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        with self._array() as file:
            self._shape = _read_shape(file, root)
        self._stream: Iterator[tuple[int, NDArray[np.uint8]]] = iter(())
        self._damaged_from = self._shape[0]

    def listing(self) -> Listing:
        count, modified_ns = self._shape[0], self.root.stat().st_mtime_ns
        return Listing(
            [f"{row:07}" for row in range(count)], [math.prod(self._shape[1:])] * count, [modified_ns] * count
        )

    def contents(self, paths: Iterable[str]) -> Iterator[Read]:
        return map(self.reader, paths)

    def reader(self, path: str) -> Read:
        """A reader of the row with this number. Rows are read at once, forwards; going back starts from the top."""
        wanted = int(path) if path.isdecimal() else -1
        pixels: NDArray[np.uint8] | None = None
        problem = "the file has no such row"
        # Rows behind a damaged one are not looked for again and again.
        if 0 <= wanted < self._damaged_from:
            try:
                pixels = self._forwards(wanted)
                if pixels is None:
                    self._stream = self._rows()
                    pixels = self._forwards(wanted)
            except (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile) as error:
                self._damaged_from = wanted
                problem = f"the .npz file is damaged ({error})"
        elif self._damaged_from <= wanted < self._shape[0]:
            problem = "the .npz file is damaged before it"

        def read() -> Content:
            if pixels is None:
                raise DataError(problem)
            return pixels

        return read

    def _forwards(self, wanted: int) -> NDArray[np.uint8] | None:
        """The row, if it is still to come."""
        for row, pixels in self._stream:
            if row == wanted:
                return self._as_image(pixels)
            if row > wanted:
                break
        return None

    def _as_image(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if len(self._shape) == 4:
            return pixels.reshape(self._shape[1:])
        side = math.isqrt(self._shape[1] // 3)
        return np.ascontiguousarray(pixels.reshape(3, side, side).transpose(1, 2, 0))

    def _rows(self) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        length = math.prod(self._shape[1:])
        with self._array() as file:
            _read_shape(file, self.root)
            for row in range(self._shape[0]):
                content = file.read(length)
                if len(content) != length:
                    raise EOFError(f"it ends after {row} of {self._shape[0]} images")
                yield row, np.frombuffer(content, np.uint8)

    def _array(self) -> IO[bytes]:
        try:
            return zipfile.ZipFile(self.root).open("data.npy")
        except (OSError, KeyError, zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise DataError(f"{self.root}: expected an .npz file with an array 'data' ({error})") from None


def _read_shape(file: IO[bytes], root: Path) -> tuple[int, ...]:
    """The shape of the array whose .npy header comes next in the file."""
    expected = "expected uint8 images (N, 3 * side * side) or (N, H, W, 3)"
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{root}: its array 'data' is damaged ({error})") from None
    if dtype != np.uint8 or fortran:
        raise DataError(f"{root}: {expected}, got {dtype} {shape}")
    planes = len(shape) == 2 and shape[1] > 0 and 3 * math.isqrt(shape[1] // 3) ** 2 == shape[1]
    pixels = len(shape) == 4 and shape[3] == 3 and min(shape[1:]) > 0
    if not (planes or pixels) or math.prod(shape[1:]) > MAX_BYTES:
        raise DataError(f"{root}: {expected}, got {shape}")
    return tuple(int(n) for n in shape)
