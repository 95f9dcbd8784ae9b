"""LLVM instructions by the handful: what intrinsics of kernels (`simd.py`) and whole functions (`emitter.py`) emit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir

from pullback.kernels.target import HEAD

INTEGER, BYTE, FLOAT, VOID = ir.IntType(64), ir.IntType(8), ir.FloatType(), ir.VoidType()
LANE = ir.IntType(32)
"""The type of the number of a lane."""


def integer(value: int) -> Any:
    """A constant."""
    return ir.Constant(INTEGER, value)


def call(builder: Any, name: str, result: Any, *arguments: Any) -> Any:
    """A call of a function that LLVM or the process knows by name; it is declared in the module when first used."""
    function = builder.module.globals.get(name)
    if function is None:
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        function = ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def data_of(builder: Any, array: Any, element: Any) -> Any:
    """The pointer to the elements of an array, which is given by the address of NumPy's object."""
    place = builder.inttoptr(builder.add(array, integer(HEAD)), element.as_pointer().as_pointer())
    return builder.load(place)


def room(builder: Any, kind: Any) -> Any:
    """Memory for a value, one for each call of the function and not for each turn of a loop."""
    with builder.goto_entry_block():
        return builder.alloca(kind)


def splat(builder: Any, scalar: Any, kind: Any) -> Any:
    """A number in every lane of a vector."""
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(LANE, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(LANE, kind.count), None))


def first_lanes(builder: Any, count: Any, width: int) -> Any:
    """The mask that is true in the first `count` (64 bits) of `width` lanes."""
    kind = ir.VectorType(LANE, width)
    lanes = ir.Constant(kind, list(range(width)))
    return builder.icmp_signed("<", lanes, splat(builder, builder.trunc(count, LANE), kind))


def load(builder: Any, pointer: Any, kind: Any, mask: Any = None) -> Any:
    """The vector at a pointer; where a mask is false, zeros, and the memory there is not touched."""
    place = builder.bitcast(pointer, kind.as_pointer())
    align = _size(kind.element)
    if mask is None:
        return builder.load(place, align=align)
    name = f"llvm.masked.load.{_name(kind)}.p0{_name(kind)}"
    return call(builder, name, kind, place, ir.Constant(LANE, align), mask, ir.Constant(kind, None))


def store(builder: Any, value: Any, pointer: Any, mask: Any = None) -> None:
    """A vector to a pointer, or the lanes of it where a mask is true."""
    kind = value.type
    place = builder.bitcast(pointer, kind.as_pointer())
    align = _size(kind.element)
    if mask is None:
        builder.store(value, place, align=align)
        return
    name = f"llvm.masked.store.{_name(kind)}.p0{_name(kind)}"
    call(builder, name, VOID, value, place, ir.Constant(LANE, align), mask)


def across(builder: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """All lanes of a vector joined to one number, by halves."""
    width = value.type.count
    half = width // 2
    while half:
        order = [(lane + half) % width for lane in range(width)]
        lanes = ir.Constant(ir.VectorType(LANE, width), order)
        value = join(value, builder.shuffle_vector(value, value, lanes))
        half //= 2
    return builder.extract_element(value, ir.Constant(LANE, 0))


def _size(element: Any) -> int:
    return {ir.FloatType: 4, ir.DoubleType: 8}.get(type(element), 1)


def _name(kind: Any) -> str:
    return f"v{kind.count}" + {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(kind.element), "i8")
