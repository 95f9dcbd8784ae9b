"""Every primitive of the registry is derived, with lines that agree; a rule that is corrupted fails on its line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import primitive_cases as table
import pytest
from corruptions import corrupted

import pullback as pb
from pullback.core.tensor import plain_value

Pull = Callable[[Any, Any], Any]
"""From a cotangent and what was saved to a contribution."""


def masked(x: Any, mask: Callable[[Any], Any]) -> Any:
    """An array, or several, with the elements that a mask of the numbers leaves out put to 0."""
    if isinstance(x, tuple):
        return tuple(masked(part, mask) for part in x)
    return x * mask(np.asarray(plain_value(x))).astype(float)


def first_part(x: Any) -> Any:
    kept = np.zeros(x.shape)
    kept[(slice(0, 1),) * (x.ndim > 0)] = 1.0
    return kept


def all_but_the_largest(x: Any) -> Any:
    return np.abs(x) != np.max(np.abs(x), initial=0.0)


def another(x: Any) -> Any:
    """Another array in the place of the one that should be read."""
    if isinstance(x, tuple):
        return tuple(another(part) for part in x)
    kind = getattr(x, "dtype", np.dtype(int)).kind
    return np.cos(x) if kind == "f" else ~x if kind == "b" else x


def wrong_argument(pull: Pull, g: Any, saved: Any) -> Any:
    if isinstance(saved, tuple) and saved and getattr(saved[0], "dtype", np.dtype(int)).kind in "fb":
        wrong = pull(g, (another(saved[0]), *saved[1:]))
        if not np.allclose(plain_value(wrong), plain_value(pull(g, saved))):
            return wrong
    return pull(another(g), saved)


CORRUPTIONS: dict[str, Callable[[Pull, Any, Any], Any]] = {
    "sign": lambda pull, g, saved: -pull(g, saved),
    "factor": lambda pull, g, saved: pull(g, saved) * (1 + 1e-4),
    "sum": lambda pull, g, saved: pull(masked(g, first_part), saved),
    "argument": wrong_argument,
    "term": lambda pull, g, saved: masked(pull(g, saved), all_but_the_largest),
}


BY_NAME: dict[str, list[Any]] = {}
for each in table.cases():
    BY_NAME.setdefault(each.primitive.name, []).append(each)


def gradients(case: Any) -> Any:
    y, pullback = pb.vjp(case.run, *case.floats)
    with np.errstate(all="ignore"):
        return pullback(np.random.default_rng(0).normal(size=np.shape(y)))


def derived(case: Any) -> Any:
    return pb.derive(lambda *x: case.run(*x), *case.floats)


@pytest.mark.parametrize("name", BY_NAME)
def test_every_primitive_is_derived(name: str) -> None:
    for case in BY_NAME[name]:
        d = derived(case)
        assert d.ok, str(d)
        assert all(line.latex for line in d.lines)


FLAT = {"ceil", "floor", "floor_divide", "rint", "sign", "spacing", "trunc", "heaviside"}
"""Their derivative is zero, whatever is done to it."""
NOT_APPLICABLE = {"softmax_cross_entropy": {"sum"}}
"""Its result is one number."""


@pytest.mark.parametrize("name", [name for name in BY_NAME if name not in FLAT])
def test_a_corrupted_rule_fails_on_its_line(name: str) -> None:
    failed = set()
    for case in BY_NAME[name]:
        positions = [i for i, a in enumerate(case.args) if table.is_float(a)]
        right = gradients(case)
        for how, corruption in CORRUPTIONS.items():
            for n, i in enumerate(positions):
                if how in failed:
                    continue
                with corrupted(case.primitive, corruption, i):
                    if np.allclose(gradients(case)[n], right[n], 1e-5, 1e-12):
                        continue  # as where the derivative is zero
                    d = derived(case)
                    wrong = [line.variable for line in d.backward if not line.ok]
                    assert f"x{n + 1}" in wrong, f"{how} of input {i}:\n{d}"
                    assert not d.ok
                failed.add(how)
    assert failed == set(CORRUPTIONS) - NOT_APPLICABLE.get(name, set())
