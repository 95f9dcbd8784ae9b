"""Loss functions: predictions and targets to one number, the mean over the batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.tensor import Array, Tensor
from pullback.errors import ConfigError, DataError, ShapeError
from pullback.rules import nn as rules

__all__ = ["binary_cross_entropy_with_logits", "mse", "softmax_cross_entropy"]


def softmax_cross_entropy(logits: Array, targets: Array, label_smoothing: float = 0.0) -> Array:
    """The mean over examples of -sum(targets * log softmax(logits)).

    Args:
        logits: `(..., classes)`.
        targets: whole numbers of shape `(...)`, or one-hot or soft distributions of the shape of the logits.
        label_smoothing: how much of the uniform distribution to mix in (Szegedy et al., arXiv:1512.00567).

    Raises:
        DataError: a label is not one of the classes (in a compiled program, the loss is NaN instead).
        ShapeError: the targets fit the logits in neither way.
    """
    if not 0.0 <= label_smoothing <= 1.0:
        raise ConfigError(f"softmax_cross_entropy: expected label_smoothing from 0 to 1, got {label_smoothing}")
    classes = logits.shape[-1]
    if not isinstance(targets, Tensor):
        targets = np.asarray(targets)
    if targets.shape == logits.shape:
        targets = targets.astype(logits.dtype) if targets.dtype != logits.dtype else targets
    elif targets.shape == logits.shape[:-1] and targets.dtype.kind in "iu":
        targets = _one_hot(targets, classes, logits.dtype)
    else:
        expected = f"integer targets {tuple(logits.shape[:-1])} or distributions {tuple(logits.shape)}"
        raise ShapeError("softmax_cross_entropy", f"expected {expected}, got {targets.dtype} {tuple(targets.shape)}")
    if label_smoothing:
        targets = targets * (1.0 - label_smoothing) + label_smoothing / classes
    return rules.softmax_cross_entropy(logits, targets)


def mse(predictions: Array, targets: Array) -> Array:
    """The mean of (predictions - targets)**2 over all elements; both have the same shape."""
    _check_same("mse", predictions, targets)
    return np.mean((predictions - targets) ** 2)


def binary_cross_entropy_with_logits(logits: Array, targets: Array) -> Array:
    """The mean of -t log s - (1 - t) log(1 - s), s = sigmoid(logits), for targets t from 0 to 1 of the same shape."""
    _check_same("binary_cross_entropy_with_logits", logits, targets)
    return np.mean(targets * rules.softplus(-logits) + (1.0 - targets) * rules.softplus(logits))


def _one_hot(labels: Array, classes: int, dtype: Any) -> Array:
    """Rows of zeros with a one. Of the labels of a compiled program, which nobody may look at, wrong ones give NaN."""
    if isinstance(labels, Tensor):
        return rules.one_hot(labels, classes=classes, dtype=np.dtype(dtype))
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        place = tuple(int(i) for i in np.argwhere(wrong)[0])
        index = place[0] if len(place) == 1 else place
        raise DataError(
            f"softmax_cross_entropy: expected labels from 0 to {classes - 1}, got {labels[place]} at index {index}"
        )
    return rules.one_hot.fn(labels, classes=classes, dtype=np.dtype(dtype))


def _check_same(name: str, predictions: Array, targets: Array) -> None:
    if np.shape(predictions) != np.shape(targets):
        raise ShapeError(
            name, f"expected targets of the shape of the predictions, {np.shape(predictions)}, got {np.shape(targets)}"
        )
