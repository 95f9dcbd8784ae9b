"""Products of matrices and tensors, and norms. All are multilinear, with adjoints that are products again."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from pullback.core.primitive import Fused, Multilinear, implements, unbroadcast
from pullback.core.tensor import RULES, Array
from pullback.errors import NoRuleError
from pullback.rules.elementwise import ratio
from pullback.rules.linear import axes_of


# -- matmul ----------------------------------------------------------------------------------------------------------
def _matmul(a: Array, b: Array) -> Array:
    return np.matmul(a, b)


def _matmul_left(g: Array, b: Array, shape: tuple[int, ...]) -> Array:
    """g b^T for every matrix of the batch, summed over the batch axes that the left side does not have."""
    return unbroadcast(np.matmul(g, np.swapaxes(b, -1, -2)), shape)


def _matmul_right(g: Array, a: Array, shape: tuple[int, ...]) -> Array:
    """a^T g; with one matrix on the right of a whole batch, as a single product over all rows."""
    if len(shape) == 2 and a.ndim > 2:
        rows = np.reshape(a, (-1, a.shape[-1]))
        return np.matmul(np.transpose(rows), np.reshape(g, (rows.shape[0], g.shape[-1])))
    return unbroadcast(np.matmul(np.swapaxes(a, -1, -2), g), shape)


def _blank(a: Array, b: Array) -> Array:
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    if a.shape[-1] != b.shape[-2]:
        return np.matmul(a, b)  # whose error this is
    return np.zeros((*batch, a.shape[-2], b.shape[-1]), np.result_type(a, b))


matmul = Multilinear(_matmul, _matmul_left, _matmul_right, name="matmul", blank=_blank)


@implements(np.matmul)
def _np_matmul(x1: Array, x2: Array) -> Array:
    """Vectors become matrices of one row or column, so that the primitive has one case."""
    if np.ndim(x1) == 0 or np.ndim(x2) == 0:
        raise ValueError("matmul: the operands must have at least one dimension; use * for scalars")
    if np.ndim(x1) == 1 and np.ndim(x2) == 1:
        return np.sum(x1 * x2)
    a = np.expand_dims(x1, 0) if np.ndim(x1) == 1 else x1
    b = np.expand_dims(x2, 1) if np.ndim(x2) == 1 else x2
    y = matmul(a, b)
    if np.ndim(x1) == 1:
        return np.squeeze(y, -2)
    return np.squeeze(y, -1) if np.ndim(x2) == 1 else y


@implements(np.dot)
def _dot(a: Array, b: Array) -> Array:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    if np.ndim(b) <= 2:
        return np.matmul(a, b)
    return np.tensordot(a, b, axes=((-1,), (-2,)))


@implements(np.inner)
def _inner(a: Array, b: Array) -> Array:
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return a * b
    return np.tensordot(a, b, axes=((-1,), (-1,)))


@implements(np.outer)
def _outer(a: Array, b: Array) -> Array:
    return np.reshape(a, (-1, 1)) * np.reshape(b, (1, -1))


@implements(np.vdot)
def _vdot(a: Array, b: Array, /) -> Array:
    return np.sum(np.ravel(a) * np.ravel(b))


@implements(np.vecdot, np.linalg.vecdot)
def _vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    return np.sum(x1 * x2, axis=axis)


@implements(np.matvec)
def _matvec(x1: Array, x2: Array, /) -> Array:
    return np.squeeze(np.matmul(x1, np.expand_dims(x2, -1)), -1)


@implements(np.vecmat)
def _vecmat(x1: Array, x2: Array, /) -> Array:
    return np.squeeze(np.matmul(np.expand_dims(x1, -2), x2), -2)


@implements(np.tensordot)
def _tensordot(a: Array, b: Array, axes: Any = 2) -> Array:
    if isinstance(axes, int):
        left, right = tuple(range(np.ndim(a) - axes, np.ndim(a))), tuple(range(axes))
    else:
        left, right = (normalize_axis_tuple(part, np.ndim(x)) for part, x in zip(axes, (a, b), strict=True))
    rest_a = [k for k in range(np.ndim(a)) if k not in left]
    rest_b = [k for k in range(np.ndim(b)) if k not in right]
    inner = int(np.prod([np.shape(a)[k] for k in left], dtype=int))
    shape_a, shape_b = tuple(np.shape(a)[k] for k in rest_a), tuple(np.shape(b)[k] for k in rest_b)
    rows = np.reshape(np.transpose(a, (*rest_a, *left)), (int(np.prod(shape_a, dtype=int)), inner))
    columns = np.reshape(np.transpose(b, (*right, *rest_b)), (inner, int(np.prod(shape_b, dtype=int))))
    return np.reshape(np.matmul(rows, columns), shape_a + shape_b)


@implements(np.kron)
def _kron(a: Array, b: Array) -> Array:
    ndim = max(np.ndim(a), np.ndim(b))
    shapes = [(1,) * (ndim - np.ndim(x)) + np.shape(x) for x in (a, b)]
    left = np.reshape(a, tuple(n for size in shapes[0] for n in (size, 1)))
    right = np.reshape(b, tuple(n for size in shapes[1] for n in (1, size)))
    return np.reshape(left * right, tuple(m * n for m, n in zip(*shapes, strict=True)))


# -- einsum ----------------------------------------------------------------------------------------------------------
def _einsum(*operands: Array, inputs: tuple[str, ...], output: str) -> Array:
    return np.einsum(f"{','.join(inputs)}->{output}", *operands, optimize=len(operands) > 1)


def _einsum_adjoint(
    g: Array, i: int, others: list[Array], inputs: tuple[str, ...], output: str, shape: tuple[int, ...]
) -> Array:
    """The einsum with g in operand i's place. A label that only this operand has was summed: ones bring it back. A
    label it has twice was a diagonal: an identity matrix puts it there."""
    labels = inputs[i]
    available = set(output).union(*(inputs[:i] + inputs[i + 1 :]))
    operands, terms, target, seen = [g, *others], [output, *inputs[:i], *inputs[i + 1 :]], "", set()
    fresh = iter(sorted(set(string.ascii_letters) - set("".join((*inputs, output)))))
    for label, size in zip(labels, shape, strict=True):
        if label in seen:
            twin = next(fresh)
            operands.append(np.eye(size, dtype=g.dtype))
            terms.append(label + twin)
            target += twin
            continue
        seen.add(label)
        target += label
        if label not in available:
            operands.append(np.ones(size, g.dtype))
            terms.append(label)
    return einsum(*operands, inputs=tuple(terms), output=target)


einsum: Multilinear = Multilinear(_einsum, _einsum_adjoint, name="einsum")


@implements(np.einsum)
def _np_einsum(subscripts: str, *operands: Array, optimize: Any = None, **options: Any) -> Array:
    if not isinstance(subscripts, str):
        raise NoRuleError("np.einsum: write the subscripts as one string, such as 'ij,jk->ik'")
    inputs, _, output = subscripts.replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(operands):
        raise ValueError(f"einsum {subscripts!r} has {len(terms)} terms for {len(operands)} operands")
    terms, output = _spell_out(terms, output if "->" in subscripts else None, [np.ndim(x) for x in operands])
    sizes: dict[str, int] = {}
    for term, operand in zip(terms, operands, strict=True):
        for label, size in zip(term, np.shape(operand), strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    full = []
    for term, operand in zip(
        terms, operands, strict=True
    ):  # a size of 1 is broadcast: said outright, so the adjoint is plain
        shape = tuple(sizes[label] for label in term)
        full.append(operand if np.shape(operand) == shape else np.broadcast_to(operand, shape))
    return einsum(*full, inputs=tuple(terms), output=output)


def _spell_out(terms: list[str], output: str | None, ndims: list[int]) -> tuple[list[str], str]:
    """Subscripts with letters for the ellipses and with an explicit output."""
    used = set("".join(terms)) | set(output or "")
    free = [c for c in string.ascii_letters if c not in used]
    widths = [ndim - len(term.replace("...", "")) for term, ndim in zip(terms, ndims, strict=True)]
    dots = "".join(free[: max([w for term, w in zip(terms, widths, strict=True) if "..." in term], default=0)])
    spelled = [
        term.replace("...", dots[len(dots) - width :] if width else "")
        for term, width in zip(terms, widths, strict=True)
    ]
    if output is None:
        joined = "".join(term.replace("...", "") for term in terms)
        output = dots + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    return spelled, output.replace("...", dots)


# -- norms -----------------------------------------------------------------------------------------------------------
def _norm_forward(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> tuple[Array, tuple[Array, Array]]:
    y = np.sqrt(np.sum(np.square(x), axis=axis, keepdims=True))
    return (y if keepdims else np.squeeze(y, axis)), (x, y)


def _norm_backward(saved: tuple[Array, Array], g: Array, *, axis: tuple[int, ...], keepdims: bool) -> tuple[Array]:
    x, y = saved
    return ((g if keepdims else np.reshape(g, y.shape)) * ratio(x, y),)


def _norm_reference(x: Array, *, axis: tuple[int, ...], keepdims: bool) -> Array:
    """sqrt(sum x^2), its argument moved away from 0 where x is 0, where the derivative is defined as 0."""
    total = np.sum(np.square(x), axis=axis, keepdims=keepdims)
    zero = total == 0
    return np.where(zero, 0.0, np.sqrt(np.where(zero, 1.0, total)))


euclidean_norm = Fused(_norm_forward, _norm_backward, _norm_reference, name="euclidean_norm")


@implements(np.linalg.norm)
def _norm(x: Array, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Array:
    """Vector norms of any order and the Frobenius norm; the gradient of the Euclidean norm at 0 is 0."""
    axes = axes_of(axis, x.ndim)
    matrix = len(axes) == 2 and ord is not None
    if ord is None or (ord == 2 and not matrix) or ord in ("fro", "f"):
        return euclidean_norm(x, axis=axes, keepdims=bool(keepdims))
    if matrix or isinstance(ord, str):
        if ord in (1, -1, np.inf, -np.inf):
            rows, columns = normalize_axis_tuple((0, 1) if axis is None else axis, x.ndim)
            summed, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
            reduce = np.max if ord > 0 else np.min
            y = reduce(np.sum(np.abs(x), axis=summed, keepdims=True), axis=kept, keepdims=True)
            return y if keepdims else np.squeeze(y, axes)
        raise NoRuleError(
            f"np.linalg.norm(ord={ord!r}) of a matrix needs singular values, which have no derivative rule yet"
        )
    size = np.abs(x)
    if ord == np.inf:
        return np.max(size, axis=axes, keepdims=keepdims)
    if ord == -np.inf:
        return np.min(size, axis=axes, keepdims=keepdims)
    if ord == 0:
        return np.sum(np.where(size == 0, 0.0, 1.0 + 0.0 * size), axis=axes, keepdims=keepdims)
    if ord == 1:
        return np.sum(size, axis=axes, keepdims=keepdims)
    return np.sum(size ** float(ord), axis=axes, keepdims=keepdims) ** (1.0 / ord)


@implements(np.linalg.vector_norm)
def _vector_norm(x: Array, /, *, axis: Any = None, keepdims: bool = False, ord: float = 2) -> Array:
    if axis is None:
        y = np.linalg.norm(np.ravel(x), ord)
        return np.reshape(y, (1,) * x.ndim) if keepdims else y
    return np.linalg.norm(x, None if ord == 2 else ord, axis, keepdims)


@implements(np.linalg.matrix_norm)
def _matrix_norm(x: Array, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    return np.linalg.norm(x, ord, (-2, -1), keepdims)


_ALIASES: dict[Any, Any] = {
    np.linalg.matmul: np.matmul, np.linalg.tensordot: np.tensordot, np.linalg.outer: np.outer,
    np.linalg.trace: np.trace, np.linalg.diagonal: np.diagonal, np.linalg.matrix_transpose: np.matrix_transpose,
}  # fmt: skip
for _alias, _function in _ALIASES.items():
    RULES[_alias] = RULES[_function]
