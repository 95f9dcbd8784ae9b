"""The optimisers: by the paper's own formulas, on problems with a known minimum, and step by step against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import optim
from pullback.core import tree
from pullback.errors import ConfigError

OPTIMISERS = {
    "sgd": optim.sgd(0.05),
    "sgd, momentum": optim.sgd(0.01, momentum=0.9),
    "sgd, Nesterov": optim.sgd(0.01, momentum=0.9, nesterov=True),
    "rmsprop": optim.rmsprop(optim.staircase(0.05, 0.5, every=100)),
    "rmsprop, momentum": optim.rmsprop(optim.exponential(0.02, 0.5, steps=100), momentum=0.5),
    "adam": optim.adam(0.05),
    "adamw": optim.adamw(optim.warmup_cosine(0.1, 10, 1000), weight_decay=1e-4),
    "clipped adam": optim.chain(optim.clip_by_global_norm(1.0), optim.adam(0.05)),
}


def bowl_gradient(params: dict[str, Any]) -> dict[str, Any]:
    """Of sum (w - 1)^2 + 4 sum (b + 2)^2."""
    return {"w": 2.0 * (params["w"] - 1.0), "b": [8.0 * (params["b"][0] + 2.0)]}


def valley_gradient(params: dict[str, Any]) -> dict[str, Any]:
    """Of sum log cosh(w - 1) + sum (b + 2)^4 + (b + 2)^2: steep far away, never quadratic."""
    distance = params["b"][0] + 2.0
    return {"w": np.tanh(params["w"] - 1.0), "b": [4.0 * distance**3 + 2.0 * distance]}


def locked(params: Any) -> Any:
    """The same tree of arrays that cannot be written to, so that a write in place is an error."""
    for leaf in tree.leaves(params):
        if isinstance(leaf, np.ndarray):
            leaf.flags.writeable = False
    return params


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gradient", [bowl_gradient, valley_gradient])
@pytest.mark.parametrize("name", OPTIMISERS)
def test_reaches_the_minimum(name: str, gradient: Callable[[Any], Any], dtype: Any) -> None:
    optimiser = OPTIMISERS[name]
    params = locked({"w": np.zeros((2, 3), dtype), "b": [np.full(4, -1.0, dtype)]})
    state = locked(optimiser.init(params))
    structure = tree.flatten(state)[1]
    for _ in range(1000):
        updates, state = optimiser.update(locked(gradient(params)), state, params)
        params, state = locked(optim.apply_updates(params, updates)), locked(state)
    np.testing.assert_allclose(params["w"], 1.0, atol=2e-3)
    np.testing.assert_allclose(params["b"][0], -2.0, atol=2e-3)
    assert {leaf.dtype for leaf in tree.leaves(params)} == {np.dtype(dtype)}
    assert tree.flatten(state)[1] == structure
    for leaf in tree.leaves(state):
        assert isinstance(leaf, np.ndarray)  # a checkpoint saves arrays
        assert leaf.dtype in (dtype, np.int64)


def two_steps(optimiser: optim.Transform, gradients: list[float]) -> list[float]:
    """The parameter, 1 at first, after each step."""
    p = np.array([1.0])
    state = optimiser.init(p)
    path = []
    for g in gradients:
        updates, state = optimiser.update(np.array([g]), state, p)
        p = optim.apply_updates(p, updates)
        path.append(float(p[0]))
    return path


G1, G2 = 0.3, -0.7  # the gradients of two steps, from the parameter 1


def test_first_steps_of_sgd() -> None:
    assert two_steps(optim.sgd(0.1), [G1, G2]) == pytest.approx([1 - 0.1 * G1, 1 - 0.1 * G1 - 0.1 * G2], rel=1e-14)
    momentum = [1 - 0.1 * G1, 1 - 0.1 * G1 - 0.1 * (G2 + 0.9 * G1)]
    assert two_steps(optim.sgd(0.1, momentum=0.9), [G1, G2]) == pytest.approx(momentum, rel=1e-14)
    nesterov = [1 - 0.1 * 1.9 * G1]
    nesterov.append(nesterov[0] - 0.1 * (G2 + 0.9 * (G2 + 0.9 * G1)))
    assert two_steps(optim.sgd(0.1, momentum=0.9, nesterov=True), [G1, G2]) == pytest.approx(nesterov, rel=1e-14)


def test_first_steps_of_rmsprop() -> None:
    v1 = 0.1 * G1**2
    v2 = 0.9 * v1 + 0.1 * G2**2
    first = 1 - 0.1 * G1 / (math.sqrt(v1) + 1e-3)
    second = first - 0.1 * G2 / (math.sqrt(v2) + 1e-3)
    steps = two_steps(optim.rmsprop(0.1, decay=0.9, eps=1e-3), [G1, G2])
    assert steps == pytest.approx([first, second], rel=1e-14)


def test_first_steps_of_adam() -> None:
    b1, b2, eps = 0.9, 0.99, 1e-3
    m1, v1 = (1 - b1) * G1, (1 - b2) * G1**2
    m2, v2 = b1 * m1 + (1 - b1) * G2, b2 * v1 + (1 - b2) * G2**2
    first = 1 - 0.1 * (m1 / (1 - b1)) / (math.sqrt(v1 / (1 - b2)) + eps)
    second = first - 0.1 * (m2 / (1 - b1**2)) / (math.sqrt(v2 / (1 - b2**2)) + eps)
    assert two_steps(optim.adam(0.1, b1, b2, eps), [G1, G2]) == pytest.approx([first, second], rel=1e-14)


def test_weight_decay_is_a_penalty_in_adam_and_a_shrinking_in_adamw() -> None:
    """With no gradient, Adam's penalty makes a step of length lr; AdamW shrinks the parameter by lr * weight_decay."""
    assert two_steps(optim.adam(0.1, weight_decay=0.5), [0.0]) == pytest.approx([0.9], rel=1e-6)
    assert two_steps(optim.adamw(0.1, weight_decay=0.5), [0.0]) == pytest.approx([0.95], rel=1e-14)


def test_scalar_parameters_keep_their_dtype() -> None:
    optimiser = optim.adam(0.1)
    p = np.array(1.0, np.float32)
    updates, state = optimiser.update(np.float32(0.3), optimiser.init(p), p)
    assert optim.apply_updates(p, updates).dtype == np.float32
    assert {leaf.dtype for leaf in tree.leaves(state)} == {np.dtype(np.float32), np.dtype(np.int64)}


def test_adam_records_one_step_for_each_parameter() -> None:
    params = {"w": np.ones((2, 3), np.float32), "b": [np.ones(3, np.float32)]}
    optimiser = optim.adam(0.1)
    record = pb.record(optimiser.update, params, optimiser.init(params), params)
    assert record.counts()["adam_step"] == 2
    large = {step.primitive.name for step in record.steps if any(y.shape == (2, 3) for y in step.outputs.values())}
    assert large == {"adam_step", "multiply"}  # the second is by the learning rate


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: optim.sgd(-0.1), "learning rate that is not negative, got -0.1"),
        (lambda: optim.sgd(0.1, momentum=1.0), r"momentum in \[0, 1\), got 1.0"),
        (lambda: optim.adam(0.1, b1=1.5), r"b1 in \[0, 1\), got 1.5"),
        (lambda: optim.adam(0.1, b2=-1), r"b2 in \[0, 1\), got -1"),
        (lambda: optim.rmsprop(0.1, decay=2), r"decay in \[0, 1\), got 2"),
        (lambda: optim.adamw(0.1, weight_decay=-1), "weight decay that is not negative, got -1"),
    ],
)
def test_settings_out_of_range_are_named(make: Callable[[], Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def torch_pairs(torch: Any) -> dict[str, tuple[optim.Transform, Callable[[Any], Any]]]:
    """Each optimiser beside PyTorch's of the same settings."""
    nesterov = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    rmsprop = {"momentum": 0.9, "weight_decay": 0.01}
    return {
        "sgd": (optim.sgd(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        "momentum": (optim.sgd(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        "nesterov": (optim.sgd(0.1, **nesterov), lambda p: torch.optim.SGD(p, 0.1, **nesterov)),
        "rmsprop": (optim.rmsprop(0.01), lambda p: torch.optim.RMSprop(p, 0.01)),
        "rmsprop, momentum": (optim.rmsprop(0.01, **rmsprop), lambda p: torch.optim.RMSprop(p, 0.01, **rmsprop)),
        "adam": (optim.adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
        "adam, penalty": (
            optim.adam(0.01, 0.8, 0.95, 1e-4, weight_decay=0.1),
            lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95), 1e-4, weight_decay=0.1),
        ),
        "adamw": (optim.adamw(0.01), lambda p: torch.optim.AdamW(p, 0.01)),
    }


@pytest.mark.peers
@pytest.mark.parametrize(
    "name", ["sgd", "momentum", "nesterov", "rmsprop", "rmsprop, momentum", "adam", "adam, penalty", "adamw"]
)
def test_twenty_steps_equal_those_of_pytorch(name: str, rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    optimiser, make_theirs = torch_pairs(torch)[name]
    params = [rng.standard_normal((3, 4)), rng.standard_normal(4)]
    theirs = [torch.nn.Parameter(torch.tensor(p)) for p in params]
    their_optimiser = make_theirs(theirs)
    state = optimiser.init(params)
    for _ in range(20):
        gradients = [rng.standard_normal(p.shape) for p in params]
        updates, state = optimiser.update(gradients, state, params)
        params = optim.apply_updates(params, updates)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(g)
        their_optimiser.step()
        for p, q in zip(params, theirs, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=1e-12, atol=1e-14)
