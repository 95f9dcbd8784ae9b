"""What convolution does as it loads and stores, against the same as separate steps in float64, for every algorithm."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_cases import CASES, ERROR_BOUNDS, SHAPES

from pullback.kernels import convolution, pooling, reference
from pullback.kernels.fused import Affine, Mask, NormGradient

LEAN = [case for case in CASES if case[0] in SHAPES[:8] or case[0] in SHAPES[9:10] + SHAPES[13:20]]


class _Layer:
    """Random operands of a convolution between two batch norms with ReLU, and their work in float64."""

    def __init__(self, shape: Any) -> None:
        images, height, width, inputs, outputs, kernel, stride, padding, groups = shape
        self.random = np.random.default_rng(0)
        self.options = (stride, padding, groups)
        self.x = self.normal(images, height, width, inputs) + np.float32(0.5)
        self.w = self.normal(*kernel, inputs // groups, outputs)
        self.y_shape = reference.forward(self.x, self.w, *self.options).shape
        self.g, self.y = self.normal(*self.y_shape), self.normal(*self.y_shape)
        self.scale, self.shift = self.normal(inputs), self.normal(inputs)
        self.rows = [self.normal(outputs) for _ in range(5)]

    def normal(self, *shape: int) -> Any:
        return self.random.standard_normal(shape).astype(np.float32)

    def loaded_x(self, relu: bool) -> Any:
        found = self.x.astype(np.float64) * self.scale + self.shift
        return np.maximum(found, 0.0) if relu else found

    def load_gradient(self, relu: bool) -> NormGradient:
        factor, of_x, constant, scale, shift = self.rows
        return NormGradient(self.y, factor, of_x, constant, *((scale, shift) if relu else ()))

    def loaded_gradient(self, relu: bool) -> Any:
        factor, of_x, constant, scale, shift = self.rows
        y = self.y.astype(np.float64)
        g = np.where(y * scale + shift > 0.0, self.g, 0.0) if relu else self.g
        return factor * g + of_x * y + constant


def _assert_close(found: Any, exact: Any, bound: float) -> None:
    assert found.shape == exact.shape
    assert np.abs(found - exact).max() < bound * max(np.abs(exact).max(), 1.0)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(("shape", "algorithm"), LEAN)
def test_loads_and_stores_match_separate_steps(shape: Any, algorithm: str, relu: bool) -> None:
    layer = _Layer(shape)
    options, w64 = layer.options, layer.w.astype(np.float64)
    bound = ERROR_BOUNDS.get(algorithm, 2e-5)
    load, load_gradient = Affine(layer.scale, layer.shift, relu), layer.load_gradient(relu)
    x64, g64 = layer.loaded_x(relu), layer.loaded_gradient(relu)

    exact = reference.forward(x64, w64, *options)
    y, mean, variance = convolution.forward(layer.x, layer.w, *options, algorithm=algorithm, load=load, moments=True)
    _assert_close(y, exact, bound)
    _assert_close(mean, exact.mean(axis=(0, 1, 2)), bound)
    _assert_close(variance, exact.var(axis=(0, 1, 2)), 2 * bound)

    exact = reference.weight_adjoint(x64, g64, layer.w.shape, *options)
    dw = convolution.weight_adjoint(
        layer.x, layer.g, layer.w.shape, *options, algorithm=algorithm, load=load, load_gradient=load_gradient
    )
    _assert_close(dw, exact, bound)

    exact = reference.input_adjoint(g64, w64, layer.x.shape, *options)
    plain = convolution.input_adjoint(
        layer.g, layer.w, layer.x.shape, *options, algorithm=algorithm, load_gradient=load_gradient
    )
    _assert_close(plain, exact, bound)
    mean = layer.x.mean(axis=(0, 1, 2))
    masked, sums = convolution.input_adjoint(
        layer.g, layer.w, layer.x.shape, *options, algorithm=algorithm, load_gradient=load_gradient,
        store=Mask(layer.x, layer.scale, layer.shift, mean),
    )  # fmt: skip
    positive = layer.x.astype(np.float64) * layer.scale + layer.shift > 0.0
    np.testing.assert_array_equal(masked, np.where(positive, plain, 0.0))
    exact_sums = [masked.sum(axis=(0, 1, 2), dtype=np.float64), (masked * (layer.x - mean)).sum((0, 1, 2), np.float64)]
    _assert_close(sums, np.array(exact_sums), 1e-4)


@pytest.mark.parametrize("algorithm", ["winograd", "shifted", "tiny", "bfloat16x3"])
def test_moments_of_results_far_from_zero(algorithm: str) -> None:
    random = np.random.default_rng(0)
    x = (100.0 + random.standard_normal((4, 13, 15, 32))).astype(np.float32)
    w = np.zeros((3, 3, 32, 32), np.float32)
    w[1, 1] = np.eye(32)
    y, mean, variance = convolution.forward(x, w, 1, 1, algorithm=algorithm, moments=True)
    np.testing.assert_allclose(mean, y.mean(axis=(0, 1, 2), dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, y.astype(np.float64).var(axis=(0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5, 7, 3), (7, 31, 29, 5), (33, 8, 8, 48), (2, 9, 6, 100)])
def test_max_pooling_matches_separate_steps(shape: Any) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal(shape).astype(np.float32)
    scale, shift = random.standard_normal((2, shape[-1])).astype(np.float32)
    y, places = pooling.max_pool(x, 3, 2, 1, load=Affine(scale, shift, True))
    exact, exact_places = reference.max_pool(np.maximum(x * scale + shift, np.float32(0.0)), 3, 2, 1)
    np.testing.assert_allclose(y, exact, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(places, exact_places)

    g, mean = random.standard_normal(y.shape).astype(np.float32), x.mean(axis=(0, 1, 2))
    dx, sums = pooling.max_pool_adjoint(g, places, shape, 3, 2, 1, store=Mask(x, scale, shift, mean))
    exact = reference.max_pool_adjoint(g, exact_places, shape, 3, 2, 1)
    exact = np.where(x.astype(np.float64) * scale + shift > 0.0, exact, 0.0)
    np.testing.assert_allclose(dx, exact, rtol=1e-5, atol=1e-5)
    exact_sums = [exact.sum(axis=(0, 1, 2)), (exact * (x.astype(np.float64) - mean)).sum(axis=(0, 1, 2))]
    _assert_close(sums, np.array(exact_sums), 1e-5)
