"""Running a program: step after step, with the memory plan, each result checked against what was recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.errors import PullbackError, ShapeError
from pullback.program.ir import Program, Step, Type
from pullback.program.memory import ALIGNMENT, plan, writer
from pullback.program.native import Native, Segment, segments

Action = Callable[[list[Any], Any], None]
"""Computes some places from others, in a list by place; the second argument is the arena."""


class Replay:
    """A program ready to run. It may run in several threads at once: each run takes an arena of its own."""

    def __init__(self, program: Program) -> None:
        self.program = program
        found = segments(program)
        self.plan = plan(
            program, {k for each in found for step in program.steps[each.first : each.last] for k in step.outputs}
        )
        self._places: list[Any] = [None] * (max(program.types, default=-1) + 1)
        for place, value in program.constants.items():
            self._places[place] = value
        self._actions: list[Action] = []
        self._steps: list[range] = []  # which steps each action does
        for steps in _divided(len(program.steps), found):
            native = next((each for each in found if each.first == steps.start), None)
            self._actions.append(self._step(steps.start) if native is None else self._native(native))
            self._steps.append(steps)
        self._arenas: list[Any] = []

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for these inputs, of the types that were recorded. No output shares memory with anything."""
        places = self._places.copy()
        for place, value in zip(self.program.inputs, inputs, strict=True):
            places[place] = value
        arena = self._arenas.pop() if self._arenas else _arena(self.plan.size)
        for action in self._actions:
            action(places, arena)
        outputs = self._own(places)
        self._arenas.append(arena)
        return outputs

    def times(self, inputs: Sequence[Any]) -> dict[int, str]:
        """How long each step takes, as text by the number of the step; a native call of several at its first."""
        places = self._places.copy()
        for place, value in zip(self.program.inputs, inputs, strict=True):
            places[place] = value
        arena, taken = _arena(self.plan.size), {}
        for action, steps in zip(self._actions, self._steps, strict=True):
            start = time.perf_counter()
            action(places, arena)
            text = f"{(time.perf_counter() - start) * 1e6:.1f} us"
            taken[steps.start] = text if len(steps) == 1 else f"{text} for {len(steps)} steps as one native call"
        return taken

    def _own(self, places: list[Any]) -> list[Any]:
        """The outputs; those that are inputs or constants, part of the arena, or in two places, as copies."""
        seen = {id(places[place]) for place in (*self.program.inputs, *self.program.constants)}
        outputs = []
        for place in self.program.outputs:
            value = places[place]
            if isinstance(value, np.ndarray) and (not value.flags.owndata or id(value) in seen):
                value = value.copy()
            seen.add(id(value))
            outputs.append(value)
        return outputs

    def _native(self, segment: Segment) -> Action:
        steps = self.program.steps
        outside = [*steps[: segment.first], *steps[segment.last :]]
        needed = {*self.program.outputs, *(place for step in outside for place in step.inputs)}
        native = Native(self.program, segment, needed)
        dying = [k for places in self.plan.dying[segment.first : segment.last] for k in places]

        def as_one_call(places: list[Any], arena: Any) -> None:
            native(places)
            for k in dying:
                places[k] = None

        return as_one_call

    def _step(self, number: int) -> Action:
        step, dying = self.program.steps[number], self.plan.dying[number]
        types = self.program.types
        inputs = step.inputs
        if len(step.outputs) == 1 and (out := step.outputs[0]) in self.plan.offsets:
            write, start, kind = writer(step), self.plan.offsets[out], types[out]
            assert write is not None
            end = start + kind.nbytes

            def into_arena(places: list[Any], arena: Any) -> None:
                memory = arena[start:end].view(kind.dtype).reshape(kind.shape)
                places[out] = write([places[k] for k in inputs], step.params, memory)
                for k in dying:
                    places[k] = None

            return into_arena
        expected = [types[place] for place in step.outputs]
        if step.parts is None:
            fn, params, out, kind = step.primitive.fn, step.params, step.outputs[0], expected[0]

            def one_result(places: list[Any], arena: Any) -> None:
                y = places[out] = fn(*[places[k] for k in inputs], **params)
                if y.shape != kind.shape or y.dtype != kind.dtype:
                    _refuse(step, kind, y)
                for k in dying:
                    places[k] = None

            return one_result

        def several_results(places: list[Any], arena: Any) -> None:
            parts = step.primitive.fn(*[places[k] for k in inputs], **step.params)
            for kind, place, position in zip(expected, step.outputs, step.parts or (), strict=True):
                part = places[place] = parts[position]
                if part.shape != kind.shape or part.dtype != kind.dtype:
                    _refuse(step, kind, part)
            for position, value in step.fixed:
                if not _same(parts[position], value):
                    raise PullbackError(
                        f"pb.compile: {step.primitive.name} at {step.source} saved {parts[position]!r}, and {value!r} "
                        "when it was recorded. A number that depends on the values must be an array: np.asarray(...)"
                    )
            for k in dying:
                places[k] = None

        return several_results


def _divided(count: int, found: Sequence[Segment]) -> list[range]:
    """The numbers of the steps, those of a segment together."""
    whole = {number: each for each in found for number in range(each.first, each.last)}
    return [
        range(number, whole[number].last if number in whole else number + 1)
        for number in range(count)
        if number not in whole or whole[number].first == number
    ]


def _arena(size: int) -> Any:
    """Bytes that start on a cache line."""
    raw = np.empty(size + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + size]


def _same(new: Any, old: Any) -> bool:
    return new is old or (type(new) is type(old) and bool(new == old)) or callable(new)


def _refuse(step: Step, expected: Type, got: Any) -> None:
    raise ShapeError(
        f"pb.compile: {step.primitive.name} at {step.source}",
        f"made {Type.of(got)}, and {expected} when it was recorded. Shapes must not depend on the values: "
        "np.where in place of an array mask",
    )
