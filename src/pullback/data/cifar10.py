"""CIFAR-10 (Krizhevsky 2009), in each form it is kept in: binary, python, either archive, or sheets of images.

All hold six batches of 10,000 images; the first five are to train on, the last to test on.
"""

from __future__ import annotations

import gzip
import json
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pullback.data.dataset import Dataset, Splits
from pullback.data.images import read_image
from pullback.data.parallel import map_ahead
from pullback.data.pickles import read_pickle
from pullback.data.sources import locate
from pullback.errors import DataError

CIFAR10_URL = "https://www.cs.toronto.edu/~kriz"
CIFAR10_MD5 = {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGES_PER_BATCH = 10_000

_BATCHES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
_SHEETS = [f"sheet_{number}.webp" for number in range(1, 7)]
_SHEET_LABELS = "labels_and_filenames.json.xz"
_INNER = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
_ARCHIVES = ("cifar-10-binary.tar.gz", "cifar-10-python.tar.gz")
_MAX_BATCH_BYTES = 64 << 20  # of an archive's member; the true ones have 31 MB

Batch: TypeAlias = tuple[NDArray[np.uint8], NDArray[np.uint8]]
Batches: TypeAlias = Iterator[tuple[int, Batch]]  # with the batch's number, 0 to 5


def load_cifar10(path: str | os.PathLike[str] | None = None) -> Splits:
    """CIFAR-10: 50,000 + 10,000 photographs of ten classes, uint8 32x32x3.

    `path` is a folder with the binary version (`data_batch_1.bin`, ...), the python version (`data_batch_1`, ...: read
    without executing the pickles) or six WebP sheets (`sheet_1.webp`, ..., `labels_and_filenames.json.xz`: 100x100
    images each, row by row), or either original archive, or a folder that holds one of these. Without `path`:
    `$PULLBACK_DATA/cifar10`, else downloaded into the user's cache.
    """
    given = Path(path).expanduser() if path is not None else locate("cifar10", CIFAR10_URL, CIFAR10_MD5)
    source = _recognise(given)
    if source is None:
        problem = "holds none of" if given.exists() else "does not exist: expected a folder or archive with"
        raise DataError(f"{given} {problem} {_BATCHES[0]}.bin, {_BATCHES[0]}, {_SHEETS[0]}, {', '.join(_ARCHIVES)}")

    images = np.empty((6, IMAGES_PER_BATCH, 32, 32, 3), np.uint8)
    labels = np.empty((6, IMAGES_PER_BATCH), np.uint8)
    read: set[int] = set()
    for number, (pixels, targets) in source():
        images[number], labels[number] = pixels, targets
        read.add(number)
    missing = [_BATCHES[number] for number in range(6) if number not in read]
    if missing:
        raise DataError(f"{given} is incomplete: it lacks {', '.join(missing)}")
    train = Dataset(images[:5].reshape(-1, 32, 32, 3), labels[:5].reshape(-1), CIFAR10_CLASSES, "cifar10")
    return Splits(train, Dataset(images[5], labels[5], CIFAR10_CLASSES, "cifar10"))


def is_cifar10(path: Path) -> bool:
    """Whether `path` is something that `load_cifar10` reads."""
    return _recognise(path) is not None


def _recognise(path: Path) -> Callable[[], Batches] | None:
    """The reader of whatever form of the data lies at `path`."""
    if path.is_file():
        return (lambda: _from_archive(path)) if path.name.endswith((".tar.gz", ".tgz")) else None
    for folder in (path / inner for inner in _INNER):
        if any((folder / f"{name}{suffix}").is_file() for name in _BATCHES for suffix in (".bin", "")):
            return lambda: _from_folder(folder)
    if any((path / name).is_file() for name in _SHEETS):
        return lambda: _from_sheets(path)
    return next((_recognise(path / name) for name in _ARCHIVES if (path / name).is_file()), None)


def _from_folder(folder: Path) -> Batches:
    for number, name in enumerate(_BATCHES):
        for path in (folder / f"{name}.bin", folder / name):
            if path.is_file():
                yield number, _decode(path.read_bytes(), str(path))
                break


def _from_archive(path: Path) -> Batches:
    numbers = {f"{name}{suffix}": number for number, name in enumerate(_BATCHES) for suffix in (".bin", "")}
    try:
        # Members are read into memory, one at a time; nothing is unpacked to a path that the archive chose.
        with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = Path(member.name).name
                if name not in numbers or not member.isfile():
                    continue
                if member.size > _MAX_BATCH_BYTES:
                    raise DataError(f"{path}: {member.name} has {member.size >> 20} MB; expected 31")
                contents = archive.extractfile(member)
                assert contents is not None  # it is a file
                yield numbers[name], _decode(contents.read(), f"{path}: {member.name}")
            while stream.read(1 << 20):  # to the end, where gzip's checksum of everything before is compared
                pass
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: the archive is damaged: {error}; fetch it again") from error


def _decode(data: bytes, source: str) -> Batch:
    return _decode_binary(data, source) if source.endswith(".bin") else _decode_python(data, source)


def _decode_binary(data: bytes, source: str) -> Batch:
    """Each record is one byte of label and 3072 of pixels: the red plane, the green, the blue."""
    if len(data) != IMAGES_PER_BATCH * 3073:
        raise DataError(
            f"{source}: expected {IMAGES_PER_BATCH} records of 3073 bytes, got {len(data)} bytes; fetch it again"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    return _channels_last(records[:, 1:]), records[:, 0]


def _decode_python(data: bytes, source: str) -> Batch:
    content = read_pickle(data, source)
    if not isinstance(content, dict) or not {"data", "labels"} <= content.keys():
        raise DataError(f"{source}: expected a pickled dict with 'data' and 'labels'")
    pixels = content["data"]
    if not isinstance(pixels, np.ndarray) or pixels.shape != (IMAGES_PER_BATCH, 3072):
        raise DataError(f"{source}: expected 'data' as uint8 ({IMAGES_PER_BATCH}, 3072), got {_shape_of(pixels)}")
    return _channels_last(pixels), _labels(content["labels"], source)


def _from_sheets(folder: Path) -> Batches:
    labels = _read_sheet_labels(folder / _SHEET_LABELS)
    # Pillow decodes without holding the interpreter; each sheet takes 30 MB.
    present = [number for number, name in enumerate(_SHEETS) if (folder / name).is_file()]
    pixels = map_ahead(lambda number: _read_sheet(folder / _SHEETS[number]), present, workers=2, ahead=2)
    for number, images in zip(present, pixels, strict=True):
        yield number, (images, labels[number])


def _read_sheet(path: Path) -> NDArray[np.uint8]:
    sheet = read_image(path)
    rows, columns = sheet.shape[0] // 32, sheet.shape[1] // 32
    if rows * columns != IMAGES_PER_BATCH or sheet.shape[:2] != (32 * rows, 32 * columns):
        raise DataError(
            f"{path}: expected a grid of {IMAGES_PER_BATCH} images of 32x32, "
            f"got {sheet.shape[0]}x{sheet.shape[1]} pixels"
        )
    return sheet.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


def _read_sheet_labels(path: Path) -> list[NDArray[np.uint8]]:
    try:
        with lzma.open(path) as file:
            batches = json.load(file)
        return [_labels(batches[number]["labels"], str(path)) for number in range(6)]
    except FileNotFoundError as error:
        raise DataError(f"{path.parent} has sheets, but no {path.name} with their labels") from error
    except (
        OSError,
        EOFError,
        lzma.LZMAError,
        UnicodeDecodeError,
        json.JSONDecodeError,
        LookupError,
        TypeError,
    ) as error:
        raise DataError(f"{path}: expected an xz-compressed JSON list of six batches with 'labels': {error}") from error


def _labels(values: Any, source: str) -> NDArray[np.uint8]:
    whole = isinstance(values, list) and len(values) == IMAGES_PER_BATCH and all(type(value) is int for value in values)
    if not whole or not 0 <= min(values) <= max(values) < len(CIFAR10_CLASSES):
        raise DataError(f"{source}: expected 'labels' as a list of {IMAGES_PER_BATCH} class numbers from 0 to 9")
    return np.array(values, np.uint8)


def _channels_last(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return planes.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _shape_of(value: Any) -> str:
    return str(value.shape) if isinstance(value, np.ndarray) else type(value).__name__
