"""Whole derivatives: the Jacobian matrix in either mode, the Hessian, and the product of a Hessian with a vector."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from pullback.core import tree
from pullback.core.tensor import Array
from pullback.errors import ConfigError
from pullback.transforms.modes import as_differentiable, grad, jvp, vjp

Mode = Literal["auto", "forward", "reverse"]


def jacobian(f: Callable[..., Any], argnums: int | Sequence[int] = 0, mode: Mode = "auto") -> Callable[..., Any]:
    """The Jacobian of f: an array of shape `out.shape + in.shape` for each leaf of the result and each of the argument.

    Args:
        mode: "forward" costs one run of f for each input element, "reverse" one walk back for each output element;
            "auto" takes forward where there are fewer inputs than outputs.
    """
    if mode not in ("auto", "forward", "reverse"):
        raise ConfigError(f"jacobian: mode must be 'auto', 'forward' or 'reverse', got {mode!r}")
    if not isinstance(argnums, int):
        each = [jacobian(f, number, mode) for number in argnums]
        return lambda *args, **kwargs: tuple(of_one(*args, **kwargs) for of_one in each)

    def jacobian_of_f(*args: Any, **kwargs: Any) -> Any:
        def of_one(x: Any) -> Any:
            return f(*args[:argnums], x, *args[argnums + 1 :], **kwargs)

        leaves, structure = tree.flatten(args[argnums])
        leaves = [as_differentiable(leaf, argnums, path) for leaf, path in zip(leaves, structure.paths(), strict=True)]
        x = structure.unflatten(leaves)
        if mode == "forward":
            return _forward(of_one, x, leaves, structure)
        out, pullback = vjp(of_one, x)
        outputs, out_structure = tree.flatten(out)
        if mode == "auto" and sum(map(np.size, leaves)) < sum(map(np.size, outputs)) and outputs:
            return _forward(of_one, x, leaves, structure)
        return _reverse(pullback, outputs, out_structure, leaves, structure)

    return jacobian_of_f


def _basis(leaves: Sequence[Array]) -> Iterator[list[Array]]:
    """Every unit vector of the space of these leaves, in order."""
    for k, leaf in enumerate(leaves):
        for i in range(np.size(leaf)):
            vectors = [np.zeros(np.shape(x), x.dtype) for x in leaves]
            vectors[k].reshape(-1)[i] = 1.0
            yield vectors


def _blocks(rows: list[list[Array]], outer: Sequence[Array], inner: Sequence[Array]) -> list[list[Array]]:
    """Rows, one for each element of the outer leaves, stacked as one array of shape outer + inner for each pair of
    leaves."""
    blocks, start = [], 0
    for leaf in outer:
        stop = start + np.size(leaf)
        blocks.append(
            [
                np.reshape(np.stack([row[k] for row in rows[start:stop]]), np.shape(leaf) + np.shape(x))
                if stop > start
                else np.zeros(np.shape(leaf) + np.shape(x), x.dtype)
                for k, x in enumerate(inner)
            ]
        )
        start = stop
    return blocks


def _forward(f: Callable[..., Any], x: Any, leaves: list[Array], structure: tree.Structure) -> Any:
    rows = []
    for vectors in _basis(leaves):
        _, tangent = jvp(f, (x,), (structure.unflatten(vectors),))
        rows.append(tree.leaves(tangent))
    outputs, out_structure = tree.flatten(f(x))
    blocks = _blocks(rows, leaves, outputs)
    turned = [
        [
            np.moveaxis(blocks[k][j], tuple(range(np.ndim(leaf))), tuple(range(-np.ndim(leaf), 0)))
            for k, leaf in enumerate(leaves)
        ]
        for j in range(len(outputs))
    ]
    return out_structure.unflatten([structure.unflatten(row) for row in turned])


def _reverse(
    pullback: Callable[..., Any],
    outputs: list[Array],
    out_structure: tree.Structure,
    leaves: list[Array],
    structure: tree.Structure,
) -> Any:
    rows = [tree.leaves(pullback(out_structure.unflatten(vectors))[0]) for vectors in _basis(outputs)]
    return out_structure.unflatten([structure.unflatten(row) for row in _blocks(rows, outputs, leaves)])


def hessian(f: Callable[..., Any], argnums: int = 0) -> Callable[..., Any]:
    """The matrix of second derivatives of a scalar function, of shape `x.shape + x.shape`.

    Costs one walk back through the gradient for each element of x.
    """
    return jacobian(grad(f, argnums), argnums, mode="reverse")


def hvp(f: Callable[..., Any], primals: Any, tangents: Any) -> Any:
    """The Hessian of a scalar function times a vector, without the Hessian: the directional derivative of the gradient.

    `hvp(f, x, v)` has the structure of x; with a tuple of several arguments the result is a tuple like it. About four
    times the cost of f (Pearlmutter, Fast exact multiplication by the Hessian, 1994)."""
    several = isinstance(primals, tuple)
    primals, tangents = (primals, tangents) if several else ((primals,), (tangents,))
    _, product = jvp(grad(f, tuple(range(len(primals)))), primals, tangents)
    return product if several and len(primals) > 1 else product[0]
