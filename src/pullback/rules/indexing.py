"""Indexing: reading and writing at any index, with repeated indices adding up in the gradient.

An index is split into a template (slices, integers, `None`, `...`) and the arrays in it. The arrays are inputs like
any other, so that a recording sees where they came from."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from pullback.core.primitive import Linear, Untracked, implements, unbroadcast
from pullback.core.tensor import Array, Tensor, plain_value
from pullback.errors import NoRuleError
from pullback.rules.linear import axes_of

Template = tuple[Any, ...]


class _Hole:
    """Stands in a template for the next index array."""

    def __repr__(self) -> str:
        return "array"


_HOLE = _Hole()


def _split(index: Any) -> tuple[Template, list[Any]]:
    """An index as a template and its arrays."""
    template: list[Any] = []
    arrays: list[Any] = []
    for part in index if isinstance(index, tuple) else (index,):
        if isinstance(part, list):
            part = np.asarray(part, dtype=None if part else np.intp)
        if isinstance(part, np.ndarray | Tensor):
            if part.dtype.kind == "f":
                raise IndexError(
                    "arrays used as indices must be of integer or boolean type; a tracked value is neither"
                )
            template.append(_HOLE)
            arrays.append(part)
        else:
            template.append(part)
    return tuple(template), arrays


def _join(template: Template, arrays: Any) -> Any:
    supply = iter(arrays)
    return tuple(next(supply) if part is _HOLE else part for part in template)


def _getitem(x: Array, *positions: Any, template: Template) -> Array:
    return x[_join(template, positions)]


def _index_add(v: Array, *positions: Any, template: Template, size: tuple[int, ...]) -> Array:
    """Zeros of shape `size` with v added at an index; repeated positions add up."""
    out = np.zeros(size, v.dtype)
    index = _join(template, positions)
    if not positions:
        out[index] = v  # slices reach each place once
    elif len(template) == 1 and positions[0].dtype.kind != "b" and positions[0].ndim == 1 and v.ndim > 1:
        _add_rows(out, positions[0], v)
    else:
        np.add.at(out, index, v)
    return out


def _add_rows(out: Array, rows: Any, v: Array) -> None:
    """out[rows[k]] += v[k], by sorting the rows: each run of equal ones becomes one sum. Far faster than np.add.at."""
    order = np.argsort(rows % out.shape[0], kind="stable")
    ordered = (rows % out.shape[0])[order]
    if ordered.size:
        starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        out[ordered[starts]] = np.add.reduceat(v[order], starts, axis=0)


def _index_update(x: Array, v: Array, *positions: Any, template: Template) -> Array:
    """x with v written at an index."""
    out = np.array(x, copy=True)
    out[_join(template, positions)] = v
    return out


def _zeroed(g: Array, positions: Any, template: Template) -> Array:
    return index_update(g, np.zeros_like(g, shape=()), *positions, template=template)


def _written(g: Array, positions: Any, template: Template, shape: tuple[int, ...]) -> Array:
    """The cotangent of what was written: where several writes met, only the last one counts."""
    part = getitem(g, *positions, template=template)
    if positions:
        last = _last_writes(*positions, template=template, size=g.shape, written=part.shape)
        part = np.where(last, part, 0.0)
    extra = len(shape) - part.ndim
    if extra > 0:  # NumPy lets the value have leading axes of size one
        part = np.reshape(part, (1,) * extra + part.shape)
    return unbroadcast(part, shape)


def _is_last_write(*positions: Array, template: Template, size: tuple[int, ...], written: tuple[int, ...]) -> Array:
    """Which of the values written at an index into an array of shape `size` are still there afterwards."""
    index = _join(template, positions)
    order = np.arange(math.prod(written)).reshape(written)
    last = np.empty(size, np.intp)
    last[index] = order
    return last[index] == order


_last_writes = Untracked(_is_last_write, name="last_writes", register=False, blank=_is_last_write)
getitem: Linear = Linear(
    _getitem,
    lambda g, others, template, shape: index_add(g, *others, template=template, size=shape),
    name="getitem",
    view=True,
)
index_add: Linear = Linear(
    _index_add, lambda g, others, template: getitem(g, *others, template=template), name="index_add"
)
index_update: Linear = Linear(
    _index_update,
    lambda g, others, template: _zeroed(g, others[1:], template),
    lambda g, others, template, shape: _written(g, others[1:], template, shape),
    name="index_update",
)


@implements(operator.getitem)
def _read(x: Tensor, index: Any) -> Array:
    template, arrays = _split(index)
    return getitem(x, *arrays, template=template)


@implements(operator.setitem)
def _write(x: Tensor, index: Any, value: Array) -> Array:
    template, arrays = _split(index)
    if isinstance(value, list | tuple):
        value = array(value)
    return index_update(
        x, value if isinstance(value, Tensor) else np.asarray(value, x.dtype), *arrays, template=template
    )


@implements((np.add, "at"))
def _add_at(a: Array, indices: Any, b: Array) -> None:
    _in_place_add(a, indices, b, 1.0)


@implements((np.subtract, "at"))
def _subtract_at(a: Array, indices: Any, b: Array) -> None:
    _in_place_add(a, indices, b, -1.0)


def _in_place_add(a: Array, indices: Any, b: Array, sign: float) -> None:
    if not isinstance(a, Tensor):
        a[...] = b  # the target is a plain array: raises, with the mend
    template, arrays = _split(indices)
    layout = plain_value(a, layout=True)
    shape = layout[_join(template, [plain_value(p, layout=True) for p in arrays])].shape
    value = np.broadcast_to(b if isinstance(b, Tensor) else np.asarray(b, a.dtype), shape)
    a._move_to(a + sign * index_add(value, *arrays, template=template, size=a.shape), indices)


# -- functions that are indexing under another name ------------------------------------------------------------------
@implements(np.take)
def _take(a: Array, indices: Any, axis: int | None = None, mode: str = "raise") -> Array:
    if axis is None:
        a, axis = np.ravel(a), 0
    axis = normalize_axis_index(axis, a.ndim)
    size = a.shape[axis]
    if mode != "raise":
        indices = np.mod(indices, size) if mode == "wrap" else np.clip(indices, 0, size - 1)
    return a[(*(slice(None),) * axis, indices if isinstance(indices, Tensor) else np.asarray(indices))]


@implements(np.take_along_axis)
def _take_along_axis(arr: Array, indices: Any, axis: int | None = -1) -> Array:
    if axis is None:
        arr, axis = np.ravel(arr), 0
    axis = normalize_axis_index(axis, arr.ndim)
    grid = [np.arange(n).reshape((1,) * k + (-1,) + (1,) * (arr.ndim - 1 - k)) for k, n in enumerate(arr.shape)]
    grid[axis] = indices
    return arr[tuple(grid)]


@implements(np.flip)
def _flip(m: Array, axis: Any = None) -> Array:
    axes = axes_of(axis, m.ndim)
    return m[tuple(slice(None, None, -1) if k in axes else slice(None) for k in range(m.ndim))]


@implements(np.fliplr)
def _fliplr(m: Array) -> Array:
    return m[:, ::-1]


@implements(np.flipud)
def _flipud(m: Array) -> Array:
    return m[::-1]


@implements(np.roll)
def _roll(a: Array, shift: Any, axis: Any = None) -> Array:
    if axis is None:
        return np.reshape(np.roll(np.ravel(a), shift, 0), a.shape)
    shifts, axes = np.broadcast_arrays(np.atleast_1d(shift), np.atleast_1d(axis))
    for by, k in zip(shifts.tolist(), axes.tolist(), strict=True):
        k = normalize_axis_index(k, a.ndim)
        a = np.take(a, (np.arange(a.shape[k]) - by) % max(a.shape[k], 1), axis=k)
    return a


@implements(np.diagonal)
def _diagonal(a: Array, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Array:
    moved = np.moveaxis(a, (axis1, axis2), (-2, -1))
    start = (max(-offset, 0), max(offset, 0))
    length = max(0, min(moved.shape[-2] - start[0], moved.shape[-1] - start[1]))
    return moved[(..., np.arange(length) + start[0], np.arange(length) + start[1])]


@implements(np.trace)
def _trace(a: Array, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None) -> Array:
    return np.sum(np.diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


@implements(np.diag)
def _diag(v: Array, k: int = 0) -> Array:
    if v.ndim == 2:
        return np.diagonal(v, k)
    n = v.shape[0] + abs(k)
    rows = np.arange(v.shape[0]) + max(-k, 0)
    return index_add(v, rows, rows + k, template=(_HOLE, _HOLE), size=(n, n))


@implements(np.tril)
def _tril(m: Array, k: int = 0) -> Array:
    return np.where(np.tri(m.shape[-2], m.shape[-1], k, dtype=bool), m, 0.0)


@implements(np.triu)
def _triu(m: Array, k: int = 0) -> Array:
    return np.where(np.tri(m.shape[-2], m.shape[-1], k - 1, dtype=bool), 0.0, m)


@implements(np.pad)
def _pad(array: Array, pad_width: Any, mode: str = "constant", **options: Any) -> Array:
    """Constant padding is a write into a larger array; the modes that copy values are one gather."""
    if isinstance(pad_width, dict):
        pad_width = [pad_width.get(k, pad_width.get(k - array.ndim, (0, 0))) for k in range(array.ndim)]
    widths = np.broadcast_to(np.asarray(pad_width), (array.ndim, 2)).tolist()
    if mode == "constant":
        value = options.get("constant_values", 0)
        if np.ndim(value):
            raise NoRuleError("np.pad: constant_values must be one number; pad axis by axis for several")
        shape = tuple(low + n + high for n, (low, high) in zip(array.shape, widths, strict=True))
        inside = tuple(slice(low, low + n) for n, (low, _) in zip(array.shape, widths, strict=True))
        return index_update(np.full_like(array, value, shape=shape), array, template=inside)
    if mode not in ("edge", "reflect", "symmetric", "wrap") or options.get("reflect_type", "even") != "even":
        raise NoRuleError(
            f"np.pad(mode={mode!r}) has no derivative rule; the modes are constant, edge, reflect, symmetric, wrap"
        )
    where = np.pad(np.arange(array.size).reshape(array.shape), widths, mode=mode)  # type: ignore[call-overload]
    return np.ravel(array)[where]


def array(nested: Any) -> Array:
    """Nested lists and tuples of tensors, arrays and numbers as one array: `pb.array`."""
    if isinstance(nested, list | tuple):
        return np.stack([array(part) for part in nested]) if _has_tensor(nested) else np.array(nested)
    return nested if isinstance(nested, Tensor) else np.asarray(nested)


def _has_tensor(nested: Any) -> bool:
    return any(_has_tensor(part) for part in nested) if isinstance(nested, list | tuple) else isinstance(nested, Tensor)
