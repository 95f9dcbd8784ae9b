"""The register-blocked tile that depthwise convolution stands on: sums of products of vectors, over rows and columns.
A few sums of two vectors each share one factor; forward they are neighbouring pixels, for the weights they are taps.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from pullback.kernels.instructions import INTEGER, integer
from pullback.kernels.language import inline, intrinsic
from pullback.kernels.simd import VECTOR, Pointer, at, load_vector, multiply_add, store_vector
from pullback.kernels.target import PANEL, WIDTH


def _tile(number: int, whole: bool) -> Any:
    """y[t] (+)= sum over r, c of x[t, r, c] w[r, c] for t < `number`.

    Each element is PANEL floats, or `count`, of at most WIDTH, if it is not `whole`. Arguments: the count; rows and
    columns (at least one of each); x, its first element and the steps to the next t, row and column; w, its first
    element and the steps to the next row and column; y, its first element and the step to the next t; and whether to
    add to what y holds.
    """

    def emit(
        builder: Any, count: Any, rows: Any, columns: Any, x: Any, x_first: Any, x_t: Any, x_row: Any, x_column: Any,
        w: Any, w_first: Any, w_row: Any, w_column: Any, y: Any, y_first: Any, y_t: Any, add: Any,
    ) -> None:  # fmt: skip
        lanes = None if whole else count

        def get(pointer: Any) -> Any:
            return load_vector(builder, pointer, lanes)

        halves = range(2 if whole else 1)
        cells = [(t, half) for t in range(number) for half in halves]
        y = at(builder, y, y_first)
        places = [at(builder, y, builder.mul(integer(t), y_t)) for t in range(number)]
        targets = {(t, half): at(builder, places[t], half * WIDTH) for t, half in cells}
        steps = [builder.mul(integer(t), x_t) for t in range(number)]
        x, w = at(builder, x, x_first), at(builder, w, w_first)

        entry = builder.block
        reload, row, loop, next_row, done = (
            builder.append_basic_block(f"sums.{name}") for name in ("reload", "row", "loop", "next", "done")
        )
        builder.cbranch(builder.icmp_signed("!=", add, integer(0)), reload, row)

        builder.position_at_end(reload)
        held = {cell: get(targets[cell]) for cell in cells}
        builder.branch(row)

        builder.position_at_end(row)
        r, x_line, w_line = builder.phi(INTEGER), builder.phi(x.type), builder.phi(w.type)
        so_far = {cell: builder.phi(VECTOR) for cell in cells}
        builder.branch(loop)

        builder.position_at_end(loop)
        c, x_at, w_at = builder.phi(INTEGER), builder.phi(x.type), builder.phi(w.type)
        sums = {cell: builder.phi(VECTOR) for cell in cells}
        shared = [get(at(builder, w_at, half * WIDTH)) for half in halves]
        added = {}
        for t, half in cells:
            own = get(at(builder, at(builder, x_at, steps[t]), half * WIDTH))
            added[t, half] = multiply_add(builder, own, shared[half], sums[t, half])
        c_next = builder.add(c, integer(1))
        x_next, w_next = at(builder, x_at, x_column), at(builder, w_at, w_column)
        builder.cbranch(builder.icmp_signed("<", c_next, columns), loop, next_row)

        builder.position_at_end(next_row)
        r_next = builder.add(r, integer(1))
        x_line_next, w_line_next = at(builder, x_line, x_row), at(builder, w_line, w_row)
        builder.cbranch(builder.icmp_signed("<", r_next, rows), row, done)

        outer = [(r, integer(0), r_next), (x_line, x, x_line_next), (w_line, w, w_line_next)]
        for phi, start, following in outer:
            for value, block in ((start, entry), (start, reload), (following, next_row)):
                phi.add_incoming(value, block)
        for phi, start, following in [(c, integer(0), c_next), (x_at, x_line, x_next), (w_at, w_line, w_next)]:
            phi.add_incoming(start, row)
            phi.add_incoming(following, loop)
        for cell in cells:
            for value, block in ((ir.Constant(VECTOR, None), entry), (held[cell], reload), (added[cell], next_row)):
                so_far[cell].add_incoming(value, block)
            sums[cell].add_incoming(so_far[cell], row)
            sums[cell].add_incoming(added[cell], loop)

        builder.position_at_end(done)
        for cell in cells:
            store_vector(builder, added[cell], targets[cell], lanes)

    return intrinsic(emit, "nothing")


_four, _three, _two, _one = (_tile(number, whole=True) for number in (4, 3, 2, 1))
_four_part, _three_part, _two_part, _one_part = (_tile(number, whole=False) for number in (4, 3, 2, 1))


@inline
def add_products(
    count: int, number: int, rows: int, columns: int, x: Pointer, x_first: int, x_t: int, x_row: int, x_column: int,
    w: Pointer, w_first: int, w_row: int, w_column: int, y: Pointer, y_first: int, y_t: int, accumulate: int,
) -> None:  # fmt: skip
    """The tile for any number of sums, and for PANEL channels or the first `count` if these are fewer."""
    for t in range(0, number, 4):
        x_at, y_at = x_first + t * x_t, y_first + t * y_t
        args = (rows, columns, x, x_at, x_t, x_row, x_column, w, w_first, w_row, w_column, y, y_at, y_t, accumulate)
        if count >= PANEL:
            if number - t >= 4:
                _four(PANEL, *args)
            elif number - t == 3:
                _three(PANEL, *args)
            elif number - t == 2:
                _two(PANEL, *args)
            else:
                _one(PANEL, *args)
            continue
        for c in range(0, count, WIDTH):
            args = (
                rows, columns, x, x_at + c, x_t, x_row, x_column, w, w_first + c, w_row, w_column,
                y, y_at + c, y_t, accumulate,
            )  # fmt: skip
            if number - t >= 4:
                _four_part(count - c, *args)
            elif number - t == 3:
                _three_part(count - c, *args)
            elif number - t == 2:
                _two_part(count - c, *args)
            else:
                _one_part(count - c, *args)
