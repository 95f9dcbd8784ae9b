from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from pullback.data import load_fashion_mnist, load_idx, load_mnist
from pullback.data.idx import is_idx_folder
from pullback.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    for part, count in (("train", 7), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 4, 5), dtype=np.uint8)
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 3))
    return tmp_path


def compress(path: Path) -> None:
    path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()


def test_reads_plain_and_compressed_files_under_both_names(folder, rng) -> None:
    expected = np.frombuffer((folder / "train-images-idx3-ubyte").read_bytes()[16:], np.uint8).reshape(7, 4, 5, 1)
    for change in (lambda path: None, compress):
        for path in list(folder.iterdir()):
            change(path)
        train, test = load_idx(folder)
        np.testing.assert_array_equal(train.images, expected)
        np.testing.assert_array_equal(train.labels, np.arange(7) % 3)
        assert len(test) == 3
        assert train.classes == ("0", "1", "2")
    for path in list(folder.iterdir()):
        path.rename(path.with_name(path.name.replace("-idx", ".idx")))
    assert is_idx_folder(folder)
    assert load_idx(folder, classes=("a", "b", "c"), name="abc").test.classes == ("a", "b", "c")


def test_missing_files_and_folders_are_named(folder) -> None:
    (folder / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"expected a file t10k-labels-idx1-ubyte\.gz \(or"):
        load_idx(folder)
    with pytest.raises(DataError, match="gone: expected a file train-images"):
        load_mnist(folder / "gone")
    assert not is_idx_folder(folder / "gone")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: b"", "got nothing"),
        (lambda data: data[:3], "begin with 00 00 08 03, got 00 00 08"),
        (lambda data: data[:9], "the header ends after 9 bytes of 16"),
        (lambda data: data[:-1], r"\(7, 4, 5\), 140 bytes, but only 139 follow"),
        (lambda data: data + b"x", "but more follow"),
        (lambda data: b"\x89PNG" + data[4:], "got 89 50 4e 47"),
        (lambda data: data[:2] + b"\x0d" + data[3:], "idx file of uint8"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "the header claims .* it is damaged"),
        (lambda data: gzip.compress(data)[:-20], "cannot be read"),
        (lambda data: gzip.compress(data)[:-8] + bytes(8), "cannot be read: CRC check failed"),
        (lambda data: b"\x1f\x8bnot gzip at all", "cannot be read"),
    ],
)
def test_damaged_files_are_refused(folder, damage, message) -> None:
    path = folder / "train-images-idx3-ubyte"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte: .*{message}"):
        load_idx(folder)


def test_labels_that_do_not_fit_are_refused(folder) -> None:
    with pytest.raises(DataError, match=r"from 0 to 1 .* got 2 at index 2"):
        load_idx(folder, classes=("a", "b"))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(6, np.uint8)))
    with pytest.raises(DataError, match="7 images and 6 labels"):
        load_idx(folder)


def test_real_fashion_mnist(data_folder) -> None:
    local = data_folder / "fashion-mnist"
    if not (local.is_dir() or DEBIAN.is_dir()):
        pytest.skip("needs Fashion-MNIST: apt install dataset-fashion-mnist")
    train, test = load_fashion_mnist()
    assert train.images.shape == (60000, 28, 28, 1)
    assert (np.bincount(train.labels) == 6000).all()
    assert (np.bincount(test.labels) == 1000).all()
    assert train.classes[train.labels[0]] == "Ankle boot"
    # The published mean of the training pixels.
    assert round(float(train.images.mean() / 255), 4) == 0.2860
