"""Time for memory: values that are cheap to make again are not kept from their early uses to their late ones.

Typical are the activations of a network, which the forward pass uses at once and the backward pass much later.
"""

from __future__ import annotations

from dataclasses import replace

from pullback.core.primitive import Elementwise
from pullback.errors import ConfigError
from pullback.program.ir import Program, Step
from pullback.program.memory import alive, last_uses, plan
from pullback.program.operations import Operation


def within(program: Program, limit: int) -> Program:
    """The program with as many elementwise steps done twice as it takes to keep `plan(program).peak` within `limit`.

    Raises ConfigError where that cannot be reached, with the least peak that can.
    """
    while (peak := plan(program).peak) > limit:
        shorter = _without_the_largest(program)
        if shorter is None:
            raise ConfigError(
                f"pb.compile: memory_limit is {limit:,} bytes, and the program needs {peak:,} at least, with all that "
                "is cheap computed again. Mend: smaller batches"
            )
        program = shorter
    return program


def _without_the_largest(program: Program) -> Program | None:
    """Of the values that are alive at the peak without being used there, the largest is made again for its next use."""
    bytes_alive = alive(program)
    peak = bytes_alive.index(max(bytes_alive))
    last = last_uses(program)
    uses: dict[int, list[int]] = {}
    for number, step in enumerate(program.steps):
        for place in step.inputs:
            uses.setdefault(place, []).append(number)
    best: tuple[int, int, int] | None = None  # bytes, the place, the number of its next use
    for number, step in enumerate(program.steps[: peak + 1]):
        if not _is_cheap(step):
            continue
        place = step.outputs[0]
        later = [use for use in uses.get(place, []) if use > peak]
        kept = later and place not in program.outputs and last[place] == later[-1] and peak not in uses[place]
        size = program.types[place].nbytes
        if (
            kept
            and number < peak
            and (best is None or size > best[0])
            and _can_be_made_at(later[0], step, program, last)
        ):
            best = size, place, later[0]
    return None if best is None else _made_again(program, *best[1:])


def _is_cheap(step: Step) -> bool:
    """One pass over memory, and one result."""
    if isinstance(step.primitive, Operation):
        return bool(step.primitive.homes) and len(step.outputs) == 1
    return isinstance(step.primitive, Elementwise)


def _can_be_made_at(number: int, step: Step, program: Program, last: dict[int, int]) -> bool:
    """Whether all that a step takes is still there."""
    return all(place in program.constants or place in program.inputs or last[place] >= number for place in step.inputs)


def _made_again(program: Program, place: int, number: int) -> Program:
    maker = next(step for step in program.steps if place in step.outputs)
    new = max(program.types) + 1
    types = {**program.types, new: program.types[place]}
    later = [
        step._replace(inputs=tuple(new if k == place else k for k in step.inputs)) for step in program.steps[number:]
    ]
    steps = (*program.steps[:number], maker._replace(outputs=(new,)), *later)
    return replace(program, steps=steps, types=types).check("recomputation")
