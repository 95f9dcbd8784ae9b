"""What every loader returns: images with labels, checked once on the way in, so that nothing later has to look again.

Pixels stay uint8 (a quarter of the memory of float32) until a batch is made of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pullback.data.cache import Pixels
from pullback.errors import DataError

_BLOCK = 16 * 1024 * 1024  # bytes that are looked at at once


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Labelled images.

    Args:
        images: uint8 `(N, H, W, C)`, 0 to 255. A memory-mapped array, or `Pixels` of a cache, is kept as it is and read
            where a batch needs it.
        labels: integer class numbers `(N,)`, kept as int64; or soft targets, rows of class probabilities `(N, K)`, kept
            as float32; memory-mapped ones stay where they are.
        classes: the K class names, in the order of their numbers.
        name: what messages and tables call the data.

    Both arrays are held as read-only views. Raises `DataError` where images and labels do not fit together, a label is
    out of range, or a number is not finite; the message names the index.
    """

    images: NDArray[np.uint8] | Pixels
    labels: NDArray[Any]
    classes: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        images = self.images if isinstance(self.images, Pixels) else np.asanyarray(self.images)
        classes = tuple(self.classes)
        _check_images(images, self.name)
        labels = _checked_labels(np.asanyarray(self.labels), len(classes), self.name)
        if len(labels) != len(images):
            raise DataError(
                f"{self.name}: expected one label per image, got {len(images)} images and {len(labels)} labels"
            )
        object.__setattr__(self, "images", images if isinstance(images, Pixels) else _read_only(images))
        object.__setattr__(self, "labels", _read_only(labels))
        object.__setattr__(self, "classes", classes)

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        height, width, channels = self.image_shape
        targets = "soft targets over " if self.soft else ""
        images = f"{len(self)} images of {height}x{width}x{channels}"
        return f"Dataset({self.name!r}: {images}, {targets}{len(self.classes)} classes)"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of one image."""
        _, height, width, channels = self.images.shape
        return height, width, channels

    @property
    def soft(self) -> bool:
        """Whether the labels are rows of probabilities instead of class numbers."""
        return self.labels.ndim == 2

    def subset(self, indices: ArrayLike) -> Dataset:
        """The samples at `indices` (integers, or one boolean per sample), in that order; arrays are copied."""
        chosen = np.asarray(indices)
        try:
            images = self.images.take(chosen) if isinstance(self.images, Pixels) else self.images[chosen]
            return Dataset(images, self.labels[chosen], self.classes, self.name)
        except IndexError as error:
            raise DataError(f"{self.name}: cannot take this subset of {len(self)} samples: {error}") from error

    def split(self, fraction: float, seed: int) -> Splits:
        """Sets aside a random `fraction` of the samples (between 0 and 1, rounded to whole samples) as the test part.

        The same seed gives the same split on every machine. Both parts keep the samples in their original order.
        """
        test_count = round(fraction * len(self))
        if not 0 < test_count < len(self):
            raise DataError(
                f"{self.name}: splitting off the fraction {fraction} of {len(self)} samples leaves "
                f"{len(self) - test_count} to train on and {test_count} to test on; expected at least one of each"
            )
        order = np.random.Generator(np.random.Philox(seed)).permutation(len(self))
        return Splits(train=self.subset(np.sort(order[test_count:])), test=self.subset(np.sort(order[:test_count])))


@dataclass(frozen=True)
class Splits:
    """The part to train on and the part to test on; unpacks as `train, test = splits`.

    `skipped` holds `(path, reason)` of each file that was set aside while the data were read.
    """

    train: Dataset
    test: Dataset
    skipped: tuple[tuple[Path, str], ...] = ()

    def __iter__(self) -> Iterator[Dataset]:
        return iter((self.train, self.test))


def class_numbers(count: int) -> tuple[str, ...]:
    """Class names for data whose classes are known by number only: "0", "1", ..."""
    return tuple(str(number) for number in range(count))


def _check_images(images: NDArray[Any] | Pixels, name: str) -> None:
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(f"{name}: expected images (N, H, W, C), none of them 0, got {images.shape}")
    if images.dtype == np.uint8:
        return
    if not isinstance(images, Pixels) and np.issubdtype(images.dtype, np.floating):
        _check_finite(images, "image", name)
    raise DataError(
        f"{name}: expected images of dtype uint8, 0 to 255, got {images.dtype}; "
        "numbers between 0 and 1 become pixels by np.round(255 * images).astype(np.uint8)"
    )


def _checked_labels(labels: NDArray[Any], classes: int, name: str) -> NDArray[np.int64] | NDArray[np.float32]:
    if np.issubdtype(labels.dtype, np.floating):
        _check_finite(labels, "label", name)
        return _checked_probabilities(labels, classes, name)
    if not np.issubdtype(labels.dtype, np.integer) or labels.ndim != 1:
        raise DataError(
            f"{name}: expected labels as integers (N,) or as float probabilities (N, {classes}), "
            f"got {labels.dtype} {labels.shape}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{name}: expected labels from 0 to {classes - 1} ({classes} classes), "
            f"got {labels[wrong[0]]} at index {wrong[0]}{_and_more(wrong)}"
        )
    return labels.astype(np.int64)


def _checked_probabilities(labels: NDArray[Any], classes: int, name: str) -> NDArray[np.float32]:
    if labels.ndim != 2 or labels.shape[1] != classes:
        raise DataError(
            f"{name}: expected soft labels (N, {classes}), one probability per class, got {labels.shape}; "
            "class numbers must be integers"
        )
    # One part in a thousand: float16 probabilities over a thousand classes still pass, logits do not.
    wrong = _rows_where(
        lambda rows: (rows.min(axis=1) < 0) | (np.abs(rows.sum(axis=1, dtype=np.float64) - 1) > 1e-3), labels
    )
    if len(wrong):
        row = labels[wrong[0]]
        raise DataError(
            f"{name}: expected soft labels to be probabilities that add up to 1, got a row with smallest "
            f"{row.min():g} and sum {row.sum(dtype=np.float64):g} at index {wrong[0]}{_and_more(wrong)}"
        )
    return labels.astype(np.float32, copy=not isinstance(labels, np.memmap))


def _check_finite(values: NDArray[Any], what: str, name: str) -> None:
    wrong = _rows_where(lambda rows: ~np.isfinite(rows.reshape(len(rows), -1)).all(axis=1), values)
    if len(wrong):
        kind = "NaN" if np.isnan(values[wrong[0]]).any() else "an infinity"
        raise DataError(f"{name}: {kind} in the {what} at index {wrong[0]}{_and_more(wrong)}; mend or remove it")


def _rows_where(test: Callable[[NDArray[Any]], NDArray[np.bool_]], values: NDArray[Any]) -> NDArray[np.int64]:
    """The numbers of the rows for which `test` is true; a mapped array is never in memory as a whole."""
    if not values.size:
        return np.empty(0, np.int64)
    starts = range(0, len(values), max(1, _BLOCK * len(values) // values.nbytes))
    step = starts.step
    return np.concatenate([start + np.flatnonzero(test(values[start : start + step])) for start in starts])


def _and_more(wrong: Sequence[int] | NDArray[Any]) -> str:
    return f" and at {len(wrong) - 1} more" if len(wrong) > 1 else ""


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view
