"""Hypotheses about formulas: a local derivative in another form or of another value, a factor left out or exchanged in
one term."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from pullback.core.primitive import Elementwise
from pullback.show.evidence import Case, Plain, Sample
from pullback.show.mistakes.findings import Finding, plausible
from pullback.show.mistakes.steps import Part, parts, steps
from pullback.show.observed import Observed

FORMS: dict[str, Callable[[Any], Any]] = {
    "z": lambda z: z,
    "1 - z": lambda z: 1 - z,
    "z (1 - z)": lambda z: z * (1 - z),
    "1 - z^2": lambda z: 1 - z * z,
    "z^2": lambda z: z * z,
    "2 z": lambda z: 2 * z,
    "1 / z": lambda z: 1 / z,
    "1 / z^2": lambda z: 1 / (z * z),
    "exp(z)": np.exp,
    "-z": lambda z: -z,
}
"""What local derivatives look like."""
TRIED = 6000  # predictions at most
VALUES = 40  # values of one shape at most


class Segment(NamedTuple):
    """Elementwise steps from one value to another of its shape."""

    source: int
    target: int


def local_form(case: Case) -> Iterator[Finding]:
    """The local derivative of some elementwise steps is computed from the wrong value, or by another formula."""
    observed = case.first.point.observed
    if observed is None:
        return
    known = [(segment, _slope_of(observed, segment)) for segment in _segments(case, observed)]
    own = {segment: _form_of(right, observed, np.shape(right)) for segment, right in known}
    tried, found = 0, False
    for near in (True, False):  # first those where either the value or the formula is the right one
        if found:
            return
        for segment, right in known:
            for place, words in product(_values(observed, np.shape(right)), FORMS):
                if near != _half_right(own[segment], words, place):
                    continue
                tried += 1
                if tried > TRIED:
                    return
                form = FORMS[words]
                with np.errstate(all="ignore"):
                    other = form(observed.values[place])
                if not np.all(np.isfinite(other)) or np.allclose(other, right, rtol=1e-9):
                    continue

                def predict(sample: Sample, s: Segment = segment, place: int = place, form: Any = form) -> Any:
                    return _reformed(sample, s, place, form, case.name)

                error = case.explained(predict)
                if error is not None:
                    found = True
                    yield _form_finding(case, observed, segment, place, words, own[segment], error, predict)


def _half_right(own: tuple[str, int] | None, words: str, place: int) -> bool:
    return own is not None and (words == own[0]) != (place == own[1])


def _form_finding(
    case: Case, observed: Observed, segment: Segment, place: int, words: str, own: Any, error: float, predict: Any
) -> Finding:
    source, target, z = (observed.describe(p) for p in (segment.source, segment.target, place))
    computed = f"The local derivative of {target} by {source} is computed as {words} with z = {z}"
    if own is None:
        return Finding("wrong_saved", f"{computed}.", error, plausible(case, predict, 0.3))
    right_words, right_place = own
    right = observed.describe(right_place)
    if right_words == words:
        text = f"{computed}; it uses {z} where {right} belongs."
        return Finding("wrong_saved", text, error, plausible(case, predict, 0.85))
    text = f"{computed}; it is {right_words} with z = {right}."
    return Finding("unknown", text, error, plausible(case, predict, 0.7))


def _segments(case: Case, observed: Observed) -> Iterator[Segment]:
    """Short segments first: pairs between which there are elementwise steps alone, on the way to the input."""
    start = observed.inputs[case.name]
    reached = {start}
    above: dict[int, set[int]] = {}
    for a in observed.applications:
        if not any(s in reached for s in a.sources):
            continue
        reached.update(a.places)
        if not isinstance(a.primitive, Elementwise):
            continue
        shape = np.shape(a.result)
        found: set[int] = set()
        for source in a.sources:
            if source is not None and source in reached and np.shape(observed.values[source]) == shape:
                found |= {source} | above.get(source, set())
        above[a.places[0]] = found
    for target, sources in above.items():
        if target in case.first.adjoints:
            yield from (Segment(source, target) for source in sorted(sources, reverse=True))


def _slope_of(observed: Observed, segment: Segment) -> Plain:
    """The diagonal of the segment's Jacobian."""
    ones = np.ones(np.shape(observed.values[segment.target]))[()]
    return np.asarray(observed.pull_from({segment.target: ones}).get(segment.source, np.zeros_like(ones)))


def _form_of(slope: Plain, observed: Observed, shape: tuple[int, ...]) -> tuple[str, int] | None:
    """The form that a local derivative has in values of the run, the output of the segment first."""
    for place in _values(observed, shape)[::-1]:
        for words, form in FORMS.items():
            with np.errstate(all="ignore"):
                if np.allclose(form(observed.values[place]), slope, rtol=1e-9, atol=0):
                    return words, place
    return None


def _values(observed: Observed, shape: tuple[int, ...]) -> list[int]:
    return [p for p, v in observed.values.items() if np.shape(v) == shape][:VALUES]


def _reformed(sample: Sample, segment: Segment, place: int, form: Any, name: str) -> Any:
    """The gradient if the segment's local derivative were a form of a value."""
    observed = sample.point.observed
    assert observed is not None
    wrong = form(observed.values[place]) - _slope_of(observed, segment)
    walked = observed.pull_from({segment.source: sample.adjoints[segment.target] * wrong}, sample.cut)
    return sample.true(name) + observed.gradient(walked, name)


def exchanged_factor(case: Case) -> Iterator[Finding]:
    """In one term, or in the whole, a factor is left out, put in, or exchanged for another value of the run."""
    observed = case.first.point.observed
    if observed is None or case.claim.shape != case.truth.shape or case.truth.size < 2:
        return
    terms: list[Part | None] = [None, *parts(case, steps(case))[:10]]
    options = _factors(observed, case.truth.shape)
    pairs = sorted(product(options, options), key=lambda pair: None not in pair)  # one factor before two
    for term in terms:
        value = case.truth if term is None else term.value
        rest = case.truth - value
        claimed = case.claim - rest
        for wrong, right in pairs:
            if wrong == right or not _equal(claimed, value, wrong, right, case):
                continue

            def predict(sample: Sample, term: Any = term, wrong: Any = wrong, right: Any = right) -> Any:
                truth = sample.true(case.name)
                part = truth if term is None else term.of(sample, case.name)
                return truth - part + part / _factor(sample, right) * _factor(sample, wrong)

            error = case.explained(predict)
            if error is not None:
                yield _factor_finding(case, observed, term, wrong, right, error, predict)
                return


def _factors(observed: Observed, shape: tuple[int, ...]) -> list[int | None]:
    """Values that broadcast to a shape without being numbers; None stands for the factor one."""
    found: list[int | None] = [None]
    for place, value in observed.values.items():
        if 0 < np.ndim(value) <= len(shape) and np.size(value) > 1 and np.all(value):
            try:
                if np.broadcast_shapes(np.shape(value), shape) == shape:
                    found.append(place)
            except ValueError:
                continue
    return found[:VALUES]


def _factor(sample: Sample, place: int | None) -> Any:
    observed = sample.point.observed
    assert observed is not None
    return 1.0 if place is None else observed.values[place]


def _equal(claimed: Plain, value: Plain, wrong: int | None, right: int | None, case: Case) -> bool:
    one, other = claimed * _factor(case.first, right), value * _factor(case.first, wrong)
    size = float(np.max(np.abs(other), initial=0.0))
    return size > 0 and float(np.max(np.abs(one - other), initial=0.0)) <= 10 * case.tolerance * size


def _factor_finding(
    case: Case, observed: Observed, term: Part | None, wrong: int | None, right: int | None, error: float, predict: Any
) -> Finding:
    where = "the gradient" if term is None else f"what comes by {term.describe(observed)}"
    if wrong is None or right is None:
        [place] = [p for p in (wrong, right) if p is not None]
        name = observed.describe(place)
        if wrong is None:
            text = f"A factor is missing in {where}: {name}."
        else:
            text = f"A factor is wrong in {where}: it is multiplied by {name} once too often, or not divided by it."
        return Finding("missing_term" if wrong is None else "extra_term", text, error, plausible(case, predict, 0.6))
    found, belongs = observed.describe(wrong), observed.describe(right)
    text = f"The wrong saved value in {where}: it uses {found} where {belongs} belongs."
    return Finding("wrong_saved", text, error, plausible(case, predict, 0.7))
