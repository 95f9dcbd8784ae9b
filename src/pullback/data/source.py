"""Where the images of a large job come from: a folder, a .zip, a .tar or the .npz files of downsampled ImageNet, alike.

An image is known by its path inside the source. It is read once: what is hashed is what is decoded.
"""

from __future__ import annotations

import hashlib
import os
import stat
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback.data.images import IMAGE_SUFFIXES, check_options, decode_image, decode_with_hash, read_file
from pullback.data.parallel import map_ahead
from pullback.errors import ConfigError, DataError

Content = bytes | NDArray[np.uint8]
"""An image file as it is, or the pixels `(H, W, 3)` of an image that never was a file."""

Read = Callable[[], Content]
"""Reads the content of one image, in any thread. Raises `DataError` with the reason alone."""


@dataclass
class Listing:
    """The images of a source, in the order in which it is best read."""

    paths: list[str] = field(default_factory=list)
    """Relative to the source, with forward slashes."""
    bytes: list[int] = field(default_factory=list)
    """Length of each file."""
    modified_ns: list[int] = field(default_factory=list)
    """Time of the last change of each file (of an archive: of the whole), nanoseconds since 1970."""
    refused: dict[str, str] = field(default_factory=dict)
    """What cannot be an image of the source, although its name says so, with the reason."""

    def __len__(self) -> int:
        return len(self.paths)

    def add(self, path: str, length: int, modified_ns: int) -> None:
        """One more image; refused where its name is not valid Unicode, which no table could hold."""
        try:
            path.encode()
        except UnicodeEncodeError:
            self.refused[ascii(path)] = "its name is not valid Unicode"
            return
        self.paths.append(path)
        self.bytes.append(length)
        self.modified_ns.append(modified_ns)

    def sort(self) -> None:
        """Bring the images into the order of their paths."""
        order = sorted(range(len(self.paths)), key=self.paths.__getitem__)
        self.paths = [self.paths[i] for i in order]
        self.bytes = [self.bytes[i] for i in order]
        self.modified_ns = [self.modified_ns[i] for i in order]


@dataclass(frozen=True, slots=True)
class ReadImage:
    """An image that was read from a source."""

    path: str
    sha256: str = ""
    """Of the file's content, or of the pixels where there is no file; empty where it could not be read."""
    image: NDArray[np.uint8] | None = None
    """(H, W, channels); None where it could not be decoded, or was not wanted."""
    problem: str | None = None
    """Why there is no image; None also where it was not wanted."""
    perceptual_hash: int = 0
    """See `decode_with_hash`; 0 where the image keeps its own size."""


class ImageSource(ABC):
    """Images in one place. `open_source` finds out which kind it is."""

    end_to_end = False
    """Whether it must be read in the order of its listing."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def ordered(self, paths: Sequence[str]) -> Sequence[str]:
        """The same paths, in an order in which they can be read."""
        if not self.end_to_end:
            return paths
        chosen = set(paths)
        return [path for path in self.listing().paths if path in chosen]

    @abstractmethod
    def listing(self) -> Listing:
        """Every image. Raises `DataError` where the source cannot be read at all."""

    @abstractmethod
    def contents(self, paths: Iterable[str]) -> Iterator[Read]:
        """A reader for each path. A source that is read from end to end needs the paths in the order of `listing`."""

    def images(
        self,
        paths: Sequence[str],
        size: tuple[int, int] | None = None,
        *,
        workers: int | None = None,
        channels: int = 3,
        resample: str = "bicubic",
        wanted: Callable[[str], bool] | None = None,
    ) -> Iterator[ReadImage]:
        """Reads, hashes and decodes images in `workers` threads (default: one per core, at most 8), in the order given.

        Args:
            paths: as `listing` gives them, and in its order.
            size, channels, resample: see `read_image`.
            wanted: called with the SHA-256 of each; where it says no, the image is not decoded.
        """
        check_options(size, channels, resample)
        workers = min(os.cpu_count() or 1, 8) if workers is None else workers
        if workers < 1:
            raise ConfigError(f"expected workers of at least 1, got {workers}")

        def one(path: str, read: Read) -> ReadImage:
            sha256 = ""
            try:
                content = read()
                sha256 = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
                if wanted is not None and not wanted(sha256):
                    return ReadImage(path, sha256)
                if size is None:
                    return ReadImage(path, sha256, decode_image(content, None, channels, resample))
                image, bits = decode_with_hash(content, size, channels, resample)
                return ReadImage(path, sha256, image, perceptual_hash=bits)
            except DataError as error:
                return ReadImage(path, sha256, problem=str(error))

        def several(items: list[tuple[str, Read]]) -> list[ReadImage]:
            return [one(path, read) for path, read in items]

        # Handing small images over one by one would cost as much as decoding them; large ones would fill the memory.
        together = _TOGETHER if size is not None and size[0] * size[1] <= _SMALL else 1
        chunks = _chunks(zip(paths, self.contents(paths), strict=True), together)
        ahead = (4 if together == 1 else 2) * workers
        return chain.from_iterable(map_ahead(several, chunks, workers=workers, ahead=ahead))


_TOGETHER = 8
_SMALL = 512 * 512


def _chunks(items: Iterable[tuple[str, Read]], length: int) -> Iterator[list[tuple[str, Read]]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, length)):
        yield chunk


def open_source(path: str | os.PathLike[str]) -> ImageSource:
    """The images in a folder or an archive.

    Raises `DataError` where there is nothing, or a file of another kind.
    """
    from pullback.data.archives import NpzImages, TarImages, ZipImages

    root = Path(path).expanduser()
    if root.is_dir():
        return FolderImages(root)
    if not root.exists():
        raise DataError(f"{root} does not exist: expected a folder of images, a .zip, a .tar or an .npz file")
    name = root.name.lower()
    if name.endswith(".zip"):
        return ZipImages(root)
    if name.endswith((".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")):
        return TarImages(root)
    if name.endswith(".npz"):
        return NpzImages(root)
    raise DataError(f"{root} is a file, but no .zip, .tar or .npz: expected one of these, or a folder of images")


def is_image_name(path: str) -> bool:
    """Whether a path names an image that is not hidden, by its suffix."""
    parts = path.split("/")
    return os.path.splitext(parts[-1])[1].lower() in IMAGE_SUFFIXES and not any(part.startswith(".") for part in parts)


class FolderImages(ImageSource):
    """Image files in any tree, and the rows of the .npz files in it; hidden ones are left out.

    Links to folders are followed, each folder once, so that a loop of links ends.
    """

    def listing(self) -> Listing:
        found = Listing()
        seen: set[tuple[int, int]] = set()
        folders = [""]
        while folders:
            folder = folders.pop()
            try:
                status = os.stat(self.root / folder)
                if (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    with os.scandir(self.root / folder) as entries:
                        # Sorted, so that which of two links to one folder comes first is fixed.
                        for entry in sorted(entries, key=lambda entry: entry.name, reverse=True):
                            self._visit(entry, folder, folders, found)
            except OSError as error:
                found.refused[ascii_if_needed(f"{folder}/")] = f"the folder cannot be listed ({error.strerror})"
        found.sort()
        return found

    def _visit(self, entry: os.DirEntry[str], folder: str, folders: list[str], found: Listing) -> None:
        if entry.name.startswith("."):
            return
        path = f"{folder}/{entry.name}" if folder else entry.name
        try:
            if entry.is_dir():
                folders.append(path)
            elif entry.name.lower().endswith(".npz"):
                self._visit_npz(path, found)
            elif is_image_name(entry.name):
                status = entry.stat()
                if stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
                    found.add(path, status.st_size, status.st_mtime_ns)
                else:
                    found.refused[ascii_if_needed(path)] = "is a link to nothing, or no ordinary file"
        except OSError as error:
            found.refused[ascii_if_needed(path)] = f"cannot be read ({error.strerror})"

    def _visit_npz(self, path: str, found: Listing) -> None:
        from pullback.data.archives import NpzImages

        try:
            rows = NpzImages(self.root / path).listing()
        except DataError as error:
            found.refused[ascii_if_needed(path)] = str(error)
            return
        for row, length, modified_ns in zip(rows.paths, rows.bytes, rows.modified_ns, strict=True):
            found.add(f"{path}/{row}", length, modified_ns)

    def contents(self, paths: Iterable[str]) -> Iterator[Read]:
        from pullback.data.archives import NpzImages

        open_npz: tuple[str, NpzImages] | None = None
        for path in paths:
            file, _, row = path.rpartition("/")
            if file.lower().endswith(".npz") and not is_image_name(path):
                if open_npz is None or open_npz[0] != file:
                    open_npz = (file, NpzImages(self.root / file))
                yield open_npz[1].reader(row)
            else:
                yield _file_reader(os.path.join(self.root, path))


def _file_reader(path: str) -> Read:
    return lambda: read_file(path)


def ascii_if_needed(path: str) -> str:
    """The path, escaped where it is not valid Unicode."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return ascii(path)
    return path
