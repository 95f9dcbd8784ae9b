"""The memory plan: which steps write into one arena, and where in it, so that a place is used again and again."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Elementwise
from pullback.program.ir import Program, Step
from pullback.program.operations import Operation, Write

ALIGNMENT = 64
_SMALL = 1 << 12  # bytes; below, NumPy's own allocator costs nothing noticeable


class Plan(NamedTuple):
    """Offsets in bytes into the arena by place, its size, and which values die after each step."""

    offsets: dict[int, int]
    size: int
    dying: list[tuple[int, ...]]
    homes: dict[int, int]
    """Outputs of the program that take the memory of an input that is given away: the input of each."""
    peak: int
    """Bytes that are alive at once at most, of everything that the steps make, in the arena or not."""


def plan(program: Program, elsewhere: Collection[int] = (), donated: Collection[int] = ()) -> Plan:
    """Liveness of every value, and an arena for the large ones that are made by functions that take `out=`.

    The values in `elsewhere` are made otherwise, and not in the arena. The memory of the inputs in `donated` may be
    written over.
    """
    last = last_uses(program)
    born = _born(program)
    planned = [
        place
        for place, number in born.items()
        if writer(program.steps[number]) is not None
        and (program.types[place].nbytes >= _SMALL or isinstance(program.steps[number].primitive, Operation))
        and last[place] < len(program.steps)
        and place not in elsewhere
    ]
    homes = _homes(program, {k: v for k, v in born.items() if k not in elsewhere}, last, donated)
    spans = []
    for place in planned:
        step = program.steps[born[place]]
        # An elementwise function may write over an input of the same size that dies with it: half a step earlier.
        start = 2 * born[place] if in_place(step) else 2 * born[place] - 1
        spans.append(Span(program.types[place].nbytes, start, 2 * last[place]))
    offsets, size = allocate(spans, ALIGNMENT)
    dying: list[list[int]] = [[] for _ in program.steps]
    for place, number in last.items():
        if number < len(program.steps) and place in born:
            dying[number].append(place)
    peak = max(alive(program, homes), default=0)
    return Plan(dict(zip(planned, offsets, strict=True)), size, [tuple(places) for places in dying], homes, peak)


def last_uses(program: Program) -> dict[int, int]:
    """The number of the last step that takes each value, or one in its memory; for results, one behind the last."""
    owners = sharing(program)
    last = {place: len(program.steps) for output in program.outputs for place in owners[output]}
    for number, step in enumerate(program.steps):
        for place in (*step.inputs, *step.outputs):
            for owner in owners[place]:
                last[owner] = max(last.get(owner, 0), number)
    return last


def alive(program: Program, homes: Collection[int] = ()) -> list[int]:
    """During each step, the bytes of all that steps have made and that is still needed; `homes` lie elsewhere."""
    last, change = last_uses(program), [0] * (len(program.steps) + 1)
    for place, number in _born(program).items():
        if not program.steps[number].primitive.view and place not in homes:
            change[number] += program.types[place].nbytes
            change[min(last[place] + 1, len(program.steps))] -= program.types[place].nbytes
    return list(itertools.accumulate(change[:-1]))


def _born(program: Program) -> dict[int, int]:
    """The number of the step that makes each value."""
    return {place: number for number, step in enumerate(program.steps) for place in step.outputs}


class Span(NamedTuple):
    """A need for memory: how much, and the first and the last moment."""

    size: int
    first: int
    last: int


def allocate(spans: Sequence[Span], alignment: int = 1) -> tuple[list[int], int]:
    """Offsets such that no two spans that live at one moment overlap, and the size needed.

    One that ends at the moment another begins makes room for it. Each takes the tightest gap that fits; the free gaps
    are kept sorted, and merged with their neighbours.
    """
    order = sorted(range(len(spans)), key=lambda k: spans[k].first)
    endings = sorted(range(len(spans)), key=lambda k: spans[k].last)
    offsets = [0] * len(spans)
    gaps: list[tuple[int, int]] = []  # (start, size)
    top = ended = 0
    for k in order:
        while spans[endings[ended]].last <= spans[k].first and endings[ended] != k:
            gone = endings[ended]
            gaps = _merged(gaps, offsets[gone], _round_up(spans[gone].size, alignment))
            ended += 1
        size = _round_up(spans[k].size, alignment)
        fitting = [gap for gap in gaps if gap[1] >= size]
        if fitting:
            start, room = min(fitting, key=lambda gap: gap[1])
            gaps.remove((start, room))
            if room > size:
                gaps = _merged(gaps, start + size, room - size)
            offsets[k] = start
        else:
            offsets[k], top = top, top + size
    return offsets, top


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _merged(gaps: list[tuple[int, int]], start: int, size: int) -> list[tuple[int, int]]:
    """The gaps with one more, joined to those that touch it."""
    end = start + size
    rest = []
    for other, length in gaps:
        if other + length == start:
            start = other
        elif other == end:
            end = other + length
        else:
            rest.append((other, length))
    return [*rest, (start, end - start)]


# -- what functions do with memory -----------------------------------------------------------------------------------
_WRITERS: dict[str, Write] = {
    "matmul": lambda values, params, outs: np.matmul(values[0], values[1], out=outs[0]),
    "sum": lambda values, params, outs: np.add.reduce(values[0], out=outs[0], **params),  # what np.sum calls
    "mean": lambda values, params, outs: np.mean(values[0], out=outs[0], **params),
    "concatenate": lambda values, params, outs: np.concatenate(values, params["axis"], out=outs[0]),
    "relu": lambda values, params, outs: np.maximum(values[0], 0.0, out=outs[0]),
}
_FRESH = {"where", "astype", "astype_integer", "copy", "cumsum", "index_update", "index_add", "max", "min", "einsum"}


def writer(step: Step) -> Write | None:
    """How a step writes its results into memory that it is given; None where its function cannot."""
    if isinstance(step.primitive, Operation):
        return step.primitive.write if step.primitive.bind is None else step.primitive.bind(step.params)
    if isinstance(step.primitive.fn, np.ufunc):
        ufunc = step.primitive.fn
        return lambda values, params, outs: ufunc(*values, out=outs[0])
    return _WRITERS.get(step.primitive.name)


def in_place(step: Step) -> bool:
    """Whether the result may take the memory of an input, or a part of it: NumPy sees to arrays that overlap."""
    return isinstance(step.primitive.fn, np.ufunc)


def _homes(program: Program, born: dict[int, int], last: dict[int, int], donated: Collection[int]) -> dict[int, int]:
    """For outputs of the program, the donated inputs whose memory they take: read last by the step that writes them."""
    found: dict[int, int] = {}
    for output in program.outputs:
        step = program.steps[born[output]] if output in born else None
        if step is None or output in found:
            continue
        if isinstance(step.primitive, Operation):
            home = step.primitive.homes.get(step.outputs.index(output), ())
            candidates = tuple(step.inputs[k] for k in ((home,) if isinstance(home, int) else home))
        else:
            candidates = step.inputs if in_place(step) else ()
        for place in candidates:
            free = place in donated and place not in found.values() and place not in program.outputs
            if free and last[place] == born[output] and program.types[place] == program.types[output]:
                found[output] = place
                break
    return found


def sharing(program: Program) -> dict[int, set[int]]:
    """For each value the values whose memory it may share, itself included: those that live as long as it does."""
    owners = {place: {place} for place in (*program.inputs, *program.constants)}
    for step in program.steps:
        fresh = writer(step) is not None or step.primitive.name in _FRESH or isinstance(step.primitive, Elementwise)
        if step.primitive.view:
            shared = owners[step.inputs[0]]
        elif fresh:
            shared = set()
        else:
            shared = set().union(*[owners[place] for place in step.inputs]) if step.inputs else set()
        for place in step.outputs:
            owners[place] = {place} | shared
    return owners


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """An uninitialised array that starts on a cache line."""
    count = int(np.prod(shape, dtype=int)) * dtype.itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    first = -raw.ctypes.data % ALIGNMENT
    return raw[first : first + count].view(dtype).reshape(shape)
