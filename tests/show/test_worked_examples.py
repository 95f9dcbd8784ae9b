"""The twelve worked examples: each closed form is the textbook's, and every line agrees with the program."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.rules.convolution import conv2d_input_adjoint, conv2d_weight_adjoint
from pullback.rules.nn import sigmoid
from pullback.rules.pooling import choices, max_pool2d_scatter

FILE = Path(__file__).resolve().parents[2] / "docs" / "gallery" / "worked.py"
_spec = importlib.util.spec_from_file_location("worked", FILE)
assert _spec is not None
assert _spec.loader is not None
worked = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(worked)
NAMES = [name.removesuffix("_example") for name in vars(worked) if name.endswith("_example")]

POOL: Any = {"window": (2, 2), "stride": (2, 2), "padding": ((0, 0), (0, 0))}
SAME = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "groups": 1}


def onehot(k: int, size: int) -> Any:
    return np.eye(size)[k]


def derived(name: str, **options: Any) -> Any:
    return pb.derive(getattr(worked, name), *getattr(worked, f"{name}_example"), **options)


# What textbooks say, as functions of the variables of the programs in docs/gallery/worked.py.
TEXTBOOK: dict[str, dict[str, Callable[..., Any]]] = {
    "cross_entropy": {"x": lambda p: p - onehot(2, 5)},
    "residual": {
        "x": lambda H, a, y_bar: y_bar + H.T @ ((a > 0) * y_bar),
        "v": lambda a, y_bar: (a > 0) * y_bar,
        "H": lambda a, x, y_bar: np.outer((a > 0) * y_bar, x),
    },
    "descent_step": {
        "H": lambda H, x, v, y, target, a1: np.outer((a1 > 0) * (y - target), x),
        "v": lambda y, target, a1: (a1 > 0) * (y - target),
    },
    "linear_layer": {
        "W": lambda Y, T, X: 2 * np.einsum("bi,bj->ij", Y - T, X) / 7,
        "b": lambda Y, T: 2 * np.sum(Y - T, axis=0) / 7,
        "X": lambda Y, T, W: 2 * (Y - T) @ W / 7,
    },
    "convolution": {
        "X": lambda H, Y_bar: conv2d_input_adjoint(Y_bar, H, size=(5, 6), **SAME),
        "H": lambda X, Y_bar: conv2d_weight_adjoint(X, Y_bar, kernel=(3, 3), **SAME),
    },
    "batch_norm": {
        "x": lambda xhat, gamma, var, y_bar: (var + 1e-5) ** -0.5 / 6
        * (6 * gamma * y_bar - xhat * np.sum(gamma * y_bar * xhat, axis=0) - np.sum(gamma * y_bar, axis=0)),
        "gamma": lambda xhat, y_bar: np.sum(y_bar * xhat, axis=0),
        "beta": lambda y_bar: np.sum(y_bar, axis=0),
    },
    "logistic": {"w": lambda w, x, lam: w - lam * (1 - sigmoid(np.sum(w * x))) * x},
    "two_paths": {"x1": lambda x2: x2, "x2": lambda x1, x2: np.cos(x2) + x1},
    "recurrent": {
        "Wx": lambda x, h_1, h_2, h_3, h_4, h_1_bar, h_2_bar, h_3_bar, h_4_bar: (
            np.outer((1 - h_1**2) * h_1_bar, x[0]) + np.outer((1 - h_2**2) * h_2_bar, x[1])
            + np.outer((1 - h_3**2) * h_3_bar, x[2]) + np.outer((1 - h_4**2) * h_4_bar, x[3])
        ),
        "Wh": lambda h, h_1, h_2, h_3, h_4, h_1_bar, h_2_bar, h_3_bar, h_4_bar: (
            np.outer((1 - h_1**2) * h_1_bar, h) + np.outer((1 - h_2**2) * h_2_bar, h_1)
            + np.outer((1 - h_3**2) * h_3_bar, h_2) + np.outer((1 - h_4**2) * h_4_bar, h_3)
        ),
        "b": lambda h_1, h_2, h_3, h_4, h_1_bar, h_2_bar, h_3_bar, h_4_bar: (
            (1 - h_1**2) * h_1_bar + (1 - h_2**2) * h_2_bar + (1 - h_3**2) * h_3_bar + (1 - h_4**2) * h_4_bar
        ),
        "h": lambda Wh, h_1, h_1_bar: Wh.T @ ((1 - h_1**2) * h_1_bar),
    },
    "matrix_vector": {"x": lambda W, h_bar: W.T @ h_bar, "W": lambda x, h_bar: np.outer(h_bar, x)},
    "largest": {"x": lambda x, m: (x == m) / np.sum(x == m, dtype=float)},
    "rectified": {"x": lambda x, y_bar: (x > 0) * y_bar},
    "pooled": {"x": lambda x, y, y_bar: max_pool2d_scatter(y_bar, choices(x, y, **POOL), size=(4, 4), **POOL)},
    "activations": {
        "x": lambda x, s, t, slope, s_bar, t_bar, r_bar, leaky_bar, parametric_bar: (
            s * (1 - s) * s_bar + (1 - t**2) * t_bar + (x > 0) * r_bar
            + ((x > 0) + 0.01 * (x <= 0)) * leaky_bar + ((x > 0) + slope * (x <= 0)) * parametric_bar
        ),
        "slope": lambda x, parametric_bar: x * (x <= 0) * parametric_bar,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_line_agrees(name: str) -> None:
    d = derived(name)
    assert d.ok
    assert all(line.error < 1e-6 for line in d.lines)
    assert all(line.text and line.latex for line in d.lines)


@pytest.mark.parametrize(("name", "variable"), [(n, v) for n, forms in TEXTBOOK.items() for v in forms])
def test_the_closed_form_is_the_textbooks(name: str, variable: str) -> None:
    d = derived(name)
    expected = d.formula(TEXTBOOK[name][variable])
    assert d.closed_form[variable] == expected, f"{d.closed_form[variable]}, and not {expected}"
    np.testing.assert_allclose(d.closed_form[variable].evaluate(), expected.evaluate(), rtol=1e-9, atol=1e-12)


def test_a_step_of_gradient_descent() -> None:
    steps = derived("descent_step", wrt=["H", "v"]).updates("alpha")
    assert str(steps["v"]) == "v + α 𝟏{v + H x > 0} ⊙ (target − y)"
    assert str(steps["H"]) == "H + α (𝟏{v + H x > 0} ⊙ (target − y)) xᵀ"
    H, v, x, target = worked.descent_step_example
    gradient = pb.grad(worked.descent_step, 1)(H, v, x, target)
    np.testing.assert_allclose(steps["v"].evaluate(alpha=0.1), v - 0.1 * gradient, rtol=1e-12)


def test_the_convolution_is_a_sum_of_shifted_products() -> None:
    d = derived("convolution")
    X, H = worked.convolution_example
    g = d.values["Y_bar"]
    padded = np.zeros((2, 7, 8, 3))
    dH = np.zeros_like(H)
    for r in range(3):
        for c in range(3):
            padded[:, r : r + 5, c : c + 6] += g @ H[r, c].T
            shifted = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))[:, r : r + 5, c : c + 6]
            dH[r, c] = np.einsum("nhwi,nhwo->io", shifted, g)
    np.testing.assert_allclose(d.closed_form["X"].evaluate(), padded[:, 1:-1, 1:-1], atol=1e-12)
    np.testing.assert_allclose(d.closed_form["H"].evaluate(), dH, atol=1e-12)


def test_a_wrong_form_is_not_equal() -> None:
    d = derived("residual")
    wrong = [
        lambda H, a, y_bar: y_bar + H @ ((a > 0) * y_bar),
        lambda H, a, y_bar: H.T @ ((a > 0) * y_bar),
        lambda H, a, y_bar: y_bar - H.T @ ((a > 0) * y_bar),
        lambda H, a, y_bar: y_bar + H.T @ y_bar,
    ]
    assert all(d.closed_form["x"] != d.formula(f) for f in wrong)


def test_the_closed_forms_read_like_the_textbooks() -> None:
    assert str(derived("cross_entropy").closed_form["x"]) == "p − onehot(k)"
    assert str(derived("residual").closed_form["x"]) == "∂e/∂y + Hᵀ (𝟏{a > 0} ⊙ ∂e/∂y)"
    assert str(derived("residual").closed_form["H"]) == "(𝟏{a > 0} ⊙ ∂e/∂y) xᵀ"
    batch_norm = derived("batch_norm", names={"x": ("m", "C")})
    assert str(batch_norm.closed_form["x"]) == "γ ⊙ (m ∂e/∂y − x̂ ⊙ (Σᵢ (x̂ ⊙ ∂e/∂y)) − Σᵢ ∂e/∂y) / (m √(var + 1e-05))"
    recurrent = derived("recurrent")
    assert str(recurrent.closed_form["Wh"]) == "Σ_t=1..4 ((1 − hₜ²) ⊙ ∂e/∂hₜ) hₜ₋₁ᵀ"
    assert str(recurrent.closed_form["h"]) == "(∏_t=1..4 Wₕᵀ diag(1 − hₜ²)) ∂e/∂h₄"
    assert str(derived("logistic").closed_form["w"]) == "w − λ (1 − σ(wᵀ x)) x"
    assert str(derived("two_paths").closed_form["x2"]) == "x₁ + cos(x₂)"
