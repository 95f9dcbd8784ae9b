"""Derivatives by hand (`custom`) and by recomputation (`checkpoint`): both are fused primitives made from the user's
functions."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.context import context, journal, replay
from pullback.core.guard import fingerprint
from pullback.core.primitive import Fused
from pullback.core.tensor import Array, plain_value
from pullback.errors import MutationError
from pullback.transforms.modes import jvp as directional
from pullback.transforms.modes import vjp


def custom(
    forward: Callable[..., tuple[Any, Any]],
    backward: Callable[[Any, Any], Any],
    jvp: Callable[[tuple[Any, ...], tuple[Any, ...]], Any] | None = None,
) -> Fused:
    """A function with a derivative written by hand.

    Args:
        forward: `forward(*inputs) -> (output, saved)`; the output is an array, or a tuple of arrays.
        backward: `backward(saved, cotangent) -> one gradient per input`, `None` where there is none. Written in NumPy
            functions it is itself differentiable.
        jvp: `jvp(primals, tangents) -> tangent of the output`; without it, forward mode raises NoRuleError.
    """

    def all_gradients(saved: Any, cotangent: Array) -> Sequence[Any]:
        gradients = backward(saved, cotangent)
        return gradients if isinstance(gradients, tuple | list) else (gradients,)

    return Fused(forward, all_gradients, None, jvp=jvp, name=getattr(forward, "__name__", "custom"), register=False)


def checkpoint(f: Callable[..., Any]) -> Callable[..., Any]:
    """f, saving only its inputs for the backward pass and computing everything else again: memory for time.

    A module, or a method of one, is checkpointed with its parameters. What f reads from elsewhere must not be
    tracked, and f must compute the same values again: random numbers only from modules, whose state is put back for
    the second run."""
    owner = getattr(f, "__self__", f)
    bound = tree.flatten(owner)[1].kind is not None
    function = getattr(f, "__func__", type(f).__call__) if bound else f

    @functools.wraps(f)
    def checkpointed(*args: Any, **kwargs: Any) -> Any:
        if context.state is not None:  # in a compiled function, whose recording sees every step as it is
            return f(*args, **kwargs)
        leaves, structure = tree.flatten(((owner, *args) if bound else args, kwargs))
        arrays = [i for i, leaf in enumerate(leaves) if _is_real(leaf)]
        shape_of_result: list[tree.Structure] = []

        def flat(*values: Array) -> Any:
            filled = list(leaves)
            for i, value in zip(arrays, values, strict=True):
                filled[i] = value
            positional, named = structure.unflatten(filled)
            results, result_structure = tree.flatten(function(*positional, **named))
            shape_of_result[:] = [result_structure]
            return tuple(results)

        def forward(*values: Array) -> tuple[Any, Any]:
            with journal() as changes:
                results = flat(*values)
            prints = [fingerprint(np.asarray(plain_value(y))) for y in results]
            return results, (values, changes, prints)

        def backward(saved: Any, cotangents: tuple[Array, ...]) -> Sequence[Any]:
            values, changes, prints = saved
            with replay(changes):
                results, pullback = vjp(flat, *values)
            if prints != [fingerprint(np.asarray(plain_value(y))) for y in results]:
                raise MutationError(
                    f"checkpoint: {name} computed other values the second time, so its gradient would be wrong. "
                    "It must depend on nothing but its arguments: no fresh random numbers, no global state"
                )
            return pullback(cotangents)  # type: ignore[no-any-return]

        def forward_mode(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
            return directional(flat, primals, tangents)[1]

        name = getattr(f, "__name__", type(f).__name__)
        primitive = Fused(forward, backward, None, jvp=forward_mode, name=f"checkpoint({name})", register=False)
        results = primitive(*[leaves[i] for i in arrays])
        return shape_of_result[0].unflatten(results)

    return checkpointed


def _is_real(leaf: Any) -> bool:
    return getattr(getattr(leaf, "dtype", None), "kind", "") == "f"
