"""Rows of a table added up at places, some of them the same: the adjoint of looking up an embedding."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.kernels.runtime import Floats, Integers, kernel, portion
from pullback.kernels.simd import broadcast, load_part, store_part
from pullback.kernels.target import WIDTH


def add_rows(v: Any, places: Any, out: Any) -> None:
    """out[n] = the sum of the rows v[k] with places[k] = n, for float32 v (M, C), places (M,), and out (N, C).

    Negative places count from the end. Raises IndexError for a place that there is not.
    """
    rows, size = out.shape
    places = np.ascontiguousarray(places, np.int64)
    if places.size and not (-rows <= places.min() and places.max() < rows):
        raise IndexError(f"expected places from {-rows} to {rows - 1}, got {places.min()} to {places.max()}")
    add_at_places(v, places, len(places), rows, size, out)


@kernel
def add_at_places(
    thread: int, threads: int, v: Floats, places: Integers, count: int, rows: int, size: int, out: Floats
) -> None:
    """Each thread has rows of the result, and looks for what belongs there: in order, so that sums never differ."""
    first, last = portion(rows, thread, threads)
    for k in range(first * size, last * size, WIDTH):
        store_part(out, k, broadcast(np.float32(0.0)), last * size - k)
    for k in range(count):
        row = places[k] if places[k] >= 0 else places[k] + rows
        if first <= row < last:
            for at in range(0, size, WIDTH):
                total = load_part(out, row * size + at, size - at) + load_part(v, k * size + at, size - at)
                store_part(out, row * size + at, total, size - at)
