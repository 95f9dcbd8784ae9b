"""An explanation that fits, and the words that explanations share: sizes and factors by name."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from pullback.show.evidence import Case, Point
from pullback.show.verdicts import Cause, Status


class Finding(NamedTuple):
    """A mistake that would have led to the claimed gradient."""

    cause: Cause
    explanation: str
    error: float
    """Of the prediction, relative."""
    weight: float
    """How likely the mistake is before anything is seen, beside the others that explain the gradient as well."""
    status: Status = "wrong"


def plausible(case: Case, predict: Any, weight: float) -> float:
    """The weight of a prediction, small where it fails at the points near by: there it was chance."""
    return weight if case.holds_nearby(predict) else 0.05 * weight


def proportion(case: Case, direction: Any, rest: Any = None) -> float | None:
    """The number a with `claim = rest + a * direction`, from the first sample; None where there is none."""
    claim = case.claim if rest is None else case.claim - rest
    along = float(np.sum(direction * direction))
    if np.shape(direction) != np.shape(claim) or along == 0:
        return None
    factor = float(np.sum(claim * direction)) / along
    residual = float(np.max(np.abs(claim - factor * direction), initial=0.0))
    size = max(float(np.max(np.abs(case.claim), initial=0.0)), float(np.max(np.abs(case.truth), initial=0.0)))
    return factor if np.isfinite(factor) and residual <= case.tolerance * size else None


def name_of_factor(factor: float, point: Point, axis: str | None = None) -> str:
    """A factor in words: the size, the product of sizes, or the number that it equals; or a size that is known."""
    if axis is not None:
        size = factor if abs(factor) > 1 else 1 / factor
        batch = batch_size(point)
        name = f"{axis}, the batch size" if batch is not None and axis == f"{batch[1]}.shape[0]" else axis
        return f"{_short(factor)} = {name}" if abs(factor) > 1 else f"1/{_short(size)}, and {_short(size)} = {name}"
    for value, form in ((factor, "{}"), (-factor, "-{}")):
        for text, size in _known_numbers(point):
            if math.isclose(value, size, rel_tol=1e-5):
                return form.format(f"{_short(size)} = {text}")
            if math.isclose(value * size, 1.0, rel_tol=1e-5):
                return form.format(f"1/{_short(size)}, and {_short(size)} = {text}")
    return _short(factor)


def _known_numbers(point: Point) -> list[tuple[str, float]]:
    sizes = sizes_by_name(point)
    singles = [(text, float(size)) for size, text in sizes.items() if size > 1]
    pairs = [
        (f"{_brief(b)} x {_brief(a)}", x * y) for k, (a, x) in enumerate(singles) for b, y in singles[: k + 1]
    ]  # fmt: skip
    triples = [
        (f"{_brief(a)} x {_brief(b)} x {_brief(c)}", x * y * z)
        for i, (a, x) in enumerate(singles)
        for j, (b, y) in enumerate(singles[:i])
        for c, z in singles[:j]
    ]
    roots = [(f"the square root of {text}", math.sqrt(size)) for text, size in singles]
    scalars = [
        (f"the value of {name}", float(np.asarray(leaf)))
        for name, leaf in point.named.items()
        if np.ndim(leaf) == 0 and not isinstance(leaf, str | bool) and _is_number(leaf) and abs(leaf) not in (0, 1)
    ]
    return singles + scalars + pairs + triples + roots


def _is_number(x: Any) -> bool:
    return isinstance(x, int | float | np.number | np.ndarray)


def _brief(text: str) -> str:
    return text.split(",")[0]


def sizes_by_name(point: Point) -> dict[int, str]:
    """The sizes of the axes of the arguments in words, such as `x.shape[0], the batch size`."""
    found: dict[int, str] = {}
    batch = batch_size(point)
    if batch is not None:
        size, owner = batch
        found[size] = f"{owner}.shape[0], the batch size"
    for name, leaf in point.named.items():
        for axis, size in enumerate(np.shape(leaf)):
            found.setdefault(size, f"{name}.shape[{axis}]")
    for k, y in enumerate(point.outputs):
        for axis, size in enumerate(y.shape):
            found.setdefault(size, f"the output's shape[{axis}]" if len(point.outputs) == 1 else f"output {k}'s size")
    for name, leaf in point.named.items():
        if np.ndim(leaf) > 1:
            found.setdefault(int(np.size(leaf)), f"{name}.size")
    return found


_DATA = {"x", "X", "xs", "inputs", "images", "batch", "data", "logits", "z", "features"}


def batch_size(point: Point) -> tuple[int, str] | None:
    """The size of the first axis of what looks like a batch, and whose it is."""
    for name, leaf in point.named.items():
        if np.ndim(leaf) >= 2 and name in _DATA:
            return np.shape(leaf)[0], name
    rows = [y.shape[0] for y in point.outputs if y.ndim >= 2]
    if all(y.ndim == 0 for y in point.outputs):  # a loss: the batch is what an argument shares with the targets
        rows = [np.shape(leaf)[0] for leaf in point.named.values() if np.ndim(leaf) >= 1]
    for name, leaf in point.named.items():
        shape = np.shape(leaf)
        if (
            len(shape) >= 2
            and len(set(shape)) == len(shape)
            and rows.count(shape[0]) > (len(point.outputs[0].shape) == 0)
        ):
            return shape[0], name
    return None


def _short(x: float) -> str:
    return str(int(x)) if float(x).is_integer() and abs(x) < 1e9 else f"{x:.6g}"
