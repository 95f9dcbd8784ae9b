"""One level of tracing: the base of all traces, the tangents of forward mode, and the recording of a whole run.

Traces nest by level: a value of an inner trace holds a value of an outer one, so that any mixture of derivatives is
right by
construction.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, NoReturn

import numpy as np

from pullback.core.context import context, levels, watch
from pullback.core.primitive import Fused, Primitive
from pullback.core.source import Source, user_line
from pullback.core.tensor import Array, Tensor, View
from pullback.errors import FreedError, PullbackError


class Trace:
    """One level of tracing."""

    differentiating: ClassVar[bool] = True

    def __init__(self, level: int | None = None) -> None:
        self.level = next(levels) if level is None else level

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        """Applies a primitive to arguments of which at least one belongs to this trace."""
        raise NotImplementedError

    def backward(self, y: Tensor, cotangent: Array | None, retain: bool) -> None:
        raise PullbackError(
            "backward() is for tensors made by pb.tensor; inside pb.grad and its kin, the transform does it"
        )

    def end(self) -> None:
        """Ends the trace: its tensors can no longer be used."""
        self.__class__ = _Ended


class _Ended(Trace):
    """A trace whose transform has returned."""

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> NoReturn:
        raise FreedError(
            f"{primitive.name} at {user_line()} uses a tensor of a pb.grad, pb.vjp or pb.jvp that has ended; "
            "return what you need from the function (has_aux=True), or keep t.value"
        )


class Forward(Trace):
    """Forward mode: a tensor's node is its tangent."""

    def lift(self, value: Array, tangent: Array) -> Tensor:
        """An input of this trace with its tangent."""
        return Tensor(value, self, tangent)

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        mine = [isinstance(arg, Tensor) and arg._trace is self for arg in args]
        values = [
            arg._value if own else np.asarray(arg) if isinstance(arg, list | tuple) else arg
            for arg, own in zip(args, mine, strict=True)
        ]
        tangents: list[Any] = [arg._node if own else None for arg, own in zip(args, mine, strict=True)]
        if not primitive.differentiable or context.barrier > self.level:
            return primitive(*values, **params)
        if isinstance(primitive, Fused) and primitive.jvp is None:
            return primitive.open(args, params)
        y = primitive(*values, **params)
        if all(t is None for t in tangents):
            tangent = None
        elif isinstance(primitive, Fused):
            filled = [np.zeros_like(v) if t is None else t for t, v in zip(tangents, values, strict=True)]
            tangent = primitive.jvp(tuple(values), tuple(filled))  # type: ignore[misc]
        else:
            tangent = primitive.push(tangents, values, y, params)
        if type(y) is tuple:
            return tuple(Tensor(part, self, tangent and tangent[k]) for k, part in enumerate(y))
        if tangent is not None and tangent.dtype != y.dtype:
            tangent = tangent.astype(y.dtype)
        result = Tensor(y, self, tangent)
        if context.watch:
            watch(primitive, values, y, "forward", user_line())
        if primitive.view:
            View.link(args[0], result, lambda plain: primitive.fn(plain, **params))
        return result


class Step(NamedTuple):
    """One line of a recording: a primitive, the earlier values it took, and where in the program it was applied."""

    place: int
    primitive: Primitive
    inputs: tuple[Any, ...]  # the place of an earlier step or input (where refers is True), or a constant
    refers: tuple[bool, ...]
    params: dict[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    nbytes: int
    source: Source


class Recording(Trace):
    """The outermost trace: notes every application in order, those of inner tapes' backward rules included."""

    differentiating = False

    def __init__(self) -> None:
        super().__init__()
        self.inputs = 0
        self.steps: list[Step] = []

    def lift(self, value: Array) -> Tensor:
        """An input of the recording."""
        self.inputs += 1
        return Tensor(value, self, self.inputs - 1)  # type: ignore[arg-type]

    def apply(self, primitive: Primitive, args: Sequence[Array], params: dict[str, Any]) -> Any:
        own = [isinstance(arg, Tensor) and arg._trace is self for arg in args]
        values = [arg._value if mine else arg for arg, mine in zip(args, own, strict=True)]
        y = primitive.fn(*values, **params)
        parts = y if type(y) is tuple else (y,)
        refers = tuple(mine and arg._node is not None for arg, mine in zip(args, own, strict=True))
        inputs = tuple(arg._node if known else value for arg, value, known in zip(args, values, refers, strict=True))
        results = []
        for part in parts:
            index = self.inputs + len(self.steps)
            part = np.asarray(part)[()]
            self.steps.append(
                Step(index, primitive, inputs, refers, params, part.shape, part.dtype, part.nbytes, user_line())
            )
            results.append(Tensor(part, self, index))  # type: ignore[arg-type]
        return tuple(results) if type(y) is tuple else results[0]


def stop_gradient(x: Array) -> Array:
    """The value of x, cut off from every derivative, in both modes and at every order."""
    while isinstance(x, Tensor) and x._trace.differentiating:
        x = x._value
    return x
