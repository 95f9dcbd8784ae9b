"""MNIST and its relatives, in the idx format of LeCun et al.: a big-endian header, then the raw bytes.

Format: two zero bytes, the element type (8: uint8), the number of axes, each axis as a big-endian uint32, the elements
(http://yann.lecun.com/exdb/mnist).
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from pullback.data.dataset import Dataset, Splits, class_numbers
from pullback.data.sources import locate
from pullback.errors import DataError

MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist"
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
FASHION_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}
FASHION_CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")  # Debian: apt install dataset-fashion-mnist

# The largest relative in use, EMNIST by class, has 547 MB; a damaged header must not make us allocate its claim.
_MAX_BYTES = 1 << 30


def load_mnist(path: str | os.PathLike[str] | None = None) -> Splits:
    """MNIST: 60,000 + 10,000 handwritten digits, uint8 28x28x1 (LeCun, Cortes, Burges 1998).

    Read from the folder `path`; without it from `$PULLBACK_DATA/mnist`, or downloaded into the user's cache.
    """
    return load_idx(path if path is not None else locate("mnist", MNIST_URL, MNIST_MD5), name="mnist")


def load_fashion_mnist(path: str | os.PathLike[str] | None = None) -> Splits:
    """Fashion-MNIST: 60,000 + 10,000 pictures of clothes, uint8 28x28x1 (Xiao, Rasul, Vollgraf 2017; MIT licence).

    Read from the folder `path`; without it from `$PULLBACK_DATA/fashion-mnist`, from where Debian's package
    `dataset-fashion-mnist` puts it, or downloaded into the user's cache.
    """
    if path is None:
        path = locate("fashion-mnist", FASHION_URL, FASHION_MD5, system=_FASHION_FOLDER)
    return load_idx(path, FASHION_CLASSES, "fashion-mnist")


def load_idx(folder: str | os.PathLike[str], classes: tuple[str, ...] | None = None, name: str | None = None) -> Splits:
    """Reads `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-...` from `folder`, plain or with `.gz`.

    `classes` default to the numbers up to the largest label. Raises `DataError` for files that are missing, damaged,
    of another element type, or that do not fit each other.
    """
    root = Path(folder).expanduser()
    name = name or root.name
    images = {part: read_idx(_find(root, f"{part}-images", 3), axes=3) for part in ("train", "t10k")}
    labels = {part: read_idx(_find(root, f"{part}-labels", 1), axes=1) for part in ("train", "t10k")}
    if classes is None:
        classes = class_numbers(1 + max((int(part.max()) for part in labels.values() if part.size), default=0))
    train, test = (Dataset(images[part][..., None], labels[part], classes, name) for part in ("train", "t10k"))
    return Splits(train, test)


def is_idx_folder(folder: Path) -> bool:
    """Whether `folder` holds idx training images under one of the names that `load_idx` knows."""
    return any((folder / name).is_file() for name in _names("train-images", 3))


def read_idx(path: Path, axes: int) -> NDArray[np.uint8]:
    """Reads one idx file of uint8 with `axes` axes, decompressed if its first bytes say that it is gzip."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            return _read(cast(BinaryIO, gzip.open(file)) if packed else file, path, axes)
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read: {error}") from error


def _read(file: BinaryIO, path: Path, axes: int) -> NDArray[np.uint8]:
    header = file.read(4 + 4 * axes)
    expected = bytes([0, 0, 8, axes])
    if header[:4] != expected:
        raise DataError(
            f"{path}: not an idx file of uint8 with {axes} axes: expected it to begin with {expected.hex(' ')}, "
            f"got {header[:4].hex(' ') or 'nothing'}"
        )
    if len(header) < 4 + 4 * axes:
        raise DataError(f"{path}: the header ends after {len(header)} bytes of {4 + 4 * axes}")
    shape = struct.unpack(f">{axes}I", header[4:])
    if prod(shape) > _MAX_BYTES:
        raise DataError(f"{path}: the header claims {shape}, more than {_MAX_BYTES >> 20} MB; it is damaged")
    data = file.read(prod(shape) + 1)
    if len(data) != prod(shape):
        found = "more" if len(data) > prod(shape) else f"only {len(data)}"
        raise DataError(
            f"{path}: the header says {shape}, {prod(shape)} bytes, but {found} follow; fetch the file again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _find(root: Path, stem: str, axes: int) -> Path:
    names = _names(stem, axes)
    for name in names:
        if (root / name).is_file():
            return root / name
    raise DataError(f"{root}: expected a file {names[0]} (or {', '.join(names[1:])}), found none")


def _names(stem: str, axes: int) -> list[str]:
    # The second form is how some archives unpack.
    return [f"{stem}{mark}idx{axes}-ubyte{suffix}" for mark in "-." for suffix in (".gz", "")]
