"""Runs of small steps as one native call: the steps become instructions of the machine in `kernels/machine.py`.

Views cost nothing: a slice, a transpose or a broadcast is another offset and other strides into the arena.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from pullback.program.ir import Program, Step, Type, is_python_number
from pullback.program.memory import Span, aligned, allocate

LARGEST = 1 << 12
"""Elements of the largest array for which the machine is used: beyond, NumPy's own loops cost as little."""
LARGEST_SUMMED = 1 << 15
"""The same for what is summed."""
SHORTEST = 3
"""Steps that are worth a call of the machine."""

_UNARY = {"negative", "absolute", "sqrt", "sign", "exp", "tanh", "sigmoid", "log", "sin", "cos"}
_BINARY = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "power"}
_COMPARISONS = {"equal", "less", "less_equal", "greater", "greater_equal", "not_equal"}


class Segment(NamedTuple):
    """Steps that follow one another and run as one native call."""

    first: int
    last: int  # excluded
    dtype: np.dtype[Any]


def segments(program: Program) -> list[Segment]:
    """The longest runs of steps on small arrays for which the machine has instructions, of one dtype each."""
    found: list[Segment] = []
    first, dtype = 0, None
    for number, step in enumerate([*program.steps, None]):
        kind = None if step is None else _dtype_of(step, program)
        common = _common(dtype, kind)
        if common is None and dtype is not None and dtype is not _ANY and number - first >= SHORTEST:
            found.append(Segment(first, number, dtype))
        if common is None:
            first = number if kind is not None else number + 1
        dtype = kind if common is None else common
    return found


def gathered(program: Program) -> Program:
    """The program with every step that the machine serves put off until its result is needed, so that runs are long."""
    steps: list[Step] = []
    waiting: list[Step] = []
    dtype, made = None, set[int]()
    for step in program.steps:
        kind = _dtype_of(step, program)
        common = _common(dtype, kind)
        if common is None and (kind is not None or not made.isdisjoint(step.inputs)):
            steps += waiting
            waiting, dtype, made = [], None, set()
        if kind is None:
            steps.append(step)
        else:
            waiting.append(step)
            made.update(step.outputs)
            dtype = kind if common is None else common
    return replace(program, steps=(*steps, *waiting))


def _common(dtype: Any, kind: Any) -> Any:
    """The dtype of a run (None: of no steps yet) with one more step; None if that can't be part of it."""
    if kind is None or dtype is None or dtype is _ANY:
        return kind
    return dtype if kind is _ANY or kind == dtype else None


def made_natively(program: Program) -> set[int]:
    """The values that steps of segments make, in arenas of their own."""
    return {
        place for each in segments(program) for step in program.steps[each.first : each.last] for place in step.outputs
    }


_ANY: Any = "any"  # the dtype of a step on truth values alone


def _dtype_of(step: Step, program: Program) -> Any:
    """The float type that the machine would run a step in; None where it has no instruction for it."""
    if (
        len(step.outputs) != 1
        or step.primitive.name not in _LOWER
        or not _LOWER[step.primitive.name].serves(step, program)
    ):
        return None
    kinds = set()
    for place in (*step.inputs, *step.outputs):
        kind = program.types[place]
        largest = LARGEST_SUMMED if step.primitive.name == "sum" else LARGEST
        if math.prod(kind.shape) > largest or 0 in kind.shape or len(kind.shape) > 4:
            return None
        if is_python_number(program.constants.get(place)):
            continue
        if kind.dtype.kind != "b":
            kinds.add(kind.dtype)
    if not kinds:
        return _ANY
    only = kinds.pop()
    return only if not kinds and only in (np.float32, np.float64) else None


class Native:
    """The instructions of one segment, and the arena with its constants."""

    def __init__(self, program: Program, segment: Segment, needed: set[int]) -> None:
        lowering = _Lowering(program, segment, needed)
        steps = program.steps[segment.first : segment.last]
        for step in steps:
            lowering.now += 1
            _LOWER[step.primitive.name].emit(lowering, step)
        lowering.now += 1
        made = [place for step in steps for place in step.outputs if place in needed]
        results = [(place, lowering.dense(place)) for place in made]
        code, offsets, size = lowering.finish(results)
        self._dtype, self._code = segment.dtype, code
        self._template = np.zeros(size, segment.dtype)
        for buffer, value in lowering.constants:
            self._template[offsets[buffer] : offsets[buffer] + np.size(value)] = np.ravel(value)
        self._inputs = [
            (place, offsets[where.buffer], offsets[where.buffer] + math.prod(where.shape))
            for place, where in lowering.inputs.items()
        ]
        self._outputs = [
            (place, program.types[place], start := offsets[where.buffer] + where.offset, start + math.prod(where.shape))
            for place, where in results
        ]
        self._arenas: list[Any] = []
        self._run: Any = None

    def __call__(self, places: dict[int, Any]) -> None:
        if self._run is None:
            from pullback.kernels import machine

            self._run = machine.run(self._dtype)
        arena = self._arenas.pop() if self._arenas else self._arena()
        for place, start, end in self._inputs:
            value = places[place]
            arena[start:end] = value if value.ndim < 2 else value.reshape(-1)
        self._run(self._code, arena)
        for place, kind, start, end in self._outputs:
            places[place] = _taken_out(arena, kind, start, end)
        self._arenas.append(arena)

    def _arena(self) -> Any:
        arena = aligned(self._template.shape, self._dtype)
        np.copyto(arena, self._template)
        return arena


def _taken_out(arena: Any, kind: Type, start: int, end: int) -> Any:
    if kind.scalar:
        return kind.dtype.type(arena[start])
    part = arena[start:end].reshape(kind.shape)
    return part.astype(kind.dtype)


# -- from steps to instructions --------------------------------------------------------------------------------------
class _Where(NamedTuple):
    """Where a value is: a buffer, and the offset and strides in it, in elements."""

    buffer: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def is_dense(self) -> bool:
        expected = 1
        for size, stride in zip(reversed(self.shape), reversed(self.strides), strict=True):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True


class _Lowering:
    """Instructions being made. Offsets are pairs (buffer, offset in it) until every buffer has its place."""

    def __init__(self, program: Program, segment: Segment, needed: set[int]) -> None:
        from pullback.kernels import emitter, machine

        self.codes, self.width, self.spare = machine.CODES, machine.WIDTH, machine.SPARE
        self._lanes = emitter.lanes(str(segment.dtype))
        self.program, self.dtype = program, segment.dtype
        self.now = 0
        self.places: dict[int, _Where] = {}
        self.inputs: dict[int, _Where] = {}
        self.constants: list[tuple[int, Any]] = []
        self.rows: list[list[Any]] = []
        self._sizes: list[int] = []
        self._lives: list[list[int]] = []
        self._dense: dict[_Where, _Where] = {}
        self._numbers: dict[float, _Where] = {}
        self._dying = _dying(program, program.steps[segment.first : segment.last], needed)

    def buffer(self, shape: tuple[int, ...], first: int | None = None) -> _Where:
        """A new dense buffer."""
        self._sizes.append(math.prod(shape))
        self._lives.append([self.now if first is None else first, self.now])
        return _Where(len(self._sizes) - 1, 0, shape, _dense_strides(shape))

    def where(self, place: int) -> _Where:
        """Where a value is; an input of the segment or a constant is given its buffer when it is first asked for."""
        if place not in self.places:
            kind = self.program.types[place]
            if place in self.program.constants:
                value = self.program.constants[place]
                found = self.number(value) if not kind.shape else self._constant(value, kind.shape)
            else:
                found = self.inputs[place] = self.buffer(kind.shape, first=0)
            self.places[place] = found
        return self._used(self.places[place])

    def number(self, value: Any) -> _Where:
        """A constant without axes."""
        key = float(value)
        if key not in self._numbers or math.copysign(1, key) < 0 or key != key:
            self._numbers[key] = self._constant(value, ())
        return self._used(self._numbers[key])

    def dense(self, place: int) -> _Where:
        """Where the elements of a value follow one another: a copy is made where they do not."""
        return self._densified(self.where(place))

    def output(self, step: Step) -> _Where:
        """A new buffer for the result of a step."""
        place = step.outputs[0]
        self.places[place] = self.buffer(self.program.types[place].shape)
        return self.places[place]

    def written_over(self, step: Step) -> _Where:
        """For a result that is the first input with something added: its buffer, if it dies here, else a copy of it."""
        place, source = step.outputs[0], self.where(step.inputs[0])
        if not self._dying[self.now - 1] or not source.is_dense:
            self.copy(self.output(step), source)
            return self.places[place]
        for stale in [where for where in self._dense if where.buffer == source.buffer]:
            del self._dense[stale]
        self.places[place] = source
        return source

    def operand(self, where: _Where, shape: tuple[int, ...]) -> list[Any]:
        """Offset and stride of an operand of an elementwise instruction: 1, or 0 for one number for all elements."""
        if math.prod(where.shape) == 1:
            return [(where.buffer, where.offset), 0]
        if math.prod(where.shape) != math.prod(shape):
            lead = len(shape) - len(where.shape)
            strides = tuple(0 if size == 1 else stride for size, stride in zip(where.shape, where.strides, strict=True))
            where = _Where(where.buffer, where.offset, shape, (0,) * lead + strides)
        found = self._densified(where)
        return [(found.buffer, found.offset), 1]

    def elementwise(self, name: str, out: _Where, *inputs: _Where) -> None:
        operands = [part for where in inputs for part in self.operand(where, out.shape)]
        if all(stride == 0 for stride in operands[1::2]) and math.prod(out.shape) > 1:
            single = self.buffer(())
            self.emit(name, 1, (single.buffer, 0), *operands)
            self.emit("fill", math.prod(out.shape), (out.buffer, out.offset), (single.buffer, 0))
        else:
            self.emit(name, math.prod(out.shape), (out.buffer, out.offset), *operands)

    def copy(self, out: _Where, source: _Where, name: str = "copy") -> None:
        lead = (1,) * (4 - len(out.shape))
        none = (0,) * (4 - len(out.shape))
        self.emit(
            name, (out.buffer, out.offset), (source.buffer, source.offset),
            *lead, *out.shape, *none, *out.strides, *none, *source.strides,
        )  # fmt: skip

    def factors(self, places: Sequence[int]) -> tuple[_Where, _Where]:
        """Of a product of matrices: the elements of each row of the right one follow one another."""
        a, b = map(self.where, places)
        if b.strides[1] != 1 and b.shape[1] != 1:
            b = self.dense(places[1])
        return a, b

    def multiply(self, name: str, out: _Where, a: _Where, b: _Where) -> None:
        self.emit(
            name, (out.buffer, out.offset), (a.buffer, a.offset), (b.buffer, b.offset),
            a.shape[0], a.shape[1], b.shape[1], *a.strides, b.strides[0],
        )  # fmt: skip

    def emit(self, name: str, *parts: Any) -> None:
        self.rows.append([self.codes[name], *parts])

    def finish(self, results: Sequence[tuple[int, _Where]]) -> tuple[Any, list[int], int]:
        """The instructions, with an offset for each buffer, and the size of the arena."""
        fixed = {buffer for buffer, _ in self.constants}  # written once, for all runs
        for _, where in results:
            self._used(where)
        spans = [
            Span(size, -1, 2 * self.now + 1) if k in fixed else Span(size, 2 * first - 1, 2 * last)
            for k, (size, (first, last)) in enumerate(zip(self._sizes, self._lives, strict=True))
        ]
        offsets, size = self._placed(spans)
        code = np.zeros((len(self.rows), self.width), np.int64)
        for row, parts in zip(code, self.rows, strict=True):
            row[: len(parts)] = [offsets[part[0]] + part[1] if type(part) is tuple else part for part in parts]
        return code, offsets, size + self.spare

    def _placed(self, spans: Sequence[Span]) -> tuple[list[int], int]:
        """Offsets, and the size needed: arrays begin at whole vectors, and single numbers lie behind them, close."""
        offsets, top = [0] * len(spans), 0
        for single, alignment in ((False, self._lanes), (True, 1)):
            chosen = [k for k, span in enumerate(spans) if (span.size == 1) is single]
            found, size = allocate([spans[k] for k in chosen], alignment)
            for k, offset in zip(chosen, found, strict=True):
                offsets[k] = top + offset
            top += size
        return offsets, top

    def _used(self, where: _Where) -> _Where:
        self._lives[where.buffer][1] = self.now
        return where

    def _constant(self, value: Any, shape: tuple[int, ...]) -> _Where:
        where = self.buffer(shape, first=0)
        self.constants.append((where.buffer, value))
        return where

    def _densified(self, where: _Where) -> _Where:
        if where.is_dense:
            return self._used(where)
        if where not in self._dense:
            self._used(where)
            self._dense[where] = self.buffer(where.shape)
            self.copy(self._dense[where], where)
        return self._used(self._dense[where])


def _dying(program: Program, steps: Sequence[Step], needed: set[int]) -> list[bool]:
    """Of each step, whether it is the last to take its first input, or anything in the memory of that, and only once.

    Constants never die, nor does what is needed outside the segment.
    """
    roots: dict[int, int] = {}
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for place in step.inputs:
            last[roots.setdefault(place, place)] = number
        for place in step.outputs:
            roots[place] = roots[step.inputs[0]] if step.primitive.name in _SHARING else place
    kept = {roots.get(place, place) for place in (*needed, *program.constants)}
    found = []
    for number, step in enumerate(steps):
        taken = [roots[place] for place in step.inputs]
        found.append(bool(taken) and taken[0] not in kept and taken.count(taken[0]) == 1 and last[taken[0]] == number)
    return found


def _dense_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[k + 1 :]) for k in range(len(shape)))


# -- one kind of step after the other --------------------------------------------------------------------------------
class _Kind(NamedTuple):
    """Whether the machine serves a step, and the instructions for it."""

    serves: Callable[[Step, Program], bool]
    emit: Callable[[_Lowering, Step], None]


def _always(step: Step, program: Program) -> bool:
    return True


def _computes_floats(step: Step, program: Program) -> bool:
    return program.types[step.outputs[0]].dtype.kind == "f"


def _emit_elementwise(lowering: _Lowering, step: Step) -> None:
    inputs = [lowering.where(place) for place in step.inputs]
    lowering.elementwise(step.primitive.name, lowering.output(step), *inputs)


def _emit_as(name: str, *pattern: Any) -> Callable[[_Lowering, Step], None]:
    """As another instruction, of inputs given by number or of constants given as text."""

    def emit(lowering: _Lowering, step: Step) -> None:
        inputs = [
            lowering.number(float(part)) if isinstance(part, str) else lowering.where(step.inputs[part])
            for part in pattern
        ]
        lowering.elementwise(name, lowering.output(step), *inputs)

    return emit


def _emit_not_equal(lowering: _Lowering, step: Step) -> None:
    inputs = [lowering.where(place) for place in step.inputs]
    out = lowering.output(step)
    same = lowering.buffer(out.shape)
    lowering.elementwise("equal", same, *inputs)
    lowering.elementwise("subtract", out, lowering.number(1.0), same)


def _emit_power(lowering: _Lowering, step: Step) -> None:
    base, exponent = lowering.where(step.inputs[0]), lowering.number(step.params["exponent"])
    lowering.elementwise("power", lowering.output(step), base, exponent)


def _emit_view(lowering: _Lowering, step: Step) -> None:
    source = lowering.where(step.inputs[0])
    if step.primitive.name == "reshape":
        source = lowering.dense(step.inputs[0])
        shape = lowering.program.types[step.outputs[0]].shape
        lowering.places[step.outputs[0]] = _Where(source.buffer, source.offset, shape, _dense_strides(shape))
        return
    # The function itself says what its view is, applied to an array of bytes that has the strides and no memory.
    before = as_strided(np.empty(1, np.int8), source.shape, source.strides)
    if step.primitive.name == "getitem":
        after = _part(before, step.params["template"])
    else:
        after = step.primitive.fn(before, **step.params)
    offset = _address(after) - _address(before)
    lowering.places[step.outputs[0]] = _Where(source.buffer, source.offset + offset, after.shape, after.strides)


def _part(x: Any, template: Any) -> Any:
    """x[template] as a view, of one element too, which NumPy would give as a number."""
    return x[template if any(part is ... for part in template) else (*template, ...)]


def _address(x: Any) -> int:
    return int(x.__array_interface__["data"][0])


def _has_no_positions(step: Step, program: Program) -> bool:
    return len(step.inputs) == (2 if step.primitive.name == "index_update" else 1)


def _of_truth_values(step: Step, program: Program) -> bool:
    return all(program.types[place].dtype.kind == "b" for place in step.inputs)


def _emit_alias(lowering: _Lowering, step: Step) -> None:
    lowering.places[step.outputs[0]] = lowering.where(step.inputs[0])


def _emit_reduction(lowering: _Lowering, step: Step) -> None:
    source = lowering.where(step.inputs[0])
    axes, shape = step.params["axis"], source.shape
    together = not axes or list(axes) == list(range(axes[0], axes[-1] + 1))
    if not together:  # the reduced axes go last
        order = [k for k in range(len(shape)) if k not in axes] + list(axes)
        source = source._replace(shape=tuple(shape[k] for k in order), strides=tuple(source.strides[k] for k in order))
        shape, axes = source.shape, tuple(range(len(shape) - len(axes), len(shape)))
    source = lowering._densified(source)
    low, high = (axes[0], axes[-1] + 1) if axes else (len(shape), len(shape))
    sizes = [math.prod(shape[:low]), math.prod(shape[low:high]), math.prod(shape[high:])]
    out = lowering.output(step)
    name = step.primitive.name
    target = lowering.buffer(out.shape) if name == "mean" else out
    lowering.emit("max" if name == "max" else "sum", (target.buffer, 0), (source.buffer, source.offset), *sizes)
    if name == "mean":
        lowering.elementwise("divide", out, target, lowering.number(float(sizes[1])))


def _two_matrices(step: Step, program: Program) -> bool:
    return all(len(program.types[place].shape) == 2 for place in step.inputs) and _computes_floats(step, program)


def _emit_matmul(lowering: _Lowering, step: Step) -> None:
    a, b = lowering.factors(step.inputs)
    lowering.multiply("matmul", lowering.output(step), a, b)


def _emit_multiply_accumulate(lowering: _Lowering, step: Step) -> None:
    a, b = lowering.factors(step.inputs[1:])
    out = lowering.written_over(step)
    lowering.multiply("matmul_add", out, a, b)


def _emit_concatenate(lowering: _Lowering, step: Step) -> None:
    parts = [lowering.where(place) for place in step.inputs]
    out = lowering.output(step)
    axis = step.params["axis"]
    start = 0
    for part in parts:
        target = out._replace(shape=part.shape, offset=start * out.strides[axis])
        lowering.copy(target, part)
        start += part.shape[axis]


def _emit_index_update(lowering: _Lowering, step: Step) -> None:
    whole, part = lowering.where(step.inputs[0]), lowering.where(step.inputs[1])
    out = lowering.output(step)
    lowering.copy(out, whole)
    _write_into(lowering, out, part, step.params["template"])


def _emit_index_add(lowering: _Lowering, step: Step) -> None:
    part = lowering.where(step.inputs[0])
    out = lowering.output(step)
    zero = lowering.number(0.0)
    lowering.emit("fill", math.prod(out.shape), (out.buffer, 0), (zero.buffer, 0))
    _write_into(lowering, out, part, step.params["template"])


def _emit_index_accumulate(lowering: _Lowering, step: Step) -> None:
    part = lowering.where(step.inputs[1])
    _write_into(lowering, lowering.written_over(step), part, step.params["template"], "copy_add")


def _write_into(lowering: _Lowering, out: _Where, part: _Where, template: Any, name: str = "copy") -> None:
    before = as_strided(np.empty(1, np.int8), out.shape, out.strides)
    after = _part(before, template)
    target = _Where(out.buffer, _address(after) - _address(before), after.shape, after.strides)
    lead = len(target.shape) - len(part.shape)
    strides = tuple(0 if size == 1 else stride for size, stride in zip(part.shape, part.strides, strict=True))
    if lead >= 0:
        part = part._replace(shape=target.shape, strides=(0,) * lead + strides)
    else:
        part = part._replace(shape=target.shape, strides=part.strides[-lead:])
    lowering.copy(target, part, name)


_SHARING = {"astype", "positive", "copy", "reshape", "transpose", "broadcast_to", "getitem"}
"""Primitives whose results may lie in the memory of their input."""
_LOWER: dict[str, _Kind] = {
    **{name: _Kind(_computes_floats, _emit_elementwise) for name in (*_UNARY, *_BINARY)},
    **{name: _Kind(_always, _emit_elementwise) for name in ("equal", "less", "less_equal")},
    "where": _Kind(_always, _emit_elementwise),
    "greater": _Kind(_always, _emit_as("less", 1, 0)),
    "greater_equal": _Kind(_always, _emit_as("less_equal", 1, 0)),
    "not_equal": _Kind(_always, _emit_not_equal),
    "logical_not": _Kind(_always, _emit_as("equal", 0, "0")),
    "fabs": _Kind(_computes_floats, _emit_as("absolute", 0)),
    "square": _Kind(_computes_floats, _emit_as("multiply", 0, 0)),
    "reciprocal": _Kind(_computes_floats, _emit_as("divide", "1", 0)),
    "relu": _Kind(_computes_floats, _emit_as("maximum", 0, "0")),
    "logical_and": _Kind(_of_truth_values, _emit_as("multiply", 0, 1)),
    "logical_or": _Kind(_of_truth_values, _emit_as("maximum", 0, 1)),
    "bitwise_and": _Kind(_of_truth_values, _emit_as("multiply", 0, 1)),
    "bitwise_or": _Kind(_of_truth_values, _emit_as("maximum", 0, 1)),
    "invert": _Kind(_of_truth_values, _emit_as("equal", 0, "0")),
    "power_constant": _Kind(_computes_floats, _emit_power),
    "astype": _Kind(_computes_floats, _emit_alias),
    "positive": _Kind(_computes_floats, _emit_alias),
    "copy": _Kind(_always, _emit_alias),
    "reshape": _Kind(_always, _emit_view),
    "transpose": _Kind(_always, _emit_view),
    "broadcast_to": _Kind(_always, _emit_view),
    "getitem": _Kind(_has_no_positions, _emit_view),
    "index_add": _Kind(_has_no_positions, _emit_index_add),
    "index_update": _Kind(_has_no_positions, _emit_index_update),
    "index_accumulate": _Kind(_always, _emit_index_accumulate),
    "multiply_accumulate": _Kind(_computes_floats, _emit_multiply_accumulate),
    "sum": _Kind(_computes_floats, _emit_reduction),
    "mean": _Kind(_computes_floats, _emit_reduction),
    "max": _Kind(_computes_floats, _emit_reduction),
    "matmul": _Kind(_two_matrices, _emit_matmul),
    "concatenate": _Kind(_always, _emit_concatenate),
}
