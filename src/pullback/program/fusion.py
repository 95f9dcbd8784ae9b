"""Fusion of operations with what is before and behind them, so that what is elementwise costs no pass of its own."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from pullback.core.primitive import PRIMITIVES
from pullback.program import operations
from pullback.program.ir import Program, Step
from pullback.program.passes import dead_code
from pullback.rules import nn, optim


def fuse(program: Program) -> Program:
    """All fusions, each checked, in an order in which one clears the way for the next."""
    for change in (relu_into_affine, masks, masks_into_normalisation, adam_updates):
        program = dead_code(change(program)).check(change.__name__)
    return program


def relu_into_affine(program: Program) -> Program:
    """relu(x scale + shift) is one pass, if nothing else takes what is inside."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is nn.relu:
            at = graph.maker(step.inputs[0], operations.affine)
            if at is not None and graph.is_only_use(step.inputs[0], number) and not graph.steps[at].params["relu"]:
                graph.steps[at] = graph.steps[at]._replace(params={"relu": True}, outputs=step.outputs)
                graph.remove(number)
    return graph.program()


def masks(program: Program) -> Program:
    """g times (relu(x scale + shift) > 0): the mask is found from x, and the ReLU's result is not kept for it."""
    graph = _Graph(program)
    for number, step in enumerate(program.steps):
        if step.primitive is not PRIMITIVES["multiply"]:
            continue
        for g, mask in (step.inputs, step.inputs[::-1]):
            compared = graph.maker(mask, PRIMITIVES["greater"])
            if compared is None or not _is_zero(program, program.steps[compared].inputs[1]):
                continue
            y = program.steps[compared].inputs[0]
            at = graph.maker(y, operations.affine)
            if at is not None and graph.steps[at].params["relu"] and program.types[g] == program.types[y]:
                inputs = (g, *graph.steps[at].inputs)
                graph.steps[number] = Step(operations.through_relu, inputs, {}, step.outputs, step.source, (0,))
    return graph.program()


def masks_into_normalisation(program: Program) -> Program:
    """The adjoint of a batch norm with a ReLU behind it masks the gradient as it reads it."""
    graph = _Graph(program)
    for step in program.steps:
        if step.primitive is not operations.through_relu:
            continue
        g, x, scale, shift = step.inputs
        users = [k for k in graph.users[step.outputs[0]] if k is not None]
        if len(users) == len(graph.users[step.outputs[0]]) and all(
            graph.steps[k].primitive in (operations.norm_sums, operations.norm_gradient)
            and graph.steps[k].inputs[:2] == (step.outputs[0], x)
            and len(graph.steps[k].inputs) == 5
            for k in users
        ):
            for k in users:
                read = graph.steps[k]
                graph.steps[k] = read._replace(inputs=(g, *read.inputs[1:], scale, shift))
    return graph.program()


def adam_updates(program: Program) -> Program:
    """p + rate * direction, with the direction of `adam_step` (plus decay p): the parameters move in the same pass."""
    graph = _Graph(program)
    add = PRIMITIVES["add"]
    for number, step in enumerate(program.steps):
        if step.primitive is not add or not graph.all_float32(step):
            continue
        p, scaled = step.inputs
        found = graph.scaled(scaled, number)
        if found is None or program.types[p] != program.types[scaled]:
            continue
        at, direction, rate = found
        decay = 0.0
        decayed = graph.maker(direction, add)
        if decayed is not None and graph.is_only_use(direction, at):
            inner, weight = program.steps[decayed].inputs
            product = graph.scaled(weight, decayed)
            if product is None or product[1] != p or product[2] not in program.constants:
                continue
            decay, direction, at = float(program.constants[product[2]]), inner, decayed
        moved = graph.maker(direction, optim.adam_step)
        if moved is None or not graph.is_only_use(direction, at):
            continue
        (g, m, v, scale, eps), kept = program.steps[moved].inputs, program.steps[moved].params
        moments = program.steps[moved].outputs[1:]
        if any(user is not None and user < number for place in moments for user in graph.users[place]):
            continue
        outputs = (step.outputs[0], *moments)
        params = {**kept, "decay": decay}
        graph.steps[number] = Step(
            operations.adam, (p, g, m, v, scale, eps, rate), params, outputs, step.source, (0, 1, 2)
        )
        graph.remove(moved)
    return graph.program()


class _Graph:
    """A program whose steps can be replaced and removed, and who makes and takes each value."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self.steps: dict[int, Step] = dict(enumerate(program.steps))
        self.makers = {place: k for k, step in enumerate(program.steps) for place in step.outputs}
        self.users: dict[int, list[int | None]] = defaultdict(list)
        """The numbers of the steps that take a value; None for the result of the program."""
        for k, step in enumerate(program.steps):
            for place in dict.fromkeys(step.inputs):
                self.users[place].append(k)
        for place in program.outputs:
            self.users[place].append(None)

    def maker(self, place: int, primitive: object) -> int | None:
        """The number of the step that makes a value, if it is still there and applies this primitive."""
        number = self.makers.get(place)
        return number if number in self.steps and self.steps[number].primitive is primitive else None

    def is_only_use(self, place: int, number: int) -> bool:
        return self.users[place] == [number]

    def scaled(self, place: int, user: int) -> tuple[int, int, int] | None:
        """For a value that only `user` takes, and that is an array times one number: (the step, array, number)."""
        number = self.maker(place, PRIMITIVES["multiply"])
        if number is None or not self.is_only_use(place, user):
            return None
        types = self._program.types
        for array, factor in (self.steps[number].inputs, self.steps[number].inputs[::-1]):
            if types[array] == types[place] and not types[factor].shape:
                return number, array, factor
        return None

    def all_float32(self, step: Step) -> bool:
        return all(self._program.types[place].dtype == np.float32 for place in (*step.inputs, *step.outputs))

    def remove(self, number: int) -> None:
        del self.steps[number]

    def program(self) -> Program:
        return replace(self._program, steps=tuple(self.steps[k] for k in sorted(self.steps)))


def _is_zero(program: Program, place: int) -> bool:
    return place in program.constants and not np.any(program.constants[place])
