"""Arrays as small pictures: what the explorer shows of a value, an adjoint, a local Jacobian."""

from __future__ import annotations

import base64
import math
import time
from typing import Any

import numpy as np

from pullback.show.traced import Operation

Plain = np.ndarray[Any, Any]

SIDE = 48  # pixels: larger arrays are thinned out
EXACT = 256  # elements: up to here the numbers themselves travel too
ROWS, COLUMNS = 24, 48  # of a local Jacobian
LEVELS = 127  # steps from zero to the largest number; 255 is what is no number


def heat(x: Plain, title: str = "") -> dict[str, Any]:
    """An array as a picture of bytes, with its statistics; the largest number is the darkest."""
    x = np.asarray(x)
    numbers = x.astype(np.float64)
    finite = numbers[np.isfinite(numbers)]
    picture, note = _flat(numbers)
    largest = float(np.max(np.abs(finite), initial=0.0))
    scaled = np.zeros(picture.shape) if largest == 0 else np.nan_to_num(picture) / largest * LEVELS
    levels = np.where(np.isfinite(picture), np.rint(scaled) + LEVELS, 255).astype(np.uint8)
    found = {
        "title": title,
        "type": f"{x.dtype}{list(x.shape)}",
        "height": levels.shape[0],
        "width": levels.shape[1],
        "largest": largest,
        "pixels": base64.b64encode(levels.tobytes()).decode(),
        "note": note,
        "stats": _statistics(numbers, finite),
    }
    if x.size <= EXACT and picture.size == x.size:
        found["exact"] = [f"{v:.6g}" for v in picture.ravel()]
    return found


def _statistics(numbers: Plain, finite: Plain) -> str:
    if numbers.size == 1:
        return f"{numbers.item():.6g}"
    if not finite.size:
        return "empty" if not numbers.size else "no number in it is finite"
    text = f"min {finite.min():.4g}   mean {finite.mean():.4g}   max {finite.max():.4g}   norm {_norm(finite):.4g}"
    zeros = float(np.mean(finite == 0))
    text += f"   {zeros:.0%} zero" if zeros > 0.005 else ""
    missing = numbers.size - finite.size
    return text + (f"   {missing} not finite" if missing else "")


def _norm(x: Plain) -> float:
    return float(np.sqrt(np.sum(np.square(x))))


def _flat(x: Plain) -> tuple[Plain, str]:
    """An array as rows and columns, and what of it that is."""
    notes = []
    if x.ndim == 4:
        tiles = math.ceil(math.sqrt(min(x.shape[3], 16)))
        picture = _tiled(x[0, :, :, : tiles * tiles], tiles) if x.shape[0] and x.shape[3] else np.zeros((1, 1))
        shown = min(x.shape[3], tiles * tiles)
        notes.append(f"the first of {x.shape[0]}, {shown} of {x.shape[3]} channels")
    elif x.ndim > 2:
        picture = x.reshape(-1, x.shape[-1]) if x.size else np.zeros((1, 1))
        notes.append(f"axes {', '.join(map(str, range(x.ndim - 1)))} in rows")
    else:
        picture = x.reshape(1, -1) if x.ndim < 2 else x
        if x.ndim == 1 and x.size > SIDE:
            width = math.ceil(math.sqrt(x.size))
            picture = np.full(width * math.ceil(x.size / width), np.nan)
            picture[: x.size] = x
            picture = picture.reshape(-1, width)
            notes.append("row by row")
    if not picture.size:
        picture = np.zeros((1, 1))
    thinned = picture[_thin(picture.shape[0])][:, _thin(picture.shape[1])]
    if thinned.shape != picture.shape:
        notes.append(f"thinned out from {picture.shape[0]}×{picture.shape[1]}")
    return thinned, ", ".join(notes)


def _thin(size: int) -> Plain:
    return np.unique(np.linspace(0, size - 1, min(size, SIDE)).round().astype(int))


def _tiled(image: Plain, tiles: int) -> Plain:
    """The channels of an image side by side, each thinned so that all of them fit."""
    height, width, channels = image.shape
    small = max(4, SIDE // tiles - 1)
    rows = np.unique(np.linspace(0, height - 1, min(height, small)).round().astype(int))
    columns = np.unique(np.linspace(0, width - 1, min(width, small)).round().astype(int))
    image = image[rows][:, columns]
    lines = math.ceil(channels / tiles)
    sheet = np.full((lines * (len(rows) + 1) - 1, tiles * (len(columns) + 1) - 1), np.nan)
    for k in range(channels):
        y, x = k // tiles * (len(rows) + 1), k % tiles * (len(columns) + 1)
        sheet[y : y + len(rows), x : x + len(columns)] = image[:, :, k]
    return sheet


def local_jacobians(operation: Operation, seconds: float) -> dict[int, dict[str, Any]]:
    """Blocks of the local Jacobian by input: some outputs as rows, the inputs they depend on as columns.

    Each row is one walk through the operation's own rule; there are as many as fit into the time, up to `ROWS`.
    """
    application = operation.application
    if application is None:
        return {}
    result = application.result[0] if type(application.result) is tuple else application.result
    size = int(np.size(result))
    if not size:
        return {}
    count, first = min(ROWS, size), (size - min(ROWS, size)) // 2
    rows: list[dict[int, Plain]] = []
    began = time.perf_counter()
    for k in range(count):
        seed = np.zeros(np.shape(result), result.dtype)
        seed.reshape(-1)[first + k] = 1.0
        g = application.zero_or({application.places[0]: seed[()] if np.ndim(result) == 0 else seed})
        rows.append({i: np.asarray(c).reshape(-1) for i, c in application.contributions(g).items()})
        if time.perf_counter() - began > seconds:
            break
    return {i: _block(i, rows, operation, first, size) for i in rows[0]}


def _block(i: int, rows: list[dict[int, Plain]], operation: Operation, first: int, size: int) -> dict[str, Any]:
    matrix = np.stack([row[i] for row in rows])
    columns = np.flatnonzero((matrix != 0).any(axis=0))
    touched = len(columns)
    if not touched:
        columns = np.arange(matrix.shape[1])
    columns = columns[np.unique(np.linspace(0, len(columns) - 1, min(len(columns), COLUMNS)).round().astype(int))]
    found = heat(matrix[:, columns])
    found["type"] = f"{size}×{matrix.shape[1]}"
    notes = []
    if len(rows) < size:
        notes.append(f"outputs {first} to {first + len(rows) - 1} of {size}")
    if len(columns) < matrix.shape[1]:
        which = f"{len(columns)} of the {touched}" if len(columns) < touched else f"the {touched}"
        notes.append(f"{which} inputs that they depend on, of {matrix.shape[1]}" if touched else "all zero")
    found["note"] = "; ".join(notes)
    return found
