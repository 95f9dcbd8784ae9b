"""Selections: functions whose outputs are chosen among their inputs. Ties share the gradient equally."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.primitive import Selection, Untracked, implements
from pullback.core.tensor import RULES, Array
from pullback.rules.linear import axes_of, refuse_options, spread


def _shares(x: Array, y: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The share of each input in its extremum: 1 for the only one, 1/k for each of k that tie, NaNs among
    themselves."""
    top = spread(y, x.shape, axis, keepdims)
    chosen = (x == top) | (x != x)
    count = np.sum(chosen, axis=axis, keepdims=True, dtype=x.dtype)
    return chosen / count


def _extremum(function: Any) -> Any:
    def reduce(x: Array, *, axis: tuple[int, ...], keepdims: bool = False) -> Array:
        return function(x, axis=axis, keepdims=keepdims)

    return Selection(
        reduce,
        select=_shares,
        route=lambda x, s, axis, keepdims: np.sum(np.where(s > 0, x * s, 0.0), axis=axis, keepdims=keepdims),
        scatter=lambda g, s, shape, axis, keepdims: np.where(s > 0, spread(g, shape, axis, keepdims) * s, 0.0),
        name=function.__name__,
    )


def _np_extremum(primitive: Any) -> Any:
    def reduce(
        a: Array, axis: Any = None, keepdims: bool = False, initial: Any = None, where: Any = None, dtype: Any = None
    ) -> Array:
        refuse_options(primitive.name, initial=initial, where=None if where is True else where)
        return primitive(a, axis=axes_of(axis, a.ndim), keepdims=bool(keepdims))

    return reduce


max_, min_ = _extremum(np.max), _extremum(np.min)
implements(np.max, np.amax, (np.maximum, "reduce"))(_np_extremum(max_))
implements(np.min, np.amin, (np.minimum, "reduce"))(_np_extremum(min_))


@implements(np.ptp)
def _ptp(a: Array, axis: Any = None, keepdims: bool = False) -> Array:
    return np.max(a, axis=axis, keepdims=keepdims) - np.min(a, axis=axis, keepdims=keepdims)


@implements(np.sort)
def _sort(a: Array, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Array:
    if axis is None:
        a, axis = np.ravel(a), 0
    return np.take_along_axis(a, np.argsort(a, axis=axis, kind="stable"), axis=axis)


@implements(np.partition)
def _partition(a: Array, kth: Any, axis: int | None = -1, kind: str = "introselect", order: Any = None) -> Array:
    if axis is None:
        a, axis = np.ravel(a), 0
    return np.take_along_axis(a, np.argpartition(a, kth, axis=axis), axis=axis)


def _option_call(function: Any) -> Any:
    """A function of one array whose other arguments, in whatever place, are options."""
    primitive = Untracked(lambda x, **options: function(x, **options), name=function.__name__)

    def call(a: Array, axis: Any = None, **options: Any) -> Any:
        return primitive(a, **({} if axis is None and function in _NO_AXIS else {"axis": axis}), **options)

    return call


_NO_AXIS = (np.argsort, np.nonzero, np.flatnonzero, np.argwhere)
for _function in (
    np.argmax,
    np.argmin,
    np.argsort,
    np.all,
    np.any,
    np.count_nonzero,
    np.nonzero,
    np.flatnonzero,
    np.argwhere,
):
    RULES[_function] = _option_call(_function)


@implements(np.argpartition)
def _argpartition(a: Array, kth: Any, axis: int | None = -1, **options: Any) -> Any:
    return _argpartition_untracked(a, kth=kth, axis=axis)


@implements(np.searchsorted)
def _searchsorted(a: Array, v: Array, side: Any = "left", sorter: Any = None) -> Any:
    return _searchsorted_untracked(a, v, side=side, sorter=sorter)


@implements(np.isclose)
def _isclose(a: Array, b: Array, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> Any:
    return _isclose_untracked(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan)


_argpartition_untracked = Untracked(lambda x, **options: np.argpartition(x, **options), name="argpartition")
_searchsorted_untracked = Untracked(lambda a, v, **options: np.searchsorted(a, v, **options), name="searchsorted")
_isclose_untracked = Untracked(lambda a, b, **options: np.isclose(a, b, **options), name="isclose")
