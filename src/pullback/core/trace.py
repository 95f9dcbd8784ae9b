"""One level of tracing: the base of all traces, the tangents of forward mode, and the recording of a whole run.

Traces nest by level: a value of an inner trace holds a value of an outer one, so that any mixture of derivatives is
right by construction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn, Self

import numpy as np

from pullback.core.context import context, levels, watch
from pullback.core.primitive import Fused, Params, Primitive, as_operand
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View, read_only
from pullback.errors import FreedError, LeavesTapeError, PullbackError


class Trace:
    """One level of tracing. A context: when it closes, its tensors can no longer be used."""

    differentiating: ClassVar[bool] = True
    hidden: ClassVar[bool] = False  # whether Python may not see the numbers, as they will be others in the next run

    def __init__(self, level: int | None = None) -> None:
        self.level = next(levels) if level is None else level

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        self.__class__ = _Ended
        # NumPy puts an error of its own in place of ours when a tensor is assigned to an element of an array.
        if isinstance(error, ValueError) and isinstance(error.__cause__, LeavesTapeError):
            raise error.__cause__ from None

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        """Applies a primitive to arguments of which at least one belongs to this trace."""
        raise NotImplementedError

    def node_of(self, y: Any) -> Any:
        """What this trace knows of a value: its node or its tangent; None where it knows nothing."""
        return y._node if isinstance(y, Tensor) and y._trace is self else None

    def lower(self, y: Any) -> Any:
        """A value as the outer traces see it."""
        return y._value if isinstance(y, Tensor) and y._trace is self else y

    def backward(self, y: Tensor, cotangent: Array | None, retain: bool) -> None:
        raise PullbackError("backward() is for tensors made by pb.tensor; inside pb.grad, the transform does it")


class _Ended(Trace):
    """A trace whose transform has returned."""

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> NoReturn:
        raise FreedError(
            f"{primitive.name} at {user_line()} uses a tensor of a pb.grad, pb.vjp or pb.jvp that has ended; "
            "return what you need from the function (has_aux=True), or keep t.value"
        )


class Forward(Trace):
    """Forward mode: a tensor's node is its tangent."""

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        values = [self.lower(arg) if isinstance(arg, Tensor) else as_operand(primitive, arg) for arg in args]
        if not primitive.differentiable or context.barrier > self.level:
            return primitive(*values, **params)
        tangents = [self.node_of(arg) for arg in args]
        tangent = None
        if isinstance(primitive, Fused):
            if primitive.jvp is None:
                return primitive.open(args, params)
            y = primitive(*values, **params)
            filled = [np.zeros_like(v) if t is None else t for t, v in zip(tangents, values, strict=True)]
            tangent = primitive.jvp(tuple(values), tuple(filled))
            if type(y) is tuple:
                return tuple(Tensor(part, self, t) for part, t in zip(y, tangent, strict=True))
        else:
            y = primitive(*values, **params)
            if any(t is not None for t in tangents):
                tangent = primitive.push(tangents, values, y, params)
        if tangent is not None and tangent.dtype != y.dtype:
            tangent = tangent.astype(y.dtype)
        if context.watch:
            watch(primitive, values, y, "forward", user_line())
        result = Tensor(y, self, tangent)
        if primitive.view:
            View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
        return result


class Step(NamedTuple):
    """One line of a recording: a primitive, the earlier values it took, and where in the program it was applied."""

    outputs: dict[int, np.ndarray[Any, Any]]  # an array like each output, without its memory, by place
    primitive: Primitive
    inputs: tuple[Any, ...]  # the place of an earlier output or input (where refers is True), or a constant
    refers: tuple[bool, ...]
    params: Params
    source: Source


class Recording(Trace):
    """The outermost trace: notes every application in order, those of inner tapes' backward rules included.

    A tensor's node is its place: inputs come first, then the outputs of the steps.
    """

    differentiating = False

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.places = itertools.count(inputs)
        self.steps: list[Step] = []

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        values = [self.lower(arg) for arg in args]
        places = [self.node_of(arg) for arg in args]
        y = primitive.fn(*values, **params)
        results, outputs = [], {}
        for part in y if type(y) is tuple else (y,):
            if isinstance(part, np.ndarray | np.generic):  # and not a number or an option that a fused primitive saves
                place = next(self.places)
                outputs[place] = np.broadcast_to(np.empty((), part.dtype), part.shape)
                part = Tensor(part, self, place)
            results.append(part)
        inputs = tuple(value if k is None else k for value, k in zip(values, places, strict=True))
        refers = tuple(k is not None for k in places)
        self.steps.append(Step(outputs, primitive, inputs, refers, params, user_line()))
        return tuple(results) if type(y) is tuple else results[0]


def stop_gradient(x: Array) -> Array:
    """The value of x, cut off from every derivative, in both modes and at every order."""
    while isinstance(x, Tensor) and x._trace.differentiating:
        x = read_only(x._value)
    return x
