"""`pb.check_claim`: claims in NumPy's form and in a textbook's, judged; never run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pullback as pb


def residual(H: Any, x: Any, v: Any) -> Any:
    h = H @ x + v
    a = np.maximum(h, 0)
    return x + a


RNG = np.random.default_rng(3)
ARGS = RNG.normal(size=(6, 6)), RNG.normal(size=6), RNG.normal(size=6) + 0.5


def judged(claim: str, **values: Any) -> Any:
    report = pb.check_claim(claim, residual, *ARGS, **values)
    [verdict] = report.verdicts.values()
    assert bool(report) == bool(verdict)
    return verdict


@pytest.mark.parametrize(
    "claim",
    [
        "de/dH = outer(mask * de/dy, x)",
        "de/dH = np.outer(np.where(h > 0, de/dy, 0), x)",
        "de/dH = (mask * de/dy)[:, None] * x[None, :]",
        r"\frac{\partial e}{\partial H} = (m \odot \frac{\partial e}{\partial y}) x^\top",
        r"$\partial e / \partial H = I\{0,1\} \frac{\partial e}{\partial y} \mathbf{x}^{T}$",
        "∂e/∂x = ∂e/∂y + Hᵀ (m ⊙ ∂e/∂y)",
        "dL/dx = dL/dy + H.T @ (mask * dL/dy)",
        "de/dx = de/dy + H^T I{0,1} de/dy",
        "de/dx = de/dy + H^T de/dh",
        "de/dv = (h > 0) * de/dy",
        "de/dv = (de/dy - 3 de/dy) / -2 * mask",
        "v <- v - a de/dv",
        "v = v - 0.25 * de/dv",
    ],
)
def test_right_claims(claim: str) -> None:
    assert judged(claim, a=0.5).status == "right"


@pytest.mark.parametrize(
    ("claim", "cause", "words"),
    [
        ("de/dH = de/dy I{0,1} H", "wrong_saved", "The factor is x^T, not H"),
        ("de/dx = H^T I{0,1} de/dy + I", "missing_incoming", "must carry the gradient that arrives"),
        ("v <- H - a de/dv", "wrong_saved", "v's update starts from v, not H"),
        ("v <- v + a de/dv", "sign", "descent goes against the gradient"),
        ("v <- v - a de/dx", "wrong_saved", "along the gradient of x"),
        ("de/dv = mask", "missing_incoming", "incoming gradient is missing"),
        ("de/dx = de/dy + H @ (mask * de/dy)", "transposed", "transposed"),
        ("de/dv = -mask * de/dy", "sign", "sign"),
        ("de/dv = 6 mask * de/dy", "constant_factor", "6 = "),
        ("de/dx = H^T (m ⊙ de/dy)", "missing_term", "path"),
        ("de/dv = (x > 0) * de/dy", "wrong_mask", "x > 0, not from h"),
        ("de/dv = de/dy", "wrong_mask", "left out"),
    ],
)
def test_wrong_claims(claim: str, cause: str, words: str) -> None:
    verdict = judged(claim, a=0.5)
    assert (verdict.status, verdict.cause) == ("wrong", cause)
    assert words in verdict.explanation


def test_a_row_vector_is_right_in_the_other_layout() -> None:
    verdict = judged("de/dx = de/dy (I + I{0,1} H)")
    assert verdict.status == "right_other_layout"
    assert "row-vector (numerator) layout" in verdict.explanation


def test_softmax_and_its_loss() -> None:
    def loss(x: Any, t: Any) -> Any:
        p = np.exp(x) / np.sum(np.exp(x))
        return -np.sum(t * np.log(p))

    x, t = RNG.normal(size=5), np.eye(5)[2]
    assert pb.check_claim("de/dx = p - t", loss, x, t)
    assert pb.check_claim("de/dx = softmax(x) - t", loss, x, t)
    assert pb.check_claim("de/dx = t - p", loss, x, t).verdicts["x"].cause == "sign"
    assert pb.check_claim("x <- x - 0.1 (p - t)", loss, x, t)


@pytest.mark.parametrize(
    "claim",
    [
        "dW = X.T @ (p - Y) / N",
        "grad_W = X.T @ (p - Y) / N",
        r"\nabla_W L = \frac{1}{N} X^T (p - Y)",
        "∇_W L = X^T (p - Y) / N",
        r"\frac{dL}{dW} = \frac{X^T (p - Y)}{N}",
        r"\frac{\partial L}{\partial W} = X^T \frac{\partial L}{\partial z}",
    ],
)
def test_other_ways_to_write_a_gradient_and_numbers_of_the_program(claim: str) -> None:
    def loss(W: Any, X: Any, Y: Any) -> Any:
        N = len(X)
        z = X @ W
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return -np.sum(Y * np.log(p)) / N

    args = RNG.normal(size=(4, 3)), RNG.normal(size=(5, 4)), np.eye(3)[[0, 1, 2, 1, 0]]
    assert pb.check_claim(claim, loss, *args)
    assert (
        pb.check_claim(claim.replace("p - Y", "Y - p").replace("X^T \\frac", "-X^T \\frac"), loss, *args)
        .verdicts["W"]
        .cause
        == "sign"
    )


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ("hello", "found no `=`"),
        ("de/dq = 3", "the inputs are H, x, v"),
        ("de/dx = foo(x)", "unknown name 'foo'; known are H, x, v, h, a, y"),
        ("de/dx = __import__('os')", "cannot read"),
        ("de/dx = x.__class__", "unknown name"),
        ("de/dx = 2 +", "ends too early"),
        ("de/dx = (x", "ends too early"),
        ("de/dx = x) + 1", "unexpected"),
        ("de/dx = H @ H[0, 0:2]", "claim: "),
        ("de/dx = de/dw", "the gradient of 'w' is not known"),
        ("de/dx = sum(x, axis='a')", "cannot read"),
    ],
)
def test_what_cannot_be_read_is_an_error(claim: str, message: str) -> None:
    with pytest.raises(pb.CheckError, match=message.replace("(", r"\(")):
        pb.check_claim(claim, residual, *ARGS)


def test_mask_needs_one_relu() -> None:
    with pytest.raises(pb.CheckError, match="f has 0; pass it as mask="):
        pb.check_claim("de/dx = mask * de/dy", lambda x: 2 * x, np.ones(3))
    assert pb.check_claim("de/dx = mask * de/dy", lambda x: 2 * x, np.ones(3), mask=np.full(3, 2.0))
