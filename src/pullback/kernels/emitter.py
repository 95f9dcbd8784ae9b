"""A whole function written as LLVM instructions: its loops, its vectors in memory, and its machine code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir

from pullback.kernels import instructions
from pullback.kernels.cache import machine_code
from pullback.kernels.functions import FUNCTIONS, RELATIONS, Number, constant
from pullback.kernels.instructions import integer
from pullback.kernels.target import TRIPLE, WIDTH, Loaded, generator


class Emitter:
    """A function `void name(arguments)` in a module of its own, and the instructions that are put in it.

    `element` is float32 or float64, `vector` a vector of `width` of them.
    """

    def __init__(self, name: str, dtype: str, arguments: Sequence[Any]) -> None:
        self.element = element_type(dtype)
        self.width = lanes(dtype)
        self.vector = ir.VectorType(self.element, self.width)
        self.module = ir.Module(name)
        self.module.triple = TRIPLE
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
        return instructions.splat(self.builder, value, kind or self.vector)

    def first_lanes(self, count: Any) -> Any:
        """The mask that is true in the first `count` lanes."""
        return instructions.first_lanes(self.builder, count, self.width)

    def load(self, pointer: Any, at: Any, kind: Any = None, mask: Any = None) -> Any:
        """The vector from an element on; where a mask is false, zeros, and the memory there is not touched."""
        return instructions.load(self.builder, self.builder.gep(pointer, [at]), kind or self.vector, mask)

    def store(self, value: Any, pointer: Any, at: Any, mask: Any = None) -> None:
        """A vector into memory from an element on, or the lanes of it where a mask is true."""
        instructions.store(self.builder, value, self.builder.gep(pointer, [at]), mask)


def element_type(dtype: str) -> Any:
    """float32 or float64, as LLVM has it."""
    return ir.DoubleType() if dtype == "float64" else ir.FloatType()


def lanes(dtype: str) -> int:
    """Elements of a dtype in one vector."""
    return WIDTH // 2 if dtype == "float64" else WIDTH


def compiled(name: str, key: str, write: Callable[[str], Emitter]) -> Loaded:
    """The machine code of a function: from disk, if it is there by this key, or from the instructions of `write`, which
    is given the name that the function gets. They are taken as they stand: nothing is moved or unrolled before."""

    def object_code(symbol: str) -> bytes:
        code: bytes = generator().emit_object(llvm.parse_assembly(str(write(symbol).module)))
        return code

    return machine_code(name, key, object_code)
