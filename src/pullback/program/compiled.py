"""`compile`: a function that is recorded once for each kind of arguments, and then replayed as a program."""

from __future__ import annotations

import functools
import itertools
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

from pullback.core import tree
from pullback.core.context import context
from pullback.core.tensor import Tensor
from pullback.errors import ConfigError
from pullback.program import shortcut
from pullback.program.fusion import fuse
from pullback.program.ir import Program, Type, is_array
from pullback.program.loops import generate_loops
from pullback.program.lowering import Precision, check_algorithms, check_precision, lower
from pullback.program.native import gathered
from pullback.program.passes import frozen, optimise
from pullback.program.recompute import within
from pullback.program.recording import Recorded, record
from pullback.program.replay import Replay

PROGRAMS = 32
"""How many programs a compiled function keeps; the one used longest ago is dropped first."""
RECENT = 3
"""How many of them it looks at before it makes a key of its arguments."""


class Explanation(NamedTuple):
    """A program before and after the passes, as `print` shows it."""

    before: Program
    after: Program
    peak: int
    times: dict[int, str]  # by the number of the step; empty without `profile`

    def __str__(self) -> str:
        def notes(number: int) -> str:
            return f"  {self.times[number]}" if number in self.times else ""

        recorded = [f"recorded: {len(self.before.steps)} steps", *self.before.lines()]
        passed = [f"after the passes: {len(self.after.steps)} steps", *self.after.lines(notes)]
        return "\n".join([*recorded, "", *passed, "", f"memory alive at once: at most {self.peak:,} bytes"])


@dataclass(eq=False)
class _Entry:
    """One recording, ready to run."""

    recorded: Recorded
    replay: Replay
    kept: Any  # what the key knows by identity, which must not be freed and its identity used again
    calls: int = 0  # that found it by its key
    take: shortcut.Take | None = None  # how its arguments are known at once, from the second call on


class Compiled:
    """A function that runs as a recorded program. Made by `pb.compile`."""

    def __init__(
        self,
        f: Callable[..., Any],
        donate: Collection[int] = (),
        memory_limit: int | None = None,
        algorithms: Mapping[str, str] | None = None,
        precision: Precision = "float32",
    ) -> None:
        functools.update_wrapper(self, f, updated=())
        # A module, or a method of one, is compiled with its parameters as inputs.
        owner = getattr(f, "__self__", f)
        bound = tree.flatten(owner)[1].kind is not None
        self._owner = (owner,) if bound else ()
        self._f = getattr(f, "__func__", type(f).__call__) if bound else f
        self._donate = frozenset(donate)
        self._memory_limit = memory_limit
        self._algorithms = check_algorithms(algorithms or {})
        self._precision = check_precision(precision)
        self._programs: OrderedDict[Any, _Entry] = OrderedDict()
        self._recent: tuple[_Entry, ...] = ()  # which are tried before the key is made
        self._lock = threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        arguments = (*self._owner, *args), kwargs
        if context.state is None:
            for entry in self._recent:
                arrays = entry.take(arguments) if entry.take else None
                if arrays is not None and _state_fits(entry):
                    return self._run(entry, arrays)
        leaves, structure = tree.flatten(arguments)
        if context.state is not None or any(isinstance(leaf, Tensor) for leaf in leaves):
            return self._f(*self._owner, *args, **kwargs)  # inside another trace, which sees the function itself
        entry = self._entry(leaves, structure, args)
        return self._run(entry, [leaf for leaf in leaves if is_array(leaf)])

    def _run(self, entry: _Entry, arrays: list[Any]) -> Any:
        recorded = entry.recorded
        outputs = entry.replay([*arrays, *[holder.value for holder in recorded.read]])
        results = len(outputs) - len(recorded.written)
        for holder, value in zip(recorded.written, outputs[results:], strict=True):
            holder.value = value
        return recorded.result(outputs)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """As a method, with the instance as the first argument."""
        return self if instance is None else types.MethodType(self, instance)

    def explain(self, *args: Any, profile: bool = False, **kwargs: Any) -> Explanation:
        """The program for these arguments, before and after the passes: `print(compiled.explain(x))`.

        Each line shows the step with its operands, the type and the bytes of each result, and the line of source that
        asked for it. With `profile`, the program is run, and each step is shown with its time. Nothing is changed.
        """
        leaves, structure = tree.flatten(((*self._owner, *args), kwargs))
        entry = self._entry(leaves, structure, args)
        replay = entry.replay
        times = {}
        if profile:
            state = [holder.value for holder in entry.recorded.read]
            times = replay.times([*(leaf for leaf in leaves if is_array(leaf)), *state])
        return Explanation(entry.recorded.program, replay.program, replay.plan.peak, times)

    def _entry(self, leaves: Sequence[Any], structure: tree.Structure, args: Sequence[Any]) -> _Entry:
        key = tuple([_kind(leaf) for leaf in leaves]), _form(structure)
        with self._lock:
            entry = self._programs.get(key)
            if entry is None or not _state_fits(entry):
                recorded = record(self._f, leaves, structure)
                kept = structure, [leaf for leaf in leaves if not is_array(leaf)]
                donated = self._donated(recorded.program, args)
                program = self._improved(recorded.program, donated)
                entry = self._programs[key] = _Entry(recorded, Replay(program, donated), kept)
            self._programs.move_to_end(key)
            if len(self._programs) > PROGRAMS:
                self._programs.popitem(last=False)
            entry.calls += 1
            if entry.calls == 2:
                entry.take = shortcut.taking(structure, leaves, _PASSED_OVER)
            recent = (entry, *(other for other in self._recent if other is not entry))
            self._recent = tuple(e for e in recent if e.take and e in self._programs.values())[:RECENT]
            return entry

    def _improved(self, program: Program, donated: Collection[int]) -> Program:
        program = gathered(generate_loops(fuse(lower(optimise(program), self._algorithms, self._precision))))
        return program if self._memory_limit is None else within(program, self._memory_limit, donated)

    def _donated(self, program: Program, args: Sequence[Any]) -> list[int]:
        """The inputs of the program that are arrays of arguments in `donate`."""
        if unknown := [k for k in self._donate if not 0 <= k < len(args)]:
            raise ConfigError(f"pb.compile: donate names argument {unknown[0]}, and {len(args)} were given by position")
        counts = [sum(map(is_array, tree.leaves(arg))) for arg in (*self._owner, *args)]
        starts = list(itertools.accumulate(counts, initial=0))
        own = len(self._owner)
        return [program.inputs[i] for k in self._donate for i in range(starts[own + k], starts[own + k + 1])]


@overload
def compile(
    f: Callable[..., Any],
    *,
    donate: Collection[int] = (),
    memory_limit: int | None = None,
    algorithms: Mapping[str, str] | None = None,
    precision: Precision = "float32",
) -> Compiled: ...
@overload
def compile(
    *,
    donate: Collection[int] = (),
    memory_limit: int | None = None,
    algorithms: Mapping[str, str] | None = None,
    precision: Precision = "float32",
) -> Callable[[Callable[..., Any]], Compiled]: ...
def compile(f: Callable[..., Any] | None = None, **options: Any) -> Any:
    """f as a program: recorded at the first call, and replayed without Python in between at those that follow.

        step = pb.compile(lambda w, x, y: pb.value_and_grad(loss)(w, x, y))
        value, gradient = step(w, x, y)

    Arguments and results are any pytrees, as for f. The arrays among the arguments are the inputs of the program; all
    else (Python numbers, strings, functions, the settings of modules) is part of it. For arguments of other shapes,
    dtypes or settings f is recorded again. The state of modules (running statistics, the count of dropout's masks) is
    read and changed by each run. Arrays that f finds elsewhere are constants, read when f is recorded. Inside a
    transform, as in `pb.grad(pb.compile(f))`, and inside another compiled function, f runs as it is.

    Args:
        f: the function; without it a decorator is returned, as in `@pb.compile(donate=(0, 1))`.
        donate: positions of arguments that are given away, such as `(0, 1)` in `model, state = step(model, state, x)`.
            Where a result is computed from such an array element by element, it takes its memory: parameters and
            moments are updated in place. An array that the function returned in this way is then overwritten when it
            is passed in again. Arrays from elsewhere are copied at first and never overwritten.
        memory_limit: bytes that all values made by the steps may take at once. Where they would take more, elementwise
            results are computed again when they are needed late, and not kept.
        algorithms: for "conv2d", "conv2d_input_adjoint" and "conv2d_weight_adjoint", the algorithm to use wherever it
            can serve, in place of the cheapest by estimate: "winograd", "shifted", ...; `explain` shows the choice.
        precision: the least accurate arithmetic that products of matrices and convolutions may use; all else is in the
            dtype of the arrays. "float32": float32 throughout. "float32-fast": also sums of three products of bfloat16
            numbers, which keep 16 bits of each factor. "bfloat16": also products of factors rounded to 8 bits, summed
            in float32. Of what is allowed, the fastest on this CPU is taken, and `explain` shows which.

    Raises:
        LeavesTapeError: f asks for the value of an array: in `if` or `while`, by float(), `.item()` or `.value`.
        MutationError: f writes into one of its arguments.
        ConfigError: an option does not fit, such as a memory limit that cannot be kept.
    """
    return functools.partial(compile, **options) if f is None else Compiled(f, **options)


_PASSED_OVER = "_seen", "_parts"
"""Attributes of a module that change nothing: the last input, and what a copy knows of itself."""


# -- keys ------------------------------------------------------------------------------------------------------------
def _kind(leaf: Any) -> Any:
    return Type.of(leaf) if is_array(leaf) else frozen(leaf)


def _form(structure: tree.Structure) -> Any:
    """All that a structure is, with the settings of modules, which the equality of structures passes over."""
    if structure.kind is None:
        return None
    meta = structure.meta
    settings = getattr(meta, "rest", None)
    if settings is not None:
        own = {name: value for name, value in settings.items() if name not in _PASSED_OVER}
        key: Any = meta.kind, meta.parts, frozen(own)
    else:
        key = frozen(meta)
    return structure.kind, key, structure.keys, tuple([_form(child) for child in structure.children])


def _state_fits(entry: _Entry) -> bool:
    """Whether the state has the types it had when it was recorded."""
    program, state = entry.recorded.program, entry.recorded.read
    places = program.inputs[len(program.inputs) - len(state) :]
    return all(Type.of(holder.value) == program.types[place] for holder, place in zip(state, places, strict=True))
