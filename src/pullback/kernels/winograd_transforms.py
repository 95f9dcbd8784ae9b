"""The transforms of Winograd's F(4x4, 3x3): of an input tile, an output tile, its gradient, and the weights.
Each is a one-dimensional transform applied to columns and then to rows, for a vector of channels at a time.
"""

from __future__ import annotations

from typing import Any

from pullback.kernels.simd import Pointer, inline, load, store

# The one-dimensional transforms, applied to columns and then rows: B^T d (6 -> 6), A^T m (6 -> 4), A y (4 -> 6),
# G w (3 -> 6) and G^T u (6 -> 3), for the points 0, 1, -1, 2, -2 and infinity.
# Columns are transformed in two halves of the results, so that what lies between columns and rows stays in registers.


@inline
def _input(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:
    a = d4 - d2 * 4.0
    b = d3 - d1 * 4.0
    c = d4 - d2
    e = (d3 - d1) * 2.0
    return d0 * 4.0 - d2 * 5.0 + d4, a + b, a - b, c + e, c - e, d1 * 4.0 - d3 * 5.0 + d5


@inline
def _input_low(x: Pointer, at: int, row: int) -> Any:
    d1, d2, d3, d4 = load(x, at + row), load(x, at + 2 * row), load(x, at + 3 * row), load(x, at + 4 * row)
    a = d4 - d2 * 4.0
    b = d3 - d1 * 4.0
    return load(x, at) * 4.0 - d2 * 5.0 + d4, a + b, a - b


@inline
def _input_high(x: Pointer, at: int, row: int) -> Any:
    d1, d2, d3, d4 = load(x, at + row), load(x, at + 2 * row), load(x, at + 3 * row), load(x, at + 4 * row)
    c = d4 - d2
    e = (d3 - d1) * 2.0
    return c + e, c - e, d1 * 4.0 - d3 * 5.0 + load(x, at + 5 * row)


@inline
def _output(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    a = m1 + m2
    b = m1 - m2
    c = m3 + m4
    e = m3 - m4
    return m0 + a + c, b + e * 2.0, a + c * 4.0, b + e * 8.0 + m5


@inline
def _output_low(m: Pointer, at: int, row: int) -> Any:
    m1, m2, m3, m4 = load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row), load(m, at + 4 * row)
    return load(m, at) + (m1 + m2) + (m3 + m4), (m1 - m2) + (m3 - m4) * 2.0


@inline
def _output_high(m: Pointer, at: int, row: int) -> Any:
    m1, m2, m3, m4 = load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row), load(m, at + 4 * row)
    return (m1 + m2) + (m3 + m4) * 4.0, (m1 - m2) + (m3 - m4) * 8.0 + load(m, at + 5 * row)


@inline
def _gradient(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    even = y0 + y2
    odd = y1 + y3
    even4 = y0 + y2 * 4.0
    odd4 = y1 * 2.0 + y3 * 8.0
    return y0, even + odd, even - odd, even4 + odd4, even4 - odd4, y3


@inline
def _gradient_low(g: Pointer, at: int, row: int) -> Any:
    y0 = load(g, at)
    even = y0 + load(g, at + 2 * row)
    odd = load(g, at + row) + load(g, at + 3 * row)
    return y0, even + odd, even - odd


@inline
def _gradient_high(g: Pointer, at: int, row: int) -> Any:
    y3 = load(g, at + 3 * row)
    even4 = load(g, at) + load(g, at + 2 * row) * 4.0
    odd4 = load(g, at + row) * 2.0 + y3 * 8.0
    return even4 + odd4, even4 - odd4, y3


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


# The two-dimensional transforms of one tile, for one vector of channels.


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
def transform_input(x: Pointer, first: int, row: int, pixel: int, v: Pointer, to: int, step: int) -> None:
    """6x6 pixels of x to 36 frequencies, `step` apart."""
    a0, b0, c0 = _input_low(x, first, row)
    a1, b1, c1 = _input_low(x, first + pixel, row)
    a2, b2, c2 = _input_low(x, first + 2 * pixel, row)
    a3, b3, c3 = _input_low(x, first + 3 * pixel, row)
    a4, b4, c4 = _input_low(x, first + 4 * pixel, row)
    a5, b5, c5 = _input_low(x, first + 5 * pixel, row)
    store_six(v, to, step, _input(a0, a1, a2, a3, a4, a5))
    store_six(v, to + 6 * step, step, _input(b0, b1, b2, b3, b4, b5))
    store_six(v, to + 12 * step, step, _input(c0, c1, c2, c3, c4, c5))
    a0, b0, c0 = _input_high(x, first, row)
    a1, b1, c1 = _input_high(x, first + pixel, row)
    a2, b2, c2 = _input_high(x, first + 2 * pixel, row)
    a3, b3, c3 = _input_high(x, first + 3 * pixel, row)
    a4, b4, c4 = _input_high(x, first + 4 * pixel, row)
    a5, b5, c5 = _input_high(x, first + 5 * pixel, row)
    store_six(v, to + 18 * step, step, _input(a0, a1, a2, a3, a4, a5))
    store_six(v, to + 24 * step, step, _input(b0, b1, b2, b3, b4, b5))
    store_six(v, to + 30 * step, step, _input(c0, c1, c2, c3, c4, c5))


@inline
def transform_gradient(g: Pointer, first: int, row: int, pixel: int, v: Pointer, to: int, step: int) -> None:
    """4x4 pixels of g to 36 frequencies, `step` apart."""
    a0, b0, c0 = _gradient_low(g, first, row)
    a1, b1, c1 = _gradient_low(g, first + pixel, row)
    a2, b2, c2 = _gradient_low(g, first + 2 * pixel, row)
    a3, b3, c3 = _gradient_low(g, first + 3 * pixel, row)
    store_six(v, to, step, _gradient(a0, a1, a2, a3))
    store_six(v, to + 6 * step, step, _gradient(b0, b1, b2, b3))
    store_six(v, to + 12 * step, step, _gradient(c0, c1, c2, c3))
    a0, b0, c0 = _gradient_high(g, first, row)
    a1, b1, c1 = _gradient_high(g, first + pixel, row)
    a2, b2, c2 = _gradient_high(g, first + 2 * pixel, row)
    a3, b3, c3 = _gradient_high(g, first + 3 * pixel, row)
    store_six(v, to + 18 * step, step, _gradient(a0, a1, a2, a3))
    store_six(v, to + 24 * step, step, _gradient(b0, b1, b2, b3))
    store_six(v, to + 30 * step, step, _gradient(c0, c1, c2, c3))


@inline
def _store_four(y: Pointer, at: int, step: int, v: Any) -> None:
    store(y, at, v[0])
    store(y, at + step, v[1])
    store(y, at + 2 * step, v[2])
    store(y, at + 3 * step, v[3])


@inline
def transform_output(m: Pointer, first: int, step: int, y: Pointer, to: int, row: int, pixel: int) -> None:
    """36 frequencies, `step` apart, to 4x4 pixels of y."""
    line = 6 * step
    a0, b0 = _output_low(m, first, line)
    a1, b1 = _output_low(m, first + step, line)
    a2, b2 = _output_low(m, first + 2 * step, line)
    a3, b3 = _output_low(m, first + 3 * step, line)
    a4, b4 = _output_low(m, first + 4 * step, line)
    a5, b5 = _output_low(m, first + 5 * step, line)
    _store_four(y, to, pixel, _output(a0, a1, a2, a3, a4, a5))
    _store_four(y, to + row, pixel, _output(b0, b1, b2, b3, b4, b5))
    a0, b0 = _output_high(m, first, line)
    a1, b1 = _output_high(m, first + step, line)
    a2, b2 = _output_high(m, first + 2 * step, line)
    a3, b3 = _output_high(m, first + 3 * step, line)
    a4, b4 = _output_high(m, first + 4 * step, line)
    a5, b5 = _output_high(m, first + 5 * step, line)
    _store_four(y, to + 2 * row, pixel, _output(a0, a1, a2, a3, a4, a5))
    _store_four(y, to + 3 * row, pixel, _output(b0, b1, b2, b3, b4, b5))
