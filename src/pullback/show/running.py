"""One run of a function with everything that a derivation needs: each application of a primitive with its numbers and
its line, the names that the program gives to its values, and a tape that keeps the adjoint of each."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, cast

import numpy as np

from pullback.core import tree
from pullback.core.context import journal
from pullback.core.primitive import Elementwise, Fused, Params, Primitive, as_operand
from pullback.core.source import Source, user_line
from pullback.core.tape import Leaf, Node, Tape
from pullback.core.tensor import Array, Tensor, plain_value
from pullback.core.trace import Trace
from pullback.errors import LeavesTapeError

_OURS = tuple(str(Path(module.__file__ or "").parent) for module in (sys.modules["pullback"], np))


UNNAMED = 1 << 30


@dataclass(eq=False)
class Variable:
    """A value of the run: an input, a constant, or an output of a step."""

    value: Any
    step: Step | None = None
    part: int = 0  # which output of the step
    name: str = ""
    depth: int = UNNAMED  # of the frame that named it; the function's own frame is 0
    kind: str = "step"  # or input, constant
    tap: Leaf | None = None  # where the tape leaves its adjoint
    node: Node | None = None  # what the tape knows it as

    @property
    def shape(self) -> tuple[int, ...]:
        return np.shape(self.value)


@dataclass(eq=False)
class Step:
    """One application of a primitive."""

    primitive: Primitive
    inputs: tuple[Any, ...]  # variables, and numbers
    params: Params
    source: Source
    outputs: tuple[Variable, ...] = ()
    tracked: set[int] = field(default_factory=set)  # the inputs that a gradient flows to

    @property
    def values(self) -> list[Any]:
        return [x.value if isinstance(x, Variable) else x for x in self.inputs]


@dataclass(eq=False)
class Opened:
    """A fused primitive that the run took apart into its reference."""

    primitive: Fused
    inputs: tuple[Any, ...]
    params: Params
    outputs: tuple[Variable, ...]


@dataclass
class Run:
    """A run of a function."""

    inputs: dict[str, Variable]  # by path
    steps: list[Step]
    outputs: list[Variable]
    opened: list[Opened]
    constants: list[Variable]
    tape: Tape

    def adjoints(self, cotangents: Sequence[Any]) -> dict[Variable, Any]:
        """What the tape finds as the adjoint of each variable that a gradient reaches."""
        seeds = [(y.node, np.asarray(g)) for y, g in zip(self.outputs, cotangents, strict=True) if y.node is not None]
        found = self.tape.pull(seeds, free=False)
        return {v: found[v.tap] for v in self.variables() if v.tap is not None and v.tap in found}

    def variables(self) -> Iterator[Variable]:
        yield from self.inputs.values()
        for step in self.steps:
            yield from step.outputs


class Name(int):
    """A whole number that knows what the program calls it: as an index it prints by name."""

    name: str

    def __new__(cls, value: int, name: str) -> Name:
        number = super().__new__(cls, value)
        number.name = name
        return number


class _Program(Trace):
    """The outer trace: sees every application. A tensor's node is its variable."""

    differentiating = False

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self.constants: list[Variable] = []
        self.names: _Names | None = None
        self.ended = False

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        args = [as_operand(primitive, arg) for arg in args]
        y = primitive.fn(*[self.lower(arg) for arg in args], **params)
        if self.ended:
            return y
        if self.names is not None:
            self.names.look(sys._getframe(1))
        inputs = tuple(self._input(arg) for arg in args)
        step = Step(primitive, inputs, params, user_line())
        parts = y if type(y) is tuple else (y,)
        step.outputs = tuple(Variable(part, step, k) for k, part in enumerate(parts))
        self.steps.append(step)
        results = tuple(Tensor(np.asarray(v.value)[()], self, v) for v in step.outputs)
        return results if type(y) is tuple else results[0]

    def _input(self, arg: Any) -> Any:
        variable = self.node_of(arg)
        if variable is not None:
            return variable
        value = self.lower(arg)
        if not isinstance(value, np.ndarray):
            return value
        for known in self.constants:
            if known.value is value:
                return known
        constant = Variable(value, kind="constant", name=self.names.of_array(value) if self.names else "")
        self.constants.append(constant)
        return constant


class _TappedTape(Tape):
    """The inner trace: a tape on which every value has a tap."""

    def __init__(self, program: _Program, opens: Callable[[Fused, Sequence[Any], Params], bool]) -> None:
        super().__init__()
        self.program, self.opens, self.opened = program, opens, cast(list[Opened], [])

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        if not isinstance(primitive, Fused):
            result = super().apply(primitive, args, params)
        elif primitive.reference is None and primitive.name.startswith("checkpoint("):
            return primitive.forward(*args, **params)[0]
        elif primitive.reference is not None and self.opens(primitive, [plain_value(a) for a in args], params):
            result = primitive.open(args, params)
            parts = result if type(result) is tuple else (result,)
            outputs = tuple(self._variable(part) for part in parts)
            inputs = tuple(self._variable(a) or a for a in args)
            self.opened.append(Opened(primitive, inputs, params, outputs))
            return result
        else:
            result = self._closed(primitive, args, params)
        if type(result) is tuple:
            return tuple(self._tapped(part, args) for part in result)
        return self._tapped(result, args)

    def _closed(self, primitive: Fused, args: Sequence[Array], params: Params) -> Any:
        """A fused primitive as one step: the program sees it whole, and the tape keeps what its forward saves."""
        values = [self.lower(arg) for arg in args]
        y = primitive(*values, **params)
        parents = [self.node_of(arg) for arg in args]
        mask = sum(1 << i for i, parent in enumerate(parents) if parent is not None)
        if not mask:
            return y
        plan = primitive.plan(mask, len(values))
        saved = primitive.run([plain_value(v) for v in values], params)[1]
        several = type(y) is tuple
        shape = tuple(part.shape for part in y) if several else y.shape
        dtype = tuple(part.dtype for part in y) if several else y.dtype
        node = Node(primitive, params, plan, tuple([parents[i] for i in plan.inputs]), saved, shape, dtype)
        return self._wrap(primitive, args, params, y, node)

    def _variable(self, x: Any) -> Any:
        return self.program.node_of(self.lower(x))

    def _tapped(self, y: Any, args: Sequence[Array]) -> Any:
        variable, node = self._variable(y), self.node_of(y)
        if variable is None or node is None:
            return y
        variable.step.tracked = {i for i, arg in enumerate(args) if self.node_of(arg) is not None}
        variable.tap = Leaf(y._value)  # added to the value, though nothing is added: its gradient is the adjoint
        variable.node = Node(_TAP, {}, _TAP.plan(3, 2), (node, variable.tap), None, node.shape, node.dtype)
        result = Tensor(y._value, self, variable.node)
        result._view = y._view
        return result


_TAP = Elementwise(lambda value, nothing: value + nothing, 1, 1, name="tap", register=False)


def run(f: Callable[..., Any], args: Sequence[Any], labels: Sequence[str], opens: Callable[..., bool]) -> Run:
    """Runs f once. Floating-point arguments are inputs, in float64; `labels` are the names of the parameters of f."""
    program = _Program()
    tape = _TappedTape(program, opens)  # neither is closed: the adjoints are asked for later
    inputs: dict[str, Variable] = {}
    lifted = []
    for label, arg in zip(labels, args, strict=True):
        leaves, structure = tree.flatten(arg)
        paths = [_path(label, path) for path in structure.paths()]
        filled = [_lift(tape, program, inputs, leaf, path) for leaf, path in zip(leaves, paths, strict=True)]
        lifted.append(structure.unflatten(filled))
    program.names = names = _Names(program, tape, sys._getframe())
    try:
        with _undone(), names:
            results = tree.leaves(f(*lifted))
    except ValueError as error:
        if isinstance(error.__cause__, LeavesTapeError):  # NumPy puts an error of its own in place of ours
            raise error.__cause__ from None
        raise
    program.ended = True
    outputs = [v for y in results if (v := program.node_of(tape.lower(y))) is not None]
    return Run(inputs, _needed(program.steps, outputs), outputs, tape.opened, program.constants, tape)


def _needed(steps: Sequence[Step], outputs: Sequence[Variable]) -> list[Step]:
    """The steps that lead to the outputs, and not those that only update running statistics."""
    wanted = set(outputs)
    kept = []
    for step in reversed(steps):
        if any(y in wanted for y in step.outputs):
            kept.append(step)
            wanted.update(x for x in step.inputs if isinstance(x, Variable))
    return kept[::-1]


def _path(label: str, path: str) -> str:
    return f"{label}{path}" if path.startswith("[") else f"{label}.{path}" if path else label


def _lift(tape: Tape, program: _Program, inputs: dict[str, Variable], leaf: Any, path: str) -> Any:
    if isinstance(leaf, int) and not isinstance(leaf, bool):
        return Name(leaf, path)
    if not is_input(leaf):
        return leaf
    value = np.array(leaf, np.float64)[()]
    variable = inputs[path] = Variable(value, name=path, depth=-1, kind="input")
    tensor = tape.lift(Tensor(value, program, variable))
    variable.tap = variable.node = tensor._node
    return tensor


def is_input(leaf: Any) -> bool:
    """Whether a leaf of the arguments is an array, or a number, that can be differentiated."""
    return isinstance(leaf, float | np.ndarray | np.generic) and np.asarray(leaf).dtype.kind == "f"


@contextmanager
def _undone() -> Iterator[None]:
    """Inside, the state of modules may change; afterwards it is what it was."""
    with journal() as changes:
        yield
    for holder, value in changes:
        holder.value = value


class _Names:
    """Finds what the program calls its values, by looking at the variables of its functions while they run."""

    def __init__(self, program: _Program, tape: Tape, home: FrameType) -> None:
        self.program, self.tape, self.home = program, tape, home
        self._arrays: dict[int, str] = {}

    def __enter__(self) -> None:
        self._free = sys.getprofile() is None  # a profiler at work is left in peace: some names are missed then
        if self._free:
            sys.setprofile(self._on_event)

    def __exit__(self, *error: Any) -> None:
        if self._free:
            sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "return" and not frame.f_code.co_filename.startswith(_OURS):
            self.look(frame)

    def look(self, frame: FrameType | None) -> None:
        """Names the values in the frames from this one out to that of the function."""
        frames = []
        while frame is not None and frame is not self.home:
            if not frame.f_code.co_filename.startswith(_OURS):
                frames.append(frame)
            frame = frame.f_back
        for depth, each in enumerate(reversed(frames)):
            for name, value in each.f_locals.items():
                variable = self._variable(value)
                if variable is not None and depth < variable.depth:
                    variable.name, variable.depth = name, depth

    def _variable(self, value: Any) -> Variable | None:
        if not isinstance(value, Tensor):
            return None
        found = self.program.node_of(self.tape.lower(value))
        return found if isinstance(found, Variable) else None

    def of_array(self, value: Any) -> str:
        """What the program calls a plain array; empty where it has no name."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self.home:
            if not frame.f_code.co_filename.startswith(_OURS):
                for scope in (frame.f_locals, frame.f_globals):
                    for name, known in scope.items():
                        if known is value:
                            return name
            frame = frame.f_back
        return ""


def plain_run(
    f: Callable[..., Any], args: Sequence[Any], labels: Sequence[str], changes: Mapping[str, Any]
) -> list[Any]:
    """The results of f on plain arrays, with changes added to inputs by path."""
    moved = []
    for label, arg in zip(labels, args, strict=True):
        leaves, structure = tree.flatten(arg)
        paths = [_path(label, path) for path in structure.paths()]
        moved.append(
            structure.unflatten(_moved(leaf, changes.get(path)) for leaf, path in zip(leaves, paths, strict=True))
        )
    with _undone():
        return [y for y in tree.leaves(f(*moved)) if np.asarray(y).dtype.kind == "f"]


def _moved(leaf: Any, change: Any) -> Any:
    if not is_input(leaf):
        return leaf
    value = np.array(leaf, np.float64)[()]
    return value if change is None else value + change
