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
