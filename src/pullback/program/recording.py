"""The recording of a function as a program: a trace whose numbers Python may not see, as the next run has others."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.context import context
from pullback.core.guard import fingerprint, is_exposed
from pullback.core.primitive import Elementwise, Params, Primitive, as_operand
from pullback.core.source import user_line
from pullback.core.tensor import Array, Tensor, View
from pullback.core.trace import Trace
from pullback.errors import LeavesTapeError, MutationError
from pullback.program import shortcut
from pullback.program.ir import Program, Step, Type, is_array


@dataclass(frozen=True)
class Recorded:
    """A program, and what surrounds it: state that it reads and writes, and the form of its result."""

    program: Program
    read: list[Any]  # objects whose `value` is an input, after the arguments
    written: list[Any]  # objects whose `value` is an output, after the results
    leaves: list[Any]  # of the result: `_OUTPUT` for an output, in order, else what it was
    structure: tree.Structure

    @functools.cached_property
    def result(self) -> shortcut.Build:
        """The result of the function, from the outputs that are its own."""
        return shortcut.building(self.structure, self.leaves, _OUTPUT)


_OUTPUT = object()


def record(f: Callable[..., Any], leaves: Sequence[Any], structure: tree.Structure) -> Recorded:
    """Runs f once on `(args, kwargs)`, given as leaves and structure, with every array among them an input."""
    with Recording() as trace:
        filled = [trace.input(leaf) if is_array(leaf) else leaf for leaf in leaves]
        arguments = [leaf for leaf in filled if isinstance(leaf, Tensor)]
        with _state(trace):
            args, kwargs = structure.unflatten(filled)
            results, result_structure = tree.flatten(f(*args, **kwargs))
        _refuse_writes(f, arguments, structure, leaves)
        outputs = [trace.place(y) for y in results if isinstance(y, Tensor) or is_array(y)]
        written = [holder for holder, value in trace.state.values() if value._node not in trace.inputs]
        outputs += [trace.place(trace.read(holder)) for holder in written]
    program = Program(tuple(trace.inputs), trace.constants, tuple(trace.steps), tuple(outputs), trace.types)
    kept = [_OUTPUT if isinstance(y, Tensor) or is_array(y) else y for y in results]
    return Recorded(program.check(), [holder for holder, _ in trace.state.values()], written, kept, result_structure)


LARGE = 1 << 15
"""Elements of a step, in all, from which on its numbers are not computed until someone needs them."""


class Recording(Trace):
    """The outermost trace of a compiled function. A tensor's node is its place.

    Python may not see the numbers, so most need not be computed: large results, and what is made of them, are zeros of
    their type, until a function comes that is not known to be indifferent to numbers. Then all are filled in, in place.
    """

    differentiating = False
    hidden = True

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[int] = []
        self.constants: dict[int, Any] = {}
        self.steps: list[Step] = []
        self.types: dict[int, Type] = {}
        self.state: dict[int, tuple[Any, Tensor]] = {}  # by identity: an object that holds state, and what is in it now
        self._known: dict[
            tuple[int, int], tuple[Any, int]
        ] = {}  # arrays that became constants, by identity and content
        self._blank: dict[int, Any] = {}  # by the identity of what a step gave: the zeros that stand for it
        self._steps_to_do: list[_Blank] = []

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        args = [as_operand(primitive, arg) for arg in args]
        values = [self.lower(arg) for arg in args]
        with _state(None):  # state that is hidden inside a primitive is changed by the primitive, at every run
            y = self._run(primitive, values, params)
        if any(isinstance(part, Tensor) for part in (y if type(y) is tuple else (y,))):
            raise LeavesTapeError(
                f"pb.compile: {primitive.name} at {user_line()} uses a traced array that is not one of its arguments: "
                "make it one"
            )
        if type(y) is not tuple:
            result = self._value(y) if is_array(y) else y
            outputs = (result._node,) if isinstance(result, Tensor) else ()
            self._add(primitive, args, params, outputs)
            if primitive.view and isinstance(args[0], Tensor):
                View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
            return result
        # A part that is an input, or an earlier part, once more is that value and no other: so saved inputs are seen
        # for what they are.
        seen = {id(value): arg for arg, value in zip(args, values, strict=True) if self.node_of(arg) is not None}
        results: list[Any] = []
        made, fixed = [], []
        for position, part in enumerate(y):
            if not is_array(part):
                fixed.append((position, part))
                results.append(part)
                continue
            if id(part) not in seen:
                seen[id(part)] = self._value(part)
                made.append(position)
            results.append(seen[id(part)])
        outputs = tuple(results[position]._node for position in made)
        self._add(primitive, args, params, outputs, tuple(made), tuple(fixed))
        return tuple(results)

    def _run(self, primitive: Primitive, values: Sequence[Any], params: Params) -> Any:
        """What the step gives: numbers, or zeros that stand for them."""
        unknown = any(id(value) in self._blank for value in values)
        large = sum(getattr(value, "size", 1) for value in values) >= LARGE
        blank = blank_of(primitive) if large or unknown else None
        if blank is None and not unknown:
            return primitive.fn(*values, **params)
        if blank is None and not primitive.registered:
            self._fill()
            return primitive.fn(*values, **params)
        with np.errstate(all="ignore"):  # of zeros, which nobody divided by
            y = (blank or primitive.fn)(*values, **params)
        known = {id(value) for value in values}
        parts = [part if is_array(part) and id(part) not in known else None for part in _parts(y)]
        zeros = [None if part is None else np.array(part) if isinstance(part, np.generic) else part for part in parts]
        self._steps_to_do.append(_Blank(primitive, values, params, parts, zeros))
        self._blank.update({id(part): zero for part, zero in zip(parts, zeros, strict=True) if part is not None})
        return y

    def _fill(self) -> None:
        """Compute all that zeros stand for."""
        steps, self._steps_to_do, self._blank = self._steps_to_do, [], {}
        for step in steps:
            y = step.primitive.fn(*step.values, **step.params)
            for zeros, part in zip(step.zeros, _parts(y), strict=True):
                if zeros is not None and not (zeros.base is not None and np.may_share_memory(zeros, part)):
                    writeable = zeros.flags.writeable
                    zeros.flags.writeable = True
                    np.copyto(zeros, part)
                    zeros.flags.writeable = writeable

    def _add(
        self, primitive: Primitive, args: Sequence[Any], params: Params, outputs: tuple[int, ...], *rest: Any
    ) -> None:
        inputs = tuple(self.place(arg) for arg in args)
        self.steps.append(Step(primitive, inputs, params, outputs, user_line(), *rest))

    def input(self, value: Any) -> Tensor:
        """A new input of the program."""
        tensor = self._value(value)
        self.inputs.append(tensor._node)
        return tensor

    def place(self, value: Any) -> int:
        """The place of a value; what this trace does not know is a constant, read now."""
        node = self.node_of(value)
        if node is not None:
            return int(node)
        value = self.lower(value)
        if not isinstance(value, np.ndarray):
            return self._constant(value)
        key = id(value), fingerprint(value)
        if key not in self._known:
            own = value.copy() if is_exposed(value) else value
            own.flags.writeable = False
            self._known[key] = value, self._constant(own)
        return self._known[key][1]

    def read(self, holder: Any) -> Tensor:
        """The value of an object that holds state, as it is at this point of the program."""
        if id(holder) not in self.state:
            with _state(None):
                self.state[id(holder)] = holder, self.input(holder.value)
        return self.state[id(holder)][1]

    def write(self, holder: Any, value: Array) -> None:
        """A new value for an object that holds state, taken off the tapes inside."""
        before = self.read(holder)
        while isinstance(value, Tensor) and value._trace is not self:
            value = value._value
        if self.node_of(value) is None:
            constant = np.asarray(self.lower(value), before.dtype)
            value = Tensor(constant, self, self.place(constant))
        if value.dtype != before.dtype:
            value = np.astype(value, before.dtype)
        self.state[id(holder)] = holder, value

    def _value(self, value: Any) -> Tensor:
        place = len(self.types)
        self.types[place] = Type.of(value)
        return Tensor(self._blank.get(id(value), value), self, place)

    def _constant(self, value: Any) -> int:
        place = len(self.types)
        self.types[place] = Type.of(value)
        self.constants[place] = value
        return place


class _Blank(NamedTuple):
    """A step that was not done."""

    primitive: Primitive
    values: Sequence[Any]
    params: Params
    parts: Sequence[Any]  # what it gave, which must live as long as its identity is used
    zeros: Sequence[Any]  # the arrays that its results go to; None for what is no result of its own


def blank_of(primitive: Primitive) -> Callable[..., Any] | None:
    """What gives zeros in the place of the result, where that is less work."""
    if not isinstance(primitive, Elementwise) and not isinstance(primitive.fn, np.ufunc):
        return primitive.blank

    def elementwise(*values: Any, **params: Any) -> Any:
        shape = np.broadcast_shapes(*map(np.shape, values))
        single = [np.ones((1,) * value.ndim, value.dtype) if np.ndim(value) else value for value in values]
        y = primitive.fn(*single, **params)
        return np.zeros(shape, y.dtype) if shape else y

    return elementwise


def _parts(y: Any) -> tuple[Any, ...]:
    return y if type(y) is tuple else (y,)


@contextmanager
def _state(store: Any) -> Iterator[None]:
    before = context.state
    context.state = store
    try:
        yield
    finally:
        context.state = before


def _refuse_writes(f: Any, arguments: list[Tensor], structure: tree.Structure, leaves: Sequence[Any]) -> None:
    paths = [path for path, leaf in zip(structure.paths(), leaves, strict=True) if is_array(leaf)]
    for place, (tensor, path) in enumerate(zip(arguments, paths, strict=True)):
        if tensor._node != place:
            name = getattr(f, "__name__", type(f).__name__)
            raise MutationError(
                f"pb.compile: {name} writes into its argument at {path}. A program returns new arrays and leaves its "
                "arguments alone: write into a copy, a = a.copy(), and return it"
            )
