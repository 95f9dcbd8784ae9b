"""The transforms of Winograd's F(4x4, 3x3): of an input tile, an output tile, its gradient, and the weights.
Each is a one-dimensional transform applied to columns and then to rows, for a vector of channels at a time.
"""

from __future__ import annotations

from typing import Any

from pullback.kernels.language import inline
from pullback.kernels.simd import Pointer, load, store

# The one-dimensional transforms, applied to columns and then rows: B^T d (6 -> 6), A^T m (6 -> 4), A y (4 -> 6),
# G w (3 -> 6) and G^T u (6 -> 3), for the points 0, P, -P, Q, -Q and infinity. With 5/8 and 3/2 the error is less than
# half of what it is with the 1 and 2 of the first publications.
# Columns are transformed in two halves of the results, so that what lies between columns and rows stays in registers.
P, Q = 5.0 / 8.0, 3.0 / 2.0
P2, Q2, P3, Q3 = P * P, Q * Q, P * P * P, Q * Q * Q
PRODUCT, SUM = P2 * Q2, P2 + Q2
OF_0, OF_P, OF_Q = 1.0 / PRODUCT, 0.5 / (P2 * (P2 - Q2)), 0.5 / (Q2 * (Q2 - P2))
"""Products of the differences between a point and the others, inverted."""


@inline
def _input(d0: Any, d1: Any, d2: Any, d3: Any, d4: Any, d5: Any) -> Any:
    a = d4 - d2 * Q2
    b = (d3 - d1 * Q2) * P
    c = d4 - d2 * P2
    e = (d3 - d1 * P2) * Q
    return d0 * PRODUCT - d2 * SUM + d4, a + b, a - b, c + e, c - e, d1 * PRODUCT - d3 * SUM + d5


@inline
def _input_low(x: Pointer, at: int, row: int) -> Any:
    d1, d2, d3, d4 = load(x, at + row), load(x, at + 2 * row), load(x, at + 3 * row), load(x, at + 4 * row)
    a = d4 - d2 * Q2
    b = (d3 - d1 * Q2) * P
    return load(x, at) * PRODUCT - d2 * SUM + d4, a + b, a - b


@inline
def _input_high(x: Pointer, at: int, row: int) -> Any:
    d1, d2, d3, d4 = load(x, at + row), load(x, at + 2 * row), load(x, at + 3 * row), load(x, at + 4 * row)
    c = d4 - d2 * P2
    e = (d3 - d1 * P2) * Q
    return c + e, c - e, d1 * PRODUCT - d3 * SUM + load(x, at + 5 * row)


@inline
def _output(m0: Any, m1: Any, m2: Any, m3: Any, m4: Any, m5: Any) -> Any:
    a = m1 + m2
    b = m1 - m2
    c = m3 + m4
    e = m3 - m4
    return m0 + a + c, b * P + e * Q, a * P2 + c * Q2, b * P3 + e * Q3 + m5


@inline
def _output_low(m: Pointer, at: int, row: int) -> Any:
    m1, m2, m3, m4 = load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row), load(m, at + 4 * row)
    return load(m, at) + (m1 + m2) + (m3 + m4), (m1 - m2) * P + (m3 - m4) * Q


@inline
def _output_high(m: Pointer, at: int, row: int) -> Any:
    m1, m2, m3, m4 = load(m, at + row), load(m, at + 2 * row), load(m, at + 3 * row), load(m, at + 4 * row)
    return (m1 + m2) * P2 + (m3 + m4) * Q2, (m1 - m2) * P3 + (m3 - m4) * Q3 + load(m, at + 5 * row)


@inline
def _gradient(y0: Any, y1: Any, y2: Any, y3: Any) -> Any:
    even = y0 + y2 * P2
    odd = y1 * P + y3 * P3
    far_even = y0 + y2 * Q2
    far_odd = y1 * Q + y3 * Q3
    return y0, even + odd, even - odd, far_even + far_odd, far_even - far_odd, y3


@inline
def _gradient_low(g: Pointer, at: int, row: int) -> Any:
    y0 = load(g, at)
    even = y0 + load(g, at + 2 * row) * P2
    odd = load(g, at + row) * P + load(g, at + 3 * row) * P3
    return y0, even + odd, even - odd


@inline
def _gradient_high(g: Pointer, at: int, row: int) -> Any:
    y3 = load(g, at + 3 * row)
    even = load(g, at) + load(g, at + 2 * row) * Q2
    odd = load(g, at + row) * Q + y3 * Q3
    return even + odd, even - odd, y3


@inline
def weight(w0: Any, w1: Any, w2: Any) -> Any:
    a = w0 * OF_P + w2 * (P2 * OF_P)
    b = w1 * (P * OF_P)
    c = w0 * OF_Q + w2 * (Q2 * OF_Q)
    e = w1 * (Q * OF_Q)
    return w0 * OF_0, a + b, a - b, c + e, c - e, w2


@inline
def weight_back(u0: Any, u1: Any, u2: Any, u3: Any, u4: Any, u5: Any) -> Any:
    a = u1 + u2
    b = u3 + u4
    return (
        u0 * OF_0 + a * OF_P + b * OF_Q,
        (u1 - u2) * (P * OF_P) + (u3 - u4) * (Q * OF_Q),
        a * (P2 * OF_P) + b * (Q2 * OF_Q) + u5,
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
