"""Patterns that repeat are written once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import pullback as pb
from pullback.nn import BatchNorm, Conv2d, GlobalAvgPool2d, Linear, ReLU, Residual, Sequential
from pullback.rules.nn import softmax_cross_entropy

RNG = np.random.default_rng(0)


def network(depth: int) -> Sequential:
    def block() -> Residual:
        conv = Conv2d(8, 8, 3, padding=1, bias=False, rng=RNG)
        return Residual(Sequential(conv=conv, norm=BatchNorm(8), relu=ReLU()))

    blocks = [(f"block{i}", block()) for i in range(depth - 1)]
    stem = Conv2d(3, 8, 3, padding=1, rng=RNG)
    return Sequential(("stem", stem), *blocks, ("pool", GlobalAvgPool2d()), ("output", Linear(8, 4, rng=RNG)))


def loss(model: Any, x: Any, t: Any) -> Any:
    return softmax_cross_entropy(model(x), t)


def test_thirty_layers_in_seconds_and_on_a_page() -> None:
    model, x, t = network(30), RNG.normal(size=(2, 8, 8, 3)), np.eye(4)[[1, 2]]
    start = time.perf_counter()
    d = pb.derive(loss, model, x, t)
    text = str(d)
    assert time.perf_counter() - start < 15  # under 5 s on an idle machine
    assert d.ok
    assert len(text.splitlines()) < 140
    assert "t = 29, …, 1" in text


def test_the_state_of_the_network_is_as_before() -> None:
    model = network(3)
    before = {name: np.array(value) for name, value in model.state().items()}
    pb.derive(loss, model, RNG.normal(size=(2, 8, 8, 3)), np.eye(4)[[1, 2]])
    after = model.state()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_without_folding_every_iteration_has_its_lines() -> None:
    def f(W: Any, h: Any) -> Any:
        for _ in range(4):
            h = np.tanh(W @ h)
        return np.sum(h)

    W, h = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    folded, flat = pb.derive(f, W, h), pb.derive(f, W, h, fold=False)
    assert len(folded.forward) == 3
    assert len(flat.forward) == 9
    np.testing.assert_allclose(folded.closed_form["h"].evaluate(), flat.closed_form["h"].evaluate(), rtol=1e-12)
    assert folded.ok
    assert flat.ok


def test_a_network_with_memory_and_weights_in_a_list() -> None:
    from pullback.nn import LSTMCell, Recurrent

    network = Recurrent(LSTMCell(2, 3, rng=RNG))
    d = pb.derive(lambda model, x: np.sum(model(x)), network, RNG.normal(size=(2, 6, 2)))
    assert d.ok
    assert any("t = 1, …, 6" in line.span for line in d.forward)

    def mlp(Ws: Any, x: Any) -> Any:
        for W in Ws:
            x = np.tanh(W @ x)
        return np.sum(x)

    d = pb.derive(mlp, [RNG.normal(size=(3, 3)) for _ in range(4)], RNG.normal(size=3))
    assert [line.text for line in d.forward] == ["aₜ = Ws[t−1] xₜ₋₁", "xₜ = tanh(aₜ)", "mlp = Σᵢ x₄"]
    assert str(d.closed_form["x"]) == "(∏_t=1..4 Ws[t−1]ᵀ diag(1 − xₜ²)) ∂mlp/∂x₄"
    assert d.ok
