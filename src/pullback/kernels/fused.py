"""What a heavy kernel does to its operands as it loads them, and to its result as it stores it, in place of passes.
Batch normalisation and ReLU between two convolutions so cost no pass over memory of their own, forward or backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pullback.kernels import normalisation, runtime
from pullback.kernels.channels import RECORD, merged_moments, merged_sums
from pullback.kernels.language import inline
from pullback.kernels.runtime import round_up
from pullback.kernels.simd import Pointer, at_least, broadcast, load, load_part, store, store_part, where_positive
from pullback.kernels.target import WIDTH


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

    def found(self, groups: int, channels: int) -> Any:
        """What the kernel has found: the mean and variance of the result, or its sums, or nothing."""
        if self.kind == STORED:
            return None
        return (merged_moments if self.kind == MOMENTS else merged_sums)(self.records, groups, channels)


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
    """Mask the result in place; its sums of g and g (x - mean), (2, C) float64."""
    normalisation.through_relu(result, store.x, store.scale, store.shift, result)
    return normalisation.gradient_totals(result, store.x, store.mean)


# -- inside kernels ----------------------------------------------------------------------------------------------------
@inline
def loaded_rows(kind: int, table: Pointer, row: int, channel: int) -> Any:
    """The vectors of a table's rows from a channel on, for the functions below; of two rows where there are three."""
    zero = broadcast(np.float32(0.0))
    if kind == 0:
        return zero, zero, zero, zero, zero
    first, second, third = load(table, channel), load(table, row + channel), load(table, 2 * row + channel)
    if kind == 1:
        return first, second, third, zero, zero
    return first, second, third, load(table, 3 * row + channel), load(table, 4 * row + channel)


@inline
def through_affine(value: Any, rows: Any) -> Any:
    """The work AFFINE on a vector."""
    return at_least(value * rows[0] + rows[1], rows[2])


@inline
def through_gradient(value: Any, beside: Any, rows: Any) -> Any:
    """The work NORM_GRADIENT on a vector, with the vector of x beside it."""
    return where_positive(beside * rows[3] + rows[4], value) * rows[0] + (beside * rows[1] + rows[2])


@inline
def store_fused(
    patch: Pointer, next_row: int, y: Pointer, to: int, row: int, pixel: int, rows: int, columns: int, count: int,
    kind: int, other: Pointer, table: Pointer, table_row: int, channel: int, record: Pointer, group: int, first: bool,
) -> None:  # fmt: skip
    """One vector of channels of rows x columns pixels from a patch of whole vectors to y, after its work.

    `record` is where this vector's lanes are in the first row of a record; `first` starts the record anew.
    """
    if first and kind != 0:
        for i in range(4):
            store(record, i * group, broadcast(np.float32(0.0)))
        store(record, group, load(patch, 0))
    if kind == 0:
        for i in range(rows):
            for j in range(columns):
                store_part(y, to + i * row + j * pixel, load(patch, i * next_row + j * WIDTH), count)
    elif kind == 1:
        pivot, total, squares = load(record, group), load(record, 2 * group), load(record, 3 * group)
        for i in range(rows):
            for j in range(columns):
                value = load(patch, i * next_row + j * WIDTH)
                store_part(y, to + i * row + j * pixel, value, count)
                deviation = value - pivot
                total = total + deviation
                squares = squares + deviation * deviation
        store(record, 0, load(record, 0) + broadcast(np.float32(rows * columns)))
        store(record, 2 * group, total)
        store(record, 3 * group, squares)
    else:
        scale, shift = load(table, channel), load(table, table_row + channel)
        mean = load(table, 2 * table_row + channel)
        total, moment = load(record, 2 * group), load(record, 3 * group)
        for i in range(rows):
            for j in range(columns):
                at = to + i * row + j * pixel
                beside = load_part(other, at, count)
                value = where_positive(beside * scale + shift, load(patch, i * next_row + j * WIDTH))
                store_part(y, at, value, count)
                total = total + value
                moment = moment + value * (beside - mean)
        store(record, 2 * group, total)
        store(record, 3 * group, moment)
