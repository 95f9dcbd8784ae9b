"""Each pass alone: what it removes, what it must leave, and that the outputs stay what they were, bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import pullback as pb
from pullback.core import tree
from pullback.program import passes
from pullback.program.ir import Program
from pullback.program.native import gathered, segments
from pullback.program.recording import record
from pullback.program.replay import Replay

X = np.random.default_rng(0).normal(size=(3, 4))
SPECIAL = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5])


def program_of(f, *args):
    leaves, structure = tree.flatten((args, {}))
    return record(f, leaves, structure).program


def names(program):
    return [step.primitive.name for step in program.steps]


def run(program, *inputs):
    places = dict(zip(program.inputs, inputs, strict=True)) | program.constants
    for step in program.steps:
        places.update(zip(step.outputs, step.run([places[k] for k in step.inputs]), strict=True))
    return [places[k] for k in program.outputs]


def after(change, f, *inputs):
    """The steps that a pass leaves; its outputs are compared with those before, signs of zeros included."""
    before = program_of(f, *inputs)
    changed = change(before).check(change.__name__)
    for a, b in zip(run(before, *inputs), run(changed, *inputs), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(np.signbit(a), np.signbit(b))
    return names(changed)


def test_dead_code():
    assert after(passes.dead_code, lambda x: (np.exp(np.cos(x)), np.tanh(x))[1], X) == ["tanh"]


def test_common_subexpressions():
    assert after(passes.common_subexpressions, lambda x: np.exp(x * 2.0) + np.exp(x * 2.0), X) == [
        "multiply", "exp", "add",
    ]  # fmt: skip
    # Other parameters, another dtype of a constant, and the other zero are not the same.
    assert after(passes.common_subexpressions, lambda x: (x.sum(0, keepdims=True), x.sum(0)), X) == ["sum", "sum"]
    assert after(passes.common_subexpressions, lambda x: (x * 0.0, x * -0.0), X) == ["multiply", "multiply"]
    small = X.astype(np.float32)
    assert after(passes.common_subexpressions, lambda x: (x * 2.0, x * np.float64(2.0)), small) == ["multiply"] * 2


def test_constant_folding():
    constant = np.arange(4.0)
    f = lambda x: x + np.exp(np.zeros_like(x) + constant)  # noqa: E731
    assert after(passes.fold_constants, f, X) == ["add"]


def test_constant_folding_leaves_what_is_large():
    f = lambda x: x + np.sum(np.exp(np.zeros_like(x, shape=(600, 600)) * 2.0))  # noqa: E731
    assert "multiply" in names(passes.fold_constants(program_of(f, 1.0 * X)))


@pytest.mark.parametrize(
    ("f", "left"),
    [
        (lambda x: x * 1.0, []),
        (lambda x: 1 * x, []),
        (lambda x: x / 1.0, []),
        (lambda x: x - 0.0, []),
        (lambda x: x + (-0.0), []),
        (lambda x: np.negative(np.negative(x)), ["negative"]),
        (lambda x: np.exp(x) + (-x), ["exp", "negative", "subtract"]),
        (lambda x: np.exp(x) - (-x), ["exp", "negative", "add"]),
        (lambda x: x.copy(), []),
        (lambda x: x.reshape(2, 3).reshape(3, 2), ["reshape", "reshape"]),
        (lambda x: x.reshape(2, 3).reshape(6), ["reshape"]),
        (lambda x: x.reshape(2, 3).T.T, ["reshape", "transpose"]),
        # These would change a zero, a NaN, a shape or a dtype.
        (lambda x: x + 0.0, ["add"]),
        (lambda x: x - (-0.0), ["subtract"]),
        (lambda x: 0.0 - x, ["subtract"]),
        (lambda x: x * 0.0, ["multiply"]),
        (lambda x: x * np.ones((2, 1)), ["multiply"]),
        (lambda x: x.astype(np.float32) * np.float64(1.0), ["astype", "multiply"]),
        (lambda x: 1.0 / x, ["divide"]),
    ],
)
def test_identities_are_exact(f, left):
    with np.errstate(all="ignore"):
        assert after(passes.simplify, f, SPECIAL) == left


def test_all_passes_on_a_gradient():
    f = pb.grad(lambda x: np.sum(np.tanh(x) ** 2))
    before = program_of(f, X)
    program = passes.optimise(before)
    assert len(program.steps) < len(before.steps)
    np.testing.assert_array_equal(run(program, X)[0], f(X))


def test_a_program_that_is_not_well_formed_is_refused():
    good = program_of(lambda x: np.exp(x) + 1.0, X)
    first, last = good.steps
    for bad, message in [
        (replace(good, steps=(last, first)), "which nothing has made"),
        (replace(good, steps=(first, first, last)), "a second time"),
        (replace(good, steps=(first,)), "made by no step"),
        (replace(good, types={}), "has no type"),
        (replace(good, constants=dict.fromkeys(good.constants, 1)), "is no float64"),
    ]:
        assert isinstance(bad, Program)
        with pytest.raises(pb.PullbackError, match=message):
            bad.check("a pass")


def test_a_replay_reuses_the_arena():
    x = np.random.default_rng(0).normal(size=(200, 200))
    f = lambda x: np.cbrt(np.arctan(np.sinh(np.arctan(x))))  # noqa: E731
    replay = Replay(passes.optimise(program_of(f, x)))
    assert replay.plan.size == x.nbytes  # one buffer, written over again and again
    for _ in range(2):
        np.testing.assert_array_equal(replay([x])[0], f(x))


# -- small steps together --------------------------------------------------------------------------------------------
def test_small_steps_wait_for_one_another():
    """What is too large for the machine, and needs none of them, goes before."""
    large, small = np.random.default_rng(0).normal(size=(200, 100)), X[0]

    def f(large, small):
        a = small * 2.0
        b = large @ large.T
        c = np.exp(a)
        d = np.tanh(b)
        return d * np.sum(c), c

    before = program_of(f, large, small)
    assert names(before) == ["multiply", "transpose", "matmul", "exp", "tanh", "sum", "multiply"]
    assert not segments(before)
    assert after(gathered, f, large, small) == ["transpose", "matmul", "tanh", "multiply", "exp", "sum", "multiply"]
    assert [(each.first, each.last) for each in segments(gathered(before))] == [(3, 6)]


def test_small_steps_of_two_dtypes_stay_apart():
    def f(x, y):
        results = []
        for _ in range(3):
            x, y = np.tanh(x) * 2.0, np.tanh(y) * 2.0
            results += [x, y]
        return results

    y = X.astype(np.float32)
    after(gathered, f, X, y)
    for program in (program_of(f, X, y), gathered(program_of(f, X, y))):
        for each in segments(program):
            made = [step.outputs[0] for step in program.steps[each.first : each.last]]
            assert {program.types[place].dtype for place in made} == {each.dtype}
