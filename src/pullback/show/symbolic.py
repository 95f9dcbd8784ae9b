"""Rules run on symbols: what a primitive's own rule computes is read off as an expression, next to its numbers."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.primitive import Elementwise, Fused, Params, Primitive, unbroadcast
from pullback.core.tensor import Array, Tensor
from pullback.core.trace import Trace
from pullback.errors import ConfigError, PullbackError, ShapeError
from pullback.show.algebra import atomic, constant
from pullback.show.expression import At, Expression, Symbol, Unit
from pullback.show.meaning import meaning


class Symbolic(Trace):
    """A trace whose values are expressions. A tensor's node is its expression, and it has its number too."""

    differentiating = False

    def apply(self, primitive: Primitive, args: Sequence[Array], params: Params) -> Any:
        values = [self.lower(arg) for arg in args]
        y = primitive.fn(*values, **params)
        if type(y) is tuple:
            raise PullbackError(f"{primitive.name} has several results")
        arguments = [self.expression(arg) for arg in args]
        return Tensor(np.asarray(y)[()], self, meaning(primitive, arguments, params, np.shape(y)))

    def expression(self, x: Any) -> Expression:
        """The expression of a tensor, a number or an array."""
        known = self.node_of(x)
        return known if known is not None else literal(self.lower(x))

    def tensor(self, e: Expression, value: Any) -> Tensor:
        """A value with its expression."""
        return Tensor(np.asarray(value)[()], self, e)


class Literal(Symbol):
    """An array that a rule itself brought."""

    def __init__(self, value: Any) -> None:
        super().__init__("array" + hashlib.blake2b(value.tobytes(), digest_size=6).hexdigest(), value.shape)
        object.__setattr__(self, "value", value)

    def compute(self, values: Any, known: dict[str, Any]) -> Any:
        return self.value  # type: ignore[attr-defined]


def literal(value: Any) -> Expression:
    """A constant: as a number where all elements are one, else as an array."""
    array = np.asarray(value)
    first = array.flat[0] if array.size else 0.0
    if (
        (array.dtype.kind == "f" or not array.ndim)
        and array.dtype.kind in "biuf"
        and np.isfinite(float(first))
        and (array == first).all()
    ):
        return constant(float(first), array.shape)
    hot: Any = np.flatnonzero(array) if array.ndim == 1 and array.dtype.kind == "f" else []
    if len(hot) == 1 and array[hot[0]] == 1:
        return atomic(Unit(At(int(hot[0])), array.size))
    return atomic(Literal(array))


def pulled(
    primitive: Primitive, i: int, arguments: Sequence[tuple[Expression, Any]], output: tuple[Expression, Any],
    cotangent: tuple[Expression, Any], params: Params,
) -> Expression:  # fmt: skip
    """What the primitive's rule for input i makes of a cotangent. Each value comes as its expression and its number.

    Raises ShapeError where the rule's result has another shape than the input.
    """
    with Symbolic() as trace:
        values = [_lifted(trace, *pair) for pair in arguments]
        y, g = trace.tensor(*output), trace.tensor(*cotangent)
        plan = primitive.plan(1 << i, len(values))
        if not plan.pulls:
            return constant(0, np.shape(arguments[i][1]))
        saved = plan.save([*values, y]) if plan.keep else ()
        shape = np.shape(arguments[i][1])
        result = plan.pulls[0](g, saved, shape, params)
        if isinstance(primitive, Elementwise) and np.shape(result) != shape:
            result = unbroadcast(result, shape)
        if np.shape(result) != shape:
            raise ShapeError(primitive.name, f"its rule returns shape {np.shape(result)} for an input of shape {shape}")
        return trace.expression(result)


def pushed(
    primitive: Primitive, arguments: Sequence[tuple[Expression, Any]], output: tuple[Expression, Any],
    tangents: Sequence[tuple[Expression, Any] | None], params: Params,
) -> Expression:  # fmt: skip
    """The tangent of the output, by the primitive's forward rule."""
    with Symbolic() as trace:
        values = [_lifted(trace, *pair) for pair in arguments]
        ts = [None if pair is None else trace.tensor(*pair) for pair in tangents]
        result = primitive.push(ts, values, trace.tensor(*output), params)
        return constant(0, np.shape(output[1])) if result is None else trace.expression(result)


def fused_gradients(
    primitive: Fused, arguments: Sequence[tuple[Expression, Any]], output: Sequence[tuple[Expression, Any]],
    cotangents: Sequence[tuple[Expression, Any]], params: Params,
) -> list[Expression | None]:  # fmt: skip
    """What a backward written by hand computes, one gradient per input. What its forward saved is expressed in the
    inputs and outputs."""
    with Symbolic() as trace:
        values = [trace.tensor(*pair) for pair in arguments]
        result, saved = primitive.forward(*values, **params)
        own = {id(part): pair for part, pair in zip(tree.leaves(result), output, strict=True)}
        leaves, structure = tree.flatten(saved)
        kept = [trace.tensor(*own[id(leaf)]) if id(leaf) in own else leaf for leaf in leaves]
        seeds = tuple(trace.tensor(*pair) for pair in cotangents)
        several = type(result) is tuple
        every = primitive.backward(structure.unflatten(kept), seeds if several else seeds[0], **params)
        return [None if g is None else trace.expression(g) for g in every]


def can_be_read(primitive: Fused, values: Sequence[Any], params: Params) -> bool:
    """Whether a fused primitive runs on symbols, forward and backward; NumPy code that writes to arrays does not."""
    arguments = [(atomic(Symbol(f"x{i}", np.shape(v))), np.asarray(v)) for i, v in enumerate(values)]
    try:
        y = primitive.fn(*values, **params)
        if type(y) is tuple:
            return False
        output = (atomic(Symbol("y", np.shape(y))), y)
        fused_gradients(primitive, arguments, [output], [(atomic(Symbol("g", np.shape(y))), np.ones_like(y))], params)
    except (PullbackError, TypeError, ValueError, AttributeError):
        return False
    return True


def _lifted(trace: Symbolic, e: Expression, value: Any) -> Any:
    """A value with its expression; a Python number as it is, since rules may ask what kind of number it is."""
    return value if type(value) in (int, float, bool) else trace.tensor(e, value)


def as_expression(f: Callable[..., Any], values: Mapping[str, Any]) -> Expression:
    """A NumPy function as an expression of the symbols that its parameters are named after."""
    with Symbolic() as trace:
        arguments = []
        for name in inspect.signature(f).parameters:
            base, _, suffix = name.rpartition("_")
            role = {"bar": "adjoint", "dot": "tangent"}.get(suffix, "value")
            if name not in values:
                raise ConfigError(f"a formula of {name!r}: the variables are {', '.join(values)}")
            shape = np.shape(values[name])
            own = Symbol(base if role != "value" else name, shape, role)
            arguments.append(trace.tensor(atomic(own), values[name]))
        return trace.expression(f(*arguments))


def by_reference(
    primitive: Fused, arguments: Sequence[tuple[Expression, Any]], params: Params, part: int
) -> Expression:
    """An output of a fused primitive as its reference computes it."""
    with Symbolic() as trace:
        result = primitive.open([trace.tensor(*pair) for pair in arguments], params)
        return trace.expression(result[part] if type(result) is tuple else result)
