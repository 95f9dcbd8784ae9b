"""A limit of memory: what is computed a second time, and that results stay what they are."""

from __future__ import annotations

import re

import numpy as np
import pytest

import pullback as pb
from pullback.program.loops import LoopOperation

X, W = np.random.default_rng(0).normal(size=(2, 100, 100)) / 10


def sines(w, x):
    for _ in range(8):
        x = np.sin(x @ w)
    return np.sum(x)


def chains(w, x):
    for _ in range(6):
        x = np.tanh(x) * x + np.exp(-x * x)
        x = x - np.max(x, axis=0, keepdims=True) * w
    return np.sum(x)


def operations(program):
    return [step.primitive.name for step in program.steps]


def test_a_value_that_the_backward_pass_reads_through_a_view_is_made_again():
    gradient = pb.grad(sines)
    plain = pb.compile(gradient)
    before = plain.explain(W, X)
    tight = pb.compile(gradient, memory_limit=before.peak - 5 * X.nbytes)
    after = tight.explain(W, X)
    assert after.peak <= before.peak - 5 * X.nbytes
    assert operations(after.after).count("sin") > operations(before.after).count("sin")
    np.testing.assert_array_equal(tight(W, X), plain(W, X))


def test_of_a_loop_only_what_is_needed_is_made_again():
    gradient = pb.value_and_grad(chains, (0, 1))
    plain = pb.compile(gradient)
    before = plain.explain(W, X)
    tight = pb.compile(gradient, memory_limit=before.peak - 5 * X.nbytes)
    after = tight.explain(W, X)
    assert after.peak <= before.peak - 5 * X.nbytes
    made = [step.primitive.loop.steps for step in before.after.steps if isinstance(step.primitive, LoopOperation)]
    again = [step.primitive.loop.steps for step in after.after.steps if isinstance(step.primitive, LoopOperation)]
    assert len(again) > len(made)
    assert min(map(len, again)) < min(map(len, made))
    for a, b in zip(pb.tree.leaves(tight(W, X)), pb.tree.leaves(plain(W, X)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_loops_are_made_before_memory_is_traded():
    """A chain that is one loop keeps nothing, so that a limit costs it nothing."""
    gradient = pb.grad(lambda x: np.sum(np.tanh(np.tanh(np.tanh(x) * x) * x)))
    (step,) = pb.compile(gradient, memory_limit=X.nbytes).explain(X).after.steps
    assert isinstance(step.primitive, LoopOperation)


@pytest.mark.parametrize("f", [sines, chains])
def test_every_limit_is_kept_or_refused_with_the_least(f):
    gradient = pb.value_and_grad(f, (0, 1))
    peak = pb.compile(gradient).explain(W, X).peak
    reached = []
    for limit in range(peak, 0, -X.nbytes):
        try:
            reached.append(pb.compile(gradient, memory_limit=limit).explain(W, X).peak)
        except pb.ConfigError as error:
            least = int(re.search(r"needs ([\d,]+) at least", str(error))[1].replace(",", ""))
            assert limit < least <= min(reached)
            break
        assert reached[-1] <= limit
    assert len(reached) > 5


def test_a_donated_input_that_is_written_over_is_not_read_again():
    def step(w, x):
        value, slope = pb.value_and_grad(sines)(w, x)
        return w - 1e-4 * slope, value

    peak = pb.compile(step, donate=(0,)).explain(W, X).peak
    tight = pb.compile(step, donate=(0,), memory_limit=peak - 5 * X.nbytes)
    eager, compiled = W, W
    for _ in range(3):
        eager, expected = step(eager, X)
        compiled, value = tight(compiled, X)
        np.testing.assert_allclose(value, expected, rtol=1e-10)
    np.testing.assert_allclose(compiled, eager, rtol=1e-10)
