"""What is wrong with a claimed gradient: hypotheses, tested numerically, the likeliest first.

Each hypothesis says what the claimed gradient would be if a certain mistake had been made. One that predicts it for
every cotangent, to the precision of the arithmetic, explains it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pullback.show.evidence import Case
from pullback.show.mistakes import axes, forms, operands, terms, whole
from pullback.show.mistakes.findings import Finding
from pullback.show.verdicts import Entry, Verdict

Hypothesis = Callable[[Case], Iterator[Finding]]

TIERS: tuple[tuple[Hypothesis, ...], ...] = (
    (whole.sign_or_factor, whole.transposed, whole.flipped, whole.other_layout),
    (
        terms.missing_incoming,
        terms.identity_on_a_path,
        terms.wrong_terms,
        operands.wrong_mask,
        operands.wrong_saved,
        axes.wrong_axis,
        axes.wrong_reduction,
        axes.wrong_product,
    ),
    (operands.local_derivative, axes.softmax_axis, axes.border),
    (operands.wrong_cotangent, axes.diagonal_only, forms.local_form, forms.exchanged_factor),
    (terms.extra_term, operands.other_inputs),
)
"""A later tier is tried only where none of the earlier ones explains the gradient: simple explanations first."""

ENOUGH = 0.2  # the weight of a finding that did not fail at the points near by


class _Judged(NamedTuple):
    finding: Finding
    confidence: float
    others: tuple[str, ...]


def judge(case: Case) -> Verdict:
    """The verdict on one claimed gradient."""
    error = case.explained(lambda sample: sample.true(case.name))
    if error is not None:
        return Verdict(case.name, "right", None, "", 1.0, error)
    judged = _likeliest(case)
    finding = judged.finding
    return Verdict(
        case.name,
        finding.status,
        finding.cause,
        finding.explanation,
        judged.confidence,
        case.error(case.first, case.truth),
        tuple(_worst(case)),
        None,
        judged.others,
    )


def _likeliest(case: Case) -> _Judged:
    found: list[Finding] = []
    for tier in TIERS:
        found += [finding for hypothesis in tier for finding in hypothesis(case)]
        if any(finding.weight >= ENOUGH for finding in found):
            break
    return _weigh(found) if found else _Judged(whole.unknown(case), 0.0, ())


def _weigh(found: list[Finding]) -> _Judged:
    """The likeliest finding; how sure it is follows from its exactness and from the rivals that fit as well."""
    weights: dict[str, float] = {}
    for finding in found:
        weights[finding.cause] = max(weights.get(finding.cause, 0.0), finding.weight)
    best = max(found, key=lambda finding: finding.weight)
    exactness = 0.99 if best.error < 1e-7 else 0.9
    exactness *= min(1.0, best.weight / ENOUGH)  # small where it failed at the points near by
    share = weights[best.cause] / sum(weights.values())
    rivals = [cause for cause in weights if cause != best.cause]
    return _Judged(best, round(exactness * share, 2), tuple(rivals))


def _worst(case: Case, count: int = 5) -> Iterator[Entry]:
    """The entries that are furthest off, worst first."""
    claim, truth = case.claim, case.truth
    if claim.shape != truth.shape:
        return
    difference = np.abs(claim - truth)
    difference = np.where(np.isfinite(difference), difference, np.inf)
    for flat in np.argsort(-difference, axis=None, kind="stable")[:count]:
        index = tuple(int(k) for k in np.unravel_index(flat, claim.shape))
        if difference[index] > 0:
            yield Entry(index, float(claim[index]), float(truth[index]))
