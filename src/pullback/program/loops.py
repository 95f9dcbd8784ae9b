"""Elementwise steps on larger arrays become generated loops (`kernels/loops.py`): one pass for all steps of a group.

A group is steps on one shape that take values of one another. It runs where its last member stood, which is right as
long as nothing outside has taken a value of the group before; so a step outside that takes one closes the group.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.core.primitive import Params
from pullback.core.source import Source
from pullback.program.ir import Program, Step, Type, is_python_number
from pullback.program.native import LARGEST
from pullback.program.operations import Operation

if TYPE_CHECKING:
    from pullback.kernels.loops import Loop

ALONE = 1 << 16
"""Elements from which on a single step is worth a loop, on all threads."""

MOST = 64
"""Steps of one loop: more would not find registers."""

_SAME = (
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negative", "absolute", "sqrt", "sign",
    "exp", "tanh", "sigmoid", "log", "sin", "cos", "where",
    "equal", "not_equal", "less", "less_equal", "greater", "greater_equal",
)  # fmt: skip
_OTHERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "fabs": ("absolute", (0,)),
    "square": ("multiply", (0, 0)),
    "reciprocal": ("divide", ((1.0).hex(), 0)),
    "relu": ("maximum", (0, (0.0).hex())),
    "logical_not": ("not", (0,)),
    "invert": ("not", (0,)),
    "logical_and": ("and", (0, 1)),
    "bitwise_and": ("and", (0, 1)),
    "logical_or": ("or", (0, 1)),
    "bitwise_or": ("or", (0, 1)),
    "astype": ("number", (0,)),
}
"""Primitives as other operations of a loop: of operands by position, and constants."""
_OF_MASKS = {"logical_not", "invert", "logical_and", "bitwise_and", "logical_or", "bitwise_or"}


def generate_loops(program: Program) -> Program:
    """The program with a step for each group of elementwise steps on large arrays."""
    groups = _groups(program)
    at = {group.members[-1]: group for group in groups}
    inside = {number for group in groups for number in group.members}
    users: dict[int, set[int]] = defaultdict(set)
    for number, step in enumerate(program.steps):
        for place in step.inputs:
            users[place].add(number)
    steps = []
    for number, step in enumerate(program.steps):
        if number in at:
            steps.append(_joined(program, at[number].members, users))
        elif number not in inside:
            steps.append(step)
    return replace(program, steps=tuple(steps)).check(generate_loops.__name__)


class _Group:
    """Steps that may run together, by number."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.members: list[int] = []
        self.places: set[int] = set()  # of that shape, that it takes or makes
        self.open = True

    def worth_it(self) -> bool:
        return len(self.members) > 1 or math.prod(self.shape) >= ALONE


def _groups(program: Program) -> list[_Group]:
    groups: list[_Group] = []
    made_by: dict[int, _Group] = {}
    for number, step in enumerate(program.steps):
        dtype = _dtype_of(step, program)
        shape = program.types[step.outputs[0]].shape if step.outputs else ()
        makers = {id(made_by[place]): made_by[place] for place in step.inputs if place in made_by}
        joined: _Group | None = None
        if dtype is not None:
            large = {place for place in step.inputs if program.types[place].shape == shape}
            joined = _Group(shape, dtype)
            fitting = [
                group
                for group in groups
                if group.open and group.shape == shape and group.dtype == dtype and not large.isdisjoint(group.places)
            ]
            if sum(len(group.members) for group in fitting) >= MOST:
                fitting = []
            for group in fitting:
                joined.members += group.members
                joined.places |= group.places
                groups.remove(group)
                made_by.update({place: joined for place, maker in made_by.items() if maker is group})
                makers.pop(id(group), None)
            joined.members = [*sorted(joined.members), number]
            joined.places |= {*large, *step.outputs}
            groups.append(joined)
            made_by.update(dict.fromkeys(step.outputs, joined))
        for group in makers.values():
            group.open = False
    return [group for group in groups if group.worth_it()]


def _dtype_of(step: Step, program: Program) -> Any:
    """The float type of a loop that serves a step; None where none does."""
    name = step.primitive.name
    if (
        step.parts is not None
        or len(step.outputs) != 1
        or not (name in _SAME or name in _OTHERS or name == "power_constant")
    ):
        return None
    out = program.types[step.outputs[0]]
    if math.prod(out.shape) <= LARGEST or out.dtype not in (np.float32, np.float64, np.bool_):
        return None
    kinds = {out.dtype} if out.dtype != np.bool_ else set()
    for place in step.inputs:
        kind = program.types[place]
        number = is_python_number(program.constants.get(place))
        if _form(kind, out.shape) is None or (name in _OF_MASKS and kind.dtype != np.bool_):
            return None
        if not number and (kind.dtype != np.bool_ or not kind.shape):
            kinds.add(kind.dtype)
    only = kinds.pop() if len(kinds) == 1 else None
    return only if only in (np.float32, np.float64) else None


def _form(kind: Type, shape: tuple[int, ...]) -> str | None:
    """How a loop over arrays of this shape reads a value."""
    if kind.shape == shape:
        return "mask" if kind.dtype == np.bool_ else "array"
    if math.prod(kind.shape) == 1:
        return "number"
    if kind.dtype != np.bool_ and kind.shape[-1:] == shape[-1:] and math.prod(kind.shape) == shape[-1]:
        return "row"
    return None


def _joined(program: Program, members: Sequence[int], users: dict[int, set[int]]) -> Step:
    """One step for the members of a group."""
    from pullback.kernels.loops import Loop

    steps = [program.steps[number] for number in members]
    made = {place for step in steps for place in step.outputs}
    shape = program.types[steps[0].outputs[0]].shape
    inside = set(members)
    outputs = tuple(k for step in steps for k in step.outputs if k in program.outputs or users[k] - inside)
    taken = dict.fromkeys(place for step in steps for place in step.inputs if place not in made)
    constants = {place: float(v).hex() for place in taken if (v := _number(program, place)) is not None}
    inputs = tuple(place for place in taken if place not in constants)
    numbers: dict[int, int | str] = {**constants, **{place: k for k, place in enumerate(inputs)}}
    forms = tuple(_form(program.types[place], shape) or "" for place in inputs)
    rows = []
    for step in steps:
        rows.append(_row(step, [numbers[place] for place in step.inputs]))
        numbers[step.outputs[0]] = len(inputs) + len(rows) - 1
    dtype = str(next(program.types[k].dtype for k in (*outputs, *inputs) if program.types[k].dtype != np.bool_))
    loop = Loop(dtype, forms, tuple(rows), tuple(int(numbers[place]) for place in outputs))
    return _step(loop, inputs, outputs, program, steps[-1].source)


def narrowed(step: Step, outputs: Sequence[int], program: Program) -> Step:
    """The step of a loop with only some of its outputs, and only what they need."""
    assert isinstance(step.primitive, LoopOperation)
    loop, count = step.primitive.loop, len(step.inputs)
    wanted = [loop.outputs[step.outputs.index(place)] for place in outputs]
    needed = set(wanted)
    for number in reversed(range(len(loop.steps))):
        if count + number in needed:
            needed.update(operand for operand in loop.steps[number][1] if isinstance(operand, int))
    kept = sorted(needed)
    new = {value: k for k, value in enumerate(kept)}
    rows = [
        (name, tuple(new[operand] if isinstance(operand, int) else operand for operand in operands))
        for name, operands in (loop.steps[value - count] for value in kept if value >= count)
    ]
    inputs = [value for value in kept if value < count]
    smaller = loop._replace(
        inputs=tuple(loop.inputs[k] for k in inputs), steps=tuple(rows), outputs=tuple(new[value] for value in wanted)
    )
    return _step(smaller, tuple(step.inputs[k] for k in inputs), tuple(outputs), program, step.source)


class LoopOperation(Operation):
    """A generated loop as a step."""

    def __init__(self, loop: Loop, homes: Mapping[int, tuple[int, ...]]) -> None:
        def write(values: Sequence[Any], params: Params, outs: Sequence[Any]) -> None:
            from pullback.kernels import loops

            loops.run(loop, values, outs)

        super().__init__(f"loop[{', '.join(name for name, _ in loop.steps)}]", write, homes)
        self.loop = loop


def _step(loop: Loop, inputs: tuple[int, ...], outputs: tuple[int, ...], program: Program, source: Source) -> Step:
    """A loop as a step; an output may take the memory of an input of its type."""
    homes = {
        position: tuple(k for k, taken in enumerate(inputs) if program.types[taken] == program.types[place])
        for position, place in enumerate(outputs)
    }
    return Step(LoopOperation(loop, homes), inputs, {}, outputs, source, tuple(range(len(outputs))))


def _number(program: Program, place: int) -> Any:
    """The value of a constant that is one number; None of all else."""
    value = program.constants.get(place)
    return np.asarray(value).reshape(()).item() if value is not None and np.size(value) == 1 else None


def _row(step: Step, operands: list[int | str]) -> tuple[str, tuple[int | str, ...]]:
    name = step.primitive.name
    if name == "power_constant":
        return "power", (operands[0], float(step.params["exponent"]).hex())
    if name in _OTHERS:
        name, pattern = _OTHERS[name]
        return name, tuple(part if isinstance(part, str) else operands[part] for part in pattern)
    return name, tuple(operands)
