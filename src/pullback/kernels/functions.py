"""exp, tanh, log and their like as LLVM instructions, the same text for one number and for a vector of them.

The polynomials are those of S. L. Moshier's Cephes library, the float32 tanh is that of Eigen: each to a few units in
the last place, without branches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir

from pullback.kernels.instructions import call
from pullback.kernels.target import MACHINE

_FLAGS = ("contract",)


class Number:
    """A value in a function that is being built: its operators emit instructions, and Python numbers are constants."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @property
    def type(self) -> Any:
        return self.value.type

    @property
    def double(self) -> bool:
        return isinstance(_element(self.type), ir.DoubleType)

    def of(self, other: Any) -> Number:
        """Another number of this one's type: a constant in every lane."""
        if isinstance(other, Number):
            return other
        return Number(self.builder, constant(self.type, other))

    def _with(self, instruction: str, left: Any, right: Any) -> Number:
        emit = getattr(self.builder, instruction)
        return Number(self.builder, emit(self.of(left).value, self.of(right).value, flags=_FLAGS))

    def __add__(self, other: Any) -> Number:
        return self._with("fadd", self, other)

    def __radd__(self, other: Any) -> Number:
        return self._with("fadd", other, self)

    def __sub__(self, other: Any) -> Number:
        return self._with("fsub", self, other)

    def __rsub__(self, other: Any) -> Number:
        return self._with("fsub", other, self)

    def __mul__(self, other: Any) -> Number:
        return self._with("fmul", self, other)

    def __rmul__(self, other: Any) -> Number:
        return self._with("fmul", other, self)

    def __truediv__(self, other: Any) -> Number:
        return self._with("fdiv", self, other)

    def __rtruediv__(self, other: Any) -> Number:
        return self._with("fdiv", other, self)

    def __neg__(self) -> Number:
        return Number(self.builder, self.builder.fneg(self.value))

    def compare(self, relation: str, other: Any) -> Any:
        """A truth value in every lane; a NaN is unequal to all, and otherwise not in any relation."""
        kind = self.builder.fcmp_unordered if relation == "!=" else self.builder.fcmp_ordered
        return kind(relation, self.value, self.of(other).value)

    def where(self, mask: Any, other: Any) -> Number:
        """This one where the mask is true, else the other."""
        return Number(self.builder, self.builder.select(mask, self.value, self.of(other).value))

    def call(self, name: str, *others: Any) -> Number:
        """An intrinsic of LLVM, such as "sqrt"."""
        arguments = [self.value, *(self.of(other).value for other in others)]
        return Number(self.builder, call(self.builder, f"llvm.{name}.{_suffix(self.type)}", self.type, *arguments))

    def bounded(self, low: float, high: float) -> Number:
        """Between two bounds; NaN becomes one of them."""
        upper = self.where(self.compare(">", low), low)
        return upper.where(upper.compare("<", high), high)


def constant(kind: Any, value: float) -> Any:
    """A constant in every lane, rounded to the type."""
    element = _element(kind)
    rounded = float(np.float32(value)) if isinstance(element, ir.FloatType) else float(value)
    return ir.Constant(kind, [rounded] * kind.count if isinstance(kind, ir.VectorType) else rounded)


def _element(kind: Any) -> Any:
    return kind.element if isinstance(kind, ir.VectorType) else kind


def _suffix(kind: Any) -> str:
    name = "f32" if isinstance(_element(kind), ir.FloatType) else "f64"
    return f"v{kind.count}{name}" if isinstance(kind, ir.VectorType) else name


def _integers(kind: Any, bits: int) -> Any:
    integer = ir.IntType(bits)
    return ir.VectorType(integer, kind.count) if isinstance(kind, ir.VectorType) else integer


def multiply_add(x: Number, y: Any, total: Number) -> Number:
    """x y + total, rounded once where the CPU can: `llvm.fma` would else become a call of the C library."""
    return x.call("fma", y, total) if MACHINE.fma else x * y + total


def _polynomial(x: Number, coefficients: Sequence[float]) -> Number:
    """Horner's scheme, from the highest power, by fused multiply-adds where the CPU has them."""
    total = x.of(coefficients[0])
    for coefficient in coefficients[1:]:
        total = multiply_add(total, x, x.of(coefficient))
    return total


# -- exp and what is made of it --------------------------------------------------------------------------------------
def exp(x: Number) -> Number:
    """e^x: 2^k, k an integer, times the exponential of what is left. In float32, subnormal results are 0."""
    y = _exp64(x) if x.double else _exp32(x)
    return x.where(x.compare("!=", x), y)


def _exp32(x: Number) -> Number:
    b = x.bounded(-87.34, 89.0)
    shifted = b * math.log2(math.e) + 12582912.0  # 1.5 * 2^23: adding it rounds to an integer, found in the low bits
    k = shifted - 12582912.0
    r = b - k * 0.693359375
    r = r - k * -2.12194440e-4
    p = [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]
    y = _polynomial(r, p) * (r * r) + r + 1.0
    # Half of 2^k, as 2^128 itself is out of range.
    return y * _power_of_two(shifted, 12582912.0, 126) * 2.0


def _exp64(x: Number) -> Number:
    b = x.bounded(-746.0, 710.0)
    shifted = b * math.log2(math.e) + 6755399441055744.0  # 1.5 * 2^52
    k = shifted - 6755399441055744.0
    r = b - k * 6.93145751953125e-1
    r = r - k * 1.42860682030941723212e-6
    s = r * r
    p = r * _polynomial(s, [1.26177193074810590878e-4, 3.02994407707441961300e-2, 9.99999999999999999910e-1])
    q = [3.00198505138664455042e-6, 2.52448340349684104192e-3, 2.27265548208155028766e-1, 2.0]
    y = 1.0 + 2.0 * (p / (_polynomial(s, q) - p))
    # In two factors, as 2^k itself may be out of range.
    builder, kind = x.builder, _integers(x.type, 64)
    power = _rounded_bits(shifted, 6755399441055744.0)
    half = builder.ashr(power, ir.Constant(kind, _lanes(kind, 1)))
    return y * _scale(x, half, 1023) * _scale(x, builder.sub(power, half), 1023)


def _lanes(kind: Any, value: int) -> Any:
    return [value] * kind.count if isinstance(kind, ir.VectorType) else value


def _rounded_bits(shifted: Number, offset: float) -> Any:
    """The integer that `offset` was added to, as an integer."""
    bits = 64 if shifted.double else 32
    kind = _integers(shifted.type, bits)
    as_float = np.float64(offset).view(np.int64) if bits == 64 else np.float32(offset).view(np.int32)
    builder = shifted.builder
    return builder.sub(builder.bitcast(shifted.value, kind), ir.Constant(kind, _lanes(kind, int(as_float))))


def _scale(like: Number, power: Any, bias: int) -> Number:
    """2^(power + bias - the bias of the type), made of its bits."""
    kind, mantissa = power.type, 52 if like.double else 23
    builder = like.builder
    biased = builder.add(power, ir.Constant(kind, _lanes(kind, bias)))
    bits = builder.shl(biased, ir.Constant(kind, _lanes(kind, mantissa)))
    return Number(builder, builder.bitcast(bits, like.type))


def _power_of_two(shifted: Number, offset: float, bias: int) -> Number:
    return _scale(shifted, _rounded_bits(shifted, offset), bias)


def sigmoid(x: Number) -> Number:
    """1 / (1 + e^-x), from the exponential that does not overflow."""
    decay = exp(-x.call("fabs"))
    return x.of(1.0).where(x.compare(">=", 0.0), decay) / (1.0 + decay)


def tanh(x: Number) -> Number:
    """The hyperbolic tangent."""
    return _tanh64(x) if x.double else _tanh32(x)


def _tanh32(x: Number) -> Number:
    """A rational function through 0: odd powers over even ones. Beyond the bound, tanh is 1 in float32."""
    b = x.bounded(-7.90531110763549805, 7.90531110763549805)
    s = b * b
    p = [
        -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-8,
        1.48572235717979e-5, 6.37261928875436e-4, 4.89352455891786e-3,
    ]  # fmt: skip
    q = [1.19825839466702e-6, 1.18534705686654e-4, 2.26843463243900e-3, 4.89352518554385e-3]
    y = b * _polynomial(s, p) / _polynomial(s, q)
    y = x.where(x.call("fabs").compare("<", 4e-4), y)
    return x.where(x.compare("!=", x), y)


def _tanh64(x: Number) -> Number:
    size = x.call("fabs")
    outside = (1.0 - 2.0 / (exp(size + size) + 1.0)).call("copysign", x)
    s = x * x
    p = [-9.64399179425052238628e-1, -9.92877231001918586564e1, -1.61468768441708447952e3]
    q = [1.0, 1.12811678491632931402e2, 2.23548839060100448583e3, 4.84406305325125486048e3]
    inside = x + x * s * (_polynomial(s, p) / _polynomial(s, q))
    return inside.where(size.compare("<", 0.625), outside)


# -- others ----------------------------------------------------------------------------------------------------------
def sign(x: Number) -> Number:
    """-1, 0 or 1; NaN of NaN, and the zero itself of a zero."""
    return x.of(1.0).call("copysign", x).where(x.call("fabs").compare(">", 0.0), x)


def maximum(x: Number, y: Number) -> Number:
    """The larger; NaN if either is."""
    return x.where(x.builder.or_(x.compare(">=", y), x.compare("!=", x)), y)


def minimum(x: Number, y: Number) -> Number:
    """The smaller; NaN if either is."""
    return x.where(x.builder.or_(x.compare("<=", y), x.compare("!=", x)), y)


def one_by_one(name: str) -> Callable[..., Number]:
    """The function of the C library for every lane."""

    def emit(x: Number, *others: Number) -> Number:
        if not isinstance(x.type, ir.VectorType):
            return x.call(name, *others)
        result = ir.Constant(x.type, ir.Undefined)
        for lane in range(x.type.count):
            index = ir.Constant(ir.IntType(32), lane)
            first, *rest = (Number(x.builder, x.builder.extract_element(each.value, index)) for each in (x, *others))
            result = x.builder.insert_element(result, first.call(name, *rest).value, index)
        return Number(x.builder, result)

    return emit


FUNCTIONS: dict[str, Callable[..., Number]] = {
    "add": lambda x, y: x + y, "subtract": lambda x, y: x - y, "multiply": lambda x, y: x * y,
    "divide": lambda x, y: x / y, "maximum": maximum, "minimum": minimum, "power": one_by_one("pow"),
    "negative": lambda x: -x, "absolute": lambda x: x.call("fabs"), "sqrt": lambda x: x.call("sqrt"), "sign": sign,
    "exp": exp, "tanh": tanh, "sigmoid": sigmoid,
    "log": one_by_one("log"), "sin": one_by_one("sin"), "cos": one_by_one("cos"),
}  # fmt: skip
"""What a loop may do with numbers, by the name of the primitive."""
RELATIONS = {
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
}  # fmt: skip
"""Comparisons, whose results are truth values."""
