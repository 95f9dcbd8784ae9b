"""What a recording computes and what it leaves: types without numbers, and numbers for those who need them."""

from __future__ import annotations

from typing import Any

import numpy as np
import primitive_cases as table
import pytest

import pullback as pb
from pullback.core.primitive import Fused, Primitive
from pullback.program import recording

CASES = list(table.cases())


def types_of(results: Any) -> Any:
    """The structure of a result, and of each array the dtype and shape."""
    leaves, structure = pb.tree.flatten(results)
    return structure, [(leaf.dtype, leaf.shape) for leaf in map(np.asarray, leaves)]


def assert_blank_is_right(blank: Any, fn: Any, args: Any, params: Any) -> None:
    for dtype in (np.float64, np.float32):
        mine = pb.tree.map(lambda x, dtype=dtype: x.astype(dtype) if table.is_float(x) else x, args)
        with np.errstate(all="ignore"):
            assert types_of(blank(*mine, **params)) == types_of(fn(*mine, **params))


@pytest.mark.parametrize(
    "case", [c for c in CASES if recording.blank_of(c.primitive) is not None], ids=table.identifier
)
def test_a_blank_has_the_type_of_the_result(case: Any) -> None:
    assert_blank_is_right(recording.blank_of(case.primitive), case.primitive.fn, case.args, case.params)


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.primitive, Fused)], ids=table.identifier)
def test_blanks_of_fused_halves_have_the_types_of_the_results(case: Any) -> None:
    forward, backward = case.primitive.blanks
    if forward is not None:
        assert_blank_is_right(forward, case.primitive.forward, case.args, case.params)
    if backward is not None:
        y, saved = case.primitive.forward(*case.args, **case.params)
        assert_blank_is_right(backward, case.primitive.backward, (saved, y), case.params)


@pytest.mark.parametrize("case", CASES, ids=table.identifier)
@pytest.mark.filterwarnings("ignore::pullback.IndependentWarning")  # as of floor
def test_no_primitive_looks_at_the_numbers_to_know_its_type(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a recording its inputs, and all that the gradient is made of, are zeros."""
    monkeypatch.setattr(recording, "LARGE", 0)

    def f(*floats: Any) -> Any:
        def loss(*xs: Any) -> Any:
            y = case.run(*xs)
            return np.sum(y * np.cos(np.arange(y.size)).reshape(y.shape)), y

        return pb.value_and_grad(loss, tuple(range(len(floats))), has_aux=True)(*[x + 1.0 for x in floats])

    inputs = [x - 1.0 for x in case.floats]
    expected, found = f(*inputs), pb.compile(f)(*inputs)
    for ours, exact in zip(pb.tree.leaves(found), pb.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-9)


class Counted:
    """A matrix product that counts its calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        product = pb.core.primitive.PRIMITIVES["matmul"]
        plain = product.fn

        def counted(a: Any, b: Any) -> Any:
            self.calls += 1
            return plain(a, b)

        monkeypatch.setattr(product, "fn", counted)


def test_large_work_is_not_done_to_record(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    x = np.random.default_rng(0).normal(size=(300, 300))
    f = pb.compile(lambda x: np.sum(np.tanh(x @ x)))
    f.explain(x)
    assert counted.calls == 0
    np.testing.assert_allclose(f(x), np.sum(np.tanh(x @ x)))


def test_a_function_of_the_users_sees_the_numbers() -> None:
    seen = []

    def forward(x: Any, total: Any) -> Any:
        seen.append((np.array(x), float(total)))
        if not total > 0:
            raise ValueError("zeros were seen")
        return x * total, (x, total)

    scaled = pb.custom(forward, lambda saved, g: (g * saved[1], np.sum(g * saved[0])))

    def f(x: Any) -> Any:
        y = np.exp(x @ x)  # large, so left out at first
        return np.sum(scaled(np.transpose(y), np.mean(y)) ** 2)

    x = np.random.default_rng(0).normal(size=(200, 200)) / 20
    y = np.exp(x @ x)
    compiled = pb.compile(pb.value_and_grad(f))
    value, gradient = compiled(x)
    assert len(seen) == 2  # as it was recorded, and as it was run
    for numbers, total in seen:
        np.testing.assert_allclose(numbers, y.T)
        np.testing.assert_allclose(total, np.mean(y))
    expected_value, expected = pb.value_and_grad(f)(x)
    np.testing.assert_allclose(value, expected_value)
    np.testing.assert_allclose(gradient, expected)


def test_errors_of_shapes_are_those_of_the_function() -> None:
    x, w = np.zeros((8, 40, 40, 3), np.float32), np.zeros((3, 3, 4, 8), np.float32)
    conv2d: Primitive = pb.core.primitive.PRIMITIVES["conv2d"]
    with pytest.raises(pb.ShapeError, match="expected x "):
        pb.compile(lambda x, w: conv2d(x, w))(x, w)
    with pytest.raises(ValueError, match="matmul"):
        pb.compile(lambda a, b: a @ b)(np.zeros((300, 200)), np.zeros((300, 200)))
