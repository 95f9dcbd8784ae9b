"""What functions written as LLVM instructions share: loops, vectors in memory, and machine code kept on disk."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir
from numba.core.registry import cpu_target

from pullback import files
from pullback.errors import RunError
from pullback.kernels.cache import folder, warn_once, with_digest, without_digest
from pullback.kernels.functions import FUNCTIONS, RELATIONS, Number, constant, declare
from pullback.kernels.simd import WIDTH

INTEGER, BYTE, _LANE = ir.IntType(64), ir.IntType(8), ir.IntType(32)


class Emitter:
    """A function `void name(arguments)` in a module of its own, and the instructions that are put in it.

    `element` is float32 or float64, `vector` a vector of `width` of them.
    """

    def __init__(self, name: str, dtype: str, arguments: Sequence[Any]) -> None:
        self.element = element_type(dtype)
        self.width = lanes(dtype)
        self.vector = ir.VectorType(self.element, self.width)
        self.module = ir.Module(name)
        self.module.triple = llvm.get_process_triple()
        function = ir.Function(self.module, ir.FunctionType(ir.VoidType(), arguments), name)
        self.arguments = function.args
        self.builder = ir.IRBuilder(function.append_basic_block("entry"))

    def loop(
        self, start: Any, stop: Any, step: int, body: Callable[..., Sequence[Any] | None], carried: Sequence[Any] = ()
    ) -> list[Any]:
        """`for counter in range(start, stop, step)`, with values that each turn passes to the next, and the last out.

        `body(counter, *carried)` emits a turn and returns the new values.
        """
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "body", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        phis = [builder.phi(value.type) for value in (start, *carried)]
        for phi, value in zip(phis, (start, *carried), strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", phis[0], stop), inside, after)
        builder.position_at_end(inside)
        following = [builder.add(phis[0], integer(step)), *(body(*phis) or ())]
        for phi, value in zip(phis, following, strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(after)
        return phis[1:]

    def apply(self, name: str, operands: Sequence[Any], kind: Any = None) -> Any:
        """An elementwise operation on Numbers and truth values of one type, the vector if it is not given."""
        builder = self.builder
        numbers = [self.number(each, kind) for each in operands]
        if name in RELATIONS:
            return numbers[0].compare(RELATIONS[name], numbers[1])
        if name == "where":
            return numbers[1].where(self._mask(operands[0]), numbers[2])
        if name == "number":
            return numbers[0]
        if name == "not":
            return builder.not_(self._mask(operands[0]))
        if name in ("and", "or"):
            return getattr(builder, f"{name}_")(*map(self._mask, operands))
        return FUNCTIONS[name](*numbers)

    def number(self, value: Any, kind: Any = None) -> Number:
        """A truth value as 0 or 1."""
        if isinstance(value, Number):
            return value
        return Number(self.builder, constant(kind or self.vector, 1.0)).where(value, 0.0)

    def _mask(self, value: Any) -> Any:
        return value.compare("!=", 0.0) if isinstance(value, Number) else value

    def splat(self, value: Any, kind: Any = None) -> Any:
        """A number in every lane."""
        kind = kind or self.vector
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.builder.insert_element(undefined, value, ir.Constant(_LANE, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_LANE, kind.count), None))

    def first_lanes(self, count: Any) -> Any:
        """The mask that is true in the first `count` lanes."""
        kind = ir.VectorType(INTEGER, self.width)
        return self.builder.icmp_signed("<", ir.Constant(kind, list(range(self.width))), self.splat(count, kind))

    def load(self, pointer: Any, at: Any, kind: Any = None, mask: Any = None) -> Any:
        """The vector from an element on; where a mask is false, zeros, and the memory there is not touched."""
        builder = self.builder
        kind = kind or self.vector
        place = builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer())
        align = _size(kind.element)
        if mask is None:
            return builder.load(place, align=align)
        name = f"llvm.masked.load.{_name(kind)}.p0{_name(kind)}"
        arguments = [place, ir.Constant(_LANE, align), mask, ir.Constant(kind, None)]
        function = declare(self.module, name, ir.FunctionType(kind, [each.type for each in arguments]))
        return builder.call(function, arguments)

    def store(self, value: Any, pointer: Any, at: Any, mask: Any = None) -> None:
        """A vector into memory from an element on, or the lanes of it where a mask is true."""
        builder, kind = self.builder, value.type
        place = builder.bitcast(builder.gep(pointer, [at]), kind.as_pointer())
        align = _size(kind.element)
        if mask is None:
            builder.store(value, place, align=align)
            return
        name = f"llvm.masked.store.{_name(kind)}.p0{_name(kind)}"
        arguments = [value, place, ir.Constant(_LANE, align), mask]
        function = declare(self.module, name, ir.FunctionType(ir.VoidType(), [each.type for each in arguments]))
        builder.call(function, arguments)


def element_type(dtype: str) -> Any:
    """float32 or float64, as LLVM has it."""
    return ir.DoubleType() if dtype == "float64" else ir.FloatType()


def lanes(dtype: str) -> int:
    """Elements of a dtype in one vector."""
    return WIDTH // 2 if dtype == "float64" else WIDTH


def integer(value: int) -> Any:
    """A constant."""
    return ir.Constant(INTEGER, value)


def _size(element: Any) -> int:
    return {ir.FloatType: 4, ir.DoubleType: 8}.get(type(element), 1)


def _name(kind: Any) -> str:
    return f"v{kind.count}" + {ir.FloatType: "f32", ir.DoubleType: "f64"}.get(type(kind.element), "i8")


# -- machine code ----------------------------------------------------------------------------------------------------
class Entry(NamedTuple):
    """Machine code in memory."""

    address: int
    call: Any
    """The function of three integers, for Python."""
    engine: Any  # which owns the code


def compiled(name: str, key: str, write: Callable[[], Emitter]) -> Entry:
    """The machine code of a function of three arguments of 64 bits: from disk, if it is there by this key, or written.

    The key says what the function is; LLVM's version is added to it, all else that matters names the folder.
    """
    digest = hashlib.sha256(f"{llvmlite.__version__} {key}".encode()).hexdigest()[:24]
    file = f"{name}-{digest}.o"
    code = _kept(file)
    module = llvm.parse_assembly("" if code else str(write().module))
    _, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    triple = llvm.get_process_triple()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=cpu, features=features, opt=3)
    engine = llvm.create_mcjit_compiler(module, machine)
    if code:
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    else:
        engine.set_object_cache(lambda module, code: _keep(file, code))
    engine.finalize_object()
    address = engine.get_function_address(name)
    call = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)(address)
    return Entry(address, call, engine)


def _kept(name: str) -> bytes | None:
    """The machine code on disk, if it is there and whole."""
    try:
        return without_digest((folder() / name).read_bytes())
    except OSError:
        return None


def _keep(name: str, code: bytes) -> None:
    try:
        folder().mkdir(parents=True, exist_ok=True)
        files.replace(folder() / name, with_digest(code))
    except (OSError, RunError) as error:
        warn_once(f"the kernel cache {folder()} cannot be written ({error})")
