"""`pb.check` of a function's own derivatives: every rule in the registry, corrupted, is named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import primitive_cases as table
import pytest
from corruptions import corrupted

import pullback as pb
from pullback.show.observed import observe
from pullback.show.rules_check import check_rules

Corruption = Callable[[Any, Any, Any], Any]
"""(a function from a cotangent and what was saved to the contribution, the cotangent, what was saved)."""


def first_of(g: Any) -> Any:
    """A cotangent without all but the first part along its first axis: what is left where a sum is forgotten."""
    if isinstance(g, tuple):
        return tuple(first_of(part) for part in g)
    kept = np.zeros_like(np.atleast_1d(g))
    kept[:1] = np.atleast_1d(g)[:1]
    return kept.reshape(np.shape(g))


def other(x: Any) -> Any:
    """Another array in the place of the one that should be read."""
    if isinstance(x, tuple):
        return tuple(other(part) for part in x)
    if getattr(x, "dtype", np.dtype(int)).kind == "b":
        return ~x
    return np.cos(x) if getattr(x, "dtype", np.dtype(int)).kind == "f" else x


def wrong_argument(pull: Any, g: Any, saved: Any) -> Any:
    """The first of the arrays saved is another one; where that changes nothing, the cotangent is."""
    if saved is not None and len(saved):
        c = pull(g, (other(saved[0]), *saved[1:]) if isinstance(saved, tuple) else other(saved))
        if not np.allclose(c, pull(g, saved)):
            return c
    return pull(other(g), saved)


def without_largest(c: Any) -> Any:
    c = np.array(c)
    c[np.unravel_index(np.argmax(np.abs(c)), c.shape)] = 0.0
    return c


CORRUPTIONS: dict[str, Corruption] = {
    "sign": lambda pull, g, saved: -pull(g, saved),
    "sum": lambda pull, g, saved: pull(first_of(g), saved),
    "factor": lambda pull, g, saved: pull(g, saved) * (1 + 1e-4),
    "argument": wrong_argument,
    "term": lambda pull, g, saved: without_largest(pull(g, saved)),
}


def test_no_rule_of_the_registry_is_flagged() -> None:
    for case in table.cases():
        results = check_rules(observe(case.run, tuple(case.floats)), np.random.default_rng(0))
        assert [str(result) for result in results if not result.ok] == [], table.identifier(case)


BY_NAME: dict[str, list[Any]] = {}
for each in table.cases():
    BY_NAME.setdefault(each.primitive.name, []).append(each)


@pytest.mark.parametrize("name", BY_NAME)
@pytest.mark.filterwarnings("ignore::pullback.IndependentWarning")
def test_a_corrupted_rule_is_named(name: str) -> None:
    corrupted_ways = set()
    for case in BY_NAME[name]:
        application = next(
            a for a in observe(case.run, tuple(case.floats)).applications if a.primitive is case.primitive
        )
        g = (
            np.random.default_rng(1).normal(size=np.shape(application.result))
            if not isinstance(application.result, tuple)
            else tuple(np.random.default_rng(1).normal(size=part.shape) for part in application.result)
        )
        right = application.contributions(g)
        for how, corruption in CORRUPTIONS.items():
            if how in corrupted_ways:
                continue
            for i in right:
                with corrupted(case.primitive, corruption, i):
                    if np.allclose(application.contributions(g)[i], right[i], rtol=1e-5, atol=1e-12):
                        continue  # as where the derivative is zero
                    report = pb.check(lambda *xs, case=case: np.sin(case.run(*xs)), *case.floats)
                assert not report
                assert report.worst_rule is not None
                assert report.worst_rule.primitive == name
                expected = case.primitive.inputs[i] if i < len(case.primitive.inputs) else f"input {i}"
                assert report.worst_rule.argument == expected
                corrupted_ways.add(how)
                break
    if name not in FLAT:
        assert corrupted_ways == set(CORRUPTIONS) - NOT_APPLICABLE.get(name, set())


FLAT = {"ceil", "floor", "floor_divide", "rint", "sign", "spacing", "trunc", "heaviside"}
"""Their derivative is zero, whatever is done to it."""
NOT_APPLICABLE = {"softmax_cross_entropy": {"sum"}}
"""Its result is one number."""
