"""The functions of neural networks: activations, softmax and its cross-entropy, normalisations.

Those that are fused carry a reference in plain NumPy, which is their specification.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from pullback.core.primitive import Elementwise, Fused, Untracked
from pullback.core.tensor import Array
from pullback.core.trace import stop_gradient
from pullback.rules.compiled import worth_compiling

__all__ = [
    "batch_norm", "erf", "layer_norm", "log_softmax", "one_hot", "relu", "sigmoid", "softmax", "softmax_cross_entropy",
    "softplus",
]  # fmt: skip


# -- activations -------------------------------------------------------------------------------------------
def _relu(x: Array) -> Array:
    """max(x, 0); the derivative at 0 is 0."""
    return np.maximum(x, 0.0)


def _sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), by exponentials that cannot overflow on either side."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, decay) / (1.0 + decay)


def _softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.logaddexp(x, 0.0)


def _erf(x: Array) -> Array:
    """The error function, to the last place or two of the dtype.

    W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969): erf near 0, and
    1 - erfc further out. His third interval, |x| > 4, would refine erfc < 2e-8 beyond what 1 - erfc can show.
    """
    x = np.asarray(x)
    size = np.minimum(np.abs(x), 6.0)  # erf(6) is 1 to 17 digits
    square = size * size
    with np.errstate(under="ignore"):
        near = x * _ratio(square, _ERF_NUMERATOR, _ERF_DENOMINATOR)
        far = np.copysign(1.0 - np.exp(-square) * _ratio(size, _ERFC_NUMERATOR, _ERFC_DENOMINATOR), x)
    return np.where(size <= 0.46875, near, far)


def _ratio(x: Array, numerator: tuple[float, ...], denominator: tuple[float, ...]) -> Array:
    return _polynomial(x, numerator) / _polynomial(x, denominator)


def _polynomial(x: Array, coefficients: tuple[float, ...]) -> Array:
    """Horner's rule, highest power first."""
    total = x * coefficients[0]
    for coefficient in coefficients[1:-1]:
        total += coefficient
        total *= x
    return total + coefficients[-1]


_ERF_NUMERATOR = (
    1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2, 3.20937758913846947e3,
)  # fmt: skip
_ERF_DENOMINATOR = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_ERFC_NUMERATOR = (
    2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1, 2.98635138197400131e2,
    8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3, 1.23033935479799725e3,
)  # fmt: skip
_ERFC_DENOMINATOR = (
    1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
    3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3,
)  # fmt: skip

relu = Elementwise(_relu, lambda y: y > 0, name="relu")
sigmoid = Elementwise(_sigmoid, lambda y: y * (1.0 - y), name="sigmoid")
softplus = Elementwise(_softplus, lambda x: sigmoid(x), name="softplus")
erf = Elementwise(_erf, lambda x: 2.0 / math.sqrt(math.pi) * np.exp(-x * x), name="erf")


# -- softmax -----------------------------------------------------------------------------------------------
def _softmax_forward(x: Array, *, axis: int = -1) -> tuple[Array, Array]:
    """exp(x) / sum(exp(x)) along an axis."""
    y = np.exp(x - np.max(x, axis=axis, keepdims=True))
    y /= np.sum(y, axis=axis, keepdims=True)
    return y, y


def _softmax_backward(y: Array, g: Array, *, axis: int) -> tuple[Array]:
    scaled = g * y
    return (scaled - y * np.sum(scaled, axis=axis, keepdims=True),)


def _softmax_reference(x: Array, *, axis: int = -1) -> Array:
    e = np.exp(x - stop_gradient(np.max(x, axis=axis, keepdims=True)))
    return e / np.sum(e, axis=axis, keepdims=True)


def _log_softmax_forward(x: Array, *, axis: int = -1) -> tuple[Array, Array]:
    """x - log(sum(exp(x))) along an axis."""
    y = x - np.max(x, axis=axis, keepdims=True)
    y -= np.log(np.sum(np.exp(y), axis=axis, keepdims=True))
    return y, y


def _log_softmax_backward(y: Array, g: Array, *, axis: int) -> tuple[Array]:
    return (g - np.exp(y) * np.sum(g, axis=axis, keepdims=True),)


def _log_softmax_reference(x: Array, *, axis: int = -1) -> Array:
    shifted = x - stop_gradient(np.max(x, axis=axis, keepdims=True))
    return shifted - np.log(np.sum(np.exp(shifted), axis=axis, keepdims=True))


def _cross_entropy_forward(logits: Array, targets: Array) -> tuple[Array, tuple[Array, Array]]:
    """The mean over rows of -sum(targets * log_softmax(logits)) along the last axis; both are `(..., classes)`."""
    log_p, _ = _log_softmax_forward(logits)
    return -np.sum(targets * log_p) / _rows(logits), (log_p, targets)


def _cross_entropy_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    log_p, targets = saved
    scale = g / _rows(log_p)
    d_logits = (np.exp(log_p) * np.sum(targets, axis=-1, keepdims=True) - targets) * scale
    return d_logits, log_p * -scale


def _one_hot(labels: Array, *, classes: int, dtype: Any) -> Array:
    """Rows of zeros with a one at the label; of NaN where the label is none of the classes."""
    rows = (labels[..., None] == np.arange(classes)).astype(dtype)
    rows[(labels < 0) | (labels >= classes)] = np.nan
    return rows


def _cross_entropy_reference(logits: Array, targets: Array) -> Array:
    return -np.sum(targets * _log_softmax_reference(logits)) / _rows(logits)


def _rows(x: Array) -> int:
    return math.prod(x.shape[:-1])


softmax = Fused(_softmax_forward, _softmax_backward, _softmax_reference, name="softmax")
log_softmax = Fused(_log_softmax_forward, _log_softmax_backward, _log_softmax_reference, name="log_softmax")
softmax_cross_entropy = Fused(
    _cross_entropy_forward, _cross_entropy_backward, _cross_entropy_reference, name="softmax_cross_entropy"
)
one_hot = Untracked(_one_hot, name="one_hot", register=False, blank=_one_hot)


# -- batch normalisation -----------------------------------------------------------------------------------
def _batch_norm_forward(
    x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    """Normalises each feature (last axis) over all other axes, then scales by gamma and shifts by beta, both `(C,)`.

    S. Ioffe and C. Szegedy, "Batch normalization", ICML 2015.

    Returns:
        y of the shape of x, and the batch's mean and (biased) variance of each feature.
    """
    if worth_compiling(8 * x.size, x, gamma, beta):
        from pullback.kernels import normalisation

        y, mean, variance = normalisation.batch_norm(x, gamma, beta, eps)
        return (y, mean, variance), (x, gamma, mean, variance)
    rows = x.reshape(-1, x.shape[-1])
    dtype = np.result_type(x, gamma, beta)
    mean = (sum(_column_sums(rows[block]) for block in _blocks(rows)) / len(rows)).astype(dtype)
    squares = np.zeros(len(mean))
    for block in _blocks(rows):
        centred = rows[block] - mean
        squares += np.einsum("nc,nc->c", centred, centred)
    variance = (squares / len(rows)).astype(dtype)
    inverse = 1.0 / np.sqrt(variance + eps)
    scale = gamma * inverse
    y = np.empty(rows.shape, dtype)
    for block in _blocks(rows):
        part = np.subtract(rows[block], mean, out=y[block])
        part *= scale
        part += beta
    return (y.reshape(x.shape), mean, variance), (x, gamma, mean, variance)


def _batch_norm_backward(
    saved: tuple[Array, ...], g: tuple[Array, Array, Array], *, eps: float
) -> tuple[Array, Array, Array]:
    """With t = x - mean, everything but two sums over the batch is elementwise: d_x = a g + b t + c."""
    x, gamma, mean, variance = saved
    g_y, g_mean, g_variance = g
    if worth_compiling(8 * x.size, x, g_y, gamma) and not (g_mean.any() or g_variance.any()):
        from pullback.kernels import normalisation

        return normalisation.batch_norm_adjoint(g_y, x, gamma, np.zeros_like(mean), mean, variance, eps)
    inverse = 1.0 / np.sqrt(variance + eps)
    rows, g_rows = x.reshape(-1, x.shape[-1]), g_y.reshape(-1, x.shape[-1])
    count = len(rows)
    sum_g, sum_gt = np.zeros(len(mean)), np.zeros(len(mean))
    for block in _blocks(rows):
        sum_g += _column_sums(g_rows[block])
        sum_gt += np.einsum("nc,nc->c", g_rows[block], rows[block] - mean)
    sum_g, sum_gt = sum_g.astype(mean.dtype), sum_gt.astype(mean.dtype)
    a = gamma * inverse
    b = (2.0 * g_variance - a * inverse * inverse * sum_gt) / count
    c = (g_mean - a * sum_g) / count
    d_x = np.empty(rows.shape, mean.dtype)
    for block in _blocks(rows):
        part = np.subtract(rows[block], mean, out=d_x[block])
        part *= b
        part += c
        part += g_rows[block] * a
    return d_x.reshape(x.shape), sum_gt * inverse, sum_g


def _batch_norm_reference(x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5) -> tuple[Array, Array, Array]:
    axes = tuple(range(len(x.shape) - 1))
    mean = np.mean(x, axis=axes)
    variance = np.mean((x - mean) ** 2, axis=axes)
    return (x - mean) / np.sqrt(variance + eps) * gamma + beta, mean, variance


def _blocks(rows: Array) -> Iterator[slice]:
    """Blocks of rows of about 256 KiB, which stay in the cache from one operation to the next."""
    step = max(1, (1 << 18) // max(1, rows.shape[1] * rows.itemsize))
    return (slice(start, start + step) for start in range(0, len(rows), step))


def _column_sums(rows: Array) -> Any:
    """Sums over the rows of one block, as a matrix product, to be added up in float64."""
    return (np.ones(len(rows), rows.dtype) @ rows).astype(np.float64)


def _batch_norm_blank(
    x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], tuple[Array, ...]]:
    dtype = np.result_type(x, gamma, beta)
    mean, variance = np.zeros((2, x.shape[-1]), dtype)
    return (np.zeros(x.shape, dtype), mean, variance), (x, gamma, mean, variance)


def _batch_norm_backward_blank(
    saved: tuple[Array, ...], g: tuple[Array, Array, Array], *, eps: float
) -> tuple[Array, Array, Array]:
    x, _, mean, _ = saved
    return np.zeros(x.shape, mean.dtype), np.zeros_like(mean), np.zeros_like(mean)


batch_norm = Fused(
    _batch_norm_forward,
    _batch_norm_backward,
    _batch_norm_reference,
    name="batch_norm",
    blanks=(_batch_norm_blank, _batch_norm_backward_blank),
)


# -- layer normalisation -----------------------------------------------------------------------------------
def _layer_norm_forward(
    x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5
) -> tuple[Array, tuple[Array, Array, Array]]:
    """Normalises over the last axis, then scales by gamma and shifts by beta, both `(C,)`.

    J. L. Ba, J. R. Kiros and G. E. Hinton, "Layer normalization", arXiv:1607.06450.
    """
    normal = x - np.mean(x, axis=-1, keepdims=True)
    inverse = 1.0 / np.sqrt(np.mean(normal * normal, axis=-1, keepdims=True) + eps)
    normal *= inverse
    return normal * gamma + beta, (normal, inverse, gamma)


def _layer_norm_backward(saved: tuple[Array, Array, Array], g: Array, *, eps: float) -> tuple[Array, Array, Array]:
    normal, inverse, gamma = saved
    batch = tuple(range(len(g.shape) - 1))
    scaled = g * gamma
    shared = np.mean(scaled, axis=-1, keepdims=True) + normal * np.mean(scaled * normal, axis=-1, keepdims=True)
    return (scaled - shared) * inverse, np.sum(g * normal, axis=batch), np.sum(g, axis=batch)


def _layer_norm_reference(x: Array, gamma: Array, beta: Array, *, eps: float = 1e-5) -> Array:
    centred = x - np.mean(x, axis=-1, keepdims=True)
    variance = np.mean(centred**2, axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * gamma + beta


layer_norm = Fused(_layer_norm_forward, _layer_norm_backward, _layer_norm_reference, name="layer_norm")
