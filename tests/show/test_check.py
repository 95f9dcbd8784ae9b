"""`pb.check` with a hand-written backward: verdicts, forms, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import pullback as pb


def residual(H: Any, x: Any, v: Any) -> Any:
    h = H @ x + v
    a = np.maximum(h, 0)
    return x + a


def right(g: Any, H: Any, x: Any, v: Any) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), g + H.T @ m, m


RNG = np.random.default_rng(0)
ARGS = RNG.normal(size=(4, 4)), RNG.normal(size=4), RNG.normal(size=4)


def test_a_right_backward_is_right() -> None:
    report = pb.check(residual, *ARGS, backward=right)
    assert report
    assert {name: v.status for name, v in report.verdicts.items()} == {"H": "right", "x": "right", "v": "right"}


def test_sign_factor_and_transposed() -> None:
    def wrong(g: Any, H: Any, x: Any, v: Any) -> Any:
        d_H, d_x, d_v = right(g, H, x, v)
        return d_H.T, -d_x, 3 * d_v

    report = pb.check(residual, *ARGS, backward=wrong)
    assert not report
    causes = {name: verdict.cause for name, verdict in report.verdicts.items()}
    assert causes == {"H": "transposed", "x": "sign", "v": "constant_factor"}
    assert all(verdict.confidence > 0.9 for verdict in report.verdicts.values())
    difference = np.abs(wrong(1.0, *ARGS)[0].T - wrong(1.0, *ARGS)[0])
    assert len(report.verdicts["H"].worst[0]) == difference.ndim
    assert "H  WRONG  transposed" in str(report)


def test_row_vectors_are_right_in_the_other_layout() -> None:
    def rows(g: Any, H: Any, x: Any, v: Any) -> Any:
        d_H, d_x, d_v = right(g, H, x, v)
        return d_H, d_x[None, :], d_v

    report = pb.check(residual, *ARGS, backward=rows)
    assert report
    assert report.verdicts["x"].status == "right_other_layout"


@pytest.mark.parametrize("mend", ["integers", "random", "writes"])
def test_bad_functions(mend: str) -> None:
    if mend == "integers":
        with pytest.raises(pb.DtypeError, match=r"argument x: expected floating-point .* x.astype\(float\)"):
            pb.check(lambda x: x * 2, np.arange(3))
    elif mend == "random":
        with pytest.raises(pb.CheckError, match="other values the second time"):
            pb.check(lambda x: x * RNG.normal(), np.ones(3))
    else:
        with pytest.raises(pb.CheckError, match="writes into its argument x"):
            pb.check(lambda x: x.fill(0) or x, np.ones(3))


def test_a_backward_with_the_wrong_number_of_results() -> None:
    report = pb.check(residual, *ARGS, backward=lambda g, H, x, v: (g, g))
    assert not report
    assert report.verdicts["H"].cause == "wrong_shape"
    assert "2 results for 3 inputs (H, x, v)" in report.verdicts["H"].explanation


def test_an_error_in_the_backward_is_reported_with_its_line() -> None:
    def broken(g: Any, H: Any, x: Any, v: Any) -> Any:
        return {}["missing"]

    report = pb.check(residual, *ARGS, backward=broken)
    assert not report
    assert "KeyError" in report.verdicts["x"].explanation
    assert __file__ in report.verdicts["x"].explanation


def test_a_dict_of_functions() -> None:
    functions = {"v": lambda g, H, x, v: right(g, H, x, v)[2], "x": lambda g, H, x, v: -right(g, H, x, v)[1]}
    report = pb.check(residual, *ARGS, backward=functions)
    assert {name: v.cause for name, v in report.verdicts.items()} == {"v": None, "x": "sign"}
    with pytest.raises(pb.CheckError, match="a function for 'w', but the inputs are H, x, v"):
        pb.check(residual, *ARGS, backward={"w": right})


def test_a_custom_function_alone() -> None:
    def forward(x: Any, w: Any) -> Any:
        y = np.tanh(x * w)
        return y, (x, w, y)

    def backward(saved: Any, g: Any) -> Any:
        x, w, y = saved
        return g * (1 - y**2) * w, g * (1 - y) * x

    report = pb.check(pb.custom(forward, backward), RNG.normal(size=5), RNG.normal(size=5))
    assert report.verdicts["x"].status == "right"
    assert report.verdicts["w"].status == "wrong"


class Scale:
    """A pair in the manner of torch.autograd.Function."""

    @staticmethod
    def forward(ctx: Any, x: Any, w: Any) -> Any:
        ctx.save_for_backward(x, w)
        return x * w

    @staticmethod
    def backward(ctx: Any, g: Any) -> Any:
        x, w = ctx.saved_tensors
        return g * w, np.sum(g * x)


@pytest.mark.parametrize("alone", [True, False])
def test_a_class_with_forward_and_backward(alone: bool) -> None:
    x, w = RNG.normal(size=5), np.array(2.0)
    report = pb.check(Scale, x, w) if alone else pb.check(lambda x, w: x * w, x, w, backward=Scale)
    assert {name: v.status for name, v in report.verdicts.items()} == {"x": "right", "w": "right"}


@pytest.mark.peers
def test_a_function_of_torch() -> None:
    torch = pytest.importorskip("torch")

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            (x,) = ctx.saved_tensors
            return g * 2 * x**2

    report = pb.check(lambda x: x**3, np.array([1.0, 2.0]), backward=Cube)
    assert report.verdicts["x"].cause == "constant_factor"
    assert pb.check(Cube, np.array([1.0, 2.0])).verdicts["x"].cause == "constant_factor"


def test_trees_of_parameters() -> None:
    def loss(params: Any, x: Any) -> Any:
        return np.sum((x @ params["W"] + params["b"]) ** 2)

    def backward(g: Any, params: Any, x: Any) -> Any:
        y = 2 * g * (x @ params["W"] + params["b"])
        return {"W": x.T @ y, "b": y.mean(axis=0)}, y @ params["W"].T

    params = {"W": RNG.normal(size=(3, 4)), "b": RNG.normal(size=4)}
    report = pb.check(loss, params, RNG.normal(size=(6, 3)), backward=backward)
    assert {name: v.cause for name, v in report.verdicts.items()} == {
        "params['W']": None,
        "params['b']": "constant_factor",
        "x": None,
    }
    assert "1/6, and 6 = x.shape[0], the batch size" in report.verdicts["params['b']"].explanation


def test_what_is_not_floating_point_is_held() -> None:
    def pick(x: Any, rows: Any) -> Any:
        return x[rows]

    def backward(g: Any, x: Any, rows: Any) -> Any:
        d = np.zeros_like(x)
        np.add.at(d, rows, g)
        return d, None

    report = pb.check(pick, RNG.normal(size=4), np.array([0, 2, 0]), backward=backward)
    assert report
    assert list(report.verdicts) == ["x"]
    assert any("rows is int64: held constant" in note for note in report.notes)


def test_a_function_that_cannot_be_traced_is_compared_with_differences() -> None:
    def plain(x: Any, w: Any) -> Any:
        return np.array([float(v) ** 2 for v in x]) @ w

    report = pb.check(
        plain, np.arange(1.0, 4), np.ones((3, 2)), backward=lambda g, x, w: (2 * x * (w @ g), -np.outer(x**2, g))
    )
    assert {name: v.cause for name, v in report.verdicts.items()} == {"x": None, "w": "sign"}
    assert "cannot be traced" in report.notes[0]


def test_kinks_are_no_errors() -> None:
    x = np.array([0.0, 1.0, -1.0])
    at_zero = pb.check(lambda x: np.maximum(x, 0), x, backward=lambda g, x: g * (x >= 0))
    assert at_zero.verdicts["x"].status == "right"
    assert "kinks" in at_zero.verdicts["x"].explanation
    outside = pb.check(lambda x: np.maximum(x, 0), x, backward=lambda g, x: g * (x >= 0) + g * (x == 0))
    assert outside.verdicts["x"].status == "wrong"
    assert pb.check(lambda x: np.abs(x), x)


def test_a_backward_that_writes_into_what_it_is_given_harms_nothing() -> None:
    def careless(g: Any, x: Any) -> Any:
        x *= 0
        g *= 2
        return g

    report = pb.check(lambda x: 2 * x, np.ones(3), backward=careless)
    assert report


def test_the_right_formula_stands_beside_a_wrong_gradient() -> None:
    report = pb.check(residual, *ARGS, backward=lambda g, H, x, v: (right(g, H, x, v)[0] * 2, *right(g, H, x, v)[1:]))
    assert report.verdicts["H"].formula is not None
    assert "xᵀ" in report.verdicts["H"].formula
    assert report.to_dict()["verdicts"]["H"]["cause"] == "constant_factor"
    assert "constant_factor" in report.html()


def test_a_gradient_of_zero_is_said() -> None:
    report = pb.check(lambda x: np.maximum(x, 0), -np.ones(3), backward=lambda g, x: 0 * g)
    assert report
    assert "the gradient of x is zero at these values" in report.notes[0]


def test_assert_gradients() -> None:
    pb.testing.assert_gradients(residual, *ARGS)
    pb.testing.assert_gradients(residual, *ARGS, backward=right)
    with pytest.raises(AssertionError, match="WRONG  sign"):
        pb.testing.assert_gradients(np.sin, np.ones(2), backward=lambda g, x: -g * np.cos(x))


def test_an_array_without_elements_is_no_problem() -> None:
    assert pb.check(lambda x: np.sum(x**2), np.zeros((0, 3)))
