"""`pb.derive`: the lines, their checks, the closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np

import pullback as pb
from pullback.rules.nn import softmax

RNG = np.random.default_rng(0)


def test_a_layer_and_a_sum() -> None:
    def f(W: Any, x: Any) -> Any:
        return np.sum(np.tanh(W @ x))

    W, x = RNG.normal(size=(3, 4)), RNG.normal(size=4)
    d = pb.derive(f, W, x)
    assert [line.text for line in d.forward] == ["a₁ = W x", "a₂ = tanh(a₁)", "f = Σᵢ a₂"]
    assert [line.text for line in d.backward] == [
        "∂f/∂a₂ = 1", "∂f/∂a₁ = (1 − a₂²) ⊙ ∂f/∂a₂", "∂f/∂W = ∂f/∂a₁ xᵀ", "∂f/∂x = Wᵀ ∂f/∂a₁",
    ]  # fmt: skip
    assert str(d.closed_form["x"]) == "Wᵀ (1 − a₂²)"
    np.testing.assert_allclose(d.closed_form["W"].evaluate(), pb.grad(f)(W, x), rtol=1e-12)
    assert d.ok
    assert d.max_error < 1e-10


def test_cross_entropy_is_p_minus_onehot() -> None:
    def loss(x: Any, k: int) -> Any:
        p = softmax(x)
        return -np.log(p[k])

    d = pb.derive(loss, RNG.normal(size=5), 2)
    assert str(d.closed_form["x"]) == "p − onehot(k)"
    assert d.ok
