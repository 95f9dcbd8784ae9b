"""Every rule that a run used, one by one, at the values that occurred: against differences of the primitive's own
function, in reverse and forward mode and at second order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np

from pullback.core.tensor import plain_value
from pullback.errors import NoRuleError, PullbackError
from pullback.show.differences import STEPS, Estimate, Plain, sweep
from pullback.show.observed import Application, Observed, restored_state
from pullback.show.verdicts import RuleResult
from pullback.transforms import jvp, vjp

TOLERANCE = 1e-6
LARGE = 1_000_000  # entries above which fewer steps are taken

Mode = Literal["reverse", "forward", "second order"]


def check_rules(
    observed: Observed, rng: np.random.Generator, progress: Callable[[int, int], None] | None = None
) -> list[RuleResult]:
    """The results in the order of the program. Second order is checked once for each primitive, shapes and options."""
    results: list[RuleResult] = []
    seen: set[Any] = set()
    total = len(observed.applications)
    for number, application in enumerate(observed.applications):
        if progress is not None:
            progress(number, total)
        signature = (application.primitive.name, repr(application.params), *map(np.shape, application.values))
        first_time = signature not in seen
        seen.add(signature)
        with restored_state(), np.errstate(all="ignore"):
            for i, place in enumerate(application.sources):
                if place is not None:
                    results += _check_input(application, i, rng, second=first_time)
    return results


def _check_input(application: Application, i: int, rng: np.random.Generator, second: bool) -> Iterator[RuleResult]:
    rule = _Rule(application, i)
    if rule.value.size == 0:
        return
    v = direction(rule.value, rng)
    estimate = sweep(lambda t: rule.flat(rule.value + t * v), rule.steps)
    reverse = _reverse(rule, v, estimate, rng)
    yield reverse
    forward = _forward(rule, v, estimate, rng)
    if forward is not None:
        yield forward
    if second and reverse.ok and rule.value.size <= LARGE:
        result = _second_order(rule, v, rng)
        if result is not None:
            yield result


class _Rule:
    """One input of one application, in float64, and how it is called."""

    def __init__(self, application: Application, i: int) -> None:
        self.application, self.i = application, i
        self.values = [_wide(value) for value in application.values]
        self.value = np.asarray(self.values[i])
        size = max([self.value.size, *(np.size(part) for part in self.parts(application.result))])
        kind = application.primitive.kind
        self.steps = 4 if kind in ("linear", "multilinear") else STEPS if size <= 10_000 else 9 if size <= LARGE else 6

    @staticmethod
    def parts(y: Any) -> tuple[Any, ...]:
        return y if isinstance(y, tuple) else (y,)

    def run(self, x: Any) -> Any:
        """The primitive with another value for this input."""
        values = [*self.values[: self.i], x, *self.values[self.i + 1 :]]
        return self.application.primitive(*values, **self.application.params)

    def flat(self, x: Plain) -> Plain:
        return _joined(self.parts(self.run(x[()])))

    def split(self, flat: Plain) -> Any:
        """A vector as a cotangent of the output."""
        parts, start = [], 0
        for part in self.parts(self.application.result):
            parts.append(np.reshape(flat[start : start + np.size(part)], np.shape(part))[()])
            start += np.size(part)
        return tuple(parts) if isinstance(self.application.result, tuple) else parts[0]

    def result(
        self, mode: Mode, error: float, tolerance: float, estimate: Estimate | None = None, note: str = ""
    ) -> RuleResult:
        primitive = self.application.primitive
        argument = primitive.inputs[self.i] if self.i < len(primitive.inputs) else f"input {self.i}"
        kinks = 0 if estimate is None else int(np.sum(estimate.kink))
        sizes = [0.0, 0.0]
        if estimate is not None and estimate.reliable.any():
            scale = float(np.max(np.abs(estimate.value[estimate.reliable]))) or 1.0
            sizes = [
                float(np.max(e[estimate.reliable])) / scale for e in (estimate.truncation, estimate.rounding)
            ]  # fmt: skip
        return RuleResult(
            primitive.name, argument, mode, bool(error <= tolerance), error, str(self.application.source), kinks, note,
            *sizes,
        )  # fmt: skip


def _reverse(rule: _Rule, v: Plain, estimate: Estimate, rng: np.random.Generator) -> RuleResult:
    """<u, J v> by differences against <J^T u, v> by the rule, for two cotangents u: one that follows the signs of J v,
    so that nothing cancels, and a random one. Kinks are left out by a cotangent of zero."""
    use = estimate.reliable
    if not use.any():
        return rule.result("reverse", 0.0, 1.0, estimate, _unsettled(estimate))
    worst, allowed = 0.0, TOLERANCE
    for aligned in (True, False):
        weights = rng.uniform(0.5, 1.5, size=use.shape)
        signs = np.where(estimate.value < 0, -1.0, 1.0) if aligned else rng.choice([-1.0, 1.0], size=use.shape)
        u = np.where(use, weights * signs, 0.0)
        expected = float(np.sum(u * np.where(use, estimate.value, 0.0)))
        size = float(np.sum(np.abs(np.where(use, u * estimate.value, 0.0))))
        try:
            pulled = rule.application.contributions(rule.split(u)).get(rule.i)
        except (PullbackError, ValueError, TypeError, IndexError) as problem:
            return rule.result("reverse", np.inf, 0.0, estimate, f"it raised {type(problem).__name__}: {problem}")
        pulled = np.zeros_like(rule.value) if pulled is None else pulled
        got = float(np.sum(np.asarray(pulled, np.float64) * v))
        size = max(size, float(np.sum(np.abs(pulled * v))) if not aligned else abs(got))
        noise = float(np.sum(np.abs(u) * np.where(use, estimate.error, 0.0)))
        error = abs(got - expected) / size if size > 0 else 0.0
        error = error if np.isfinite(error) else np.inf
        limit = TOLERANCE + (10 * noise / size if size else 0.0)
        if error / limit > worst / allowed:
            worst, allowed = error, limit
    return rule.result("reverse", worst, allowed, estimate)


def _forward(rule: _Rule, v: Plain, estimate: Estimate, rng: np.random.Generator) -> RuleResult | None:
    """The tangent against differences, entry by entry; None for a primitive without a forward-mode rule."""
    use = estimate.reliable
    if not use.any():
        return None
    try:
        _, tangent = jvp(lambda x: rule.run(x), (rule.value[()],), (v[()],))
    except NoRuleError:
        return None
    except (PullbackError, ValueError, TypeError, IndexError) as problem:
        return rule.result("forward", np.inf, 0.0, estimate, f"it raised {type(problem).__name__}: {problem}")
    got = _joined(rule.parts(tangent))
    error, tolerance = _entrywise(got, estimate)
    return rule.result("forward", error, tolerance, estimate)


def _second_order(rule: _Rule, v: Plain, rng: np.random.Generator) -> RuleResult | None:
    """The derivative of the pulled cotangent along v: forward over reverse, against differences of the rule."""
    u = rule.split(rng.choice([-1.0, 1.0], size=_joined(rule.parts(rule.application.result)).shape))

    def pulled(x: Any) -> Any:
        return vjp(rule.run, x)[1](u)[0]

    try:
        _, got = jvp(pulled, (rule.value[()],), (v[()],))
        estimate = sweep(lambda t: np.ravel(pulled((rule.value + t * v)[()])), max(rule.steps, 6))
    except (PullbackError, NotImplementedError):
        return None
    if not estimate.reliable.any():
        return None
    error, tolerance = _entrywise(np.ravel(got), estimate)
    return rule.result("second order", error, 30 * tolerance, estimate)


def _entrywise(got: Plain, estimate: Estimate) -> tuple[float, float]:
    """The largest difference among the entries that can be compared, relative to the largest derivative, and what is
    allowed."""
    use = estimate.reliable
    size = float(np.max(np.abs(estimate.value[use]), initial=0.0))
    size = max(size, float(np.max(np.abs(got[use]), initial=0.0)))
    if size == 0.0:
        return 0.0, TOLERANCE
    error = float(np.max(np.abs(got - estimate.value)[use])) / size
    # An entry's own error counts too: a small entry may be wrong by much of itself.
    relative = np.abs(got - estimate.value) - 100 * estimate.error - TOLERANCE * np.abs(estimate.value)
    own = float(np.max((relative / (np.abs(estimate.value) + 1e-3 * size))[use]))
    error = max(error, own)
    return (error if np.isfinite(error) else np.inf), TOLERANCE + 10 * float(np.max(estimate.error[use])) / size


def direction(x: Plain, rng: np.random.Generator) -> Plain:
    """A random direction, each entry in proportion to the size of that of x."""
    typical = float(np.sqrt(np.mean(np.square(x)))) if x.size else 0.0
    sizes = np.abs(x) + 0.1 * (typical or 1.0)
    return np.asarray(rng.choice([-1.0, 1.0], size=x.shape) * rng.uniform(0.5, 1.5, size=x.shape) * sizes)


def _unsettled(estimate: Estimate) -> str:
    if estimate.kink.all():
        return "not differentiable at this point (a kink): not compared"
    return "differences do not settle at any step size (a singularity near by): not compared"


def _joined(parts: Sequence[Any]) -> Plain:
    return np.concatenate([np.ravel(np.asarray(plain_value(part))) for part in parts])


def _wide(value: Any) -> Any:
    """Floats in float64, for the sake of the differences."""
    return np.asarray(value, np.float64)[()] if getattr(getattr(value, "dtype", None), "kind", "") == "f" else value
