"""The functions of neural networks: values against closed forms, and fused rules against their references."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.rules import nn as rules


@pytest.mark.parametrize(("dtype", "places"), [(np.float64, 3), (np.float32, 3)])
def test_erf_to_the_last_places(dtype: Any, places: int) -> None:
    x = np.concatenate([np.linspace(-7, 7, 20_001), [1e-300, -1e-30, 0.46875, np.inf, -np.inf]]).astype(dtype)
    exact = np.array([math.erf(v) for v in x])
    y = rules.erf(x)
    assert y.dtype == dtype
    np.testing.assert_allclose(y, exact, rtol=places * np.finfo(dtype).eps, atol=0)
    assert np.isnan(rules.erf(np.array([np.nan])))


def test_sigmoid_and_softplus_on_both_sides() -> None:
    x = np.array([-800.0, -40.0, -1.0, 0.0, 1.0, 40.0, 800.0])
    expected = [
        math.exp(-800.0),
        math.exp(-40),
        1 / (1 + math.e),
        0.5,
        1 / (1 + math.exp(-1)),
        1 / (1 + math.exp(-40)),
        1,
    ]
    np.testing.assert_allclose(rules.sigmoid(x), expected, rtol=1e-15)
    np.testing.assert_allclose(rules.softplus(x[1:-1]), [math.log1p(math.exp(v)) for v in x[1:-1]], rtol=1e-14)
    assert rules.softplus(x[-1]) == 800


@pytest.mark.parametrize("name", ["relu", "sigmoid", "softplus", "erf"])
def test_elementwise(name: str, rng: np.random.Generator, check_gradients: Callable[..., None]) -> None:
    f = getattr(rules, name)
    x = rng.standard_normal((4, 5))
    check_gradients(f, x)
    check_gradients(pb.grad(lambda x: np.sum(f(x) * x)), x, tolerance=1e-6)


def positive(rng: np.random.Generator, *shape: int) -> Any:
    return rng.uniform(0.5, 1.5, shape)


FUSED: dict[str, Callable[[np.random.Generator], tuple[Any, ...]]] = {
    "softmax": lambda rng: (rng.standard_normal((3, 4)),),
    "log_softmax": lambda rng: (rng.standard_normal((3, 4)),),
    "softmax_cross_entropy": lambda rng: (rng.standard_normal((3, 4)), positive(rng, 3, 4)),
    "batch_norm": lambda rng: (rng.standard_normal((4, 2, 3)), positive(rng, 3), rng.standard_normal(3)),
    "layer_norm": lambda rng: (rng.standard_normal((4, 2, 3)), positive(rng, 3), rng.standard_normal(3)),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_agrees_with_its_reference(
    name: str, rng: np.random.Generator, check_gradients: Callable[..., None]
) -> None:
    primitive = getattr(rules, name)
    inputs = FUSED[name](rng)
    options = primitive.defaults
    y, pullback = pb.vjp(lambda *a: primitive(*a, **options), *inputs)
    reference, reference_pullback = pb.vjp(lambda *a: primitive.reference(*a, **options), *inputs)
    cotangent = pb.tree.map(lambda part: rng.standard_normal(np.shape(part)), reference)
    for ours, theirs in zip(
        pb.tree.leaves((y, pullback(cotangent))),
        pb.tree.leaves((reference, reference_pullback(cotangent))),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    check_gradients(primitive, *inputs)
    second = pb.grad(
        lambda *a: sum(np.sum(part**2) for part in pb.tree.leaves(primitive(*a))), argnums=(0, 1)[: len(inputs)]
    )
    check_gradients(lambda *a: second(*a), *inputs, tolerance=1e-5)


def test_softmax_of_large_numbers() -> None:
    x = np.array([[1000.0, 1000.0, -1000.0]])
    np.testing.assert_allclose(rules.softmax(x), [[0.5, 0.5, 0.0]])
    np.testing.assert_allclose(rules.log_softmax(x), [[-math.log(2), -math.log(2), -2000 - math.log(2)]])
    np.testing.assert_allclose(rules.softmax(x, axis=0), np.ones((1, 3)))


# -- batch normalisation, three ways -----------------------------------------------------------------------------------
EPS = 1e-5


def by_definition(x: Any, gamma: Any, beta: Any) -> Any:
    """To be differentiated automatically."""
    mean = np.mean(x, axis=0)
    variance = np.var(x, axis=0)
    return (x - mean) / np.sqrt(variance + EPS) * gamma + beta


def forward_by_hand(x: Any, gamma: Any, beta: Any) -> Any:
    inverse = 1 / np.sqrt(np.var(x, axis=0) + EPS)
    normal = (x - np.mean(x, axis=0)) * inverse
    return normal * gamma + beta, (normal, inverse, gamma)


def backward_by_hand(saved: Any, g: Any) -> Any:
    """As derived on paper: d_x = inverse (d_n - mean(d_n) - n mean(n d_n)), d_n = gamma g."""
    normal, inverse, gamma = saved
    d_normal = gamma * g
    d_x = inverse * (d_normal - np.mean(d_normal, axis=0) - normal * np.mean(normal * d_normal, axis=0))
    return d_x, np.sum(g * normal, axis=0), np.sum(g, axis=0)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_batch_norm_three_ways(dtype: Any, rng: np.random.Generator) -> None:
    x = (3 * rng.standard_normal((3000, 7)) + 5).astype(dtype)  # several blocks of rows in the fused one
    gamma, beta = positive(rng, 7).astype(dtype), rng.standard_normal(7).astype(dtype)
    g = rng.standard_normal(x.shape).astype(dtype)
    ways = {
        "automatic": by_definition,
        "by hand": pb.custom(forward_by_hand, backward_by_hand),
        "fused": lambda *inputs: rules.batch_norm(*inputs, eps=EPS)[0],
    }
    results = {}
    for name, way in ways.items():
        y, pullback = pb.vjp(way, x, gamma, beta)
        results[name] = (y, *pullback(g))
    tolerance = 2000 * np.finfo(dtype).eps
    for name in ("by hand", "fused"):
        for ours, automatic in zip(results[name], results["automatic"], strict=True):
            assert ours.dtype == dtype
            scale = np.abs(automatic).max()
            np.testing.assert_allclose(ours, automatic, rtol=0, atol=tolerance * scale, err_msg=name)
