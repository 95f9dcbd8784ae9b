"""What a heavy kernel does to its operands as it loads them, and to its result as it stores it, in place of passes.
Batch normalisation and ReLU between two convolutions so cost no pass over memory of their own, forward or backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pullback.kernels import normalisation, runtime
from pullback.kernels.runtime import round_up
from pullback.kernels.simd import WIDTH, Pointer, at_least, broadcast, inline, load, load_part, store, where_positive


class Affine(NamedTuple):
    """x scale + shift in place of x, or its positive part; zero padding is around the result. Each (C,) float32."""

    scale: Any
    shift: Any
    relu: bool = False


class NormGradient(NamedTuple):
    """factor g + of_x x + constant in place of g, the gradient that a batch norm of x passes on; x has g's shape.

    With `scale` and `shift`, a ReLU is behind the batch norm: g counts where x scale + shift > 0.
    """

    x: Any
    factor: Any
    of_x: Any
    constant: Any
    scale: Any = None
    shift: Any = None


class Mask(NamedTuple):
    """The result counts where x scale + shift > 0 and is zero elsewhere; its sum and that times x - mean are found."""

    x: Any
    scale: Any
    shift: Any
    mean: Any


PLAIN, AFFINE, NORM_GRADIENT = 0, 1, 2
"""What is done to an operand."""
STORED, MOMENTS, MASKED = 0, 1, 2
"""What is done to a result."""
RECORD = 4
"""Rows of a record of moments: how many values, a value near them (the pivot), sums of deviations and their squares."""


class Loading(NamedTuple):
    """An operand's work as a kernel takes it: which, another array of the operand's shape, and rows of channels."""

    kind: int
    other: Any
    table: Any
    row: int


def loading(load: Affine | NormGradient | None, operand: Any) -> Loading:
    """Tables have zeros beyond the last channel, so whole vectors may be read there and give zeros."""
    channels = operand.shape[-1]
    match load:
        case None:
            return Loading(PLAIN, operand, _NOTHING, 0)
        case Affine(scale, shift, relu):
            return Loading(AFFINE, operand, *_table(channels, scale, shift, 0.0 if relu else -np.inf))
        case NormGradient(x, factor, of_x, constant, None, None):
            return Loading(NORM_GRADIENT, as_input(x), *_table(channels, factor, of_x, constant, 0.0, 1.0))
        case _:
            rows = (load.factor, load.of_x, load.constant, load.scale, load.shift)
            return Loading(NORM_GRADIENT, as_input(load.x), *_table(channels, *rows))


class Storing(NamedTuple):
    """A result's work as a kernel takes it: which, x of a mask, its channels, and where each unit of work records."""

    kind: int
    other: Any
    table: Any
    row: int
    records: Any


def storing(store: Mask | None, moments: bool, result: Any, units: int, group: int) -> Storing:
    """`units` records of `group` channels each."""
    if store is not None:
        table, row = _table(result.shape[-1], store.scale, store.shift, store.mean)
        return Storing(MASKED, as_input(store.x), table, row, runtime.empty((units, RECORD, group)))
    if moments:
        return Storing(MOMENTS, result, _NOTHING, 0, runtime.empty((units, RECORD, group)))
    return Storing(STORED, result, _NOTHING, 0, _NOTHING)


_NOTHING = np.zeros(0, np.float32)


def _table(channels: int, *rows: Any) -> tuple[Any, int]:
    row = round_up(channels, 64) + 64
    table = np.zeros((len(rows), row), np.float32)
    for line, values in zip(table, rows, strict=True):
        line[:channels] = values
    return table, row


def as_input(array: Any) -> Any:
    """Contiguous float32, as kernels take it."""
    return np.ascontiguousarray(array, np.float32)


# -- what records say ------------------------------------------------------------------------------------------------
def merge_moments(records: Any, channels: int) -> tuple[Any, Any]:
    """Mean and variance, (C,) float32, of what the units (groups, blocks, RECORD, group) have seen.

    Units are merged in float64 by their means and squared deviations (Chan, Golub and LeVeque 1979).
    """
    counts, pivots, sums, squares = np.asarray(np.moveaxis(records, 2, 0), np.float64)
    means = pivots + sums / counts
    total = counts.sum(axis=1)
    mean = (counts * means).sum(axis=1) / total
    spread = squares - sums * sums / counts + counts * (means - mean[:, None]) ** 2
    variance = np.maximum(spread.sum(axis=1) / total, 0.0)
    return mean.reshape(-1)[:channels].astype(np.float32), variance.reshape(-1)[:channels].astype(np.float32)


def merge_sums(records: Any, channels: int) -> Any:
    """The sums (2, C), in float64, of what units (groups, blocks, RECORD, group) have put into their first two rows."""
    return np.moveaxis(records[:, :, :2].sum(axis=1, dtype=np.float64), 1, 0).reshape(2, -1)[:, :channels]


# -- the same as passes of their own, for the algorithms that do not do it as they load and store ----------------------
def loaded(load: Affine | NormGradient | None, operand: Any, name: str) -> Any:
    """The operand after its work, in memory that the next call with the same name takes again."""
    if load is None:
        return operand
    room = runtime.reserved(name, operand.size).reshape(operand.shape)
    if isinstance(load, Affine):
        return normalisation.normalise(operand, load.scale, load.shift, load.relu, room)
    return normalisation.gradient(operand, load.x, load.factor, load.of_x, load.constant, load.scale, load.shift, room)


def stored(store: Mask, result: Any) -> Any:
    """Mask the result in place; its sums, as `merge_sums` has them."""
    normalisation.through_relu(result, store.x, store.scale, store.shift, result)
    return normalisation.gradient_totals(result, store.x, store.mean)


# -- inside kernels ----------------------------------------------------------------------------------------------------
@inline
def load_fused(
    x: Pointer, at: int, count: int, kind: int, other: Pointer, table: Pointer, row: int, channel: int
) -> Any:
    """The vector of x at an element, after its work; the first `count` lanes, zeros after."""
    value = load_part(x, at, count)
    if kind == 1:
        value = at_least(value * load(table, channel) + load(table, row + channel), load(table, 2 * row + channel))
    if kind == 2:
        beside = load_part(other, at, count)
        sign = beside * load(table, 3 * row + channel) + load(table, 4 * row + channel)
        linear = beside * load(table, row + channel) + load(table, 2 * row + channel)
        value = where_positive(sign, value) * load(table, channel) + linear
    return value


@inline
def forget(record: Pointer, at: int, group: int) -> None:
    """An empty record at `at`."""
    for i in range(0, 4 * group, WIDTH):
        store(record, at + i, broadcast(np.float32(0.0)))
