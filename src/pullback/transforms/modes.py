"""Reverse and forward mode: `grad`, `value_and_grad`, `vjp`, `jvp`. Arguments and results are any pytree."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.source import user_line
from pullback.core.tape import Leaf, Tape, fit_cotangent, not_differentiable
from pullback.core.tensor import Array, Tensor
from pullback.core.trace import Forward, Trace
from pullback.errors import DtypeError, IndependentWarning, NonScalarError, ShapeError, TreeError

Function = Callable[..., Any]


def grad(f: Function, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Function:
    """The gradient of a scalar function: `pb.grad(f)(x)` has the shape of x.

    Args:
        f: a function of any pytrees that returns a scalar.
        argnums: which positional argument(s) to differentiate; a sequence gives a tuple of gradients.
        has_aux: f returns `(scalar, aux)`, and the result is `(gradient, aux)`.

    Raises:
        NonScalarError: f returned something else than a scalar.
        DtypeError: an argument is not of a floating-point type.
        MutationError: an array was changed after a rule had saved it.

    Warns:
        IndependentWarning: the result does not depend on an argument, whose gradient is therefore zero.
    """
    both = value_and_grad(f, argnums, has_aux=has_aux)

    @functools.wraps(f)
    def gradient(*args: Any, **kwargs: Any) -> Any:
        value, gradients = both(*args, **kwargs)
        return (gradients, value[1]) if has_aux else gradients

    return gradient


def value_and_grad(f: Function, argnums: int | Sequence[int] = 0, *, has_aux: bool = False) -> Function:
    """Like `grad`, and returns `(value, gradient)`; with `has_aux`, `((value, aux), gradient)`."""
    numbers = (argnums,) if isinstance(argnums, int) else tuple(argnums)

    @functools.wraps(f)
    def value_and_gradient(*args: Any, **kwargs: Any) -> Any:
        tape = Tape()
        try:
            lifted, leaves, structures = _lift(tape, args, numbers)
            result = f(*lifted, **kwargs)
            y, aux = _with_aux(result) if has_aux else (result, None)
            _check_scalar(y, f)
            gradients: dict[Leaf, Array] = {}
            if isinstance(y, Tensor) and y._trace is tape and y._node is not None:
                gradients = tape.pull([(y._node, np.ones(y.shape, y.dtype)[()])], free=True)
            _warn_independent(f, numbers, leaves, gradients)
            value = _lower(tape, y)
            aux = tree.map(lambda leaf: _lower(tape, leaf), aux)
        finally:
            tape.end()
        found = tuple(
            structure.unflatten(_gradient(gradients, leaf) for leaf in column)
            for structure, column in zip(structures, leaves, strict=True)
        )
        return ((value, aux) if has_aux else value), (found[0] if isinstance(argnums, int) else found)

    return value_and_gradient


def vjp(f: Function, *primals: Any) -> tuple[Any, Function]:
    """`(out, pullback)`: the value of f and its vector-Jacobian product.

    `pullback(cotangent)` takes a pytree like `out` and returns one gradient for each primal; it may be called again
    and again.
    """
    tape = Tape()
    try:
        lifted, leaves, structures = _lift(tape, primals, range(len(primals)))
        outputs, out_structure = tree.flatten(f(*lifted))
        values = [_lower(tape, y) for y in outputs]
        nodes = [y._node if isinstance(y, Tensor) and y._trace is tape else None for y in outputs]
    finally:
        tape.end()
    walker = Tape()  # the walk needs no trace of its own; the ended one refuses leaked tensors

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        given, structure = tree.flatten(cotangent)
        if structure != out_structure:
            raise TreeError(
                f"pullback: expected a cotangent like the output, with leaves {out_structure.paths()}, "
                f"got {structure.paths()}"
            )
        fitted = [
            fit_cotangent(g, np.shape(y), getattr(y, "dtype", None) or np.float64)
            for g, y in zip(given, values, strict=True)
        ]
        gradients = walker.pull(
            [(node, g) for node, g in zip(nodes, fitted, strict=True) if node is not None], free=False
        )
        return tuple(
            structure.unflatten(_gradient(gradients, leaf) for leaf in column)
            for structure, column in zip(structures, leaves, strict=True)
        )

    return out_structure.unflatten(values), pullback


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(out, tangent_out)`: the value of f and its directional derivative along the tangents.

    Args:
        primals: the arguments of f, as a tuple of pytrees.
        tangents: pytrees of the same structure, shapes and dtypes.
    """
    if len(primals) != len(tangents):
        raise TreeError(f"jvp: {len(primals)} primals but {len(tangents)} tangents")
    trace = Forward()
    try:
        lifted = []
        for number, (primal, tangent) in enumerate(zip(primals, tangents, strict=True)):
            values, structure = tree.flatten(primal)
            directions, other = tree.flatten(tangent)
            if structure != other:
                raise TreeError(
                    f"jvp: the tangent of argument {number} has leaves {other.paths()}, the primal {structure.paths()}"
                )
            pairs = []
            for path, value, direction in zip(structure.paths(), values, directions, strict=True):
                value = as_differentiable(value, number, path)
                direction = direction if isinstance(direction, Tensor) else np.asarray(direction, value.dtype)
                if direction.shape != value.shape:
                    raise ShapeError(
                        _name(number, path), f"expected a tangent of shape {value.shape}, got {direction.shape}"
                    )
                pairs.append(trace.lift(value, direction))
            lifted.append(structure.unflatten(pairs))
        outputs, structure = tree.flatten(f(*lifted))
        values = [_lower(trace, y) for y in outputs]
        out_tangents = [
            y._node
            if isinstance(y, Tensor) and y._trace is trace and y._node is not None
            else np.zeros_like(_lower(trace, y))
            for y in outputs
        ]
    finally:
        trace.end()
    return structure.unflatten(values), structure.unflatten(out_tangents)


# -- in and out of a trace -------------------------------------------------------------------------------------------
def as_differentiable(value: Any, number: int, path: str) -> Array:
    """A leaf as a floating-point array or tensor; raises DtypeError, naming the leaf, for anything else."""
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        if not isinstance(value, float | int | complex) or isinstance(value, bool):
            raise DtypeError(
                f"{_name(number, path)}: expected an array or a float, got {type(value).__name__}; "
                "leave it out with argnums, or mark the dataclass field metadata={'static': True}"
            )
        value = np.asarray(value)[()]
    if value.dtype.kind != "f":
        raise DtypeError(not_differentiable(_name(number, path), value.dtype))
    return value


def _name(number: int, path: str) -> str:
    return f"argument {number}" + (f" at {path}" if path else "")


def _lift(
    tape: Tape, args: Sequence[Any], numbers: Sequence[int]
) -> tuple[list[Any], list[list[Leaf]], list[tree.Structure]]:
    """The arguments with the leaves of those to differentiate put on the tape."""
    lifted, columns, structures = list(args), [], []
    for number in numbers:
        try:
            values, structure = tree.flatten(args[number])
        except IndexError:
            raise TreeError(
                f"argnums names argument {number}, but f was called with {len(args)} positional arguments"
            ) from None
        tensors = [
            tape.lift(as_differentiable(value, number, path), guard=_name(number, path))
            for value, path in zip(values, structure.paths(), strict=True)
        ]
        lifted[number] = structure.unflatten(tensors)
        columns.append([tensor._node for tensor in tensors])
        structures.append(structure)
    return lifted, columns, structures  # type: ignore[return-value]


def _lower(trace: Trace, y: Any) -> Any:
    return y._value if isinstance(y, Tensor) and y._trace is trace else y


def _gradient(gradients: dict[Leaf, Array], leaf: Leaf) -> Array:
    g = gradients.get(leaf)
    return np.zeros(leaf.shape, leaf.dtype)[()] if g is None else g


def _with_aux(result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        raise TreeError(f"has_aux=True: expected f to return (scalar, aux), got {type(result).__name__}")
    return result


def _check_scalar(y: Any, f: Function) -> None:
    name = getattr(f, "__name__", "f")
    if not isinstance(y, Tensor | np.ndarray | np.generic | float | int):
        raise NonScalarError(f"the gradient of {name}: expected a scalar result, got {type(y).__name__}")
    if np.size(y) != 1 or np.ndim(y) != 0:
        raise NonScalarError(
            f"the gradient of {name}: expected a scalar result, got shape {np.shape(y)}; "
            "sum it, or use pb.jacobian, or pb.vjp with a cotangent"
        )
    dtype = np.dtype(getattr(y, "dtype", type(y)))
    if dtype.kind != "f":
        raise DtypeError(not_differentiable(f"the result of {name}", dtype))


def _warn_independent(
    f: Function, numbers: Sequence[int], columns: list[list[Leaf]], gradients: dict[Leaf, Array]
) -> None:
    for number, leaves in zip(numbers, columns, strict=True):
        if leaves and not any(leaf in gradients for leaf in leaves):
            warnings.warn(
                f"the result of {getattr(f, '__name__', 'f')} does not depend on argument {number}: its gradient is zero. "
                f"Was the value taken off the tape (t.value, stop_gradient), or the argument not used? Called at {user_line()}",
                IndependentWarning,
                stacklevel=3,
            )
