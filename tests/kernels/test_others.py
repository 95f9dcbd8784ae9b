"""Matrix product, pooling, normalisation and optimiser kernels against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pullback.errors import ShapeError
from pullback.kernels import channels, elementwise, layer_norm, losses, matmul, normalisation, pooling, reference, rows

SIZES = [(1, 1, 1), (7, 5, 3), (33, 100, 48), (1, 700, 10), (130, 33, 257), (530, 430, 70), (40, 1024, 45)]
IMAGES = [(1, 5, 7, 3), (7, 31, 29, 5), (33, 2, 2, 48), (2, 1, 1, 100), (3, 8, 8, 64)]
WINDOWS = [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 1, 0), ((3, 2), (2, 3), (1, 0)), (1, 1, 0), (3, 3, 0)]


def _normal(*shape: int) -> Any:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("rows", "depth", "columns"), SIZES)
def test_products(rows: int, depth: int, columns: int) -> None:
    a, b = _normal(rows, depth), _normal(depth, columns)
    exact = a.astype(np.float64) @ b.astype(np.float64)
    bound = 1e-6 * depth
    np.testing.assert_allclose(matmul.product(a, b), exact, rtol=0, atol=bound)
    np.testing.assert_allclose(matmul.product_transposed_right(a, b.T.copy()), exact, rtol=0, atol=bound)
    np.testing.assert_allclose(matmul.product_transposed_left(a.T.copy(), b), exact, rtol=0, atol=bound)
    np.testing.assert_allclose(matmul.product(b.T, a.T), exact.T, rtol=0, atol=bound)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 7, 8, 9, 33, 36, 40, 41, 100])
@pytest.mark.parametrize("depth", [1, 15, 17, 450])
def test_products_whose_last_panel_is_thin(depth: int, columns: int) -> None:
    """By lanes of the depth, or of rows where the left factor is transposed; what is beyond the edges is not read."""
    for count in (1, 3, 13, 70, 300):
        a, b = _normal(count + 2, depth), _normal(depth, columns)
        a[0], a[-1] = np.nan, np.nan  # before and behind
        exact = a[1:-1].astype(np.float64) @ b.astype(np.float64)
        turned = np.ascontiguousarray(a[1:-1].T)
        for left, right in ((a[1:-1], False), (a[1:-1], True), (turned, False)):
            c = np.full((count, columns), np.nan, np.float32)
            factor = np.ascontiguousarray(b.T) if right else b
            matmul.multiply(left, factor, c, transposed_left=left is turned, transposed_right=right)
            np.testing.assert_allclose(c, exact, rtol=0, atol=2e-6 * depth)


def test_products_of_nothing_and_of_the_wrong_sizes() -> None:
    np.testing.assert_array_equal(
        matmul.product(np.ones((3, 0), np.float32), np.ones((0, 2), np.float32)), np.zeros((3, 2))
    )
    assert matmul.product(np.ones((0, 3), np.float32), np.ones((3, 2), np.float32)).shape == (0, 2)
    with pytest.raises(ShapeError, match=r"inner sizes differ, a \(2, 3\) and b \(2, 3\)"):
        matmul.product(np.ones((2, 3), np.float32), np.ones((2, 3), np.float32))


ENDINGS: dict[str, tuple[str, ...]] = {
    "sum": ("adding",), "scaled sum": ("scale", "adding"), "row": ("row",), "neurons": ("row", "relu"),
    "mask": ("mask",), "all": ("scale", "adding", "row", "mask"),
}  # fmt: skip


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize(("rows", "depth", "columns"), [*SIZES, (20, 3000, 10), (3, 0, 5), (64, 50, 8)])
def test_what_is_done_to_a_product_as_it_is_stored(rows: int, depth: int, columns: int, name: str) -> None:
    """Also where the depth is shared among threads, and where the last panel is narrower than a vector, or a half."""
    a, b, c = _normal(rows, depth), _normal(depth, columns), _normal(rows, columns)
    every: Any = {"scale": -0.5, "adding": True, "row": _normal(columns), "relu": True, "mask": _normal(rows, columns)}
    ending = matmul.Ending(**{each: every[each] for each in ENDINGS[name]})
    exact = a.astype(np.float64) @ b.astype(np.float64) * ending.scale
    exact += c if ending.adding else 0.0
    exact += 0.0 if ending.row is None else ending.row
    exact = np.maximum(exact, 0.0) if ending.relu else exact
    exact *= 1.0 if ending.mask is None else ending.mask > 0
    for left, right in ((False, False), (True, False), (False, True)):
        found = c.copy()
        factors = np.ascontiguousarray(a.T) if left else a, np.ascontiguousarray(b.T) if right else b
        matmul.multiply(*factors, found, transposed_left=left, transposed_right=right, ending=ending)
        np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * (depth + 1))


def test_a_nan_goes_through_the_ending_of_a_product() -> None:
    a, b, c = np.full((2, 3), np.nan, np.float32), np.ones((3, 4), np.float32), np.empty((2, 4), np.float32)
    matmul.multiply(a, b, c, ending=matmul.Ending(relu=True))
    assert np.isnan(c).all()


CLASSES = [(1, 1), (200, 10), (3, 16), (5, 17), (32, 1000), (7, 33)]


@pytest.mark.parametrize(("rows", "classes"), CLASSES)
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_softmax_cross_entropy(rows: int, classes: int, scale: float) -> None:
    logits, rng = _normal(rows, classes) * np.float32(scale), np.random.default_rng(0)
    wide = logits.astype(np.float64)
    log_p = wide - wide.max(1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(1, keepdims=True))
    labels, weights = rng.integers(0, classes, rows), rng.random((rows, classes)).astype(np.float32)
    for targets, dense in ((labels, np.eye(classes)[labels]), (weights, weights.astype(np.float64))):
        gradient = np.full_like(logits, np.nan)
        loss = losses.softmax_cross_entropy(logits, targets, gradient)
        assert loss.dtype == np.float32
        np.testing.assert_allclose(loss, -np.sum(dense * log_p) / rows, rtol=2e-6, atol=1e-7)
        exact = (np.exp(log_p) * dense.sum(1, keepdims=True) - dense) / rows
        np.testing.assert_allclose(gradient, exact, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("classes", [4, 33])
def test_a_logit_that_is_no_number_spoils_its_row_alone(wrong: float, classes: int) -> None:
    logits, gradient = _normal(3, classes), np.zeros((3, classes), np.float32)
    logits[1, 2] = wrong
    assert np.isnan(losses.softmax_cross_entropy(logits, np.array([0, 1, 3]), gradient))
    np.testing.assert_array_equal(np.isnan(gradient).any(1), [False, True, False])


@pytest.mark.parametrize("depth", [3, 3000])
def test_what_is_masked_is_zero_whatever_it_was(depth: int) -> None:
    """Also where the depth is shared among threads, and the ending comes after."""
    a, b, c = np.full((20, depth), np.nan, np.float32), _normal(depth, 10), np.empty((20, 10), np.float32)
    matmul.multiply(a, b, c, ending=matmul.Ending(mask=-np.ones((20, 10), np.float32)))
    np.testing.assert_array_equal(c, 0.0)


@pytest.mark.parametrize("label", [-1, 4, 2**40])
def test_labels_that_there_are_not_give_nan(label: int) -> None:
    gradient = np.zeros((3, 4), np.float32)
    loss = losses.softmax_cross_entropy(_normal(3, 4), np.array([0, label, 3]), gradient)
    assert np.isnan(loss)
    np.testing.assert_array_equal(np.isnan(gradient).any(1), [False, True, False])


@pytest.mark.parametrize(("count", "table", "size"), [(1, 1, 1), (40, 7, 33), (500, 1000, 16), (0, 4, 3), (9, 2, 70)])
def test_rows_added_at_places(count: int, table: int, size: int) -> None:
    v, places = _normal(count, size), np.random.default_rng(0).integers(-table, table, count)
    exact = np.zeros((table, size))
    np.add.at(exact, places, v.astype(np.float64))
    out = np.full((table, size), np.nan, np.float32)
    rows.add_rows(v, places, out)
    np.testing.assert_allclose(out, exact, rtol=0, atol=1e-6 * (1 + count))
    for wrong in (table, -table - 1):
        with pytest.raises(IndexError, match="expected places"):
            rows.add_rows(_normal(1, size), np.array([wrong]), out)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (5, 17), (300, 64), (7, 1000)])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_layer_norm(count: int, size: int, offset: float) -> None:
    x, gamma, beta, g = (
        _normal(count, size) + np.float32(offset),
        _normal(size),
        _normal(size) * 2,
        _normal(count, size),
    )
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    exact_inverse = 1 / np.sqrt((centred**2).mean(1) + 1e-5)
    exact = centred * exact_inverse[:, None]
    y, normal, inverse, dx = np.empty_like(x), np.empty_like(x), np.empty(count, np.float32), np.empty_like(x)
    layer_norm.layer_norm(x, gamma, beta, 1e-5, y, normal, inverse)
    tolerance = 1e-5 if offset == 0.0 else 2e-3
    np.testing.assert_allclose(normal, exact, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(y, exact * gamma + beta, rtol=tolerance, atol=tolerance * 4)
    dgamma, dbeta = layer_norm.adjoint(g, normal, inverse, gamma, dx)
    scaled = g.astype(np.float64) * gamma
    shared = scaled.mean(1, keepdims=True) + normal * (scaled * normal).mean(1, keepdims=True)
    np.testing.assert_allclose(dx, (scaled - shared) * inverse[:, None], rtol=1e-4, atol=1e-5 * inverse.max())
    np.testing.assert_allclose(dgamma, (g * normal.astype(np.float64)).sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(dbeta, g.sum(0, dtype=np.float64), rtol=1e-4, atol=1e-4)


def _fits(shape: Any, window: Any, padding: Any) -> bool:
    (kh, kw), (pad_y, pad_x) = np.broadcast_to(window, 2), np.broadcast_to(padding, 2)
    return bool(shape[1] + 2 * pad_y >= kh and shape[2] + 2 * pad_x >= kw)


POOLS = [(shape, *window) for shape in IMAGES for window in WINDOWS if _fits(shape, window[0], window[2])]


@pytest.mark.parametrize(("shape", "window", "stride", "padding"), POOLS)
def test_max_pool(shape: Any, window: Any, stride: Any, padding: Any) -> None:
    x = np.round(_normal(*shape), 1)  # rounded, so that ties occur
    y, places = pooling.max_pool(x, window, stride, padding)
    exact, exact_places = reference.max_pool(x, window, stride, padding)
    np.testing.assert_array_equal(y, exact)
    np.testing.assert_array_equal(places, exact_places)
    g = _normal(*y.shape)
    dx = pooling.max_pool_adjoint(g, places, x.shape, window, stride, padding)
    assert dx.dtype == np.float32
    exact = reference.max_pool_adjoint(g.astype(np.float64), exact_places, x.shape, window, stride, padding)
    np.testing.assert_allclose(dx, exact, rtol=1e-5, atol=1e-5)


def test_max_pool_keeps_nan_and_infinity() -> None:
    x = np.full((1, 2, 4, 1), -np.inf, np.float32)
    x[0, 1, 0, 0] = np.nan
    y, places = pooling.max_pool(x, 2, 2)
    assert np.isnan(y[0, 0, 0, 0])
    assert places[0, 0, 0, 0] == 2
    assert y[0, 0, 1, 0] == -np.inf
    assert places[0, 0, 1, 0] == 0


def test_max_pool_explains_windows_that_do_not_fit() -> None:
    x = np.zeros((1, 4, 4, 1), np.float32)
    with pytest.raises(ShapeError, match="at most 256 pixels"):
        pooling.max_pool(x, 17, 1)
    with pytest.raises(ShapeError, match="less padding than window"):
        pooling.max_pool(x, 2, 2, 2)
    with pytest.raises(ShapeError, match=r"images of at least \(5, 5\)"):
        pooling.max_pool(x, 5, 1)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [*IMAGES, (33, 100), (400, 3)])
def test_batch_norm(shape: Any, relu: bool) -> None:
    x, g = 3.0 + 2.0 * _normal(*shape), _normal(*shape[::-1]).reshape(shape)
    gamma, beta = 1.0 + 0.1 * _normal(shape[-1]), _normal(shape[-1])
    x, g, gamma, beta = (each.astype(np.float32) for each in (x, g, gamma, beta))
    wide = [each.astype(np.float64) for each in (x, gamma, beta)]
    found = normalisation.batch_norm(x, gamma, beta, 1e-3, relu)
    exact = reference.batch_norm(*wide, 1e-3, relu)
    for mine, theirs in zip(found, exact, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)
    adjoint = normalisation.batch_norm_adjoint(g, x, gamma, beta, *found[1:], 1e-3, relu)
    exact_adjoint = reference.batch_norm_adjoint(g.astype(np.float64), *wide, *exact[1:], 1e-3, relu)
    for mine, theirs in zip(adjoint, exact_adjoint, strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=2e-3)


def test_batch_norm_adjoint_matches_finite_differences() -> None:
    random = np.random.default_rng(0)
    x, gamma, beta, g = (random.standard_normal(s) for s in ((6, 3), 3, 3, (6, 3)))
    _, mean, variance = reference.batch_norm(x, gamma, beta, 1e-3)
    dx, _, _ = reference.batch_norm_adjoint(g, x, gamma, beta, mean, variance, 1e-3)
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = 1e-6
        above = reference.batch_norm(x + step, gamma, beta, 1e-3)[0]
        below = reference.batch_norm(x - step, gamma, beta, 1e-3)[0]
        assert dx[index] == pytest.approx(np.vdot(g, above - below) / 2e-6, abs=1e-7)


def test_moments_of_data_far_from_zero() -> None:
    x = 1000.0 + _normal(5000, 8)
    mean, variance = normalisation.moments(x)
    np.testing.assert_allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(variance, x.astype(np.float64).var(axis=0), rtol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("size", [1, 33, 5000])
def test_adam(size: int, decay: float) -> None:
    state = [_normal(size), np.zeros(size, np.float32), np.zeros(size, np.float32)]
    exact = [each.astype(np.float64) for each in state]
    for step in range(1, 5):
        g = np.random.default_rng(step).standard_normal(size).astype(np.float32)
        elementwise.adam(state[0], g, state[1], state[2], step, 1e-2, weight_decay=decay)
        exact = list(reference.adam(exact[0], g.astype(np.float64), exact[1], exact[2], step, 1e-2, weight_decay=decay))
    for mine, theirs in zip(state, exact, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(1,), (33,), (7, 31, 5)])
def test_adam_direction(shape: Any) -> None:
    g, mean, square = _normal(*shape), _normal(*shape[::-1]).reshape(shape), _normal(*shape) ** 2
    found = elementwise.adam_direction(g, mean, square, 0.7, 1e-3, 0.9, 0.99)
    wide = [each.astype(np.float64) for each in (g, mean, square)]
    for mine, theirs in zip(found, reference.adam_direction(*wide, 0.7, 1e-3, 0.9, 0.99), strict=True):
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("momentum", "decay", "nesterov"), [(0.0, 0.0, False), (0.9, 0.1, False), (0.9, 0.1, True)])
def test_sgd(momentum: float, decay: float, nesterov: bool) -> None:
    state = [_normal(333), np.zeros(333, np.float32)]
    exact = [each.astype(np.float64) for each in state]
    for step in range(4):
        g = np.random.default_rng(step).standard_normal(333).astype(np.float32)
        elementwise.sgd(state[0], g, state[1], 0.1, momentum, decay, nesterov)
        exact = list(reference.sgd(exact[0], g.astype(np.float64), exact[1], 0.1, momentum, decay, nesterov))
    for mine, theirs in zip(state, exact, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match="buffers of one size"):
        elementwise.sgd(state[0], state[0][:5], state[1], 0.1)


def test_adam_in_place_is_the_step_that_the_rule_describes():
    rng = np.random.default_rng(0)
    p, g, m = (rng.standard_normal(1003).astype(np.float32) for _ in range(3))
    v = rng.random(1003).astype(np.float32)
    expected_m, expected_v = 0.9 * m + 0.1 * g.astype(float), 0.999 * v + 0.001 * g.astype(float) ** 2
    expected_p = p - 0.01 * (expected_m / (0.5 * np.sqrt(expected_v) + 1e-3) + 0.1 * p.astype(float))
    elementwise.adam_update(p, g, m, v, 0.5, 1e-3, -0.01, 0.9, 0.999, 0.1)
    for found, expected in ((p, expected_p), (m, expected_m), (v, expected_v)):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


def test_the_parts_of_the_adjoint_of_a_normalisation_with_a_relu_agree_with_the_whole():
    rng = np.random.default_rng(1)
    x, g = (rng.standard_normal((3, 5, 7, 6)).astype(np.float32) for _ in range(2))
    gamma, beta = (rng.standard_normal(6).astype(np.float32) for _ in range(2))
    y, mean, variance = normalisation.batch_norm(x, gamma, beta, 1e-5, relu=True)
    through = channels.affine(gamma, beta, mean, variance, 1e-5)
    masked = normalisation.through_relu(g, x, *through)
    np.testing.assert_array_equal(masked, np.where(y > 0, g, 0.0))
    parts = normalisation.adjoint_coefficients(masked, x, gamma, mean, variance, 1e-5)
    expected = normalisation.gradient(masked, x, *parts[2:]), *parts[:2]
    found = normalisation.batch_norm_adjoint(g, x, gamma, beta, mean, variance, 1e-5, relu=True)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
