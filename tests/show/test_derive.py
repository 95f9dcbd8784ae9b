"""`pb.derive`: the lines, their checks, the closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.rules.nn import relu, softmax, softmax_cross_entropy

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
    assert str(d.closed_form["x"]) == "Wᵀ (1 − tanh(W x)²)"
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


def classifier(W1: Any, b1: Any, W2: Any, b2: Any, X: Any, Y: Any) -> Any:
    h = np.maximum(X @ W1 + b1, 0)
    logits = h @ W2 + b2
    z = logits - logits.max(axis=1, keepdims=True)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    return -np.mean(np.sum(Y * np.log(p), axis=1))


def test_a_classifier_by_hand_is_derived_as_in_a_textbook() -> None:
    arrays = [RNG.normal(size=size) for size in ((4, 5), 5, (5, 3), 3, (6, 4))]
    d = pb.derive(classifier, *arrays, np.eye(3)[[0, 2, 1, 1, 0, 2]], names={"X": ("N", "D")})
    assert str(d.closed_form["W2"]) == "(1/N) hᵀ (diag(Σⱼ Y) p − Y)"  # no trace of the maximum that was subtracted
    assert str(d.closed_form["W1"]) == "(1/N) Xᵀ (𝟏{b₁ + X W₁ > 0} ⊙ ((diag(Σⱼ Y) p − Y) W₂ᵀ))"
    assert d.ok
    assert "each takes half of the gradient; here they nowhere are" in str(d)


def test_attention_is_derived_without_indices() -> None:
    def attention(Q: Any, K: Any, V: Any) -> Any:
        S = Q @ K.T / np.sqrt(Q.shape[-1])
        A = np.exp(S) / np.sum(np.exp(S), axis=-1, keepdims=True)
        return A @ V

    Q, K, V = (RNG.normal(size=(n, 3)) for n in (5, 4, 4))
    d = pb.derive(attention, Q, K, V, names={"Q": ("n", "d")})
    assert str(d.closed_form["Q"]) == "(1/√d) (A ⊙ (∂e/∂y Vᵀ − (Σⱼ (A ⊙ (∂e/∂y Vᵀ))) 𝟏ᵀ)) K"
    assert d.ok


def test_the_closed_form_of_batch_normalisation_of_images() -> None:
    def normalised(x: Any) -> Any:
        centred = x - np.mean(x, axis=(0, 1, 2))
        scale = np.sqrt(np.mean(centred**2, axis=(0, 1, 2)) + 1e-5)
        return centred / scale

    d = pb.derive(normalised, RNG.normal(size=(2, 4, 3, 5)))
    compact = d.formula(
        lambda y, scale, y_bar: (24 * y_bar - y * np.sum(y * y_bar, (0, 1, 2)) - np.sum(y_bar, (0, 1, 2))) / 24 / scale
    )
    assert d.closed_form["x"] == compact
    with pytest.raises(pb.ConfigError, match="a formula of 'z_bar': the variables are x, "):
        d.formula(lambda z_bar: z_bar)
    assert len(str(d.closed_form["x"])) < 90


def test_ties_of_a_maximum_are_in_the_formula_where_there_are_some() -> None:
    x = np.array([-1.0, 2.0, 3.0])
    assert str(pb.derive(lambda x: np.maximum(x, 0), x).closed_form["x"]) == "𝟏{x > 0} ⊙ ∂e/∂y"
    tied = pb.derive(lambda x: np.maximum(x, 0), np.array([0.0, 2.0, -3.0]))
    assert str(tied.closed_form["x"]) == "(𝟏{x = 0} / 2 + 𝟏{x > 0}) ⊙ ∂e/∂y"
    assert tied.ok
    assert not tied.legend()


def test_a_small_number_is_no_kink_of_a_logarithm() -> None:
    d = pb.derive(lambda p: np.sum(np.log(p)), np.array([0.9, 0.5, 1e-8]))
    assert not any("not differentiable" in line.reason for line in d.backward)
    assert d.ok


def test_sizes_with_names_are_not_looked_for_in_decimals() -> None:
    d = pb.derive(lambda x: 0.5773 * x, np.ones((5, 4)), names={"x": ("T", "n")})
    assert str(d.closed_form["x"]) == "0.5773 ∂e/∂y"


def two_paths(x1: Any, x2: Any) -> Any:
    return x1 * x2 + np.sin(x2)


def test_local_derivatives_are_written_by_their_structure() -> None:
    def f(x: Any, W: Any, v: Any) -> Any:
        p = softmax(x)
        h = np.tanh(W @ p + v)
        return np.sum(h**2)

    d = pb.derive(f, RNG.normal(size=4), RNG.normal(size=(3, 4)), RNG.normal(size=3))
    assert [line.text for line in d.jacobians] == [
        "∂p/∂x = diag(p) − p pᵀ", "∂a₁/∂p = W", "∂a₁/∂v = I", "ȧ₁ = Ẇ p", "∂h/∂a₁ = I − diag(h²)",
        "∂a₂/∂h = diag(2 h)", "∂f/∂a₂ = 𝟏ᵀ",
    ]  # fmt: skip
    assert all(line.ok for line in d.jacobians)


def test_forward_mode() -> None:
    d = pb.derive(two_paths, 2.0, 3.0, mode="forward")
    assert [line.text for line in d.tangents] == ["ȧ₁ = x₁ ẋ₂ + x₂ ẋ₁", "ȧ₂ = cos(x₂) ẋ₂", "ḟ = ȧ₁ + ȧ₂"]
    assert d.closed_form["f"] == d.formula(lambda x1, x2, x1_dot, x2_dot: x2 * x1_dot + (x1 + np.cos(x2)) * x2_dot)
    assert d.ok
    only = pb.derive(two_paths, 2.0, 3.0, mode="forward", wrt="x1")
    assert str(only.closed_form["f"]) == "x₂ ẋ₁"
    assert "d/dx₁" in d.table()


def test_forward_mode_through_a_fused_function_and_a_loop() -> None:
    def f(W: Any, h: Any) -> Any:
        for _ in range(4):
            h = softmax(W @ h)
        return h

    W, h = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    d = pb.derive(f, W, h, mode="forward")
    assert d.ok
    ways = tuple(d._tangents.values[f"{name}_dot"] for name in ("W", "h"))
    [form] = d.closed_form.values()
    np.testing.assert_allclose(form.evaluate(), pb.jvp(f, (W, h), ways)[1], rtol=1e-9)


def test_a_backward_by_hand_is_derived_and_found_wrong() -> None:
    def forward(x: Any) -> Any:
        y = np.tanh(x)
        return y, y

    right = pb.custom(forward, lambda y, g: g * (1 - y**2))
    wrong = pb.custom(forward, lambda y, g: g * (1 - y))
    x = RNG.normal(size=4)
    d = pb.derive(lambda x: np.sum(right(x)), x)
    assert d.ok
    assert "(1 − a₁²)" in d.backward[-1].text or "(1 − u₁²)" in d.backward[-1].text
    d = pb.derive(lambda x: np.sum(wrong(x)), x)
    assert not d.ok
    assert not d.backward[-1].ok
    assert "NOT agree" in str(d)


@pytest.mark.parametrize(
    ("f", "args", "options", "message"),
    [
        (lambda x: np.sum(x), (np.arange(3),), {}, "at least one floating-point array"),
        (lambda x: 3.0, (np.ones(3),), {}, "does not depend on any"),
        (lambda x: np.sum(x * np.random.default_rng().normal(size=3)), (np.ones(3),), {}, "run again"),
        (lambda x: np.sum(x), (np.ones(3),), {"wrt": "y"}, "the inputs are x"),
        (lambda x: np.sum(x), (np.ones(3),), {"mode": "both"}, "expected mode"),
        (lambda x: np.sum(x), (np.ones(3),), {"names": {"x": ("K", "C")}}, "2 names for the shape"),
        (lambda x, y: np.sum(x) * np.sum(y), (np.ones(3), np.ones(3)), {"names": {"x": "K", "y": "C"}}, "both 3"),
    ],
)
def test_what_cannot_be_derived_is_said(f: Any, args: Any, options: Any, message: str) -> None:
    with pytest.raises(pb.PullbackError, match=message):
        pb.derive(f, *args, **options)


def test_an_input_that_does_not_matter_has_the_gradient_zero() -> None:
    d = pb.derive(lambda x, y: np.sum(x), np.ones(3), np.ones(3), wrt=["x", "y"])
    assert str(d.closed_form["y"]) == "0"
    assert d.ok


def test_a_kink_is_said_and_is_no_error() -> None:
    d = pb.derive(lambda x: np.sum(np.abs(x)), np.array([0.0, 1.0, -2.0]))
    assert d.ok
    assert any("not differentiable at" in line.reason for line in d.backward)


def test_all_kinds_of_programs() -> None:
    def in_place(x: Any) -> Any:
        y = np.zeros_like(x)
        y[0] = 2 * x[1]
        y[1:] = x[:-1]
        return np.sum(y * y)

    W, x = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    programs: list[tuple[Any, tuple[Any, ...]]] = [
        (in_place, (x,)),
        (lambda x: np.sum(np.sort(x) * np.arange(3.0)), (x,)),
        (lambda x, W: x @ W @ x, (x, W)),
        (lambda p: np.sum(np.tanh(p["W"] @ p["x"])), ({"W": W, "x": x},)),
        (lambda x: pb.grad(lambda z: np.sum(np.tanh(z) ** 2))(x), (x,)),
        (lambda W: np.einsum("ij,jk,kl->il", W, W, W.T), (W,)),
        (lambda W: np.sum(np.linalg.norm(W, axis=1)), (W,)),
        (lambda x: np.sum(pb.checkpoint(np.tanh)(x)), (x,)),
        (lambda x: np.mean(np.logaddexp(0, -x)), (x,)),
        (lambda x: np.concatenate([x, 2 * x])[1:4], (x,)),
    ]
    for f, args in programs:
        d = pb.derive(f, *args)
        assert d.ok, str(d)
        assert d.latex()
    assert str(pb.derive(lambda x: np.mean(np.logaddexp(0, -x)), x).closed_form["x"]) == "−exp(−x) / (3 (exp(−x) + 1))"
    assert str(pb.derive(lambda x, W: x @ W @ x, x, W).closed_form["x"]) == "W x + Wᵀ x"


def test_gradients_as_rows() -> None:
    def residual(x: Any, H: Any, v: Any) -> Any:
        a = H @ x + v
        return x + relu(a)

    H, h = RNG.normal(size=(3, 3)), RNG.normal(size=3)
    d = pb.derive(residual, h, H, RNG.normal(size=3), layout="row")
    assert str(d.closed_form["x"]) == "∂e/∂y diag(𝟏{a > 0}) H + ∂e/∂y"
    assert d.closed_form["x"].latex().startswith(r"\frac{\partial e}{\partial y}\, \operatorname{diag}")
    assert str(d.closed_form["H"]) == "(𝟏{a > 0} ⊙ (∂e/∂y)ᵀ) xᵀ"

    def recurrent(W: Any, h: Any) -> Any:
        for _ in range(4):
            h = np.tanh(W @ h)
        return h

    d = pb.derive(recurrent, H, h, layout="row")
    assert str(d.closed_form["h"]) == "∂e/∂h₄ (∏_t=4..1 diag(1 − hₜ²) W)"
    d = pb.derive(lambda x: -np.log(softmax(x)[2]), h, layout="row")
    assert str(d.closed_form["x"]) == "softmax(x)ᵀ − onehot(2)ᵀ"


def test_adjoints_with_bars() -> None:
    d = pb.derive(two_paths, 2.0, 3.0, bars=True)
    assert [line.text for line in d.backward][-1] == "x̄₂ = x₁ ā₁ + cos(x₂) ā₂"
    assert r"\bar{x_{2}}" in d.backward[-1].latex


def test_fused_functions_can_be_opened() -> None:
    x = RNG.normal(size=4)
    closed = pb.derive(lambda x: np.sum(softmax(x) ** 2), x)
    opened = pb.derive(lambda x: np.sum(softmax(x) ** 2), x, open=("softmax",))
    assert len(opened.forward) > len(closed.forward)
    assert opened.ok
    np.testing.assert_allclose(opened.closed_form["x"].evaluate(), closed.closed_form["x"].evaluate(), rtol=1e-9)


def test_what_is_not_a_number_fails_its_line() -> None:
    with np.errstate(all="ignore"):
        d = pb.derive(lambda x: np.sum(np.log(x)), np.array([-1.0, 2.0]))
        assert not d.ok


def test_large_numbers_are_no_error() -> None:
    d = pb.derive(softmax_cross_entropy, np.array([[1000.0, 1001.0, 998.0]]), np.array([[0.0, 1.0, 0.0]]))
    assert d.ok, str(d)
    d = pb.derive(lambda x: np.log(np.sum(np.exp(x))), np.array([400.0, 401.0]))
    assert d.ok, str(d)
