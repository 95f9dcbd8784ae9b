"""Running a program: step after step, with the memory plan, each result checked against what was recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from pullback.errors import PullbackError, ShapeError
from pullback.program.ir import Program, Step, Type
from pullback.program.memory import aligned, plan, writer
from pullback.program.native import Native, Segment, made_natively, segments
from pullback.program.operations import Operation

Action = Callable[[dict[int, Any], dict[int, Any]], None]
"""Computes some places from others, by their numbers; the second argument is the memory for results, by place."""


class Replay:
    """A program ready to run. It may run in several threads at once: each run takes an arena of its own.

    The inputs in `donated` are given away: results take their memory. Only arrays that an earlier run returned in that
    memory are written over; any other is copied first, so what a caller made stays as it is.
    """

    def __init__(self, program: Program, donated: Collection[int] = ()) -> None:
        self.program = program
        found = segments(program)
        self.plan = plan(program, made_natively(program), donated)
        self._actions: list[Action] = []
        self._steps: list[range] = []  # which steps each action does
        for steps in _divided(len(program.steps), found):
            native = next((each for each in found if each.first == steps.start), None)
            self._actions.append(self._step(steps.start) if native is None else self._native(native))
            self._steps.append(steps)
        self._memories: list[dict[int, Any]] = []
        self._held: dict[int, _Held] = {}  # by donated input

    def __call__(self, inputs: Sequence[Any]) -> list[Any]:
        """The outputs for these inputs, of the types that were recorded. No output shares memory with anything, but for
        those that take the place of donated inputs."""
        places = self._filled(inputs)
        memory = self._memories.pop() if self._memories else self._memory()
        for output, home in self.plan.homes.items():
            held = self._held.get(home)
            if held is None or places[home] is not held.shown:
                held = self._held[home] = _Held.copy(places[home])
            places[home] = memory[output] = held.memory
        for action in self._actions:
            action(places, memory)
        outputs = self._own(places)
        self._memories.append(memory)
        return outputs

    def _filled(self, inputs: Sequence[Any]) -> dict[int, Any]:
        places = self.program.constants.copy()
        places.update(zip(self.program.inputs, inputs, strict=True))
        return places

    def _memory(self) -> dict[int, Any]:
        """The arena, as the arrays that the plan has placed in it."""
        memory = {}
        arena = aligned((self.plan.size,), np.dtype(np.uint8))
        for place, start in self.plan.offsets.items():
            kind = self.program.types[place]
            memory[place] = arena[start : start + kind.nbytes].view(kind.dtype).reshape(kind.shape)
        return memory

    def times(self, inputs: Sequence[Any]) -> dict[int, str]:
        """How long each step takes, as text by the number of the step; a native call of several at its first.

        It is run twice, on copies of what it would write over, and the second run is timed, with its memory in place.
        """
        memory, taken = self._memory(), {}
        for _ in range(2):
            places = self._filled(inputs)
            for output, home in self.plan.homes.items():
                if output not in memory:
                    memory[output] = _Held.copy(places[home]).memory
                places[home] = memory[output]
            for action, steps in zip(self._actions, self._steps, strict=True):
                start = time.perf_counter()
                action(places, memory)
                text = f"{(time.perf_counter() - start) * 1e6:.1f} us"
                taken[steps.start] = text if len(steps) == 1 else f"{text} for {len(steps)} steps as one native call"
        return taken

    def _own(self, places: dict[int, Any]) -> list[Any]:
        """The outputs; those that are inputs or constants, part of the arena, or in two places, as copies."""
        seen = {id(places[place]) for place in (*self.program.inputs, *self.program.constants)}
        outputs = []
        for place in self.program.outputs:
            value = places[place]
            if place in self.plan.homes:
                value = self._held[self.plan.homes[place]].shown
            elif isinstance(value, np.ndarray) and self.program.types[place].scalar:
                value = value[()]  # as NumPy gives what has no axes
            elif isinstance(value, np.ndarray) and (not value.flags.owndata or id(value) in seen):
                value = value.copy()
            seen.add(id(value))
            outputs.append(value)
        return outputs

    def _native(self, segment: Segment) -> Action:
        steps = self.program.steps
        outside = [*steps[: segment.first], *steps[segment.last :]]
        needed = {*self.program.outputs, *(place for step in outside for place in step.inputs)}
        native = Native(self.program, segment, needed)
        inside = {place for step in steps[segment.first : segment.last] for place in step.outputs} - needed
        dying = [k for places in self.plan.dying[segment.first : segment.last] for k in places if k not in inside]

        def as_one_call(places: dict[int, Any], memory: dict[int, Any]) -> None:
            native(places)
            for k in dying:
                places[k] = None

        return as_one_call

    def _step(self, number: int) -> Action:
        step, dying = self.program.steps[number], self.plan.dying[number]
        types = self.program.types
        inputs = step.inputs
        given = {*self.plan.offsets, *self.plan.homes}
        if isinstance(step.primitive, Operation) or (len(step.outputs) == 1 and step.outputs[0] in given):
            write, outputs, params = writer(step), step.outputs, step.params
            assert write is not None
            fresh = [(k, types[k].shape, types[k].dtype) for k in outputs if k not in given]

            def into_memory(places: dict[int, Any], memory: dict[int, Any]) -> None:
                for k, shape, dtype in fresh:
                    memory[k] = np.empty(shape, dtype)
                outs = [memory[k] for k in outputs]
                write([places[k] for k in inputs], params, outs)
                for k, out in zip(outputs, outs, strict=True):
                    places[k] = out
                for k in dying:
                    places[k] = None

            return into_memory
        expected = [types[place] for place in step.outputs]
        if step.parts is None:
            fn, params, out, kind = step.primitive.fn, step.params, step.outputs[0], expected[0]

            def one_result(places: dict[int, Any], memory: dict[int, Any]) -> None:
                y = places[out] = fn(*[places[k] for k in inputs], **params)
                if y.shape != kind.shape or y.dtype != kind.dtype:
                    _refuse(step, kind, y)
                for k in dying:
                    places[k] = None

            return one_result

        def several_results(places: dict[int, Any], memory: dict[int, Any]) -> None:
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


class _Held(NamedTuple):
    """Memory that a program updates from run to run, and the read-only array by which callers know it."""

    memory: Any
    shown: Any

    @classmethod
    def copy(cls, value: Any) -> _Held:
        memory = aligned(value.shape, value.dtype)
        np.copyto(memory, value)
        shown = memory.view()
        shown.flags.writeable = False
        return cls(memory, shown)


def _same(new: Any, old: Any) -> bool:
    return new is old or (type(new) is type(old) and bool(new == old)) or callable(new)


def _refuse(step: Step, expected: Type, got: Any) -> None:
    raise ShapeError(
        f"pb.compile: {step.primitive.name} at {step.source}",
        f"made {Type.of(got)}, and {expected} when it was recorded. Shapes must not depend on the values: "
        "np.where in place of an array mask",
    )
