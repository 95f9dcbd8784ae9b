"""The parts of a chain that act on the gradient itself: scaling, schedules, clipping, weight decay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pullback import optim
from pullback.core import tree
from pullback.errors import ConfigError

PARAMS = {"weight": np.array([3.0, -4.0]), "bias": np.array([12.0])}


def run(transform: optim.Transform, updates: Any, steps: int = 1) -> Any:
    state = transform.init(PARAMS)
    for _ in range(steps):
        out, state = transform.update(updates, state, PARAMS)
    return out


def test_scale_and_chain_act_in_order() -> None:
    transform = optim.chain(optim.scale(2.0), optim.clip_by_value(5.0), optim.scale(-1.0))
    out = run(transform, PARAMS)
    np.testing.assert_array_equal(out["weight"], [-5.0, 5.0])
    np.testing.assert_array_equal(out["bias"], [-5.0])


def test_a_schedule_is_asked_for_each_step_from_zero() -> None:
    asked = []

    def schedule(step: Any) -> float:
        asked.append(int(step))
        return 0.5

    out = run(optim.scale_by_learning_rate(schedule), PARAMS, steps=3)
    assert asked == [0, 1, 2]
    np.testing.assert_array_equal(out["weight"], [-1.5, 2.0])


def test_clip_by_global_norm_keeps_the_direction() -> None:
    assert optim.global_norm(PARAMS) == 13.0
    out = run(optim.clip_by_global_norm(6.5), PARAMS)
    np.testing.assert_allclose(out["weight"], [1.5, -2.0])
    np.testing.assert_allclose(out["bias"], [6.0])


def test_clip_by_global_norm_leaves_short_and_zero_gradients() -> None:
    np.testing.assert_array_equal(run(optim.clip_by_global_norm(13.0), PARAMS)["weight"], PARAMS["weight"])
    zero = tree.map(np.zeros_like, PARAMS)
    np.testing.assert_array_equal(run(optim.clip_by_global_norm(1.0), zero)["weight"], [0.0, 0.0])


def test_a_nan_in_one_gradient_is_not_hidden_by_clipping() -> None:
    out = run(optim.clip_by_global_norm(1.0), {"weight": np.array([np.nan, 1.0]), "bias": np.array([1.0])})
    assert np.isnan(out["bias"]).all()


@pytest.mark.parametrize(
    "transform",
    [optim.clip_by_global_norm(0.1), optim.scale_by_schedule(optim.warmup_cosine(0.1, 2, 10)), optim.scale(0.1)],
)
def test_float32_stays_float32(transform: optim.Transform) -> None:
    params = tree.map(np.float32, PARAMS)
    out, _ = transform.update(params, transform.init(params), params)
    assert {leaf.dtype for leaf in tree.leaves(out)} == {np.dtype(np.float32)}


def test_weight_decay_follows_the_mask() -> None:
    zero = tree.map(np.zeros_like, PARAMS)
    everywhere = run(optim.add_decayed_weights(0.1), zero)
    np.testing.assert_allclose(everywhere["bias"], [1.2])
    masked = run(optim.add_decayed_weights(0.1, mask=lambda path: "bias" not in path), zero)
    np.testing.assert_allclose(masked["weight"], [0.3, -0.4])
    np.testing.assert_array_equal(masked["bias"], [0.0])


def test_no_decay_and_no_momentum_cost_no_state() -> None:
    assert tree.leaves(optim.sgd(0.1).init(PARAMS)) == []


@pytest.mark.parametrize("make", [lambda: optim.clip_by_value(0.0), lambda: optim.clip_by_global_norm(-1.0)])
def test_limits_must_be_positive(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError, match="to be positive, got"):
        make()


@pytest.mark.peers
def test_clip_by_global_norm_equals_pytorch(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    gradients = [rng.standard_normal((5, 4)), rng.standard_normal(7)]
    theirs = [torch.nn.Parameter(torch.zeros(g.shape, dtype=torch.float64)) for g in gradients]
    for p, g in zip(theirs, gradients, strict=True):
        p.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_norm_(theirs, 0.7)
    transform = optim.clip_by_global_norm(0.7)
    ours, _ = transform.update(gradients, transform.init(gradients), gradients)
    for g, p in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-6)  # PyTorch adds 1e-6 to the norm
