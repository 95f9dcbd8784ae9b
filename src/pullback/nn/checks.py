"""What layers check of their inputs, and how they name what they got."""

from __future__ import annotations

from typing import Any

from pullback.errors import ShapeError

Pair = tuple[int, int]


def check_features(layer: str, x: Any, features: int, axes: tuple[str, ...] | None = None) -> None:
    """Raises ShapeError unless the last axis of x has so many features (and, with `axes`, x these axes before it)."""
    shape = tuple(x.shape)
    if shape and shape[-1] == features and (axes is None or len(shape) == len(axes) + 1):
        return
    leading = ("...",) if axes is None else axes
    same_axes = bool(shape) and (axes is None or len(shape) == len(axes) + 1)
    got = _letters(leading, shape[-1]) if same_axes else str(shape)
    raise ShapeError(layer, f"expected input {_letters(leading, features)}, got {got}")


def check_images(layer: str, x: Any) -> None:
    """Raises ShapeError unless x is a batch of images."""
    if len(x.shape) != 4:
        raise ShapeError(layer, f"expected input (N, H, W, C), got {tuple(x.shape)}")


def pair(value: int | Pair) -> Pair:
    """One number for both axes, or one for each."""
    return (value, value) if isinstance(value, int) else value


def pad_pairs(value: int | Pair | tuple[Pair, Pair]) -> tuple[Pair, Pair]:
    """Padding as ((top, bottom), (left, right)), from one number, one for each axis, or the pairs themselves."""
    rows, columns = (value, value) if isinstance(value, int) else value
    return pair(rows), pair(columns)


def _letters(leading: tuple[str, ...], features: int) -> str:
    return f"({', '.join(leading)}, {features})"
