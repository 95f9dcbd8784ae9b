"""The judgement of a backward written by hand: samples of what it returns, a verdict on each gradient, a check of the
truth that it is compared with."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from pullback.errors import PullbackError
from pullback.show.claimed import Claimed, Failure
from pullback.show.comparisons import Whole, first_order
from pullback.show.diagnosis import judge
from pullback.show.differences import Plain, sweep
from pullback.show.evidence import Case, Point, Sample, samples_at
from pullback.show.mistakes.axes import wrong_entries
from pullback.show.observed import Observed, is_float, leaves_by_name, observe
from pullback.show.rules_check import check_rules, direction
from pullback.show.verdicts import Cause, Comparison, RuleResult, Verdict

COTANGENTS = 3  # random ones at the given point
NEARBY = 2  # points beside it, where explanations are tried once more
FEW = 2000  # entries of an input up to which differences are taken entry by entry
DERIVED = 120  # applications up to which a formula is derived
LONG = 240  # characters of a formula that still helps


class Judgement(NamedTuple):
    """What goes into the report."""

    verdicts: dict[str, Verdict]
    rules: Sequence[RuleResult]
    comparisons: Sequence[Comparison]
    notes: list[str]


def judgement(
    claims: Claimed,
    args: tuple[Any, ...],
    outputs: list[Plain],
    rng: np.random.Generator,
    cotangents: list[Any] | None = None,
) -> Judgement:
    """The verdicts on a backward, for random cotangents or those given. Where f can be traced, the truth is the tape's,
    which differences are asked about; elsewhere the truth is the differences."""
    observed, problem = _observed(claims, args)
    point = Point(claims.forward, args, observed, outputs)
    samples = list(samples_at(point, claims, rng, COTANGENTS, cotangents))
    failure = next((sample for sample in samples if isinstance(sample, Failure)), None)
    if failure is not None:
        return Judgement(_failed(point, failure), (), (), [])
    whole = [sample for sample in samples if isinstance(sample, Sample)]
    if observed is None:
        return _by_differences(point, whole, rng, problem)
    nearby = list(_nearby(claims, args, rng, cotangents))
    verdicts, notes = {}, []

    def again(other: tuple[Any, ...]) -> Sample | None:
        return next(_there(claims, other, rng, cotangents), None)

    for name in whole[0].claims:
        case = Case(name, whole, nearby, again)
        verdict = judge(case)
        if not verdict and _only_at_kinks(case):
            text = "It differs at kinks alone, where any slope between those of the two sides is one."
            verdict = Verdict(name, "right", None, text, 1.0, verdict.error)
        if not np.any(case.truth):
            notes.append(f"the gradient of {name} is zero at these values, so little of it is tested: choose others")
        verdicts[name] = verdict
    if not all(verdicts.values()):
        verdicts = _with_formulas(verdicts, claims, args, observed)
    comparison = first_order(Whole(claims.forward, args, rng))
    rules: Sequence[RuleResult] = ()
    if comparison.ok is False:
        rules = check_rules(observe(claims.forward, args), rng)
        notes.append("the truth itself does not agree with differences, so the verdicts that rest on it may be wrong")
    return Judgement(verdicts, rules, (comparison,), notes)


def _observed(claims: Claimed, args: tuple[Any, ...]) -> tuple[Observed | None, str]:
    """The run on a trace; None where f is not written in NumPy functions that work on tensors, and why."""
    try:
        return observe(claims.forward, args, opened=True), ""
    except (PullbackError, TypeError, ValueError, AttributeError) as problem:
        return None, str(problem)


def _nearby(
    claims: Claimed, args: tuple[Any, ...], rng: np.random.Generator, cotangents: list[Any] | None
) -> Iterator[Sample]:
    """Samples at points near by, where f and its backward can be run there: what is true holds at these too."""
    named, structure = leaves_by_name(claims.forward, args)
    for _ in range(NEARBY):
        moved = (_moved(leaf, rng) if is_float(leaf) else leaf for leaf in named.values())
        yield from _there(claims, tuple(structure.unflatten(moved)), rng, cotangents)


def _there(
    claims: Claimed, args: tuple[Any, ...], rng: np.random.Generator, cotangents: list[Any] | None
) -> Iterator[Sample]:
    """A sample at some arguments; none where f or its backward cannot be run there."""
    with np.errstate(all="ignore"):
        observed, _problem = _observed(claims, args)
        if observed is None or not all(np.isfinite(y).all() for y in observed.outputs):
            return
        point = Point(claims.forward, args, observed, observed.outputs)
        for sample in samples_at(point, claims, rng, 1, cotangents):
            if isinstance(sample, Sample):
                yield sample


def _moved(leaf: Any, rng: np.random.Generator) -> Any:
    """A leaf moved a little. Masks and one-hot rows stay as they are, and what sums to one goes on to do so."""
    if np.size(leaf) > 1 and np.isin(leaf, (0.0, 1.0)).all():
        return leaf
    moved = _shaken(leaf, rng)
    if np.ndim(leaf) and np.all(leaf >= 0) and np.allclose(np.sum(leaf, axis=-1), 1.0):
        return np.abs(moved) / np.sum(np.abs(moved), axis=-1, keepdims=True)
    return moved


def _shaken(leaf: Any, rng: np.random.Generator) -> Any:
    size = float(np.sqrt(np.mean(np.square(leaf)))) if np.size(leaf) else 0.0
    return np.asarray(leaf + rng.normal(size=np.shape(leaf)) * (0.05 * np.abs(leaf) + 1e-3 * size))[()]


def _failed(point: Point, failure: Failure) -> dict[str, Verdict]:
    cause: Cause = "wrong_shape" if failure.about_shapes else "unknown"
    text = failure.text[0].upper() + failure.text[1:] + "."
    return {name: Verdict(name, "wrong", cause, text, 1.0, np.inf) for name in point.leaves}


def _only_at_kinks(case: Case, most: int = 20) -> bool:
    """Whether every wrong entry is one where f has a kink, and the claim lies between the slopes on its two sides."""
    if case.claim.shape != case.truth.shape:
        return False
    wrong = np.argwhere(wrong_entries(case))
    sample, value = case.first, np.asarray(case.value)
    u = np.concatenate([np.ravel(part) for part in sample.cotangents])
    for index in map(tuple, wrong[:most]):
        unit = np.zeros(value.shape)
        unit[index] = 1.0

        def along(t: float, unit: Plain = unit) -> Any:
            return np.sum(u * sample.point.flat(case.name, value + t * unit))

        slope = sweep(along)
        low, high = sorted((float(slope.left), float(slope.right)))
        slack = 1e-4 * (abs(low) + abs(high))
        if not slope.kink or not low - slack <= case.claim[index] <= high + slack:
            return False
    return True


def _with_formulas(
    verdicts: dict[str, Verdict], claims: Claimed, args: tuple[Any, ...], observed: Observed
) -> dict[str, Verdict]:
    """The verdicts with the right formula beside each wrong one, where it can be derived and is short."""
    from pullback.show.derivation import derive

    if len(observed.applications) > DERIVED:
        return verdicts
    try:
        closed = derive(claims.forward, *args).closed_form
        texts = {name: str(closed[name]) for name, verdict in verdicts.items() if not verdict and name in closed}
    except (PullbackError, ValueError, TypeError, KeyError, IndexError, AttributeError):
        return verdicts  # the verdict stands without it
    return {
        name: dataclasses.replace(verdict, formula=texts[name])
        if name in texts and len(texts[name]) <= LONG
        else verdict
        for name, verdict in verdicts.items()
    }


def _by_differences(point: Point, samples: list[Sample], rng: np.random.Generator, problem: str) -> Judgement:
    """The verdicts where f cannot be traced: entry by entry for small inputs, along random directions for large."""
    notes = [f"f cannot be traced, so its backward is compared with differences alone ({problem})"]
    verdicts = {}
    for name in samples[0].claims:
        size = np.size(point.leaves[name])
        if size <= FEW:
            verdicts[name] = judge(Case(name, samples, []))
        else:
            verdicts[name] = _along_directions(point, samples, name, rng)
            notes.append(f"{name} has {size:,} entries: compared along random directions, not entry by entry")
    return Judgement(verdicts, (), (), notes)


def _along_directions(point: Point, samples: list[Sample], name: str, rng: np.random.Generator) -> Verdict:
    value = np.asarray(point.leaves[name])
    if any(sample.claims[name].shape != value.shape for sample in samples):
        text = f"Expected a gradient of the shape {value.shape} of {name}, got {samples[0].claims[name].shape}."
        return Verdict(name, "wrong", "wrong_shape", text, 1.0, np.inf)
    worst, ratios = 0.0, []
    for sample in samples:
        u = np.concatenate([np.ravel(part) for part in sample.cotangents])
        v = direction(value, rng)
        slope = sweep(lambda t, v=v, u=u: np.sum(u * point.flat(name, value + t * v)), 8)  # type: ignore[misc]
        expected, got = float(slope.value), float(np.sum(sample.claims[name] * v))
        size = max(abs(expected), float(np.sqrt(np.sum(np.square(sample.claims[name] * v)))))
        worst = max(worst, (abs(got - expected) - 10 * float(slope.error)) / size if size else 0.0)
        ratios.append(got / expected if expected else np.inf)
    if worst <= 1e-5:
        return Verdict(name, "right", None, "", 0.99, max(worst, 0.0))
    if np.ptp(ratios) <= 1e-4 * abs(ratios[0]):
        cause: Cause = "sign" if abs(ratios[0] + 1) < 1e-4 else "constant_factor"
        return Verdict(name, "wrong", cause, f"Off by the factor {ratios[0]:.6g} in every direction.", 0.9, worst)
    text = "It differs from the differences along random directions; f cannot be traced, so no more can be said."
    return Verdict(name, "wrong", "unknown", text, 0.0, worst)
