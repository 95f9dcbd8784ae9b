"""Time for memory: values that are cheap to make again are not kept from their early uses to their late ones.

Typical are the activations of a network, which the forward pass uses at once and the backward pass much later.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from pullback.core.primitive import Elementwise
from pullback.errors import ConfigError
from pullback.program.ir import Program, Step
from pullback.program.loops import LoopOperation, narrowed
from pullback.program.memory import Plan, alive, last_uses, plan, sharing
from pullback.program.native import made_natively
from pullback.program.operations import Operation


def within(program: Program, limit: int, donated: Collection[int] = ()) -> Program:
    """The program with as many elementwise steps done twice as it takes to keep the peak of its plan within `limit`.

    `donated` are the inputs whose memory results may take. Raises ConfigError where the limit cannot be reached, with
    the least peak that can.
    """
    while (found := plan(program, made_natively(program), donated)).peak > limit:
        shorter = _without_the_largest(program, found)
        if shorter is None:
            raise ConfigError(
                f"pb.compile: memory_limit is {limit:,} bytes, and the program needs {found.peak:,} at least, with all "
                "that is cheap computed again. Mend: smaller batches"
            )
        program = shorter
    return program


def _without_the_largest(program: Program, found: Plan) -> Program | None:
    """Of the values that are alive at the peak without being used there, the largest is made again for its next use."""
    bytes_alive = alive(program, found.homes)
    peak = bytes_alive.index(max(bytes_alive))
    last = last_uses(program)
    uses: dict[int, list[int]] = {}
    for number, step in enumerate(program.steps):
        for place in step.inputs:
            uses.setdefault(place, []).append(number)
    born = {place for step in program.steps[: peak + 1] for place in step.outputs}
    viewed = {
        owner
        for place, owners in sharing(program).items()
        for owner in owners
        if owner != place and place in born and last[place] >= peak
    }
    always = {*program.constants, *program.inputs} - set(found.homes.values())
    best: tuple[int, Step, int] | None = None  # bytes, the step that makes it again, the number of its next use
    for step in program.steps[:peak]:
        for place in step.outputs:
            later = [use for use in uses.get(place, []) if use > peak]
            kept = later and last[place] < len(program.steps) and place not in viewed and peak not in uses[place]
            size = program.types[place].nbytes
            if not kept or (best is not None and size <= best[0]):
                continue
            again = _alone(step, place, program)
            if again is not None and all(k in always or last[k] >= later[0] for k in again.inputs):
                best = size, again, later[0]
    return None if best is None else _made_again(program, *best[1:])


def _alone(step: Step, place: int, program: Program) -> Step | None:
    """What makes one of the results of a step, if that is one pass over memory."""
    if isinstance(step.primitive, LoopOperation):
        return narrowed(step, (place,), program)
    if isinstance(step.primitive, Operation):
        return step if step.primitive.homes and len(step.outputs) == 1 else None
    return step if isinstance(step.primitive, Elementwise) else None


def _made_again(program: Program, again: Step, number: int) -> Program:
    """The program with a step done a second time, before that of this number, for all uses from there on."""
    (place,) = again.outputs
    new = max(program.types) + 1
    types = {**program.types, new: program.types[place]}
    before = list(program.steps[:number])
    later = [
        step._replace(inputs=tuple(new if k == place else k for k in step.inputs)) for step in program.steps[number:]
    ]
    if all(place not in step.inputs for step in before):  # it was made too early, and is now made once
        at = next(k for k, step in enumerate(before) if place in step.outputs)
        rest = [k for k in before[at].outputs if k != place]
        before[at : at + 1] = [narrowed(before[at], rest, program)] if rest else []
    steps = (*before, again._replace(outputs=(new,)), *later)
    return replace(program, steps=steps, types=types).check("recomputation")
