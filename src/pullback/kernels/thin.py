"""Products with few columns, such as what is left of a matrix beside whole panels: a vector of columns would be mostly
empty, so the lanes of a vector are the depth, or rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from pullback.kernels import instructions
from pullback.kernels.instructions import FLOAT, INTEGER, LANE, integer
from pullback.kernels.language import inline, intrinsic
from pullback.kernels.simd import VECTOR, Pointer, at, load_vector, multiply_add, splat, store_vector
from pullback.kernels.target import MACHINE, PANEL, WIDTH

MOST = 8
"""Columns that are few."""
_FOUR = ir.VectorType(FLOAT, 4)
_SPARE = 2 if MACHINE.registers == 32 else 1
"""A tile of four columns keeps eight times as many sums in registers."""


def _loop(builder: Any, depth: Any, step: int, sums: int, body: Any) -> list[Any]:
    """The sums, from zero on, that `body(k, sums)` adds to, for k = 0, step, ... below the depth."""
    before = builder.block
    loop, done = (builder.append_basic_block(f"thin.{name}") for name in ("loop", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    k = builder.phi(INTEGER)
    totals = [builder.phi(VECTOR) for _ in range(sums)]
    added = body(k, totals)
    following = builder.add(k, integer(step))
    builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
    for phi, first, then in [
        (k, integer(0), following),
        *((t, ir.Constant(VECTOR, None), a) for t, a in zip(totals, added, strict=True)),
    ]:
        phi.add_incoming(first, before)
        phi.add_incoming(then, loop)
    builder.position_at_end(done)
    return list(added)


# -- along the depth -------------------------------------------------------------------------------------------------
def _dots(rows: int, columns: int) -> Any:
    """C[i, j] (+)= sum over k of A[i, k] B[j, k] for so many rows and columns, a multiple of four.

    Arguments: depth; A, its first element and the step to the next row; B, which has zeros up to a whole vector, and
    the step to its next row; C, its first element and the step to the next row; whether to add to what it holds.
    """

    def emit(
        builder: Any, depth: Any, a: Any, a_first: Any, a_row: Any, b: Any, b_row: Any, c: Any, c_first: Any,
        c_row: Any, accumulate: Any,
    ) -> None:  # fmt: skip
        cells = [(row, column) for row in range(rows) for column in range(columns)]
        lines = [at(builder, a, builder.add(a_first, builder.mul(a_row, integer(row)))) for row in range(rows)]
        others = [at(builder, b, builder.mul(b_row, integer(column))) for column in range(columns)]

        def add(k: Any, sums: list[Any]) -> list[Any]:
            left = builder.sub(depth, k)
            left = [load_vector(builder, at(builder, line, k), left) for line in lines]
            right = [load_vector(builder, at(builder, other, k)) for other in others]
            return [
                multiply_add(builder, left[row], right[column], total)
                for (row, column), total in zip(cells, sums, strict=True)
            ]

        sums = dict(zip(cells, _loop(builder, depth, WIDTH, len(cells), add), strict=True))
        adding = builder.icmp_signed("!=", accumulate, integer(0))
        for row in range(rows):
            for first in range(0, columns, 4):
                found = _sums_of_four(builder, [sums[row, first + column] for column in range(4)])
                place = at(
                    builder, c, builder.add(c_first, builder.add(builder.mul(c_row, integer(row)), integer(first)))
                )
                held = instructions.load(builder, place, _FOUR)
                held = builder.select(adding, held, ir.Constant(_FOUR, None))
                instructions.store(builder, builder.fadd(found, held), place)

    return intrinsic(emit, "nothing")


def _sums_of_four(builder: Any, vectors: list[Any]) -> Any:
    """The sums of the lanes of four vectors, as a vector of four."""

    def pick(x: Any, y: Any, lanes: list[int]) -> Any:
        return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(LANE, len(lanes)), lanes))

    width = WIDTH
    while width > 4:
        half = width // 2
        vectors = [builder.fadd(pick(v, v, list(range(half))), pick(v, v, list(range(half, width)))) for v in vectors]
        width = half
    while len(vectors) > 1:
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [builder.fadd(pick(x, y, [0, 2, 4, 6]), pick(x, y, [1, 3, 5, 7])) for x, y in pairs]
    return vectors[0]


_dots_of_four, _dot_of_four = _dots(2 * _SPARE, 4), _dots(1, 4)
_dots_of_eight, _dot_of_eight = _dots(_SPARE, 8), _dots(1, 8)


@inline
def multiply_by_dots(
    rows: int, depth: int, columns: int, a: Pointer, a_first: int, a_row: int, b: Pointer, b_row: int,
    c: Pointer, c_first: int, c_row: int, accumulate: int,
) -> None:  # fmt: skip
    """C[i, j] (+)= sum over k of A[i, k] B[j, k] for few columns; four or eight of them are read and written."""
    row = 0
    while row < rows:
        first, to = a_first + row * a_row, c_first + row * c_row
        if columns <= 4:
            if rows - row >= 2 * _SPARE:
                _dots_of_four(depth, a, first, a_row, b, b_row, c, to, c_row, accumulate)
                row += 2 * _SPARE
            else:
                _dot_of_four(depth, a, first, a_row, b, b_row, c, to, c_row, accumulate)
                row += 1
        elif rows - row >= _SPARE:
            _dots_of_eight(depth, a, first, a_row, b, b_row, c, to, c_row, accumulate)
            row += _SPARE
        else:
            _dot_of_eight(depth, a, first, a_row, b, b_row, c, to, c_row, accumulate)
            row += 1


# -- along rows ------------------------------------------------------------------------------------------------------
def _stripes(vectors: int, columns: int) -> Any:
    """C[j, i] = sum over k of A[k, i] B[k, j] for so many vectors of i, and so many columns.

    Arguments: depth; A, its first element and the step to the next k; B, whose next k is a panel later; C, its first
    element and the step to the next column.
    """

    def emit(
        builder: Any, depth: Any, a: Any, a_first: Any, a_k: Any, b: Any, c: Any, c_first: Any, c_column: Any
    ) -> None:
        cells = [(part, column) for part in range(vectors) for column in range(columns)]
        a, c = at(builder, a, a_first), at(builder, c, c_first)

        def add(k: Any, sums: list[Any]) -> list[Any]:
            line, factors = at(builder, a, builder.mul(k, a_k)), at(builder, b, builder.mul(k, integer(PANEL)))
            left = [load_vector(builder, at(builder, line, part * WIDTH)) for part in range(vectors)]
            right = [splat(builder, builder.load(at(builder, factors, column))) for column in range(columns)]
            return [
                multiply_add(builder, left[part], right[column], total)
                for (part, column), total in zip(cells, sums, strict=True)
            ]

        for (part, column), total in zip(cells, _loop(builder, depth, 1, len(cells), add), strict=True):
            place = builder.add(builder.mul(c_column, integer(column)), integer(part * WIDTH))
            store_vector(builder, total, at(builder, c, place))

    return intrinsic(emit, "nothing")


_stripes_of_four, _stripe_of_four = _stripes(2 * _SPARE, 4), _stripes(1, 4)
_stripes_of_eight, _stripe_of_eight = _stripes(_SPARE, 8), _stripes(1, 8)


@inline
def multiply_by_stripes(
    rows: int, depth: int, columns: int, a: Pointer, a_k: int, b: Pointer, turned: Pointer, turned_column: int,
    c: Pointer, accumulate: int,
) -> None:  # fmt: skip
    """C[i, j] (+)= sum over k of A[k, i] B[k, j] for few columns, where the next k of B and the next row of C are a
    panel later; `turned` is room for C by columns, whole vectors of rows of A may be read."""
    row = 0
    while row < rows:
        left = rows - row
        if columns <= 4:
            if left >= 2 * _SPARE * WIDTH:
                _stripes_of_four(depth, a, row, a_k, b, turned, row, turned_column)
                row += 2 * _SPARE * WIDTH
            else:
                _stripe_of_four(depth, a, row, a_k, b, turned, row, turned_column)
                row += WIDTH
        elif left >= _SPARE * WIDTH:
            _stripes_of_eight(depth, a, row, a_k, b, turned, row, turned_column)
            row += _SPARE * WIDTH
        else:
            _stripe_of_eight(depth, a, row, a_k, b, turned, row, turned_column)
            row += WIDTH
    for i in range(rows):
        for j in range(columns):
            value = turned[j * turned_column + i]
            if accumulate != 0:
                value += c[i * PANEL + j]
            c[i * PANEL + j] = value
