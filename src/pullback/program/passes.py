"""The passes: each takes a program and returns one that computes the same outputs, bit for bit, in fewer steps.

An identity counts as exact only if it holds for every value, the signed zeros, infinities and NaNs included. So
`x + 0.0` stays (it turns -0.0 into 0.0), and `x - 0.0` goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pullback.core.primitive import PRIMITIVES
from pullback.program.ir import Program, Step, Type, is_array, is_python_number

Rewrite = Callable[[Step, dict[int, Step], Program], "int | Step | None"]
"""(a step, the maker of each value before it, the program) -> a place of the same value, another step, or None."""

_FOLD_LIMIT = 1 << 20  # bytes of a folded constant: beyond, keeping it costs more than making it again


def optimise(program: Program) -> Program:
    """All passes, each checked, in an order in which one clears the way for the next."""
    for change in (fold_constants, simplify, common_subexpressions, dead_code):
        program = change(program).check(change.__name__)
    return program


def dead_code(program: Program) -> Program:
    """Without the steps on which no output depends, and without the constants that nothing takes.

    A step of which a part was frozen into the program stays: it is where a run sees that the part has changed.
    """
    needed = set(program.outputs)
    kept = []
    for step in reversed(program.steps):
        if step.fixed or not needed.isdisjoint(step.outputs):
            needed.update(step.inputs)
            kept.append(step)
    constants = {place: value for place, value in program.constants.items() if place in needed}
    return replace(program, steps=tuple(reversed(kept)), constants=constants)


def common_subexpressions(program: Program) -> Program:
    """Of steps that apply one primitive to the same inputs with the same parameters, the first serves all."""
    constants: dict[Any, int] = {}
    same = {place: constants.setdefault(_content(value), place) for place, value in program.constants.items()}
    made: dict[Any, Step] = {}
    steps = []
    for step in program.steps:
        step = _with_inputs(step, same)
        first = made.setdefault((id(step.primitive), step.inputs, frozen(step.params)), step)
        if first is step:
            steps.append(step)
        else:
            same.update(zip(step.outputs, first.outputs, strict=True))
    return replace(program, steps=tuple(steps), outputs=tuple(same.get(p, p) for p in program.outputs))


def fold_constants(program: Program) -> Program:
    """Steps that take only constants are run once and for all, except where the result is large."""
    constants = dict(program.constants)
    steps = []
    for step in program.steps:
        small = sum(program.types[place].nbytes for place in step.outputs) <= _FOLD_LIMIT
        if small and step.primitive.name in PRIMITIVES and all(place in constants for place in step.inputs):
            values = step.run([constants[place] for place in step.inputs])
            constants.update(zip(step.outputs, values, strict=True))
        else:
            steps.append(step)
    return replace(program, constants=constants, steps=tuple(steps))


def simplify(program: Program) -> Program:
    """The exact identities of algebra and of shapes, applied from the inputs to the outputs."""
    same: dict[int, int] = {}
    makers: dict[int, Step] = {}
    steps = []
    for step in program.steps:
        step = _with_inputs(step, same)
        while isinstance(found := _identity(step, makers, program), Step):
            step = found
        if found is not None:
            same[step.outputs[0]] = found
        else:
            steps.append(step)
            makers.update(dict.fromkeys(step.outputs, step))
    return replace(program, steps=tuple(steps), outputs=tuple(same.get(p, p) for p in program.outputs))


def _identity(step: Step, makers: dict[int, Step], program: Program) -> int | Step | None:
    """What the first rule that applies puts in place of a step."""
    for rule in _RULES:
        found = rule(step, makers, program)
        if isinstance(found, Step) or (found is not None and program.types[found] == program.types[step.outputs[0]]):
            return found
    return None


# -- identities ------------------------------------------------------------------------------------------------------
def _neutral_element(step: Step, makers: dict[int, Step], program: Program) -> int | None:
    """x * 1, x / 1, x - 0 and x + (-0.0) are x."""
    name = step.primitive.name
    if name == "multiply" and _is_constant(program, step.inputs[0], 1.0):
        return step.inputs[1]
    if name in ("multiply", "divide") and _is_constant(program, step.inputs[1], 1.0):
        return step.inputs[0]
    if name == "subtract" and _is_constant(program, step.inputs[1], 0.0):
        return step.inputs[0]
    if name == "add" and _is_constant(program, step.inputs[1], -0.0):
        return step.inputs[0]
    return None


def _nothing_done(step: Step, makers: dict[int, Step], program: Program) -> int | None:
    """A reshape to the same shape, the transpose without a permutation, and what merely copies, are their input."""
    name, params = step.primitive.name, step.params
    unchanged = name in ("positive", "copy", "astype", "broadcast_to", "reshape")
    if unchanged or (name == "transpose" and list(params["axes"]) == sorted(params["axes"])):
        return step.inputs[0]  # where the type is the same, which `_identity` asks for
    return None


def _done_twice(step: Step, makers: dict[int, Step], program: Program) -> int | Step | None:
    """-(-x) is x; two reshapes, or two transposes, are one."""
    before = makers.get(step.inputs[0]) if step.inputs else None
    name = step.primitive.name
    if before is None or before.primitive is not step.primitive:
        return None
    if name == "negative":
        return before.inputs[0]
    if name == "reshape":
        return step._replace(inputs=before.inputs)
    if name == "transpose":
        axes = tuple(before.params["axes"][k] for k in step.params["axes"])
        return step._replace(inputs=before.inputs, params={"axes": axes})
    return None


def _negation_in_sum(step: Step, makers: dict[int, Step], program: Program) -> Step | None:
    """a + (-b) is a - b, and a - (-b) is a + b."""
    name = step.primitive.name
    if name not in ("add", "subtract"):
        return None
    before = makers.get(step.inputs[1])
    if before is None or before.primitive.name != "negative":
        return None
    other = PRIMITIVES["subtract" if name == "add" else "add"]
    return step._replace(primitive=other, inputs=(step.inputs[0], before.inputs[0]))


_RULES: tuple[Rewrite, ...] = (_neutral_element, _nothing_done, _done_twice, _negation_in_sum)


# -- parts -----------------------------------------------------------------------------------------------------------
def _with_inputs(step: Step, same: dict[int, int]) -> Step:
    return step._replace(inputs=tuple(same.get(place, place) for place in step.inputs))


def _is_constant(program: Program, place: int, value: float) -> bool:
    """Whether every element of a constant is this number, the sign of a zero included."""
    constant: Any = program.constants.get(place)
    if not (is_array(constant) or is_python_number(constant)) or np.size(constant) == 0:
        return False
    if np.asarray(constant).dtype.kind not in "fiu" or not np.all(constant == value):
        return False
    return bool(np.all(np.signbit(np.asarray(constant, float)) == np.signbit(value)))


def _content(value: Any) -> Any:
    """What two constants have in common that can stand for each other: type and bytes; of a large one, the object."""
    if is_array(value):
        small = value.nbytes <= 1 << 12
        return Type.of(value), value.tobytes() if small else id(value)
    return (type(value), repr(value)) if is_python_number(value) else id(value)


def frozen(value: Any) -> Any:
    """A key that equals another only where the values are interchangeable: for parameters and settings."""
    if isinstance(value, dict):
        return dict, tuple((name, frozen(part)) for name, part in value.items())
    if isinstance(value, tuple | list):
        return type(value), tuple(frozen(part) for part in value)
    if isinstance(value, slice):
        return slice, frozen(value.start), frozen(value.stop), frozen(value.step)
    if is_array(value):
        return Type.of(value), value.tobytes()
    if isinstance(value, int | float | complex):
        return type(value), repr(value)
    if isinstance(value, str | bytes | np.dtype | type | None):
        return type(value), value
    return id(value)
