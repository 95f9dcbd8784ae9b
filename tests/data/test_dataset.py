from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pullback.data import Dataset
from pullback.errors import DataError

IMAGES = np.arange(5 * 2 * 3 * 1, dtype=np.uint8).reshape(5, 2, 3, 1)
LABELS = np.array([0, 1, 2, 0, 1])
CLASSES = ("a", "b", "c")


def test_keeps_images_and_labels_as_read_only_views() -> None:
    data = Dataset(IMAGES, LABELS.astype(np.uint8), CLASSES, "toy")
    assert len(data) == 5
    assert data.image_shape == (2, 3, 1)
    assert data.labels.dtype == np.int64
    assert not data.soft
    assert np.shares_memory(data.images, IMAGES)
    assert IMAGES.flags.writeable
    for array in (data.images, data.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert repr(data) == "Dataset('toy': 5 images of 2x3x1, 3 classes)"


def test_soft_targets_become_float32() -> None:
    data = Dataset(IMAGES, np.full((5, 4), 0.25), ("a", "b", "c", "d"), "toy")
    assert data.soft
    assert data.labels.dtype == np.float32
    assert "soft targets over 4 classes" in repr(data)


def test_a_memory_mapped_array_stays_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    data = Dataset(np.load(tmp_path / "images.npy", mmap_mode="r"), LABELS, CLASSES, "toy")
    assert isinstance(data.images, np.memmap)
    np.testing.assert_array_equal(data.subset([4, 0]).images, IMAGES[[4, 0]])


def nan_at(array: np.ndarray, index: int, value: float = np.nan) -> np.ndarray:
    array = array.astype(np.float32)
    array[index].flat[-1] = value
    return array


HALVES = np.tile(np.float32([0.5, 0.5, 0.0]), (5, 1))


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, LABELS[:4], "5 images and 4 labels"),
        (IMAGES, [0, 1, 3, 0, 7], "from 0 to 2 .* got 3 at index 2 and at 1 more"),
        (IMAGES, [0, 1, 2, -1, 0], "got -1 at index 3$"),
        (IMAGES, LABELS.astype(float), r"soft labels \(N, 3\).*got \(5,\).*must be integers"),
        (IMAGES, np.zeros((5, 3), np.int64), r"got int64 \(5, 3\)"),
        (IMAGES, ["a", "b", "c", "a", "b"], "got <U1"),
        (IMAGES, LABELS > 0, "got bool"),
        (IMAGES, HALVES[:, :2], r"got \(5, 2\)"),
        (IMAGES, nan_at(HALVES, 3), "NaN in the label at index 3"),
        (IMAGES, nan_at(HALVES, 2, np.inf), "infinity in the label at index 2"),
        (IMAGES, nan_at(HALVES, 2, 0.5), "sum 1.5 at index 2"),
        (IMAGES, np.tile(np.float32([1.5, -0.5, 0.0]), (5, 1)), "smallest -0.5 and sum 1 at index 0 and at 4 more"),
        (nan_at(IMAGES, 1), LABELS, "NaN in the image at index 1"),
        (IMAGES / 255, LABELS, r"dtype uint8.*got float64.*np\.round"),
        (IMAGES.astype(np.int64), LABELS, "dtype uint8.*got int64"),
        (IMAGES[..., 0], LABELS, r"\(N, H, W, C\).*got \(5, 2, 3\)"),
        (IMAGES[:0], LABELS[:0], r"got \(0, 2, 3, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(images: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=f"(?s)^toy: .*{message}"):
        Dataset(images, labels, CLASSES, "toy")


def test_subset_takes_integers_and_booleans() -> None:
    data = Dataset(IMAGES, LABELS, CLASSES, "toy")
    picked = data.subset([3, 1, 1])
    np.testing.assert_array_equal(picked.images, IMAGES[[3, 1, 1]])
    np.testing.assert_array_equal(picked.labels, [0, 1, 1])
    assert picked.classes == CLASSES
    assert len(data.subset(LABELS == 1)) == 2
    with pytest.raises(DataError, match="toy: cannot take this subset of 5 samples"):
        data.subset([5])
    with pytest.raises(DataError, match=r"got \(0, 2, 3, 1\)"):
        data.subset(np.array([], np.int64))


def test_split_is_a_seeded_partition_in_the_original_order() -> None:
    images = np.arange(200, dtype=np.uint8).reshape(200, 1, 1, 1)
    data = Dataset(images, np.arange(200) % 3, CLASSES, "toy")
    train, test = data.split(0.25, seed=3)
    assert (len(train), len(test)) == (150, 50)
    for part in (train, test):
        assert (np.diff(part.images.ravel().astype(int)) > 0).all()
        np.testing.assert_array_equal(part.labels, part.images.ravel() % 3)
    np.testing.assert_array_equal(np.sort(np.r_[train.images.ravel(), test.images.ravel()]), np.arange(200))
    np.testing.assert_array_equal(data.split(0.25, seed=3).test.images, test.images)
    assert (data.split(0.25, seed=4).test.images != test.images).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01, -0.5, 1.5])
def test_split_refuses_an_empty_part(fraction: float) -> None:
    with pytest.raises(DataError, match="at least one of each"):
        Dataset(IMAGES, LABELS, CLASSES, "toy").split(fraction, seed=0)
