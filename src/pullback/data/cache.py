"""The pixel cache: images of a source, decoded and resized once, in files that are mapped into memory.

One file a shard, uint8 (n, H, W, C), and beside it its checksum and what it was made of. A shard that is whole is never
made again; one that was damaged, or whose images have changed, is.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pullback import files
from pullback.data.source import ImageSource
from pullback.errors import DataError

SHARD_BYTES = 1 << 26
_UNKNOWN_SIZE = 1024  # images in a shard where their size is known only once they are read


class Pixels:
    """Images uint8 (N, H, W, C) on disk. It is indexed like an array, and reads no more than what is asked for."""

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, shards: Sequence[NDArray[np.uint8]], rows: NDArray[np.int64], checksum: str) -> None:
        self._shards, self._rows, self._checksum = shards, rows, checksum
        self._ends = np.cumsum([len(shard) for shard in shards])
        self.shape = (len(rows), *shards[0].shape[1:])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, chosen: slice | ArrayLike) -> NDArray[np.uint8]:
        """The images at a slice or at integers (M,), as an array (M, H, W, C) in memory."""
        rows = self._rows[chosen if isinstance(chosen, slice) else np.asarray(chosen)]
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        numbers = np.searchsorted(self._ends, rows, "right")
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            shard = self._shards[number]
            images[here] = shard[rows[here] - (self._ends[number] - len(shard))]
        return images

    def take(self, chosen: ArrayLike) -> Pixels:
        """The images at integers or booleans, still on disk."""
        return Pixels(self._shards, self._rows[np.asarray(chosen)], self._checksum)

    @property
    def nbytes(self) -> int:
        """What all images would take in memory."""
        return int(np.prod(self.shape, dtype=np.int64))

    def digest(self) -> bytes:
        """Stands for the content, without reading it: the checksums of the shards, and which rows of them."""
        return hashlib.sha256(self._checksum.encode() + np.ascontiguousarray(self._rows).tobytes()).digest()


@dataclass(frozen=True)
class Cached:
    """What the cache holds of the images that were asked for."""

    pixels: Pixels | None
    """The images that could be read, in the order of the source; None where there are none."""
    kept: NDArray[np.int64]
    """The position of each, among those that were asked for."""
    skipped: dict[str, str]
    """The others, by path, with the reason."""


def cache_images(
    source: ImageSource,
    paths: Sequence[str],
    sha256: Sequence[str],
    folder: Path,
    *,
    size: int | None,
    resample: str = "bicubic",
    workers: int | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cached:
    """The images at `paths` of a source as pixels in `folder`, made where they are not there yet.

    Args:
        source: where the images are.
        paths: of the images, as the source lists them, in any order.
        sha256: of each image's content. One that has another content now is skipped.
        folder: for the shards. Called again after a kill, it goes on behind the last whole one.
        size: side of the square that each image is resized to; None where all have one size already.
        resample: how they are resized, by Pillow's name.
        workers: threads that decode; one a core if None.
        on_progress: called as `on_progress(done, total)`.

    Raises:
        DataError: the source cannot be read, or images are of several sizes and `size` is None.
        RunError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(folder, error) from error
    order, gone = _in_order_of_source(source, paths)
    skipped = dict.fromkeys(gone, "is no longer there")
    length = _UNKNOWN_SIZE if size is None else max(1, SHARD_BYTES // (3 * size * size))
    shards, kept, checksums, done = [], [], [], len(gone)
    on_progress(done, len(paths))
    for number, start in enumerate(range(0, len(order), length)):
        rows = order[start : start + length]
        shard = _Shard(folder, number, [(paths[row], sha256[row]) for row in rows], size, resample)
        if not shard.is_whole():
            shard.make(source, workers, functools.partial(_further, on_progress, done, len(paths)))
        done += len(rows)
        on_progress(done, len(paths))
        skipped.update(shard.skipped)
        checksums.append(shard.checksum)
        if shard.pixels is not None:
            shards.append(shard.pixels)
            kept.append(np.array([row for row in rows if paths[row] not in shard.skipped], np.int64))
    if not shards:
        return Cached(None, np.empty(0, np.int64), skipped)
    if len({shard.shape[1:] for shard in shards}) > 1:
        raise DataError(_several_sizes(source.root, {shard.shape[1:3] for shard in shards}))
    positions = np.concatenate(kept)
    pixels = Pixels(shards, np.arange(len(positions)), "".join(checksums))
    return Cached(pixels, positions, skipped)


class _Shard:
    """One file of the cache: `00000.npy`, and `00000.json` about it, which is written last."""

    def __init__(
        self, folder: Path, number: int, images: list[tuple[str, str]], size: int | None, resample: str
    ) -> None:
        self.path, self.note = folder / f"{number:05}.npy", folder / f"{number:05}.json"
        self.images, self.size, self.resample = images, size, resample
        what = json.dumps([size, resample, images])
        self.made_of = hashlib.sha256(what.encode(errors="surrogateescape")).hexdigest()
        self.skipped: dict[str, str] = {}
        self.checksum = ""
        self.pixels: NDArray[np.uint8] | None = None

    def is_whole(self) -> bool:
        """Whether the shard is there, made of these images, and undamaged; it is then open."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if note["made_of"] != self.made_of:
                return False
            if note["checksum"] and note["checksum"] != _checksum(self.path):
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        self._open(note)
        return True

    def make(self, source: ImageSource, workers: int | None, on_progress: Callable[[int], None]) -> None:
        """Read the images, and write the shard."""
        size = None if self.size is None else (self.size, self.size)
        contents = dict(self.images)
        found: list[NDArray[np.uint8]] = []
        skipped: dict[str, str] = {}
        read = source.images([path for path, _ in self.images], size, workers=workers, resample=self.resample)
        for number, image in enumerate(read):
            if image.image is None:
                skipped[image.path] = image.problem or "cannot be read"
            elif image.sha256 != contents[image.path]:
                skipped[image.path] = "has changed since it was labelled"
            else:
                if found and image.image.shape != found[0].shape:
                    raise DataError(_several_sizes(source.root, {image.image.shape[:2], found[0].shape[:2]}))
                found.append(image.image)
            if number % 64 == 63:
                on_progress(number + 1)
        checksum = ""
        if found:
            buffer = io.BytesIO()
            np.save(buffer, np.stack(found))
            content = buffer.getvalue()
            checksum = hashlib.sha256(content).hexdigest()
            files.replace(self.path, content)
        note = {"made_of": self.made_of, "checksum": checksum, "images": len(found), "skipped": skipped}
        files.replace(self.note, json.dumps(note).encode())
        self._open(note)

    def _open(self, note: dict[str, Any]) -> None:
        self.skipped, self.checksum = note["skipped"], note["checksum"]
        self.pixels = np.load(self.path, mmap_mode="r") if note["images"] else None


def _in_order_of_source(source: ImageSource, paths: Sequence[str]) -> tuple[list[int], list[str]]:
    """The positions of paths in the order in which the source is best read, and the paths that it no longer has."""
    position = {path: k for k, path in enumerate(source.listing().paths)}
    there = [row for row, path in enumerate(paths) if path in position]
    gone = [path for path in paths if path not in position]
    return sorted(there, key=lambda row: position[paths[row]]), gone


def _further(on_progress: Callable[[int, int], None], before: int, total: int, made: int) -> None:
    on_progress(before + made, total)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _several_sizes(root: Path, sizes: set[tuple[int, ...]]) -> str:
    first, second = sorted(sizes)[:2]
    return (
        f"{root}: images are of several sizes, such as {first[0]}x{first[1]} and {second[0]}x{second[1]} pixels: "
        "give --image-size to resize them all"
    )
