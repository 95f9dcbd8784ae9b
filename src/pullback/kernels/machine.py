"""A machine for small programs: it runs a table of instructions over one array, so that nothing is compiled for each.

All values of a program lie in one array, the arena, of float32 or float64 (truth values as 0 and 1). An instruction is
a row of `WIDTH` integers: the operation, then offsets into the arena, sizes and strides.

* elementwise: operation, elements, output, then each input with its stride, 1 or 0 (one number for all elements);
* `copy`: output, input, four sizes, the four strides of the output, those of the input;
* `sum`, `max`: output, input, outer, reduced and inner size of a dense input;
* `matmul`: output (dense), a, b, rows, inner size, columns, the two strides of a, the row stride of b;
* `fill`: elements, output, input: one number in every element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from pullback.kernels.cache import KernelCache

WIDTH = 16

UNARY = {
    "negative": "-x", "absolute": "abs(x)", "sign": "x if not abs(x) > zero else np.copysign(one, x)",
    "sqrt": "np.sqrt(x)", "exp": "exp(x)", "tanh": "tanh(x)", "sigmoid": "sigmoid(x)", "log": "np.log(x)",
    "sin": "np.sin(x)", "cos": "np.cos(x)",
}  # fmt: skip
ARITHMETIC = {"add": "x + y", "subtract": "x - y", "multiply": "x * y", "divide": "x / y"}
CHOICES = {
    "maximum": "x if x >= y or x != x else y", "minimum": "x if x <= y or x != x else y", "power": "np.power(x, y)",
    "equal": "one if x == y else zero", "less": "one if x < y else zero", "less_equal": "one if x <= y else zero",
}  # fmt: skip
ELEMENTWISE = [*UNARY, *ARITHMETIC, *CHOICES, "where"]
OTHERS = ["copy", "fill", "sum", "max", "matmul"]
CODES = {name: code for code, name in enumerate([*ELEMENTWISE, *OTHERS])}
"""The number of each operation."""


def run(dtype: Any) -> Callable[[Any, Any], None]:
    """The machine for one dtype: `run(dtype)(instructions, arena)`. Compiled on first use, and kept on disk."""
    machine: Callable[[Any, Any], None] = _machine(np.dtype(dtype).name)
    return machine


@cache
def _machine(name: str) -> Any:
    kind = getattr(types, name)
    scalar = np.dtype(name).type
    namespace: dict[str, Any] = {
        "__name__": __name__, "np": np, "pointer_to": pointer_to, "advanced": advanced,
        "zero": scalar(0), "one": scalar(1), **_functions(name), **_loops(name),
    }  # fmt: skip
    exec(_source(), namespace)
    function = namespace["machine"]
    function.__name__ = function.__qualname__ = f"machine_{name}"
    compiled = njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)
    compiled._cache = KernelCache(function)
    compiled.compile(types.void(types.Array(types.int64, 2, "C"), types.Array(kind, 1, "C")))
    return compiled


def _pointer_to(typing: Any, array: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, values[0]).data

    return types.CPointer(array.dtype)(array), emit


def _advanced(typing: Any, pointer: Any, count: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.gep(values[0], [values[1]])

    return pointer(pointer, types.intp), emit


# Pointers, as a slice of an array costs Numba more than the whole of a small instruction.
pointer_to: Any = intrinsic(_pointer_to)
advanced: Any = intrinsic(_advanced)


def _source() -> str:
    """The text of the machine: one branch for each operation."""
    bodies = {}
    for name, expression in UNARY.items():
        bodies[name] = [
            "a = c[3]",
            "for k in range(n):",
            "    x = arena[a + k]",
            f"    arena[out + k] = {expression}",
        ]
    for name, expression in ARITHMETIC.items():
        bodies[name] = [
            "a, b = c[3], c[5]",
            "if n == 1:",
            "    x, y = arena[a], arena[b]",
            f"    arena[out] = {expression}",
            "elif c[4] == 1 and c[6] == 1:",
            "    for k in range(n):",
            "        x, y = arena[a + k], arena[b + k]",
            f"        arena[out + k] = {expression}",
            "elif c[4] == 1:",
            "    y = arena[b]",
            "    for k in range(n):",
            "        x = arena[a + k]",
            f"        arena[out + k] = {expression}",
            "else:",
            "    x = arena[a]",
            "    for k in range(n):",
            "        y = arena[b + k]",
            f"        arena[out + k] = {expression}",
        ]
    for name, expression in CHOICES.items():
        bodies[name] = [
            "a, da, b, db = c[3], c[4], c[5], c[6]",
            "for k in range(n):",
            "    x, y = arena[a + k * da], arena[b + k * db]",
            f"    arena[out + k] = {expression}",
        ]
    bodies["where"] = [
        "t, dt, a, da, b, db = c[3], c[4], c[5], c[6], c[7], c[8]",
        "for k in range(n):",
        "    chosen = arena[t + k * dt] != zero",
        "    x, y = arena[a + k * da], arena[b + k * db]",
        "    arena[out + k] = x if chosen else y",
    ]
    bodies |= {name: [f"{name}_(c, arena)"] for name in OTHERS}
    lines = [
        "def machine(code, numbers):",
        "    c, arena = pointer_to(code), pointer_to(numbers)",
        "    for i in range(len(code)):",
        "        op, n, out = c[0], c[1], c[2]",
    ]
    for name, number in CODES.items():  # LLVM makes one jump of it
        lines.append(f"        {'el' if number else ''}if op == {number}:")
        lines.extend(" " * 12 + line for line in bodies[name])
    lines.append(f"        c = advanced(c, {WIDTH})")
    return "\n".join(lines)


@cache
def _loops(name: str) -> dict[str, Any]:
    """The operations that are more than one expression."""
    zero = np.dtype(name).type(0)
    jit = njit(error_model="numpy", fastmath={"contract"})

    @jit
    def copy(c, arena):  # type: ignore[no-untyped-def]
        for i in range(c[3]):
            for j in range(c[4]):
                for k in range(c[5]):
                    out = c[1] + i * c[7] + j * c[8] + k * c[9]
                    a = c[2] + i * c[11] + j * c[12] + k * c[13]
                    if c[10] == 1 and c[14] == 1:
                        for m in range(c[6]):
                            arena[out + m] = arena[a + m]
                    else:
                        for m in range(c[6]):
                            arena[out + m * c[10]] = arena[a + m * c[14]]

    @jit
    def fill(c, arena):  # type: ignore[no-untyped-def]
        out, x = c[2], arena[c[3]]
        for k in range(c[1]):
            arena[out + k] = x

    @jit
    def sums(c, arena):  # type: ignore[no-untyped-def]
        outer, reduced, inner = c[3], c[4], c[5]
        for i in range(outer):
            a, out = c[2] + i * reduced * inner, c[1] + i * inner
            if inner == 1:
                s0, s1, s2, s3 = zero, zero, zero, zero
                for j in range(0, reduced - 3, 4):
                    s0 += arena[a + j]
                    s1 += arena[a + j + 1]
                    s2 += arena[a + j + 2]
                    s3 += arena[a + j + 3]
                for j in range(reduced // 4 * 4, reduced):
                    s0 += arena[a + j]
                arena[out] = (s0 + s1) + (s2 + s3)
            else:
                for k in range(inner):
                    arena[out + k] = zero
                for j in range(reduced):
                    row = a + j * inner
                    for k in range(inner):
                        arena[out + k] += arena[row + k]

    @jit
    def largest(c, arena):  # type: ignore[no-untyped-def]
        outer, reduced, inner = c[3], c[4], c[5]
        for i in range(outer):
            for k in range(inner):
                best = arena[c[2] + i * reduced * inner + k]
                for j in range(1, reduced):
                    x = arena[c[2] + (i * reduced + j) * inner + k]
                    best = x if x > best or x != x else best
                arena[c[1] + i * inner + k] = best

    @jit
    def matmul(c, arena):  # type: ignore[no-untyped-def]
        rows, inner, columns = c[4], c[5], c[6]
        for i in range(rows):
            out = c[1] + i * columns
            a, da, b, db = c[2] + i * c[7], c[8], c[3], c[9]
            for k in range(columns):
                arena[out + k] = zero
            j = 0
            while j + 3 < inner:  # four rows of b at a time, for a fourth of the loads and stores
                x0, x1, x2, x3 = arena[a], arena[a + da], arena[a + 2 * da], arena[a + 3 * da]
                b1, b2, b3 = b + db, b + 2 * db, b + 3 * db
                for k in range(columns):
                    arena[out + k] += (x0 * arena[b + k] + x1 * arena[b1 + k]) + (
                        x2 * arena[b2 + k] + x3 * arena[b3 + k]
                    )
                a, b, j = a + 4 * da, b + 4 * db, j + 4
            while j < inner:
                x0 = arena[a]
                for k in range(columns):
                    arena[out + k] += x0 * arena[b + k]
                a, b, j = a + da, b + db, j + 1

    return {"copy_": copy, "fill_": fill, "sum_": sums, "max_": largest, "matmul_": matmul}


# -- functions without branches, which the compiler turns into vectors ------------------------------------------------
@cache
def _functions(name: str) -> dict[str, Any]:
    """exp, tanh, sigmoid: S. L. Moshier's Cephes library, to a few units in the last place."""
    jit = njit(error_model="numpy", fastmath={"contract"})
    exp = jit(_exp64 if name == "float64" else _exp32)
    scalar = np.dtype(name).type
    zero, one = scalar(0), scalar(1)

    @jit
    def tanh64(x):  # type: ignore[no-untyped-def]
        size = abs(x)
        outside = np.copysign(1.0 - 2.0 / (exp(size + size) + 1.0), x)
        s = x * x
        p = (-9.64399179425052238628e-1 * s - 9.92877231001918586564e1) * s - 1.61468768441708447952e3
        q = ((s + 1.12811678491632931402e2) * s + 2.23548839060100448583e3) * s + 4.84406305325125486048e3
        inside = x + x * s * (p / q)
        return inside if size < 0.625 else outside

    tanh = tanh64 if name == "float64" else jit(_tanh32)

    @jit
    def sigmoid(x):  # type: ignore[no-untyped-def]
        decay = exp(-abs(x))
        return (one if x >= zero else decay) / (one + decay)

    return {"exp": exp, "tanh": tanh, "sigmoid": sigmoid}


_LOG2_E = 1.4426950408889634
_ROUND64 = 6755399441055744.0  # 1.5 * 2^52: adding it rounds to an integer, found in the low bits
_ROUND64_BITS = int(np.float64(_ROUND64).view(np.int64))


def _exp64(x):  # type: ignore[no-untyped-def]
    bounded = min(max(x, -746.0), 710.0)
    shifted = bounded * _LOG2_E + _ROUND64
    k = shifted - _ROUND64
    power = np.float64(shifted).view(np.int64) - _ROUND64_BITS
    r = bounded - k * 6.93145751953125e-1
    r = r - k * 1.42860682030941723212e-6
    s = r * r
    p = r * ((1.26177193074810590878e-4 * s + 3.02994407707441961300e-2) * s + 9.99999999999999999910e-1)
    q = ((3.00198505138664455042e-6 * s + 2.52448340349684104192e-3) * s + 2.27265548208155028766e-1) * s + 2.0
    y = 1.0 + 2.0 * (p / (q - p))
    half = power >> 1  # in two factors, as 2^k itself may be out of range
    y = y * np.int64((half + 1023) << 52).view(np.float64) * np.int64((power - half + 1023) << 52).view(np.float64)
    return x if x != x else y


_LOW, _HIGH, _LOG2_E32, _ROUND32 = map(np.float32, (-87.34, 89.0, _LOG2_E, 12582912.0))
_ONE32, _TWO32 = np.float32(1.0), np.float32(2.0)
_LN2_HIGH, _LN2_LOW = map(np.float32, (0.693359375, -2.12194440e-4))
_P5, _P4, _P3 = map(np.float32, (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3))
_P2, _P1, _P0 = map(np.float32, (4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1))
_ROUND32_BITS = np.int32(_ROUND32.view(np.int32))


def _exp32(x):  # type: ignore[no-untyped-def]
    bounded = min(max(x, _LOW), _HIGH)
    shifted = bounded * _LOG2_E32 + _ROUND32
    k = shifted - _ROUND32
    power = np.int32(np.float32(shifted).view(np.int32) - _ROUND32_BITS)
    r = bounded - k * _LN2_HIGH
    r = r - k * _LN2_LOW
    y = ((((_P5 * r + _P4) * r + _P3) * r + _P2) * r + _P1) * r + _P0
    y = (y * r) * r + r + _ONE32
    # Half of 2^k, as 2^128 itself is out of range. Results below the normal numbers become 0.
    y = y * np.int32((power + 126) << 23).view(np.float32) * _TWO32
    return x if x != x else y


# A rational function through 0, as in Eigen: odd powers over even ones. Beyond the last bound, tanh is 1 in float32.
_A1, _A3, _A5, _A7 = map(
    np.float32, (4.89352455891786e-3, 6.37261928875436e-4, 1.48572235717979e-5, 5.12229709037114e-8)
)
_A9, _A11, _A13 = map(np.float32, (-8.60467152213735e-11, 2.00018790482477e-13, -2.76076847742355e-16))
_B0, _B2, _B4, _B6 = map(
    np.float32, (4.89352518554385e-3, 2.26843463243900e-3, 1.18534705686654e-4, 1.19825839466702e-6)
)
_TANH_END, _TANH_START = np.float32(7.90531110763549805), np.float32(4e-4)


def _tanh32(x):  # type: ignore[no-untyped-def]
    b = min(max(x, -_TANH_END), _TANH_END)
    s = b * b
    p = b * ((((((_A13 * s + _A11) * s + _A9) * s + _A7) * s + _A5) * s + _A3) * s + _A1)
    y = p / (((_B6 * s + _B4) * s + _B2) * s + _B0)
    return x if abs(x) < _TANH_START or x != x else y
