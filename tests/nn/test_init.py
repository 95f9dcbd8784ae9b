"""Initial values: the moments that the papers ask for, and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.nn import init

SHAPE = (3, 3, 50, 80)
FAN_IN, FAN_OUT = 9 * 50, 9 * 80


@pytest.mark.parametrize(
    ("initialiser", "variance"),
    [
        (init.he_normal, 2 / FAN_IN),
        (init.he_uniform, 2 / FAN_IN),
        (init.fan_in_uniform, 1 / (3 * FAN_IN)),
        (init.xavier_normal, 2 / (FAN_IN + FAN_OUT)),
        (init.xavier_uniform, 2 / (FAN_IN + FAN_OUT)),
        (init.normal, 1e-4),
    ],
)
def test_moments(initialiser: init.Initialiser, variance: float, rng: np.random.Generator) -> None:
    w = initialiser(rng, SHAPE, np.float32)
    assert w.dtype == np.float32
    assert w.shape == SHAPE
    assert abs(w.mean()) < 4 * np.sqrt(variance / w.size)
    np.testing.assert_allclose(w.var(), variance, rtol=0.03)
    if initialiser in (init.he_uniform, init.fan_in_uniform, init.xavier_uniform):
        assert np.abs(w).max() <= np.sqrt(3 * variance) * 1.000001


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (3, 3, 2, 5)])
def test_orthogonal(shape: tuple[int, ...], rng: np.random.Generator) -> None:
    w = init.orthogonal(rng, shape, np.float64, gain=2.0).reshape(-1, shape[-1])
    product = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_zeros_and_bad_shapes(rng: np.random.Generator) -> None:
    assert not init.zeros(rng, (2, 3)).any()
    for initialiser in (init.he_normal, init.orthogonal):
        with pytest.raises(pb.ConfigError, match="at least two axes"):
            initialiser(rng, (3,))


def test_seeds() -> None:
    np.testing.assert_array_equal(nn.Linear(3, 4, rng=5).weight, nn.Linear(3, 4, rng=5).weight)
    shared = np.random.default_rng(5)
    first, second = nn.Linear(3, 4, rng=shared), nn.Linear(3, 4, rng=shared)
    np.testing.assert_array_equal(first.weight, nn.Linear(3, 4, rng=5).weight)
    assert not np.array_equal(first.weight, second.weight)
