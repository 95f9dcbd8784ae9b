"""Hypotheses about the terms of a gradient: one is missing, counted twice, of the wrong sign or size; the gradient that
arrives is left out; something is added that does not belong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np

from pullback.show.evidence import Case, Sample
from pullback.show.mistakes.findings import Finding, name_of_factor, plausible, proportion, sizes_by_name
from pullback.show.mistakes.steps import Part, Step, parts, steps
from pullback.show.observed import Application


def missing_incoming(case: Case) -> Iterator[Finding]:
    """The claimed gradient is a local derivative: the cotangent was not multiplied in, at the end or on one path."""
    first, second = case.samples[0], case.samples[-1]
    if first is not second and case.error(first, second.claims[case.name]) < case.tolerance:
        if case.first.point.observed is None:
            return

        def with_ones(sample: Sample) -> Any:
            ones = [np.ones(np.shape(u)) for u in sample.cotangents]
            observed = sample.point.observed
            assert observed is not None
            return observed.gradient(observed.pull(ones), case.name)

        error = case.explained(with_ones)
        if error is not None:
            text = (
                "The incoming gradient is missing: this is the local derivative alone, the same whatever arrives. "
                "Multiply it by the cotangent (the chain rule)."
            )
            yield Finding("missing_incoming", text, error, plausible(case, with_ones, 1.0))
            return
    for step in steps(case):
        yield from _without_incoming(case, step)


def _without_incoming(case: Case, step: Step) -> Iterator[Finding]:
    def local(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
        return application.contributions(_ones(g))[i]

    def identity(_: Sample, application: Application, i: int, g: Any, contribution: Any, k: int) -> Any:
        return np.eye(*np.shape(contribution)) if np.ndim(contribution) == 2 else contribution

    for change in (local, identity):

        def predict(sample: Sample, change: Any = change) -> Any:
            return step.predict(sample, case.name, change)

        error = case.explained(predict)
        if error is not None and case.error(case.first, _dropped(case, step)) > case.tolerance:
            text = (
                f"The incoming gradient is missing at {step.describe()}: its local derivative stands there alone. "
                "That path must carry the gradient that arrives, times the local derivative."
            )
            yield Finding("missing_incoming", text, error, plausible(case, predict, 0.8))
            return


def _dropped(case: Case, step: Step) -> Any:
    return step.predict(case.first, case.name, lambda *_: None)


def _ones(g: Any) -> Any:
    return tuple(map(_ones, g)) if isinstance(g, tuple) else np.ones(np.shape(g))


def identity_on_a_path(case: Case) -> Iterator[Finding]:
    """An identity matrix was added where a path carries the incoming gradient: the result is a matrix."""
    claim, truth = case.claim, case.truth
    if truth.ndim != 1 or claim.shape != (truth.size, truth.size):
        return
    for step in steps(case):
        if np.shape(step.edges[0].contribution) != truth.shape:
            continue
        for axis in (0, 1):

            def predict(sample: Sample, step: Step = step, axis: int = axis) -> Any:
                rest = step.predict(sample, case.name, lambda *_: None)
                return np.expand_dims(rest, axis) + np.eye(len(rest))

            error = case.explained(predict)
            if error is not None:
                text = (
                    f"The incoming gradient is missing at {step.describe()}: an identity matrix stands where the "
                    "path must carry the gradient that arrives, so the result is a matrix."
                )
                yield Finding("missing_incoming", text, error, 1.0)
                return


def wrong_terms(case: Case) -> Iterator[Finding]:
    """One path's part is missing, doubled, negated, or off by a factor."""
    if case.first.point.observed is None or case.claim.shape != case.truth.shape:
        return
    every, found = parts(case, steps(case)), False
    for part in every:
        factor = proportion(case, part.value, case.truth - part.value)
        if factor is None:
            continue

        def predict(sample: Sample, part: Part = part, factor: float = factor) -> Any:
            return part.predict(sample, case.name, factor)

        error = case.explained(predict)
        if error is not None:
            found = True
            yield _term(case, part, factor, error, predict)
    if not found and len(every) <= 12:
        yield from _two_terms(case, every)


def _term(case: Case, part: Part, factor: float, error: float, predict: Any) -> Finding:
    observed = case.first.point.observed
    assert observed is not None
    path = part.describe(observed)
    statistic = part.statistic
    if abs(factor) < 1e-6:
        if statistic is not None:
            text = _constant(statistic)
            return Finding("constant_statistic", text, error, plausible(case, predict, 0.95))
        text = (
            f"A term is missing: what comes by {path}. {case.name} is used more than once there, and its gradients add."
        )
        return Finding("missing_term", text, error, plausible(case, predict, 0.9))
    if abs(factor - 2) < 1e-6:
        text = f"A term is counted twice: what comes by {path}."
        return Finding("extra_term", text, error, plausible(case, predict, 0.85))
    if abs(factor + 1) < 1e-6:
        text = f"The sign of one term is wrong: of what comes by {path}."
        return Finding("sign", text, error, plausible(case, predict, 0.9))
    name = name_of_factor(factor, case.first.point)
    sizes = [float(size) for size in sizes_by_name(case.first.point) if size > 1] + _means(part)
    if any(abs(factor - size) < 1e-5 * size for size in sizes):
        text = f"One term is summed where it should be averaged: what comes by {path} is too large by {name}."
        return Finding("sum_for_mean", text, error, plausible(case, predict, 0.85))
    text = f"One term is off by the factor {name}: what comes by {path}."
    return Finding("constant_factor", text, error, plausible(case, predict, 0.6))


STATISTICS = (("var(", "variance"), ("std(", "standard deviation"), ("mean(", "mean"))
"""What a line computes, by the function that it calls for it: a variance is made of sums."""


def _constant(statistic: Step) -> str:
    name = next((word for call, word in STATISTICS if call in statistic.line), statistic.application.primitive.name)
    return (
        f"The {name}{statistic.line} is treated as a constant: the term through it is missing. It depends on the input "
        "too, so its derivative belongs to the gradient."
    )


def _means(part: Part) -> list[float]:
    """How many entries the means on this path are taken over."""
    found = []
    for step in part.steps:
        application = step.application
        if application.primitive.name in REDUCED and np.size(application.result):
            found.append(float(np.size(application.values[0]) / np.size(application.result)))
    return found


REDUCED = {"mean", "sum"}


def _two_terms(case: Case, every: list[Part]) -> Iterator[Finding]:
    """Two parts are each missing, doubled or negated."""
    gap = (case.claim - case.truth).ravel()
    if not np.all(np.isfinite(gap)):
        return
    size = max(float(np.max(np.abs(case.claim))), float(np.max(np.abs(case.truth))))
    for one, two in combinations(every, 2):
        columns = np.stack([one.value.ravel(), two.value.ravel()], axis=1)
        solution, _, rank, _ = np.linalg.lstsq(columns, gap, rcond=1e-10)
        if rank < 2 or float(np.max(np.abs(columns @ solution - gap))) > case.tolerance * size:
            continue
        factors = [float(s) + 1.0 for s in solution]
        if any(abs(f - 1) < 1e-6 or min(abs(f), abs(f - 2), abs(f + 1)) > 1e-6 for f in factors):
            continue

        def predict(sample: Sample, pair: Any = (one, two), factors: Any = factors) -> Any:
            true = sample.true(case.name)
            return true + sum((f - 1.0) * part.of(sample, case.name) for part, f in zip(pair, factors, strict=True))

        error = case.explained(predict)
        if error is None:
            continue
        statistics = [part.statistic for part in (one, two) if part.statistic is not None]
        observed = case.first.point.observed
        assert observed is not None
        paths = f"{one.describe(observed)} and {two.describe(observed)}"
        if all(abs(f) < 1e-6 for f in factors) and len(statistics) == 2:
            lines = " and ".join(f"the {s.application.primitive.name}{s.line}" for s in statistics)
            text = f"Two statistics are treated as constants: {lines}. The terms through them are missing."
            yield Finding("constant_statistic", text, error, plausible(case, predict, 0.8))
        elif all(abs(f) < 1e-6 for f in factors):
            text = f"Two terms are missing: what comes by {paths}."
            yield Finding("missing_term", text, error, plausible(case, predict, 0.6))
        elif all(abs(f - 2) < 1e-6 for f in factors):
            text = f"Two terms are counted twice: what comes by {paths}."
            yield Finding("extra_term", text, error, plausible(case, predict, 0.4))
        else:
            text = f"Two terms are wrong: what comes by {paths} is multiplied by {factors[0]:g} and {factors[1]:g}."
            yield Finding("sign" if -1.0 in np.round(factors, 6) else "missing_term", text, error, 0.3)


def extra_term(case: Case) -> Iterator[Finding]:
    """Something is added: a multiple of a value of the run, of a cotangent, or a constant."""
    observed = case.first.point.observed
    if case.claim.shape != case.truth.shape or observed is None:
        return
    gap = case.claim - case.truth
    options: list[tuple[str, Any]] = [("1", lambda sample: np.ones(case.truth.shape))]
    for place, value in observed.values.items():
        if np.shape(value) == case.truth.shape:
            options.append((observed.describe(place), lambda s, p=place: s.point.observed.values[p]))
            if place in case.first.adjoints and place != observed.inputs[case.name]:
                options.append((f"the gradient of {observed.describe(place)}", lambda s, p=place: s.adjoints[p]))
    for text, value_of in options:
        along = np.asarray(value_of(case.first))
        norm = float(np.sum(along * along))
        if norm == 0:
            continue
        factor = float(np.sum(gap * along)) / norm
        if not np.isfinite(factor) or abs(factor) < 1e-9:
            continue

        def predict(sample: Sample, value_of: Any = value_of, factor: float = factor) -> Any:
            return sample.true(case.name) + factor * value_of(sample)

        error = case.explained(predict)
        if error is not None:
            what = text if abs(factor - 1) < 1e-9 else f"{factor:.6g} * {text}"
            explanation = f"An extra term is added to the gradient: {what}."
            yield Finding("extra_term", explanation, error, plausible(case, predict, 0.5))
