from __future__ import annotations

import numpy as np

from pullback.data import load_digits


def test_the_embedded_digits_are_those_of_uci() -> None:
    train, test = load_digits()
    assert (len(train), len(test)) == (1438, 359)
    assert train.image_shape == (8, 8, 1)
    assert train.classes == tuple("0123456789")
    # How often each digit occurs, as the data set's own description states it.
    counts = np.bincount(np.concatenate([train.labels, test.labels]))
    np.testing.assert_array_equal(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180])


def test_the_original_counts_can_be_read_back() -> None:
    train, test = load_digits()
    pixels = np.concatenate([train.images, test.images]).astype(int)
    counts = -(-pixels * 16 // 255)
    np.testing.assert_array_equal(counts * 255 // 16, pixels)
    np.testing.assert_array_equal(np.unique(counts), np.arange(17))
    assert counts.mean() == 561718 / 115008  # the mean of the original table


def test_the_split_is_fixed_and_the_digits_are_recognisable() -> None:
    train, test = load_digits()
    np.testing.assert_array_equal(load_digits().test.images, test.images)
    # Nearest neighbour reaches 98 % only if images and labels belong together.
    a, b = (part.images.reshape(len(part), -1).astype(np.float32) for part in (test, train))
    distances = (a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)
    assert (train.labels[distances.argmin(1)] == test.labels).mean() > 0.97
