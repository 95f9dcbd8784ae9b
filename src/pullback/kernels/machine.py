"""A machine for small programs: it runs a table of instructions over one array, so that nothing is compiled for each.

All values of a program lie in one array, the arena, of float32 or float64 (truth values as 0 and 1). An instruction is
a row of `WIDTH` integers: the operation, then offsets into the arena, sizes and strides.

* elementwise: elements, output, then each input with its stride, 1 or 0 (one number for all elements);
* `copy`, `copy_add` (which adds to what is there): output, input, four sizes, the four strides of the output, those of
  the input;
* `sum`, `max`: output, input, outer, reduced and inner size of a dense input;
* `matmul`, `matmul_add`: output (dense), a, b, rows, inner size, columns, the two strides of a, the row stride of b;
* `fill`: elements, output, input: one number in every element.

Elementwise work and `fill` write whole vectors, so an output of more than one element has room up to a multiple of
`lanes(dtype)`; and all read up to `SPARE` elements behind their operands, which do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir

from pullback.kernels.emitter import Emitter, compiled, element_type
from pullback.kernels.functions import FUNCTIONS, Number, constant, multiply_add
from pullback.kernels.instructions import INTEGER, across, data_of, integer
from pullback.kernels.target import PANEL, Loaded

WIDTH = 16

UNARY = ("negative", "absolute", "sign", "sqrt", "exp", "tanh", "sigmoid", "log", "sin", "cos")
BINARY = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "equal", "less", "less_equal",
)  # fmt: skip
_ONE_BY_ONE = ("log", "sin", "cos", "power")
_INPUTS = {**dict.fromkeys(UNARY, 1), **dict.fromkeys(BINARY, 2), "where": 3}
_OTHERS = ("copy", "copy_add", "fill", "sum", "max", "matmul", "matmul_add")
CODES = {name: code for code, name in enumerate([*_INPUTS, *_OTHERS])}
"""The number of each operation."""
SPARE = PANEL
"""Elements behind all others in an arena."""
_TILE = 4  # rows of a product at a time, which share what is loaded of the right factor


def run(dtype: Any) -> Callable[[Any, Any], None]:
    """The machine for one dtype: `run(dtype)(instructions, arena)`. Compiled on first use, and kept on disk."""
    call = _compiled(np.dtype(dtype).name).call

    def execute(code: Any, arena: Any) -> None:
        call(id(code), len(code), id(arena))

    return execute


@cache
def _compiled(dtype: str) -> Loaded:
    return compiled("machine", dtype, lambda name: _Writer(name, dtype))


class _Writer(Emitter):
    """The function `name(instructions, count, arena)`, on NumPy's objects: one branch for each operation."""

    def __init__(self, name: str, dtype: str) -> None:
        super().__init__(name, dtype, [INTEGER] * 3)
        instructions, count, arena = self.arguments
        code = data_of(self.builder, instructions, INTEGER)
        self.arena = data_of(self.builder, arena, element_type(dtype))
        bodies: dict[str, Callable[[], None]] = {
            **{each: self._elementwise(each, inputs) for each, inputs in _INPUTS.items()},
            "copy": lambda: self._copy(adding=False), "copy_add": lambda: self._copy(adding=True), "fill": self._fill,
            "sum": lambda: self._reduce("add", 0.0), "max": lambda: self._reduce("maximum", -np.inf),
            "matmul": lambda: self._matmul(adding=False), "matmul_add": lambda: self._matmul(adding=True),
        }  # fmt: skip

        def instruction(number: Any) -> None:
            builder = self.builder
            self.row = builder.gep(code, [builder.mul(number, integer(WIDTH))])
            after = builder.append_basic_block("after")
            choice = builder.switch(self._field(0), after)
            for name, body in bodies.items():
                block = builder.append_basic_block(name)
                choice.add_case(integer(CODES[name]), block)
                builder.position_at_end(block)
                body()
                builder.branch(after)
            builder.position_at_end(after)

        self.loop(integer(0), count, 1, instruction)
        self.builder.ret_void()

    def _field(self, number: int) -> Any:
        """An integer of the instruction."""
        return self.builder.load(self.builder.gep(self.row, [integer(number)]))

    def _place(self, number: int) -> Any:
        """The pointer to the element of the arena whose offset is in the instruction."""
        return self.builder.gep(self.arena, [self._field(number)])

    def _add(self, *terms: Any) -> Any:
        total, *rest = terms
        for term in rest:
            total = self.builder.add(total, term)
        return total

    def _less(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("<", a, b)

    def _store_first(self, value: Any, pointer: Any, at: Any, count: Any) -> None:
        """The first `count` lanes. What is behind them is read and written back: quicker than a mask, and unchanged."""
        chosen = self.builder.select(self.first_lanes(count), value, self.load(pointer, at))
        self.store(chosen, pointer, at)

    def _at(self, pointer: Any, at: Any) -> Any:
        return self.builder.gep(pointer, [at])

    # -- one operation after the other -------------------------------------------------------------------------------
    def _elementwise(self, name: str, inputs: int) -> Callable[[], None]:
        def emit() -> None:
            builder = self.builder
            count, out = self._field(1), self._place(2)
            places = [self._place(3 + 2 * k) for k in range(inputs)]
            strides = [self._field(4 + 2 * k) for k in range(inputs)]

            def one(at: Any) -> None:
                values = []
                for place, stride in zip(places, strides, strict=True):
                    value = builder.load(self._at(place, builder.mul(at, stride)))
                    values.append(Number(builder, value))
                found = self.number(self.apply(name, values, self.element), self.element)
                builder.store(found.value, self._at(out, at))

            if name in _ONE_BY_ONE:
                self.loop(integer(0), count, 1, one)
                return
            with builder.if_else(builder.icmp_signed("==", count, integer(1))) as (single, several):
                with single:
                    one(integer(0))
                with several:
                    numbers = [self.splat(builder.load(place)) for place in places]
                    moving = [builder.icmp_signed("!=", stride, integer(0)) for stride in strides]

                    def vector(at: Any) -> None:
                        values = [
                            Number(builder, builder.select(moves, self.load(place, at), number))
                            for moves, place, number in zip(moving, places, numbers, strict=True)
                        ]
                        self.store(self.number(self.apply(name, values)).value, out, at)

                    self.loop(integer(0), count, self.width, vector)

        return emit

    def _fill(self) -> None:
        builder = self.builder
        count, out, value = self._field(1), self._place(2), builder.load(self._place(3))
        with builder.if_else(builder.icmp_signed("==", count, integer(1))) as (single, several):
            with single:
                builder.store(value, out)
            with several:
                every = self.splat(value)
                self.loop(integer(0), count, self.width, lambda at: self.store(every, out, at))

    def _copy(self, adding: bool) -> None:
        builder = self.builder
        out, source = self._place(1), self._place(2)
        sizes, to, at = ([self._field(first + k) for k in range(4)] for first in (3, 7, 11))
        dense = builder.and_(*(builder.icmp_signed("==", each[3], integer(1)) for each in (to, at)))

        def along(start: Any, begin: Any) -> None:
            def part(k: Any) -> None:
                value = self.load(source, self._add(begin, k))
                if adding:
                    value = builder.fadd(self.load(out, self._add(start, k)), value)
                self._store_first(value, out, self._add(start, k), builder.sub(sizes[3], k))

            def single(k: Any) -> None:
                place = self._at(out, self._add(start, builder.mul(k, to[3])))
                value = builder.load(self._at(source, self._add(begin, builder.mul(k, at[3]))))
                builder.store(builder.fadd(builder.load(place), value) if adding else value, place)

            with builder.if_else(dense) as (together, apart):
                with together:
                    self.loop(integer(0), sizes[3], self.width, part)
                with apart:
                    self.loop(integer(0), sizes[3], 1, single)

        def nested(axis: int, start: Any, begin: Any) -> None:
            if axis == 3:
                along(start, begin)
                return
            self.loop(
                integer(0), sizes[axis], 1,
                lambda k: nested(
                    axis + 1, self._add(start, builder.mul(k, to[axis])), self._add(begin, builder.mul(k, at[axis]))
                ),
            )  # fmt: skip

        nested(0, integer(0), integer(0))

    def _reduce(self, name: str, neutral: float) -> None:
        builder = self.builder
        out, source = self._place(1), self._place(2)
        outer, reduced, inner = (self._field(k) for k in (3, 4, 5))

        def joined(a: Any, b: Any) -> Any:
            return FUNCTIONS[name](Number(builder, a), Number(builder, b)).value

        start = constant(self.vector, neutral)

        def to_one(i: Any) -> None:
            first = builder.mul(i, reduced)

            def more(j: Any, total: Any) -> list[Any]:
                mask = self.first_lanes(builder.sub(reduced, j))
                return [joined(total, builder.select(mask, self.load(source, self._add(first, j)), start))]

            total = self.loop(integer(0), reduced, self.width, more, [start])[0]
            builder.store(across(builder, total, joined), self._at(out, i))

        def to_several(i: Any) -> None:
            first = builder.mul(i, builder.mul(reduced, inner))

            def columns(k: Any) -> None:
                def more(j: Any, total: Any) -> list[Any]:
                    return [joined(total, self.load(source, self._add(first, builder.mul(j, inner), k)))]

                total = self.loop(integer(0), reduced, 1, more, [start])[0]
                self._store_first(total, out, self._add(builder.mul(i, inner), k), builder.sub(inner, k))

            self.loop(integer(0), inner, self.width, columns)

        with builder.if_else(builder.icmp_signed("==", inner, integer(1))) as (one, several):
            with one:
                self.loop(integer(0), outer, 1, to_one)
            with several:
                self.loop(integer(0), outer, 1, to_several)

    def _matmul(self, adding: bool) -> None:
        builder = self.builder
        out, a, b = (self._place(k) for k in (1, 2, 3))
        rows, inner, columns, row_step, k_step, b_row = (self._field(k) for k in range(4, 10))

        def tile(first: Any, count: int, column: Any, vectors: int) -> None:
            """So many rows and vectors of the result, with their sums in registers."""
            starts = [builder.mul(self._add(first, integer(row)), row_step) for row in range(count)]
            parts = [self._add(column, integer(part * self.width)) for part in range(vectors)]

            def more(k: Any, *sums: Any) -> list[Any]:
                right = [Number(builder, self.load(b, self._add(builder.mul(k, b_row), part))) for part in parts]
                found = []
                for row, start in enumerate(starts):
                    left = builder.load(self._at(a, self._add(start, builder.mul(k, k_step))))
                    factor = Number(builder, self.splat(left))
                    for part in range(vectors):
                        total = Number(builder, sums[row * vectors + part])
                        found.append(multiply_add(factor, right[part], total).value)
                return found

            places = [
                self._add(builder.mul(self._add(first, integer(row)), columns), part)
                for row in range(count)
                for part in parts
            ]
            zero = ir.Constant(self.vector, None)
            held = [self.load(out, place) if adding else zero for place in places]
            sums = self.loop(integer(0), inner, 1, more, held)
            for place, part, total in zip(places, parts * count, sums, strict=True):
                self._store_first(total, out, place, builder.sub(columns, part))

        def across(first: Any, count: int) -> None:
            wide = builder.sub(columns, builder.srem(columns, integer(2 * self.width)))
            self.loop(integer(0), wide, 2 * self.width, lambda column: tile(first, count, column, 2))
            rest = builder.sub(columns, wide)
            with builder.if_then(self._less(integer(self.width), rest)):
                tile(first, count, wide, 2)
            narrow = builder.and_(self._less(integer(0), rest), self._less(rest, integer(self.width + 1)))
            with builder.if_then(narrow):
                tile(first, count, wide, 1)

        whole = builder.sub(rows, builder.srem(rows, integer(_TILE)))
        self.loop(integer(0), whole, _TILE, lambda first: across(first, _TILE))
        self.loop(whole, rows, 1, lambda first: across(first, 1))
