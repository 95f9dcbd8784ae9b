"""Which of several equal sizes a factor is: the program is run again with one of them changed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from pullback.errors import PullbackError
from pullback.show.evidence import Case

Axis = tuple[str, int]


def size_behind(case: Case, factor: float) -> str | None:
    """The axis whose size the factor of a gradient is, or one over it, where several axes have that size.

    None where there is no such size, or one only, or the function cannot be run with any of them changed.
    """
    size = round(factor) if abs(factor) > 1 else round(1 / factor) if factor else 0
    named = case.first.point.named
    axes = [(name, k) for name, leaf in named.items() for k, n in enumerate(np.shape(leaf)) if n == size and n > 1]
    if len(axes) < 2 or case.again is None:
        return None
    for group in _groups(axes):
        changed = _with_longer(case, group)
        if changed is None:
            continue
        if abs(abs(np.log(changed / factor)) - np.log((size + 1) / size)) < 1e-6:
            name, axis = group[0]
            return f"{name}.shape[{axis}]"
    return None


def _groups(axes: list[Axis]) -> Iterator[tuple[Axis, ...]]:
    """Axes that may be one size of the program: one alone, two that agree, three, all."""
    for count in (1, 2, 3):
        yield from combinations(axes, count)
    if len(axes) > 3:
        yield tuple(axes)


def _with_longer(case: Case, group: tuple[Axis, ...]) -> float | None:
    """The factor where these axes have one more entry; None where the function does not run so."""
    point = case.first.point
    longer = {name: point.named[name] for name, _ in group}
    for name, axis in group:
        longer[name] = _extended(np.asarray(longer[name]), axis)
    assert case.again is not None
    try:
        with np.errstate(all="ignore"):
            sample = case.again(point.with_leaves(longer))
            if sample is None:
                return None
            truth, claim = sample.true(case.name), sample.claims[case.name]
    except (PullbackError, ValueError, IndexError, TypeError):
        return None
    if truth.shape != claim.shape or not np.any(truth):
        return None
    changed = float(np.sum(claim * truth) / np.sum(truth * truth))
    exact = np.max(np.abs(claim - changed * truth)) <= case.tolerance * np.max(np.abs(claim))
    return changed if exact and changed > 0 else None


def _extended(x: Any, axis: int) -> Any:
    """One more entry along an axis, like the first."""
    first = np.take(x, [0], axis=axis)
    return np.concatenate([x, first * 1.1 if x.dtype.kind == "f" else first], axis=axis)
