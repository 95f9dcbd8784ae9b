"""A function's derivatives as a whole: forward against reverse mode, first and second order against differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.core.tensor import plain_value
from pullback.errors import NoRuleError, PullbackError
from pullback.show.differences import STEPS, Plain, sweep
from pullback.show.evidence import flat_outputs
from pullback.show.observed import is_float, leaves_by_name, restored_state
from pullback.show.rules_check import direction
from pullback.show.verdicts import Comparison
from pullback.transforms import jvp, vjp

AGREE = 1e-9  # forward and reverse mode differ by rounding alone
CLOSE = 1e-6
SAMPLED = 1000  # entries from which on "along random directions" is said


class Whole:
    """A function of its floating-point leaves alone, with directions and cotangents."""

    def __init__(self, f: Callable[..., Any], args: tuple[Any, ...], rng: np.random.Generator) -> None:
        named, self.structure = leaves_by_name(f, args)
        self.f = f
        self.leaves = list(named.values())
        self.places = [k for k, leaf in enumerate(self.leaves) if is_float(leaf)]
        self.xs = [np.asarray(self.leaves[k], np.float64)[()] for k in self.places]
        self.vs = [direction(np.asarray(x), rng)[()] for x in self.xs]
        self.ws = [direction(np.asarray(x), rng)[()] for x in self.xs]
        with restored_state():
            self.outputs = [np.asarray(plain_value(y)) for y in self.run(*self.xs)]
        self.us = [np.asarray(rng.normal(size=y.shape))[()] for y in self.outputs]
        self.size = sum(np.size(x) for x in self.xs)

    def run(self, *xs: Any) -> tuple[Any, ...]:
        """The outputs, as a tuple of arrays."""
        return tuple(tree.leaves(self.f(*self.filled(xs))))

    def filled(self, xs: Any) -> tuple[Any, ...]:
        leaves = list(self.leaves)
        for k, x in zip(self.places, xs, strict=True):
            leaves[k] = x
        return tuple(self.structure.unflatten(leaves))

    def moved(self, t: float, vs: list[Any]) -> list[Any]:
        return [np.asarray(x + t * v)[()] for x, v in zip(self.xs, vs, strict=True)]

    def gradient(self, *xs: Any) -> tuple[Any, ...]:
        """Of <u, f>."""
        return vjp(self.run, *xs)[1](tuple(self.us))  # type: ignore[no-any-return]


def compare(whole: Whole) -> list[Comparison]:
    """Every comparison that can be made of this function."""
    with restored_state(), np.errstate(all="ignore"):
        both = _both_modes(whole, whole.gradient(*whole.xs), _tangents(whole))
        return [first_order(whole), both, _second_order(whole)]


def _steps(whole: Whole) -> int:
    """Down to 1e-10: with thousands of ReLUs some kink is within every larger step."""
    return STEPS + 4 if whole.size <= 200_000 else 8


def _tangents(whole: Whole) -> Plain | str:
    """The tangents of all outputs as one vector, or why there are none."""
    try:
        _, tangents = jvp(whole.run, tuple(whole.xs), tuple(whole.vs))
    except NoRuleError as problem:
        return str(problem)
    return np.concatenate([np.ravel(np.asarray(plain_value(t))) for t in tangents])


def first_order(whole: Whole) -> Comparison:
    """The gradient against differences of f, along a random direction."""
    name = "reverse mode against differences"
    with restored_state(), np.errstate(all="ignore"):
        estimate = sweep(lambda t: flat_outputs(whole.f, whole.filled(whole.moved(t, whole.vs))), _steps(whole))
    use = estimate.reliable_to(1e-3)
    kinks = int(np.sum(estimate.kink))
    note = f"{kinks} of {use.size} outputs have a kink here and are left out" if kinks else ""
    if not use.any():
        return Comparison(name, None, 0.0, note or "differences do not settle at any step size")
    cuts = np.cumsum([y.size for y in whole.outputs])[:-1]
    signs = np.where(use, np.where(estimate.value < 0, -1.0, 1.0), 0.0)
    parts = np.split(signs, cuts)
    us = tuple(np.reshape(part, y.shape)[()] for part, y in zip(parts, whole.outputs, strict=True))
    pulled = vjp(whole.run, *whole.xs)[1](us)
    got = sum(float(np.sum(g * v)) for g, v in zip(pulled, whole.vs, strict=True))
    expected = float(np.sum(signs * np.where(use, estimate.value, 0.0)))
    noise = float(np.sum(np.where(use, estimate.error, 0.0)))
    size = max(abs(got), abs(expected))
    error = abs(got - expected) / size if size else 0.0
    sizes = [float(np.sum(np.where(use, e, 0.0))) / (size or 1.0) for e in (estimate.truncation, estimate.rounding)]
    steps = f"differences: truncation {sizes[0]:.0e}, rounding {sizes[1]:.0e}"
    ok = bool(error <= CLOSE + (10 * noise / size if size else 0.0))
    return Comparison(name, ok, error, f"{note}; {steps}" if note else steps)


def _both_modes(whole: Whole, gradients: tuple[Any, ...], tangents: Plain | str) -> Comparison:
    name = "forward against reverse mode, <u, J v> = <J^T u, v>"
    if isinstance(tangents, str):
        return Comparison(name, None, 0.0, tangents)
    flat = np.concatenate([np.ravel(u) for u in whole.us])
    ahead = float(np.sum(flat * tangents))
    back = sum(float(np.sum(g * v)) for g, v in zip(gradients, whole.vs, strict=True))
    products = [
        np.abs(flat * tangents).sum(),
        sum(np.abs(g * v).sum() for g, v in zip(gradients, whole.vs, strict=True)),
    ]
    size = float(max(products))
    error = abs(ahead - back) / size if size else 0.0
    return Comparison(name, bool(error <= AGREE), error if np.isfinite(error) else np.inf)


def _second_order(whole: Whole) -> Comparison:
    """The Hessian of <u, f> along w, forward over reverse, against differences of the gradient."""
    name = "second order against differences"
    try:
        _, product = jvp(whole.gradient, tuple(whole.xs), tuple(whole.ws))
    except PullbackError as problem:
        return Comparison(name, None, 0.0, f"{type(problem).__name__}: {problem}")
    got = np.concatenate([np.ravel(np.asarray(plain_value(part))) for part in product])
    estimate = sweep(
        lambda t: np.concatenate([np.ravel(g) for g in whole.gradient(*whole.moved(t, whole.ws))]), _steps(whole)
    )
    use = estimate.reliable
    if 2 * int(use.sum()) < use.size:  # a few may settle by chance
        return Comparison(name, None, 0.0, "differences of the gradient do not settle at any step size")
    size = float(max(np.max(np.abs(estimate.value[use]), initial=0.0), np.max(np.abs(got[use]), initial=0.0)))
    error = float(np.max(np.abs(got - estimate.value)[use])) / size if size else 0.0
    noise = float(np.max(estimate.error[use])) / size if size else 0.0
    left = use.size - int(use.sum())
    note = f"{left} of {use.size} entries left out, whose differences do not settle" if left else ""
    return Comparison(name, bool(error <= 10 * CLOSE + 10 * noise), error, note)


def sampling(whole: Whole) -> str | None:
    """What is to be said of a function with many inputs."""
    if whole.size < SAMPLED:
        return None
    return f"{whole.size:,} inputs: derivatives were compared along random directions, not entry by entry"
