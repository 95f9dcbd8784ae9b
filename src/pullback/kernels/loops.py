"""Loops that are generated for a chain of elementwise operations: one pass over the arrays, in vectors, on all threads.

A loop is described by its text (`Loop`), from which LLVM instructions are written; its machine code takes LLVM some
hundredths of a second, and is kept on disk beside the other kernels.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba.core.registry import cpu_target

from pullback import files
from pullback.errors import RunError
from pullback.kernels import runtime
from pullback.kernels.cache import folder, warn_once, with_digest, without_digest
from pullback.kernels.functions import FUNCTIONS, RELATIONS, Number, constant, declare
from pullback.kernels.simd import WIDTH

THREADED = 1 << 15
"""Elements from which on a loop runs on all threads: below, starting them takes longer."""
_SHARE = 64  # elements: a thread's share begins at a multiple, so that no two write to one cache line

_INTEGER, _BYTE, _BIT = ir.IntType(64), ir.IntType(8), ir.IntType(1)


class Loop(NamedTuple):
    """A chain of operations on the elements of arrays `(rows, columns)`.

    Values are numbered: the inputs, then the result of each step. An operand that is a float is a constant.
    """

    dtype: str
    """"float32" or "float64"."""
    inputs: tuple[str, ...]
    """Of each: "array", "mask" (an array of truth values), "row" (the same for all rows) or "number"."""
    steps: tuple[tuple[str, tuple[int | float, ...]], ...]
    outputs: tuple[int, ...]
    """The values that are stored, each in an array; truth values as bytes."""

    @property
    def rowwise(self) -> bool:
        """Whether rows matter; else the arrays are taken as one row."""
        return "row" in self.inputs


def run(loop: Loop, values: Sequence[Any], outs: Sequence[Any]) -> None:
    """Writes the outputs of the loop for these inputs into arrays of one shape, contiguous, of the loop's dtype."""
    entry = _compiled(loop)
    rows, columns = 1, outs[0].size
    if loop.rowwise:
        columns = outs[0].shape[-1]
        rows = outs[0].size // columns
    kept, bits = [], [rows, columns]
    for kind, value in zip(loop.inputs, values, strict=True):
        if kind == "number":
            bits.append(int(np.float64(np.asarray(value).reshape(())).view(np.int64)))
        else:
            dense = np.ascontiguousarray(value)
            kept.append(dense)
            bits.append(dense.ctypes.data)
    bits.extend(out.ctypes.data for out in outs)
    arguments = np.array(bits, np.int64)
    if outs[0].size >= THREADED:
        runtime.launch(entry.address, arguments)
    else:
        entry.call(0, 1, arguments.ctypes.data)


# -- machine code ----------------------------------------------------------------------------------------------------
class _Entry(NamedTuple):
    address: int
    call: Any
    engine: Any  # which owns the code


@cache
def _compiled(loop: Loop) -> _Entry:
    text = str(_Writer(loop).module)
    module = llvm.parse_assembly(text)
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    machine = llvm.Target.from_triple(module.triple).create_target_machine(cpu=cpu, features=features, opt=3)
    engine = llvm.create_mcjit_compiler(module, machine)
    name = hashlib.sha256(f"{llvmlite.__version__} {text}".encode()).hexdigest()[:24]
    engine.set_object_cache(lambda module, code: _keep(name, code), lambda module: _kept(name))
    engine.finalize_object()
    address = engine.get_function_address("loop")
    call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)
    return _Entry(address, call, engine)


def _kept(name: str) -> bytes | None:
    """The machine code on disk, if it is there and whole."""
    try:
        return without_digest((folder() / f"loop-{name}.o").read_bytes())
    except OSError:
        return None


def _keep(name: str, code: bytes) -> None:
    try:
        folder().mkdir(parents=True, exist_ok=True)
        files.replace(folder() / f"loop-{name}.o", with_digest(code))
    except (OSError, RunError) as error:
        warn_once(f"the kernel cache {folder()} cannot be written ({error})")


# -- instructions ----------------------------------------------------------------------------------------------------
class _Writer:
    """The function `loop(thread, threads, bits)`; bits: rows, columns, inputs and outputs by address, numbers."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.element = ir.DoubleType() if loop.dtype == "float64" else ir.FloatType()
        self.width = WIDTH // 2 if loop.dtype == "float64" else WIDTH
        self.vector = ir.VectorType(self.element, self.width)
        self.module = ir.Module("loop")
        self.module.triple = llvm.get_process_triple()
        kind = ir.FunctionType(ir.VoidType(), [_INTEGER, _INTEGER, _INTEGER.as_pointer()])
        function = ir.Function(self.module, kind, "loop")
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))
        self.thread, self.threads, self.bits = function.args
        self._write()

    def _write(self) -> None:
        builder, loop = self.builder, self.loop
        rows, columns = self._argument(0), self._argument(1)
        self.inputs = [self._input(2 + k, kind) for k, kind in enumerate(loop.inputs)]
        first = 2 + len(loop.inputs)
        self.outputs = [
            builder.inttoptr(self._argument(first + k), _BYTE.as_pointer()) for k in range(len(loop.outputs))
        ]
        shared = rows if loop.rowwise else columns
        start, stop = self._portion(shared, 1 if loop.rowwise else _SHARE)
        first_row, last_row = (start, stop) if loop.rowwise else (_int(0), _int(1))
        begin, end = (_int(0), columns) if loop.rowwise else (start, stop)

        def over_columns(row: Any) -> None:
            base = builder.mul(row, columns)
            whole = builder.sub(end, builder.srem(builder.sub(end, begin), _int(self.width)))
            self._for(begin, whole, self.width, lambda column: self._body(base, column, None))
            rest = builder.sub(end, whole)
            with builder.if_then(builder.icmp_signed(">", rest, _int(0))):
                self._body(base, whole, rest)

        self._for(first_row, last_row, 1, over_columns)
        builder.ret_void()

    def _argument(self, index: int) -> Any:
        return self.builder.load(self.builder.gep(self.bits, [_int(index)]))

    def _input(self, index: int, kind: str) -> Any:
        """A pointer, or a number in every lane."""
        bits = self._argument(index)
        if kind != "number":
            return self.builder.inttoptr(bits, (_BYTE if kind == "mask" else self.element).as_pointer())
        value = self.builder.bitcast(bits, ir.DoubleType())
        if isinstance(self.element, ir.FloatType):
            value = self.builder.fptrunc(value, self.element)
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
        return Number(self.builder, self.builder.shuffle_vector(first, undefined, lanes))

    def _portion(self, count: Any, unit: int) -> tuple[Any, Any]:
        """The share of this thread, from a multiple of `unit` on."""
        builder = self.builder
        units = builder.sdiv(builder.add(count, _int(unit - 1)), _int(unit))

        def border(thread: Any) -> Any:
            at = builder.mul(builder.sdiv(builder.mul(units, thread), self.threads), _int(unit))
            return builder.select(builder.icmp_signed("<", at, count), at, count)

        return border(self.thread), border(builder.add(self.thread, _int(1)))

    def _for(self, start: Any, stop: Any, step: int, body: Any) -> None:
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        counter = builder.phi(_INTEGER)
        counter.add_incoming(start, before)
        builder.cbranch(builder.icmp_signed("<", counter, stop), inside, after)
        builder.position_at_end(inside)
        body(counter)
        counter.add_incoming(builder.add(counter, _int(step)), builder.block)
        builder.branch(head)
        builder.position_at_end(after)

    def _body(self, base: Any, column: Any, count: Any) -> None:
        """All steps for one vector of elements, or for the first `count` of them."""
        builder = self.builder
        at = builder.add(base, column)
        mask = None if count is None else self._first_lanes(count)
        values: list[Any] = []
        for kind, source in zip(self.loop.inputs, self.inputs, strict=True):
            if kind == "number":
                values.append(source)
            elif kind == "mask":
                loaded = self._load(source, at, ir.VectorType(_BYTE, self.width), mask)
                values.append(builder.icmp_signed("!=", loaded, ir.Constant(loaded.type, None)))
            else:
                values.append(Number(builder, self._load(source, column if kind == "row" else at, self.vector, mask)))
        for name, operands in self.loop.steps:
            values.append(self._apply(name, [self._operand(each, values) for each in operands]))
        for place, out in zip(self.loop.outputs, self.outputs, strict=True):
            value = values[place]
            if isinstance(value, Number):
                self._store(value.value, builder.bitcast(out, self.element.as_pointer()), at, mask)
            else:
                self._store(builder.zext(value, ir.VectorType(_BYTE, self.width)), out, at, mask)

    def _operand(self, operand: int | float, values: list[Any]) -> Any:
        if isinstance(operand, float):
            return Number(self.builder, constant(self.vector, operand))
        return values[operand]

    def _apply(self, name: str, operands: list[Any]) -> Any:
        builder = self.builder
        if name in RELATIONS:
            return self._number(operands[0]).compare(RELATIONS[name], self._number(operands[1]))
        if name == "where":
            return self._number(operands[1]).where(self._mask(operands[0]), self._number(operands[2]))
        if name == "number":
            return self._number(operands[0])
        if name == "not":
            return builder.not_(self._mask(operands[0]))
        if name in ("and", "or"):
            return getattr(builder, f"{name}_")(*map(self._mask, operands))
        return FUNCTIONS[name](*map(self._number, operands))

    def _number(self, value: Any) -> Number:
        """A truth value as 0 or 1."""
        if isinstance(value, Number):
            return value
        return Number(self.builder, constant(self.vector, 1.0)).where(value, 0.0)

    def _mask(self, value: Any) -> Any:
        return value.compare("!=", 0.0) if isinstance(value, Number) else value

    def _first_lanes(self, count: Any) -> Any:
        lanes = ir.VectorType(_INTEGER, self.width)
        undefined = ir.Constant(lanes, ir.Undefined)
        first = self.builder.insert_element(undefined, count, ir.Constant(ir.IntType(32), 0))
        every = ir.Constant(ir.VectorType(ir.IntType(32), self.width), None)
        counts = self.builder.shuffle_vector(first, undefined, every)
        return self.builder.icmp_signed("<", ir.Constant(lanes, list(range(self.width))), counts)

    def _load(self, pointer: Any, at: Any, kind: Any, mask: Any) -> Any:
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), kind.as_pointer())
        align = _size(kind.element)
        if mask is None:
            return self.builder.load(place, align=align)
        name = f"llvm.masked.load.{_name(kind)}.p0{_name(kind)}"
        arguments = [place, ir.Constant(ir.IntType(32), align), mask, ir.Constant(kind, None)]
        function = declare(self.module, name, ir.FunctionType(kind, [each.type for each in arguments]))
        return self.builder.call(function, arguments)

    def _store(self, value: Any, pointer: Any, at: Any, mask: Any) -> None:
        kind = value.type
        place = self.builder.bitcast(self.builder.gep(pointer, [at]), kind.as_pointer())
        align = _size(kind.element)
        if mask is None:
            self.builder.store(value, place, align=align)
            return
        name = f"llvm.masked.store.{_name(kind)}.p0{_name(kind)}"
        arguments = [value, place, ir.Constant(ir.IntType(32), align), mask]
        function = declare(self.module, name, ir.FunctionType(ir.VoidType(), [each.type for each in arguments]))
        self.builder.call(function, arguments)


def _int(value: int) -> Any:
    return ir.Constant(_INTEGER, value)


def _size(element: Any) -> int:
    return {ir.FloatType: 4, ir.DoubleType: 8}.get(type(element), 1)


def _name(kind: Any) -> str:
    return f"v{kind.count}" + {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(kind.element), "i8")
