"""Losses: targets of every form, gradients, and the errors that name what is wrong."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import pullback as pb
from pullback import nn


def test_integer_one_hot_and_soft_targets_agree(rng: np.random.Generator) -> None:
    logits = rng.standard_normal((5, 4))
    labels = np.array([0, 3, 1, 1, 2])
    one_hot = np.eye(4)[labels]
    expected = np.mean([np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)])
    for targets in (labels, labels.astype(np.uint8), one_hot, one_hot.astype(int)):
        np.testing.assert_allclose(nn.softmax_cross_entropy(logits, targets), expected, rtol=1e-13)
    soft = 0.9 * one_hot + 0.1 / 4
    smoothed = nn.softmax_cross_entropy(logits, labels, label_smoothing=0.1)
    np.testing.assert_allclose(smoothed, nn.softmax_cross_entropy(logits, soft), rtol=1e-13)
    with pytest.raises(pb.ConfigError, match="label_smoothing"):
        nn.softmax_cross_entropy(logits, labels, label_smoothing=1.5)


def test_more_axes(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((2, 3, 4)), rng.integers(4, size=(2, 3))
    flat = nn.softmax_cross_entropy(logits.reshape(6, 4), labels.reshape(6))
    np.testing.assert_allclose(nn.softmax_cross_entropy(logits, labels), flat, rtol=1e-14)


def test_gradients(rng: np.random.Generator, check_gradients: Callable[..., None]) -> None:
    logits, soft = rng.standard_normal((5, 4)), rng.dirichlet(np.ones(4), size=5)
    check_gradients(lambda z: nn.softmax_cross_entropy(z, np.arange(5) % 4, label_smoothing=0.2), logits)
    check_gradients(nn.softmax_cross_entropy, logits, soft)
    check_gradients(nn.mse, logits, soft)
    check_gradients(nn.binary_cross_entropy_with_logits, logits, soft)


def test_binary_cross_entropy_far_out_and_at_zero() -> None:
    loss = nn.binary_cross_entropy_with_logits
    np.testing.assert_allclose(loss(np.array([1000.0, -1000.0]), np.array([1.0, 0.0])), 0, atol=1e-300)
    np.testing.assert_allclose(loss(np.array([1000.0]), np.array([0.0])), 1000)
    np.testing.assert_allclose(loss(np.float32([20.0]), np.float32([1.0])), np.exp(-20.0), rtol=1e-6)
    np.testing.assert_array_equal(pb.grad(loss)(np.zeros(2), np.array([0.0, 1.0])), [0.25, -0.25])


def test_float32(rng: np.random.Generator) -> None:
    logits, labels = rng.standard_normal((5, 4)).astype(np.float32), np.arange(5) % 4
    value, gradient = pb.value_and_grad(nn.softmax_cross_entropy)(logits, labels, label_smoothing=0.1)
    assert value.dtype == gradient.dtype == np.float32
    assert nn.mse(logits, logits).dtype == np.float32


@pytest.mark.parametrize(("label", "index"), [(4, 2), (-1, 0)])
def test_labels_out_of_range_are_named(label: int, index: int) -> None:
    labels = np.zeros(3, int)
    labels[index] = label
    with pytest.raises(pb.DataError, match=rf"labels from 0 to 3, got {label} at index {index}"):
        nn.softmax_cross_entropy(np.zeros((3, 4)), labels)


def test_labels_out_of_range_make_the_loss_of_a_program_nan() -> None:
    compiled = pb.compile(nn.softmax_cross_entropy)
    logits = np.ones((3, 4))
    np.testing.assert_allclose(compiled(logits, np.array([0, 1, 3])), np.log(4.0))
    assert np.isnan(compiled(logits, np.array([0, 4, 3])))


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(pb.ShapeError, match=r"integer targets \(3,\) or distributions \(3, 4\), got int64 \(2,\)"):
        nn.softmax_cross_entropy(np.zeros((3, 4)), np.zeros(2, int))
    with pytest.raises(pb.ShapeError, match=r"got float64 \(3,\)"):
        nn.softmax_cross_entropy(np.zeros((3, 4)), np.zeros(3))
    with pytest.raises(pb.ShapeError, match=r"expected targets of the shape of the predictions, \(3, 1\), got \(3,\)"):
        nn.mse(np.zeros((3, 1)), np.zeros(3))
