"""Pooling of images `(N, H, W, C)`: the largest, or the mean, of the entries of each window.

Max pooling selects, average pooling is linear. Both go over the entries of the window and treat all outputs at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Linear, Selection, Untracked
from pullback.core.tensor import Array
from pullback.errors import ShapeError
from pullback.rules.compiled import worth_compiling
from pullback.rules.windows import Padding, Pair, output_size, taps

__all__ = ["avg_pool2d", "avg_pool2d_adjoint", "max_pool2d", "max_pool2d_route", "max_pool2d_scatter"]

NO_PADDING: Padding = ((0, 0), (0, 0))


def _max_pool2d(x: Array, *, window: Pair, stride: Pair, padding: Padding = NO_PADDING) -> Array:
    """The largest entry of each window, `(N, H', W', C)`; padding never wins.

    Where entries tie, the first of the window in reading order is the one selected, as in every framework for pooling
    (the ties of `np.max` share their gradient instead).
    """
    shape = _pooled_shape("max_pool2d", x, window, stride, padding)
    if (kernels := _kernels(x, window, padding)) is not None:
        return kernels.max_pool(x, window, stride, (padding[0][0], padding[1][0]))[0]
    y = np.full(shape, -np.inf, x.dtype)
    for part in _parts(x.shape[1:3], window, stride, padding):
        target = y[part.outputs]
        np.maximum(target, x[part.inputs], out=target)
    return y


def _blank(x: Array, *, window: Pair, stride: Pair, padding: Padding = NO_PADDING) -> Array:
    return np.zeros(_pooled_shape("max_pool2d", x, window, stride, padding), x.dtype)


def _first_largest(x: Array, y: Array, window: Pair, stride: Pair, padding: Padding) -> Array:
    return choices(x, y, window=window, stride=stride, padding=padding)


def _find_choices(x: Array, y: Array, *, window: Pair, stride: Pair, padding: Padding) -> Array:
    """For each output the number of the entry it came from, in one byte for windows of up to 255 entries."""
    if (kernels := _kernels(x, window, padding)) is not None:
        return kernels.max_pool(x, window, stride, (padding[0][0], padding[1][0]))[1]
    dtype = _number_type(window)
    choice = np.full(y.shape, np.iinfo(dtype).max, dtype)
    for part in _parts(x.shape[1:3], window, stride, padding):
        # "Smaller" rather than "unequal", so that a NaN, which np.maximum passes on, is found too. An entry that is
        # smaller gets all bits set, and so never is the least number. (Masked assignment is several times slower.)
        number = np.negative((x[part.inputs] < y[part.outputs]).astype(dtype))
        number |= part.number
        target = choice[part.outputs]
        np.minimum(target, number, out=target)
    return choice


def _number_type(window: Pair) -> Any:
    """The dtype of the numbers of entries, and of one more."""
    return np.min_scalar_type(window[0] * window[1])


choices = Untracked(
    _find_choices,
    name="max_pool2d_choices",
    register=False,
    blank=lambda x, y, *, window, **_: np.zeros(y.shape, _number_type(window)),
)


def _max_pool2d_route(x: Array, choice: Array, *, window: Pair, stride: Pair, padding: Padding = NO_PADDING) -> Array:
    """Picks from each window the entry whose number is `choice`: max pooling with the selection held constant."""
    y = np.zeros(choice.shape, x.dtype)
    for part in _parts(x.shape[1:3], window, stride, padding):
        np.copyto(y[part.outputs], x[part.inputs], where=choice[part.outputs] == part.number)
    return y


def _max_pool2d_scatter(
    v: Array, choice: Array, *, size: Pair, window: Pair, stride: Pair, padding: Padding = NO_PADDING
) -> Array:
    """The adjoint of `max_pool2d_route`: adds each value to the entry it was picked from."""
    shape = (v.shape[0], *size, v.shape[3])
    if (kernels := _kernels(v, window, padding)) is not None:
        return kernels.max_pool_adjoint(v, choice, shape, window, stride, (padding[0][0], padding[1][0]))
    x = np.zeros(shape, v.dtype)
    for part in _parts(size, window, stride, padding):
        x[part.inputs] += v[part.outputs] * (choice[part.outputs] == part.number)
    return x


def _avg_pool2d(
    x: Array, *, window: Pair, stride: Pair, padding: Padding = NO_PADDING, count_include_pad: bool = True
) -> Array:
    """The mean of each window, `(N, H', W', C)`. Without `count_include_pad`, the mean of what is not padding."""
    y = np.zeros(_pooled_shape("avg_pool2d", x, window, stride, padding), x.dtype)
    for part in _parts(x.shape[1:3], window, stride, padding):
        y[part.outputs] += x[part.inputs]
    y *= _weights(x.shape[1:3], window, stride, padding, count_include_pad, x.dtype)
    return y


def _avg_pool2d_adjoint(
    v: Array, *, size: Pair, window: Pair, stride: Pair, padding: Padding = NO_PADDING, count_include_pad: bool = True
) -> Array:
    """The adjoint of `avg_pool2d`: spreads each value evenly over its window of an image of `size` (H, W)."""
    v = v * _weights(size, window, stride, padding, count_include_pad, v.dtype)
    x = np.zeros((v.shape[0], *size, v.shape[3]), v.dtype)
    for part in _parts(size, window, stride, padding):
        x[part.inputs] += v[part.outputs]
    return x


max_pool2d_route: Linear = Linear(
    _max_pool2d_route,
    lambda g, shape, choice, window, stride, padding: max_pool2d_scatter(
        g, choice, size=shape[1:3], window=window, stride=stride, padding=padding
    ),
    name="max_pool2d_route",
)
max_pool2d_scatter: Linear = Linear(
    _max_pool2d_scatter,
    lambda g, choice, window, stride, padding: max_pool2d_route(
        g, choice, window=window, stride=stride, padding=padding
    ),
    name="max_pool2d_scatter",
    blank=lambda v, choice, *, size, **_: np.zeros((v.shape[0], *size, v.shape[3]), v.dtype),
)
max_pool2d = Selection(
    _max_pool2d,
    _first_largest,
    lambda x, s, window, stride, padding: max_pool2d_route(x, s, window=window, stride=stride, padding=padding),
    lambda g, s, shape, window, stride, padding: max_pool2d_scatter(
        g, s, size=shape[1:3], window=window, stride=stride, padding=padding
    ),
    name="max_pool2d",
    blank=_blank,
)
avg_pool2d: Linear = Linear(
    _avg_pool2d,
    lambda g, shape, window, stride, padding, count_include_pad: avg_pool2d_adjoint(
        g, size=shape[1:3], window=window, stride=stride, padding=padding, count_include_pad=count_include_pad
    ),
    name="avg_pool2d",
)
avg_pool2d_adjoint: Linear = Linear(
    _avg_pool2d_adjoint,
    lambda g, window, stride, padding, count_include_pad: avg_pool2d(
        g, window=window, stride=stride, padding=padding, count_include_pad=count_include_pad
    ),
    name="avg_pool2d_adjoint",
)


def _kernels(x: Array, window: Pair, padding: Padding) -> Any:
    """The compiled kernels where they serve, which is also only for equal padding on both sides; else None."""
    entries = window[0] * window[1]
    if entries > 255 or not worth_compiling(x.size * entries, x) or any(before != after for before, after in padding):
        return None
    from pullback.kernels import pooling

    return pooling


class _Part(NamedTuple):
    """What one entry of the window reads, for the outputs that have it inside the image."""

    number: int  # of the entry, in reading order
    inputs: tuple[slice, slice, slice]
    outputs: tuple[slice, slice, slice]


def _parts(size: Pair, window: Pair, stride: Pair, padding: Padding) -> Iterator[_Part]:
    every = slice(None)
    columns = taps(size[1], window[1], stride[1], padding[1])
    for row in taps(size[0], window[0], stride[0], padding[0]):
        for column in columns:
            number = row.index * window[1] + column.index
            yield _Part(number, (every, row.inputs, column.inputs), (every, row.outputs, column.outputs))


def _pooled_shape(name: str, x: Array, window: Pair, stride: Pair, padding: Padding) -> tuple[int, ...]:
    if len(x.shape) != 4:
        raise ShapeError(name, f"expected images (N, H, W, C), got {x.shape}")
    if any(max(pad) >= size for pad, size in zip(padding, window, strict=True)):
        raise ShapeError(name, f"expected padding smaller than the window {window}, got {padding}")
    rows, columns = (output_size(*axis) for axis in zip(x.shape[1:3], window, stride, padding, strict=True))
    if rows < 1 or columns < 1:
        raise ShapeError(name, f"a window {window} does not fit in images {x.shape} with padding {padding}")
    return (x.shape[0], rows, columns, x.shape[3])


def _weights(size: Pair, window: Pair, stride: Pair, padding: Padding, count_include_pad: bool, dtype: Any) -> Array:
    """One over the number of entries of each window, `(H', W', 1)`, or one number for all."""
    if count_include_pad:
        return 1.0 / (window[0] * window[1])
    shape = _pooled_shape("avg_pool2d", np.empty((1, *size, 1), dtype), window, stride, padding)
    counts = np.zeros(shape[1:], dtype)
    for part in _parts(size, window, stride, padding):
        counts[part.outputs[1:]] += 1.0
    return 1.0 / counts
