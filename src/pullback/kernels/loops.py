"""Loops that are generated for a chain of elementwise operations: one pass over the arrays, in vectors, on all threads.

A loop is described by its text (`Loop`), from which LLVM instructions are written; its machine code takes LLVM some
hundredths of a second, and is kept on disk beside the other kernels.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir

from pullback.kernels import instructions, runtime
from pullback.kernels.emitter import Emitter, compiled
from pullback.kernels.functions import Number, constant
from pullback.kernels.instructions import BYTE, INTEGER, integer
from pullback.kernels.target import Loaded

THREADED = 1 << 15
"""Elements from which on a loop runs on all threads: below, starting them takes longer."""
_SHARE = 64  # elements: a thread's share begins at a multiple, so that no two write to one cache line


class Loop(NamedTuple):
    """A chain of operations on the elements of arrays `(rows, columns)`.

    Values are numbered: the inputs, then the result of each step. An operand that is a text is a constant, as by
    `float.hex`: as a number it would be equal to the value of that number, and -0.0 to 0.0.
    """

    dtype: str
    """"float32" or "float64"."""
    inputs: tuple[str, ...]
    """Of each: "array", "mask" (an array of truth values), "row" (the same for all rows) or "number"."""
    steps: tuple[tuple[str, tuple[int | str, ...]], ...]
    outputs: tuple[int, ...]
    """The values that are stored, each in an array; truth values as bytes."""

    @property
    def rowwise(self) -> bool:
        """Whether rows matter; else the arrays are taken as one row."""
        return "row" in self.inputs


def run(loop: Loop, values: Sequence[Any], outs: Sequence[Any]) -> None:
    """Writes the outputs of the loop for these inputs into arrays of one shape, contiguous, of the loop's dtype."""
    made = _compiled(loop)
    rows, columns = 1, outs[0].size
    if loop.rowwise:
        columns = outs[0].shape[-1]
        rows = outs[0].size // columns
    kept, coded = [], []
    for kind, value in zip(loop.inputs, values, strict=True):
        if kind == "number":
            coded.append(float(value.item() if isinstance(value, np.ndarray) else value))
        else:
            dense = np.ascontiguousarray(value)
            kept.append(dense)
            coded.append(id(dense))
    arguments = made.pack(rows, columns, *coded, *map(id, outs))
    if outs[0].size >= THREADED:
        runtime.launch(made.code.address, arguments)
    else:
        made.code.call(0, 1, arguments)


class _Made(NamedTuple):
    code: Loaded
    pack: Callable[..., bytes]


@cache
def _compiled(loop: Loop) -> _Made:
    form = "qq" + "".join("d" if kind == "number" else "q" for kind in loop.inputs) + "q" * len(loop.outputs)
    return _Made(compiled("loop", repr(loop), lambda name: _Writer(name, loop)), struct.Struct(form).pack)


# -- instructions ----------------------------------------------------------------------------------------------------
class _Writer(Emitter):
    """The function `name(thread, threads, bits)`; bits: rows, columns, inputs and outputs as NumPy's objects,
    numbers."""

    def __init__(self, name: str, loop: Loop) -> None:
        super().__init__(name, loop.dtype, [INTEGER, INTEGER, INTEGER.as_pointer()])
        self.form = loop
        self.thread, self.threads, self.bits = self.arguments
        self._write()

    def _write(self) -> None:
        builder, form = self.builder, self.form
        rows, columns = self._argument(0), self._argument(1)
        self.inputs = [self._input(2 + k, kind) for k, kind in enumerate(form.inputs)]
        first = 2 + len(form.inputs)
        self.outputs = [
            instructions.data_of(builder, self._argument(first + k), BYTE) for k in range(len(form.outputs))
        ]
        shared = rows if form.rowwise else columns
        start, stop = self._portion(shared, 1 if form.rowwise else _SHARE)
        first_row, last_row = (start, stop) if form.rowwise else (integer(0), integer(1))
        begin, end = (integer(0), columns) if form.rowwise else (start, stop)

        def over_columns(row: Any) -> None:
            base = builder.mul(row, columns)
            whole = builder.sub(end, builder.srem(builder.sub(end, begin), integer(self.width)))
            self.loop(begin, whole, self.width, lambda column: self._body(base, column, None))
            rest = builder.sub(end, whole)
            with builder.if_then(builder.icmp_signed(">", rest, integer(0))):
                self._body(base, whole, rest)

        self.loop(first_row, last_row, 1, over_columns)
        builder.ret_void()

    def _argument(self, index: int) -> Any:
        return self.builder.load(self.builder.gep(self.bits, [integer(index)]))

    def _input(self, index: int, kind: str) -> Any:
        """A pointer, or a number in every lane."""
        bits = self._argument(index)
        if kind != "number":
            return instructions.data_of(self.builder, bits, BYTE if kind == "mask" else self.element)
        value = self.builder.bitcast(bits, ir.DoubleType())
        if isinstance(self.element, ir.FloatType):
            value = self.builder.fptrunc(value, self.element)
        return Number(self.builder, self.splat(value))

    def _portion(self, count: Any, unit: int) -> tuple[Any, Any]:
        """The share of this thread, from a multiple of `unit` on."""
        builder = self.builder
        units = builder.sdiv(builder.add(count, integer(unit - 1)), integer(unit))

        def border(thread: Any) -> Any:
            at = builder.mul(builder.sdiv(builder.mul(units, thread), self.threads), integer(unit))
            return builder.select(builder.icmp_signed("<", at, count), at, count)

        return border(self.thread), border(builder.add(self.thread, integer(1)))

    def _body(self, base: Any, column: Any, count: Any) -> None:
        """All steps for one vector of elements, or for the first `count` of them."""
        builder = self.builder
        at = builder.add(base, column)
        mask = None if count is None else self.first_lanes(count)
        values: list[Any] = []
        for kind, source in zip(self.form.inputs, self.inputs, strict=True):
            if kind == "number":
                values.append(source)
            elif kind == "mask":
                loaded = self.load(source, at, ir.VectorType(BYTE, self.width), mask)
                values.append(builder.icmp_signed("!=", loaded, ir.Constant(loaded.type, None)))
            else:
                values.append(Number(builder, self.load(source, column if kind == "row" else at, mask=mask)))
        for name, operands in self.form.steps:
            values.append(self.apply(name, [self._operand(each, values) for each in operands]))
        for place, out in zip(self.form.outputs, self.outputs, strict=True):
            value = values[place]
            if isinstance(value, Number):
                self.store(value.value, builder.bitcast(out, self.element.as_pointer()), at, mask)
            else:
                self.store(builder.zext(value, ir.VectorType(BYTE, self.width)), out, at, mask)

    def _operand(self, operand: int | str, values: list[Any]) -> Any:
        if isinstance(operand, str):
            return Number(self.builder, constant(self.vector, float.fromhex(operand)))
        return values[operand]
