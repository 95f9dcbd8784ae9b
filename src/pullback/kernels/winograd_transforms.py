"""The transforms of Winograd's F(4x4, 3x3): of an input tile, an output tile, its gradient, and the weights.
Each is a one-dimensional transform applied to columns and then to rows, for a vector of channels at a time.
"""

from __future__ import annotations

from typing import Any

from pullback.kernels.simd import WIDTH, Pointer, inline, load, store

# The one-dimensional transforms, applied to columns and then rows: B^T d (6 -> 6), A^T m (6 -> 4), A y (4 -> 6),
# G w (3 -> 6) and G^T u (6 -> 3), for the points 0, 1, -1, 2, -2 and infinity.


@inline
def _input(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:
    a = d4 - d2 * 4.0
    b = d3 - d1 * 4.0
    c = d4 - d2
    e = (d3 - d1) * 2.0
    return d0 * 4.0 - d2 * 5.0 + d4, a + b, a - b, c + e, c - e, d1 * 4.0 - d3 * 5.0 + d5


@inline
def _output(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    a = m1 + m2
    b = m1 - m2
    c = m3 + m4
    e = m3 - m4
    return m0 + a + c, b + e * 2.0, a + c * 4.0, b + e * 8.0 + m5


@inline
def _gradient(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    even = y0 + y2
    odd = y1 + y3
    even4 = y0 + y2 * 4.0
    odd4 = y1 * 2.0 + y3 * 8.0
    return y0, even + odd, even - odd, even4 + odd4, even4 - odd4, y3


@inline
def weight(w0: Any, w1: Any, w2: Any) -> Any:
    a = (w0 + w2) * (-1.0 / 6.0)
    b = w1 * (1.0 / 6.0)
    c = w0 * (1.0 / 24.0) + w2 * (1.0 / 6.0)
    e = w1 * (1.0 / 12.0)
    return w0 * 0.25, a - b, a + b, c + e, c - e, w2


@inline
def weight_back(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> Any:
    a = (u1 + u2) * (1.0 / 6.0)
    b = u3 + u4
    return (
        u0 * 0.25 - a + b * (1.0 / 24.0),
        (u2 - u1) * (1.0 / 6.0) + (u3 - u4) * (1.0 / 12.0),
        b * (1.0 / 6.0) - a + u5,
    )


# The two-dimensional transforms of one tile, a vector of channels at a time. `between` holds the columns.


@inline
def load_six(a: Pointer, first: int, step: int) -> Any:
    return (
        load(a, first), load(a, first + step), load(a, first + 2 * step),
        load(a, first + 3 * step), load(a, first + 4 * step), load(a, first + 5 * step),
    )  # fmt: skip


@inline
def store_six(a: Pointer, first: int, step: int, v: Pointer) -> None:
    store(a, first, v[0])
    store(a, first + step, v[1])
    store(a, first + 2 * step, v[2])
    store(a, first + 3 * step, v[3])
    store(a, first + 4 * step, v[4])
    store(a, first + 5 * step, v[5])


@inline
def transform_input(
    x: Pointer, first: int, row: int, pixel: int, channels: int, v: Pointer, to: int, step: int, between: Pointer
) -> None:
    """6x6 pixels of x to 36 frequencies, `step` apart."""
    for c in range(0, channels, WIDTH):
        for j in range(6):
            d0, d1, d2, d3, d4, d5 = load_six(x, first + j * pixel + c, row)
            store_six(between, j * WIDTH, 6 * WIDTH, _input(d0, d1, d2, d3, d4, d5))
        for i in range(6):
            d0, d1, d2, d3, d4, d5 = load_six(between, i * 6 * WIDTH, WIDTH)
            store_six(v, to + i * 6 * step + c, step, _input(d0, d1, d2, d3, d4, d5))


@inline
def transform_gradient(
    g: Pointer, first: int, row: int, pixel: int, channels: int, v: Pointer, to: int, step: int, between: Pointer
) -> None:
    """4x4 pixels of g to 36 frequencies, `step` apart."""
    for c in range(0, channels, WIDTH):
        for j in range(4):
            at = first + j * pixel + c
            column = _gradient(load(g, at), load(g, at + row), load(g, at + 2 * row), load(g, at + 3 * row))
            store_six(between, j * WIDTH, 4 * WIDTH, column)
        for i in range(6):
            at = i * 4 * WIDTH
            line = _gradient(
                load(between, at),
                load(between, at + WIDTH),
                load(between, at + 2 * WIDTH),
                load(between, at + 3 * WIDTH),
            )
            store_six(v, to + i * 6 * step + c, step, line)


@inline
def transform_output(
    m: Pointer, first: int, step: int, channels: int, y: Pointer, to: int, row: int, pixel: int, between: Pointer
) -> None:
    """36 frequencies to 4x4 pixels of y."""
    for c in range(0, channels, WIDTH):
        for j in range(6):
            m0, m1, m2, m3, m4, m5 = load_six(m, first + j * step + c, 6 * step)
            y0, y1, y2, y3 = _output(m0, m1, m2, m3, m4, m5)
            at = j * WIDTH
            store(between, at, y0)
            store(between, at + 6 * WIDTH, y1)
            store(between, at + 12 * WIDTH, y2)
            store(between, at + 18 * WIDTH, y3)
        for i in range(4):
            m0, m1, m2, m3, m4, m5 = load_six(between, i * 6 * WIDTH, WIDTH)
            y0, y1, y2, y3 = _output(m0, m1, m2, m3, m4, m5)
            at = to + i * row + c
            store(y, at, y0)
            store(y, at + pixel, y1)
            store(y, at + 2 * pixel, y2)
            store(y, at + 3 * pixel, y3)
