"""An independent judge of derivatives: differences of plain NumPy runs in float64, which know nothing of pullback's
rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Arrays = Sequence[np.ndarray[Any, Any]]


def directional(f: Callable[..., Any], xs: Arrays, vs: Arrays, h: float = 1e-3) -> np.ndarray[Any, Any]:
    """The derivative of f at xs along vs, by central differences of fourth order: error O(h^4) and rounding about
    1e-13."""

    def at(t: float) -> Any:
        return np.asarray(f(*[x + t * v for x, v in zip(xs, vs, strict=True)]), dtype=np.float64)

    return (8.0 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12.0 * h)


def second_directional(f: Callable[..., Any], xs: Arrays, vs: Arrays, ws: Arrays) -> np.ndarray[Any, Any]:
    """The second derivative of f at xs along vs and ws; accurate to about 1e-8."""
    return directional(lambda *ys: directional(f, ys, vs, 2e-3), xs, ws, 2e-3)
