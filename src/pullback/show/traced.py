"""One run of a function, forward and backward, as a graph: operations, the values between them, and the modules and
functions they belong to. What every picture and account is drawn from."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.primitive import Params, Primitive
from pullback.core.source import _OURS, Source, user_line
from pullback.core.tape import not_differentiable
from pullback.core.tensor import Array, plain_value
from pullback.errors import DtypeError, ShapeError
from pullback.nn.module import Module
from pullback.show.observed import Application, Observation, is_float, leaves_by_name, observe

Plain = np.ndarray[Any, Any]


@dataclass(eq=False)
class Value:
    """An array of the run: an argument, a constant, or what an operation made."""

    number: int
    array: Plain
    name: str = ""
    maker: Operation | None = None
    constant: bool = False  # not an argument, and made by no operation
    tracked: bool = False  # whether a gradient can flow to it
    adjoint: Plain | None = None
    users: list[Operation] = field(default_factory=list)

    @property
    def label(self) -> str:
        """What the program calls it, or its number."""
        return self.name or f"%{self.number}"

    @property
    def type(self) -> str:
        """Dtype and shape, such as `float32[8, 10]`."""
        return f"{self.array.dtype}{list(self.array.shape)}"


@dataclass(eq=False)
class Box:
    """One call of a module, or of a function of the program: what a picture folds."""

    number: int
    name: str
    kind: str  # the class of the module, or "function"
    parent: Box | None
    path: str  # of the module, as parameters are named

    @property
    def depth(self) -> int:
        return 0 if self.parent is None else self.parent.depth + 1


@dataclass(eq=False)
class Operation:
    """One application of a primitive."""

    number: int
    primitive: Primitive
    inputs: tuple[Any, ...]  # values, and Python numbers
    outputs: tuple[Value, ...]
    params: Params
    source: Source
    scope: tuple[Box, ...]
    application: Application | None  # None where no gradient flows
    seconds: float

    @property
    def name(self) -> str:
        return self.primitive.name

    @property
    def values(self) -> list[Value]:
        """The inputs that are arrays."""
        return [x for x in self.inputs if isinstance(x, Value)]

    @property
    def reached(self) -> bool:
        """Whether the backward pass comes through."""
        return any(y.adjoint is not None for y in self.outputs)

    @property
    def saved(self) -> list[tuple[str, Plain]]:
        """The arrays kept for the backward pass, each with the name by which the rule calls it."""
        if self.application is None:
            return []
        if self.primitive.opens:
            leaves, structure = tree.flatten(self.application.saved)
            paths = structure.paths()
            return [(f"saved{p}", x) for p, x in zip(paths, leaves, strict=True) if isinstance(x, np.ndarray)]
        pool = [*self.application.values, self.application.result]
        return [(self._called(k), pool[k]) for k in self.application.kept if isinstance(pool[k], np.ndarray)]

    def _called(self, position: int) -> str:
        if position == len(self.inputs):
            return "y"
        return self.primitive.inputs[position] if position < len(self.primitive.inputs) else f"input {position}"

    def __str__(self) -> str:
        parts = [x.label if isinstance(x, Value) else _short(x) for x in self.inputs]
        parts += [
            f"{name}={_short(x)}" for name, x in self.params.items() if x is not self.primitive.defaults.get(name)
        ]
        return f"{self.name}({', '.join(parts)})"


@dataclass(eq=False)
class Traced:
    """A run as a graph. Operations are in the order in which they ran; the backward pass visits them in reverse."""

    name: str
    arguments: list[Value]
    operations: list[Operation]
    outputs: list[Value]
    boxes: list[Box]

    def values(self) -> Iterator[Value]:
        """Every value: arguments, constants and results, in the order of their numbers."""
        seen: dict[int, Value] = {v.number: v for v in self.arguments}
        for operation in self.operations:
            seen |= {v.number: v for v in (*operation.values, *operation.outputs)}
        return iter(v for _, v in sorted(seen.items()))

    def backward(self) -> list[Operation]:
        """The operations that the backward pass visits, in its order."""
        return [operation for operation in reversed(self.operations) if operation.reached]


def traced(f: Callable[..., Any], args: Sequence[Any], cotangent: Any = None) -> Traced:
    """Runs f once, keeping everything, and walks back. The state of modules is afterwards as before.

    Args:
        f: a function of pytrees; a module is an argument of itself.
        cotangent: like the output; ones where it is not given, which for a scalar is its gradient.

    Raises:
        DtypeError: no argument is of a floating-point type.
        ShapeError: the cotangent is not like the output.
    """
    function, args = unbound(f, args)
    named, _ = leaves_by_name(function, args)
    _refuse_no_floats(named)
    trace = _Scoped()
    observed = observe(function, args, trace=trace)
    adjoints = observed.pull(_cotangents(cotangent, observed.outputs))
    builder = _Builder(adjoints)
    for name, leaf in named.items():
        place = observed.inputs.get(name)
        if place is not None:
            builder.placed(place, observed.values[place]).name = name
        elif isinstance(leaf, np.ndarray):
            builder.plain(leaf).name = name
    arguments = [v for v in builder.found.values() if v.name]
    for value in arguments:
        value.constant = False
    builder.add(trace.events)
    outputs = [
        builder.plain(y) if place is None else builder.placed(place, y)
        for place, y in zip(observed.output_places, observed.outputs, strict=True)
    ]
    for name, held in observed.names.items():
        own = builder.places.get(held) if isinstance(held, int) else None
        if own is not None and not own.name:
            own.name = name
    operations = _needed(builder.operations, outputs)
    scopes = {box.number: box for operation in operations for box in operation.scope}
    title = getattr(f, "__name__", type(f).__name__)
    return Traced(title, arguments, operations, outputs, [scopes[k] for k in sorted(scopes)])


def _needed(operations: list[Operation], outputs: list[Value]) -> list[Operation]:
    """The operations that the result needs; others, such as the update of running statistics, are left out."""
    wanted = {value.number for value in outputs}
    needed: list[Operation] = []
    for operation in reversed(operations):
        if any(value.number in wanted for value in operation.outputs):
            wanted.update(value.number for value in operation.values)
            needed.append(operation)
    needed.reverse()
    for number, operation in enumerate(needed):
        operation.number = number
    kept = set(map(id, needed))
    for operation in operations:
        for value in (*operation.values, *operation.outputs):
            value.users = [user for user in value.users if id(user) in kept]
    return needed


def unbound(f: Callable[..., Any], args: Sequence[Any]) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A module, or a method of one, as a function of the module; any other function as it is."""
    owner = getattr(f, "__self__", f)
    if not isinstance(owner, Module):
        return f, tuple(args)
    method = type(owner).__call__ if owner is f else f.__func__  # type: ignore[attr-defined]
    seen = type(owner).forward if owner is f else method

    def function(model: Any, *inputs: Any) -> Any:
        return method(model, *inputs)

    parameters = list(inspect.signature(seen).parameters.values())
    first = parameters[0].replace(name="model")
    function.__signature__ = inspect.Signature([first, *parameters[1:]])  # type: ignore[attr-defined]
    function.__name__ = type(owner).__name__
    return function, (owner, *args)


def _refuse_no_floats(named: dict[str, Any]) -> None:
    if any(map(is_float, named.values())):
        return
    for name, leaf in named.items():
        dtype = getattr(leaf, "dtype", type(leaf) if isinstance(leaf, int) else None)
        if dtype is not None:
            raise DtypeError(not_differentiable(f"argument {name}", np.dtype(dtype)))
    raise DtypeError("expected at least one argument with floating-point numbers, got none")


def _cotangents(given: Any, outputs: list[Plain]) -> list[Plain]:
    if given is None:
        return [np.ones_like(y)[()] if y.dtype.kind == "f" else np.zeros(y.shape) for y in outputs]
    leaves = [np.asarray(plain_value(g)) for g in tree.leaves(given)]
    shapes, expected = [g.shape for g in leaves], [y.shape for y in outputs]
    if shapes != expected:
        raise ShapeError("cotangent", f"expected the output's shape {expected}, got {shapes}")
    return [g.astype(y.dtype) for g, y in zip(leaves, outputs, strict=True)]


def _short(x: Any) -> str:
    text = f"{x:.6g}" if isinstance(x, float) else repr(x)
    return text if len(text) <= 24 else f"{text[:21]}..."


# -- the trace -------------------------------------------------------------------------------------------------------
@dataclass(eq=False)
class _Event:
    """What the trace saw of one application."""

    primitive: Primitive
    args: tuple[Any, ...]  # places, as ints in a tuple, or plain values
    result: Any
    params: Params
    source: Source
    scope: tuple[Box, ...]
    application: Application | None
    seconds: float


class _Scoped(Observation):
    """Keeps everything, and in which calls of modules and functions each application happened."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[_Event] = []
        self.calls = Calls(observe)

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        before = len(self.applications)
        began = time.perf_counter()
        y = super().apply(primitive, args, params)
        seconds = time.perf_counter() - began
        application = self.applications[-1] if len(self.applications) > before else None
        result = (
            application.result if application else tuple(map(plain_value, y)) if type(y) is tuple else plain_value(y)
        )
        seen = tuple((k,) if (k := self.node_of(arg)) is not None else plain_value(arg) for arg in args)
        scope = self.calls.scope(sys._getframe(1))
        self.events.append(_Event(primitive, seen, result, params, user_line(), scope, application, seconds))
        return y


class Calls:
    """The calls of modules and functions that are going on, found in the stack of frames up to the function `home`."""

    def __init__(self, home: Any) -> None:
        self._home = home.__code__
        self._boxes: dict[
            int, tuple[FrameType, Box]
        ] = {}  # by the frame, which is kept so that its identity is its own
        self._paths: dict[int, tuple[Module, str]] = {}

    def scope(self, frame: FrameType | None) -> tuple[Box, ...]:
        """The boxes around what this frame does, outermost first."""
        frames: list[FrameType] = []
        while frame is not None and frame.f_code is not self._home:
            if frame.f_code is Module.__call__.__code__ or _is_users(frame):
                frames.append(frame)
            frame = frame.f_back
        frames.reverse()
        if frames and frames[0].f_code is not Module.__call__.__code__:
            del frames[0]  # f itself
        boxes: list[Box] = []
        for each in frames:
            boxes.append(self._box(each, boxes[-1] if boxes else None))
        return tuple(boxes)

    def _box(self, frame: FrameType, parent: Box | None) -> Box:
        known = self._boxes.get(id(frame))
        if known is not None:
            return known[1]
        if frame.f_code is Module.__call__.__code__:
            module = frame.f_locals["self"]
            path = self._path(module, frame, parent)
            name = path.removeprefix(f"{parent.path}.") if parent is not None and parent.path else path
            box = Box(len(self._boxes), name, type(module).__name__, parent, path)
        else:
            path = "" if parent is None else parent.path
            box = Box(len(self._boxes), frame.f_code.co_name, "function", parent, path)
        self._boxes[id(frame)] = frame, box
        return box

    def _path(self, module: Module, frame: FrameType, parent: Box | None) -> str:
        """The path of a module from the outermost one, which is called as the program calls it."""
        if id(module) not in self._paths:
            names = frame.f_back.f_locals if frame.f_back is not None else {}
            root = next((name for name, x in names.items() if x is module), type(module).__name__)
            base = f"{parent.path}.{root}" if parent is not None and parent.path else root
            for path, part in module.modules():
                self._paths.setdefault(id(part), (part, f"{base}.{path}" if path else base))
        return self._paths[id(module)][1]


def _is_users(frame: FrameType) -> bool:
    """Whether a frame is a function of the program, and not a comprehension or the forward of a module."""
    code, caller = frame.f_code, frame.f_back
    if code.co_filename.startswith(_OURS) or code.co_name.startswith("<"):
        return False
    return caller is None or caller.f_code is not Module.__call__.__code__


# -- from the trace to the graph -------------------------------------------------------------------------------------
class _Builder:
    """Turns what the trace saw into values and operations."""

    def __init__(self, adjoints: dict[int, Any]) -> None:
        self.adjoints = adjoints
        self.found: dict[int, Value] = {}
        self.places: dict[int, Value] = {}
        self.operations: list[Operation] = []
        self._arrays: dict[int, Value] = {}  # by identity: plain arrays, which the values keep alive

    def placed(self, place: int, array: Any) -> Value:
        """The value at a place of the trace."""
        if place not in self.places:
            value = self._new(array)
            value.tracked = True
            adjoint = self.adjoints.get(place)
            value.adjoint = None if adjoint is None else np.asarray(adjoint)
            self.places[place] = value
        return self.places[place]

    def plain(self, array: Any) -> Value:
        """The value that is a plain array: an argument, an untracked result, or a constant."""
        if id(array) not in self._arrays:
            value = self._arrays[id(array)] = self._new(array)
            value.constant = True
        return self._arrays[id(array)]

    def _new(self, array: Any) -> Value:
        value = Value(len(self.found), np.asarray(array))
        self.found[value.number] = value
        return value

    def add(self, events: Sequence[_Event]) -> None:
        """Adds the operations, in order. Boxes around a single operation that are no modules are left out."""
        inside: dict[int, int] = {}
        for event in events:
            for box in event.scope:
                inside[box.number] = inside.get(box.number, 0) + 1
        keep: list[Any] = []  # so that no identity is used twice
        for event in events:
            keep.append(event)
            inputs = tuple(self._input(arg) for arg in event.args)
            scope = tuple(box for box in event.scope if box.kind != "function" or inside[box.number] > 1)
            parts = event.result if type(event.result) is tuple else (event.result,)
            if event.application is not None:
                pairs = zip(event.application.places, parts, strict=True)
                outputs = tuple(self.placed(place, part) for place, part in pairs)
            else:
                outputs = tuple(self.plain(part) for part in parts)
            operation = Operation(
                len(self.operations), event.primitive, inputs, outputs, event.params, event.source, scope,
                event.application, event.seconds,
            )  # fmt: skip
            for value in operation.outputs:
                if value.maker is None and value.number not in {v.number for v in operation.values}:
                    value.maker, value.constant = operation, False
            for value in operation.values:
                value.users.append(operation)
            self.operations.append(operation)
        for box in {box.number: box for operation in self.operations for box in operation.scope}.values():
            while box.parent is not None and box.parent.kind == "function" and inside[box.parent.number] <= 1:
                box.parent = box.parent.parent

    def _input(self, arg: Any) -> Any:
        if isinstance(arg, tuple):
            return self.places[arg[0]]
        if isinstance(arg, np.ndarray) and (arg.ndim or id(arg) in self._arrays):
            return self.plain(arg)
        return arg.item() if isinstance(arg, np.generic) else arg
