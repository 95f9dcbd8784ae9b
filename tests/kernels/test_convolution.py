"""Every convolution algorithm and direction against the NumPy reference in float64, over shapes with ragged edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from convolution_cases import CASES, ERROR_BOUNDS, EXACT, SHAPES

from pullback.errors import ConfigError, ShapeError
from pullback.kernels import convolution, reference, winograd


def _arrays(shape: Any) -> tuple[Any, Any, Any, tuple[Any, ...]]:
    images, height, width, inputs, outputs, kernel, stride, padding, groups = shape
    random = np.random.default_rng(0)
    x = random.standard_normal((images, height, width, inputs)).astype(np.float32)
    w = random.standard_normal((*kernel, inputs // groups, outputs)).astype(np.float32)
    options = (stride, padding, groups)
    g = random.standard_normal(reference.forward(x, w, *options).shape).astype(np.float32)
    return x, w, g, options


def _error(found: Any, exact: Any) -> float:
    """The largest error relative to the largest result."""
    assert found.dtype == np.float32
    assert found.shape == exact.shape
    return float(np.abs(found - exact).max() / np.abs(exact).max())


@pytest.mark.parametrize(("shape", "algorithm"), CASES)
def test_all_directions_match_the_reference(shape: Any, algorithm: str) -> None:
    x, w, g, options = _arrays(shape)
    x64, w64, g64 = (array.astype(np.float64) for array in (x, w, g))
    bound = ERROR_BOUNDS.get(algorithm, EXACT)
    y = convolution.forward(x, w, *options, algorithm=algorithm)
    assert _error(y, reference.forward(x64, w64, *options)) < bound
    dx = convolution.input_adjoint(g, w, x.shape, *options, algorithm=algorithm)
    assert _error(dx, reference.input_adjoint(g64, w64, x.shape, *options)) < bound
    dw = convolution.weight_adjoint(x, g, w.shape, *options, algorithm=algorithm)
    assert _error(dw, reference.weight_adjoint(x64, g64, w.shape, *options)) < bound


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[5][0] * s[5][1] * s[3] <= 512 and s[8] == 1])
def test_scattered_input_adjoint_matches_the_reference(shape: Any) -> None:
    x, w, g, options = _arrays(shape)
    dx = convolution.input_adjoint(g, w, x.shape, *options, algorithm="scattered")
    assert _error(dx, reference.input_adjoint(g.astype(np.float64), w.astype(np.float64), x.shape, *options)) < 1e-5


@pytest.mark.parametrize(("shape", "algorithm"), CASES)
def test_adjoints_are_adjoint_to_forward(shape: Any, algorithm: str) -> None:
    x, w, g, options = _arrays(shape)

    def inner(a: Any, b: Any) -> float:
        return float(np.vdot(a.astype(np.float64), b.astype(np.float64)))

    y = convolution.forward(x, w, *options, algorithm=algorithm)
    dx = convolution.input_adjoint(g, w, x.shape, *options, algorithm=algorithm)
    dw = convolution.weight_adjoint(x, g, w.shape, *options, algorithm=algorithm)
    # Each of the three rounds other operands to bfloat16, and so they are adjoint to within its error.
    scale = ERROR_BOUNDS[algorithm] if algorithm.startswith("bfloat16") else EXACT
    scale *= float(np.linalg.norm(g) * np.linalg.norm(y))
    assert inner(g, y) == pytest.approx(inner(dx, x), abs=scale)
    assert inner(g, y) == pytest.approx(inner(dw, w), abs=scale)


@pytest.mark.parametrize("shape", [s for s in SHAPES if s[0] * s[1] < 200])
def test_reference_adjoints_are_adjoint_to_the_reference(shape: Any) -> None:
    x, w, g, options = _arrays(shape)
    x, w, g = (array.astype(np.float64) for array in (x, w, g))
    product = np.vdot(g, reference.forward(x, w, *options))
    assert np.vdot(reference.input_adjoint(g, w, x.shape, *options), x) == pytest.approx(product, rel=1e-9, abs=1e-9)
    assert np.vdot(reference.weight_adjoint(x, g, w.shape, *options), w) == pytest.approx(product, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("channels", [64, 256, 1024])
def test_winograd_error_stays_within_its_stated_bound(channels: int) -> None:
    random = np.random.default_rng(1)
    x = random.standard_normal((2, 8, 8, channels)).astype(np.float32)
    w = random.standard_normal((3, 3, channels, 32)).astype(np.float32)
    exact = reference.forward(x.astype(np.float64), w.astype(np.float64), 1, 1)
    error = _error(convolution.forward(x, w, 1, 1, algorithm="winograd"), exact)
    assert error < winograd.ERROR_BOUND
    # It is as near as is said, and not nearer: direct summation is one to three times as accurate.
    assert 1 < error / _error(convolution.forward(x, w, 1, 1, algorithm="shifted"), exact) < 4


def test_results_land_in_out() -> None:
    x, w, g, options = _arrays(SHAPES[4])
    for call, shape in (
        (lambda out: convolution.forward(x, w, *options, out=out), g.shape),
        (lambda out: convolution.input_adjoint(g, w, x.shape, *options, out=out), x.shape),
        (lambda out: convolution.weight_adjoint(x, g, w.shape, *options, out=out), w.shape),
    ):
        out = np.full(shape, np.nan, np.float32)
        assert call(out) is out
        assert np.isfinite(out).all()
        with pytest.raises(ShapeError, match="expected out as contiguous float32"):
            call(out.astype(np.float64))


def test_arrays_may_be_views_and_read_only() -> None:
    x, w, _, options = _arrays(SHAPES[4])
    expected = convolution.forward(x, w, *options)
    wide = np.zeros((*x.shape[:3], 2 * x.shape[3]), np.float32)
    wide[..., ::2] = x
    frozen = w.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(convolution.forward(wide[..., ::2], frozen, *options), expected)


def test_arithmetic_below_float32_is_taken_only_where_it_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convolution, "RATES", {"bfloat16": 1e-6, "bfloat16x3": 1e-3})
    case = ("forward", (32, 32, 32, 64), (3, 3, 64, 64), 1, 1)
    assert convolution.choose(*case) == "winograd"
    assert convolution.choose(*case, preferred="bfloat16") == "winograd"
    assert convolution.choose(*case, precision="float32-fast") == "bfloat16x3"
    assert convolution.choose(*case, precision="bfloat16") == "bfloat16"
    assert convolution.choose(*case, preferred="winograd", precision="bfloat16") == "winograd"
    x, w, _, options = _arrays(SHAPES[4])
    assert _error(convolution.forward(x, w, *options), reference.forward(x, w, *options)) < winograd.ERROR_BOUND


def test_choice_by_cost_and_by_hand() -> None:
    assert convolution.choose("forward", (32, 32, 32, 64), (3, 3, 64, 64), 1, 1) == "winograd"
    assert convolution.choose("weight_adjoint", (32, 8, 8, 256), (3, 3, 256, 256), 1, 1) == "winograd"
    assert convolution.choose("forward", (32, 64, 64, 3), (3, 3, 3, 32), 1, 1) == "shifted"
    assert convolution.choose("forward", (32, 2, 2, 512), (3, 3, 512, 512), 1, 1) == "tiny"
    assert convolution.choose("forward", (32, 32, 32, 64), (3, 3, 64, 64), 2, 1) == "shifted"
    assert convolution.choose("weight_adjoint", (32, 14, 14, 96), (5, 5, 1, 96), 2, 2, 96) == "depthwise"
    assert convolution.choose("input_adjoint", (32, 64, 64, 3), (3, 3, 3, 32), 1, 1) == "scattered"
    assert convolution.choose("input_adjoint", (32, 14, 14, 96), (1, 1, 96, 24), 1, 0) == "pointwise"
    assert convolution.choose("forward", (32, 14, 14, 96), (3, 3, 48, 96), 1, 1, 2) == "shifted"
    x, w, _, _ = _arrays(SHAPES[8])
    with pytest.raises(
        ConfigError, match=r"'winograd' cannot serve .* these can: shifted, pointwise, tiny, bfloat16, bfloat16x3"
    ):
        convolution.forward(x, w, algorithm="winograd")


def test_shapes_that_do_not_fit_are_explained() -> None:
    x, w = np.zeros((1, 4, 4, 3), np.float32), np.zeros((3, 3, 4, 8), np.float32)
    with pytest.raises(ShapeError, match="expected images with 4 channels"):
        convolution.forward(x, w)
    with pytest.raises(ShapeError, match="at least 5 x 5 pixels"):
        convolution.forward(x, np.zeros((5, 5, 3, 8), np.float32))
    with pytest.raises(ShapeError, match=r"expected a gradient of shape \(1, 2, 2, 8\)"):
        convolution.weight_adjoint(x, np.zeros((1, 4, 4, 8), np.float32), (3, 3, 3, 8))
    with pytest.raises(ShapeError, match=r"expected images \(N, H, W, C\)"):
        convolution.forward(x[0], w)


@pytest.mark.peers
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[4], SHAPES[13], SHAPES[16]])
def test_agrees_with_pytorch(shape: Any) -> None:
    torch = pytest.importorskip("torch")
    x, w, g, (stride, padding, groups) = _arrays(shape)
    image = torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float64)).requires_grad_()
    weight = torch.from_numpy(w.transpose(3, 2, 0, 1).astype(np.float64)).requires_grad_()
    y = torch.nn.functional.conv2d(image, weight, stride=stride, padding=padding, groups=groups)
    y.backward(torch.from_numpy(g.transpose(0, 3, 1, 2).astype(np.float64)))
    options = (stride, padding, groups)
    assert _error(convolution.forward(x, w, *options), y.detach().numpy().transpose(0, 2, 3, 1)) < winograd.ERROR_BOUND
    dx = convolution.input_adjoint(g, w, x.shape, *options)
    assert _error(dx, image.grad.numpy().transpose(0, 2, 3, 1)) < winograd.ERROR_BOUND
    dw = convolution.weight_adjoint(x, g, w.shape, *options)
    assert _error(dw, weight.grad.numpy().transpose(2, 3, 1, 0)) < winograd.ERROR_BOUND
