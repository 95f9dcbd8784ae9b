"""The sheets of activation functions, against what is known of them."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.show.activation import ACTIVATIONS

INF = math.inf

# range, saturates, zero-centred, slope at 0, slopes at -20 and 20, largest slope
KNOWN = {
    "identity": ((-INF, INF), "nowhere", True, 1.0, (1.0, 1.0), 1.0),
    "relu": ((0.0, INF), "left", False, 0.0, (0.0, 1.0), 1.0),
    "relu6": ((0.0, 6.0), "both sides", False, 0.0, (0.0, 0.0), 1.0),
    "leaky_relu": ((-INF, INF), "nowhere", False, 0.01, (0.01, 1.0), 1.0),
    "prelu": ((-INF, INF), "nowhere", False, 0.25, (0.25, 1.0), 1.0),
    "sigmoid": ((0.0, 1.0), "both sides", False, 0.25, (0.0, 0.0), 0.25),
    "tanh": ((-1.0, 1.0), "both sides", True, 1.0, (0.0, 0.0), 1.0),
    "gelu": ((-0.16997, INF), "left", False, 0.5, (0.0, 1.0), 1.12890),
    "softplus": ((0.0, INF), "left", False, 0.5, (0.0, 1.0), 1.0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_known_sheets(name: str) -> None:
    ends, saturates, centred, at_zero, extremes, largest = KNOWN[name]
    sheet = pb.activation(name)
    assert (sheet.minimum, sheet.maximum) == pytest.approx(ends, abs=1e-4)
    assert sheet.saturates == saturates
    assert sheet.zero_centred is centred
    assert sheet.slope_at_zero == pytest.approx(at_zero)
    assert sheet.slopes_at_extremes == pytest.approx(extremes, abs=1e-8)
    assert sheet.largest_slope == pytest.approx(largest, abs=1e-4)
    assert sheet.monotone is (name != "gelu")
    assert sheet.backward > sheet.forward >= 0


def test_at_initialisation() -> None:
    relu = pb.activation("relu")
    assert relu.slope_at_initialisation == pytest.approx(math.sqrt(0.5), abs=1e-2)
    assert relu.dead == pytest.approx(0.5, abs=1e-2)
    assert relu.bounds == (pytest.approx(0.0, abs=1e-9), None)
    assert relu.mean == pytest.approx(1 / math.sqrt(2 * math.pi), abs=1e-2)
    tanh = pb.activation("tanh")
    draws = np.random.default_rng(0).normal(size=200_000)
    assert tanh.slope_at_initialisation == pytest.approx(math.sqrt(np.mean((1 - np.tanh(draws) ** 2) ** 2)), abs=5e-3)
    left, right = tanh.bounds
    assert left == pytest.approx(-4.15, abs=0.02)
    assert right == pytest.approx(4.15, abs=0.02)


def test_functions_of_ones_own(tmp_path: Path) -> None:
    def swish(x: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return x / (1 + np.exp(-x))

    sheet = pb.activation(swish)
    assert sheet.name == "swish"
    assert sheet.minimum == pytest.approx(-0.27846, abs=1e-4)
    assert not sheet.monotone
    assert "saturates" in str(sheet)
    assert "left" in str(sheet)
    assert pb.activation(nn.LeakyReLU(0.3)).slope_at_zero == pytest.approx(0.3)
    assert sheet.save(tmp_path / "swish.svg").exists()
    assert sheet._repr_png_().startswith(b"\x89PNG")


def test_wrong_arguments() -> None:
    with pytest.raises(pb.ConfigError, match=r"unknown activation 'rleu'\. Known: identity, relu"):
        pb.activation("rleu")
    with pytest.raises(pb.ConfigError, match="does not act on each element"):
        pb.activation(nn.Softmax())
    with pytest.raises(pb.ConfigError, match="cannot be applied"):
        pb.activation(nn.Linear(4, 4))
    with pytest.raises(pb.ConfigError, match="expected a name or a function"):
        pb.activation(3)  # type: ignore[arg-type]
