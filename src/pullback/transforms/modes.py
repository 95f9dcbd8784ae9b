"""Reverse and forward mode: `grad`, `value_and_grad`, `vjp`, `jvp`. Arguments and results are any pytree."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pullback.core import tree
from pullback.core.source import user_line
from pullback.core.tape import Leaf, Tape, fit_cotangent, not_differentiable
from pullback.core.tensor import Array, Tensor
from pullback.core.trace import Forward
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
        with Tape() as tape:
            lifted, inputs = _lift(tape, args, numbers)
            result = f(*lifted, **kwargs)
            y, aux = _with_aux(result) if has_aux else (result, None)
            _check_scalar(y, f)
            node = tape.node_of(y)
            gradients = {} if node is None else tape.pull([(node, np.ones(y.shape, y.dtype)[()])], free=True)
            _warn_independent(f, numbers, inputs, gradients)
            value, aux = tape.lower(y), tree.map(tape.lower, aux)
        found = tuple(each.gradient(gradients) for each in inputs)
        return ((value, aux) if has_aux else value), (found[0] if isinstance(argnums, int) else found)

    return value_and_gradient


def vjp(f: Function, *primals: Any) -> tuple[Any, Function]:
    """`(out, pullback)`: the value of f and its vector-Jacobian product.

    `pullback(cotangent)` takes a pytree like `out` and returns one gradient for each primal; it may be called again
    and again.
    """
    with Tape() as tape:
        lifted, inputs = _lift(tape, primals, range(len(primals)))
        outputs, out_structure = tree.flatten(f(*lifted))
        values, nodes = [tape.lower(y) for y in outputs], [tape.node_of(y) for y in outputs]

    def pullback(cotangent: Any) -> tuple[Any, ...]:
        given, structure = tree.flatten(cotangent)
        if structure != out_structure:
            raise TreeError(
                f"pullback: expected a cotangent like the output, with leaves {out_structure.paths()}, "
                f"got {structure.paths()}"
            )
        seeds = [
            (node, fit_cotangent(g, node.shape, node.dtype))
            for node, g in zip(nodes, given, strict=True)
            if node is not None
        ]
        gradients = Tape().pull(seeds, free=False)
        return tuple(each.gradient(gradients) for each in inputs)

    return out_structure.unflatten(values), pullback


def jvp(f: Function, primals: Sequence[Any], tangents: Sequence[Any]) -> tuple[Any, Any]:
    """`(out, tangent_out)`: the value of f and its directional derivative along the tangents.

    Args:
        primals: the arguments of f, as a tuple of pytrees.
        tangents: pytrees of the same structure, shapes and dtypes.
    """
    for each in (primals, tangents):
        if not isinstance(each, tuple | list):
            raise TreeError(
                f"expected tuples of arguments and of tangents, as in jvp(f, (x,), (v,)), got {type(each).__name__}"
            )
    if len(primals) != len(tangents):
        raise TreeError(f"jvp: {len(primals)} primals but {len(tangents)} tangents")
    with Forward() as trace:
        lifted = [_pair(trace, number, *pair) for number, pair in enumerate(zip(primals, tangents, strict=True))]
        outputs, structure = tree.flatten(f(*lifted))
        values, pushed = [trace.lower(y) for y in outputs], [trace.node_of(y) for y in outputs]
    filled = [np.zeros_like(y) if t is None else t for y, t in zip(values, pushed, strict=True)]
    return structure.unflatten(values), structure.unflatten(filled)


# -- in and out of a trace -------------------------------------------------------------------------------------------
def as_differentiable(value: Any, number: int, path: str) -> Array:
    """A leaf as a floating-point array or tensor; raises DtypeError, naming the leaf, for anything else."""
    where = _name(number, path)
    setting = "leave it out with argnums, or mark the dataclass field metadata={'static': True}"
    if not isinstance(value, Tensor | np.ndarray | np.generic | float | int | complex) or isinstance(value, bool):
        raise DtypeError(f"{where}: expected an array or a float, got {type(value).__name__}; {setting}")
    mend = f"write {value}.0" if isinstance(value, int) else "convert it, x.astype(float)"
    if not isinstance(value, Tensor | np.ndarray | np.generic):
        value = np.asarray(value)[()]
    if value.dtype.kind != "f":
        raise DtypeError(not_differentiable(where, value.dtype, f"{mend}, or {setting}" if path else mend))
    return value


def _name(number: int, path: str) -> str:
    return f"argument {number}" + (f" at {path}" if path else "")


class _Input(NamedTuple):
    """An argument on the tape."""

    leaves: list[Any]
    structure: tree.Structure

    def gradient(self, gradients: dict[Leaf, Array]) -> Any:
        """The gradient in the structure of the argument, zero where nothing arrived."""
        return self.structure.unflatten(
            gradients[leaf] if leaf in gradients else np.zeros(leaf.shape, leaf.dtype)[()] for leaf in self.leaves
        )


def _lift(tape: Tape, args: Sequence[Any], numbers: Sequence[int]) -> tuple[list[Any], list[_Input]]:
    """The arguments with the leaves of those to differentiate put on the tape."""
    lifted, inputs = list(args), []
    for number in numbers:
        if not -len(args) <= number < len(args):
            raise TreeError(f"argnums names argument {number}, but f was called with {len(args)} positional arguments")
        values, structure = tree.flatten(args[number])
        tensors = [
            tape.lift(as_differentiable(value, number, path), guard=_name(number, path))
            for value, path in zip(values, structure.paths(), strict=True)
        ]
        lifted[number] = structure.unflatten(tensors)
        inputs.append(_Input([tensor._node for tensor in tensors], structure))
    return lifted, inputs


def _pair(trace: Forward, number: int, primal: Any, tangent: Any) -> Any:
    """An argument on the forward trace, each leaf with its tangent."""
    values, structure = tree.flatten(primal)
    directions, other = tree.flatten(tangent)
    if structure != other:
        raise TreeError(
            f"jvp: the tangent of argument {number} has leaves {other.paths()}, its primal {structure.paths()}"
        )
    pairs = []
    for path, value, t in zip(structure.paths(), values, directions, strict=True):
        value = as_differentiable(value, number, path)
        t = t if isinstance(t, Tensor) else np.asarray(t, value.dtype)
        if t.shape != value.shape:
            raise ShapeError(_name(number, path), f"expected a tangent of shape {value.shape}, got {t.shape}")
        pairs.append(Tensor(value, trace, t))
    return structure.unflatten(pairs)


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


def _warn_independent(f: Function, numbers: Sequence[int], inputs: list[_Input], gradients: dict[Leaf, Array]) -> None:
    for number, (leaves, _) in zip(numbers, inputs, strict=True):
        if leaves and gradients.keys().isdisjoint(leaves):
            where = user_line()
            name = getattr(f, "__name__", "f")
            message = (
                f"the result of {name} does not depend on argument {number}: its gradient is zero. Was the "
                f"value taken off the tape (t.value, stop_gradient), or the argument not used? Called at {where}"
            )
            warnings.warn_explicit(message, IndependentWarning, where.file, where.line)
