"""`pb.activation`: the sheet of an activation function: its range, where it saturates, its slope, what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pullback import nn
from pullback.errors import ConfigError, PullbackError
from pullback.rules.nn import softplus
from pullback.show.figures import as_bytes, save
from pullback.show.ledger_text import columns
from pullback.transforms import vjp

Plain = np.ndarray[Any, Any]
Function = Callable[[Any], Any]

FAR = 20.0  # where a function shows what it comes to
FLAT = 1e-3  # a slope below this is saturation
TYPICAL = 3.0  # inputs of a unit at initialisation, of mean 0 and variance 1, hardly go beyond
ELEMENTS = 1 << 18  # for the timing
REPEATS = 7

ACTIVATIONS: dict[str, Callable[[], Function]] = {
    "identity": lambda: lambda x: x,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "prelu": nn.PReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "softplus": lambda: softplus,
}
"""By the names that `activation` takes."""


@dataclass(frozen=True)
class Activation:
    """The sheet. `print` shows it, a notebook the plot."""

    name: str
    minimum: float
    """The lower end of its range; -inf where it has none."""
    maximum: float
    """The upper end; inf where it has none."""
    saturates: str
    """Where the slope goes to 0: "left", "right", "both sides" or "nowhere"."""
    bounds: tuple[float | None, float | None]
    """The inputs beyond which, to the left and to the right, the slope is below 0.001; None where it is not."""
    mean: float
    """The mean output for inputs of the standard normal distribution, as at initialisation."""
    zero_centred: bool
    """Whether that mean is 0."""
    monotone: bool
    slope_at_zero: float
    """The derivative at 0."""
    slope_at_initialisation: float
    """The root mean square of the derivative for standard normal inputs: what each layer multiplies gradients by."""
    slopes_at_extremes: tuple[float, float]
    """The derivative at -20 and at 20."""
    largest_slope: float
    dead: float
    """The share of standard normal inputs at which the derivative is exactly 0."""
    forward: float
    """Nanoseconds an element, float32, forward; measured now on this machine."""
    backward: float
    """The same of forward and backward together."""
    relative: float
    """That, as a multiple of ReLU's."""
    _function: Function

    def figure(self) -> Any:
        """The plot of the function and its derivative, a matplotlib figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
        axes = figure.subplots()
        x = np.linspace(-6, 6, 601)
        y, slope = _value_and_slope(self._function, x)
        axes.plot(x, y, label=self.name)
        axes.plot(x, slope, "--", label="derivative")
        axes.axhline(0, color="grey", linewidth=0.6)
        axes.axvspan(-TYPICAL, TYPICAL, alpha=0.07, color="grey", label="inputs at initialisation")
        axes.set_ylim(max(-3.0, y.min() - 0.2), min(4.0, y.max() + 0.4))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return figure

    def save(self, path: str | Path) -> Path:
        """Writes the plot to a file of the kind that its ending names, such as .png or .svg."""
        return save(self.figure(), path)

    def _repr_png_(self) -> bytes:
        return as_bytes(self.figure(), "png")

    def __str__(self) -> str:
        left, right = self.bounds
        where = [f"below {left:.3g}" if left is not None else "", f"above {right:.3g}" if right is not None else ""]
        beyond = " and ".join(part for part in where if part)
        rows = [
            (self.name, ""),
            ("range", f"{self.minimum:.4g} to {self.maximum:.4g}"),
            ("saturates", self.saturates + (f" ({beyond})" if beyond else "")),
            ("zero-centred", f"{'yes' if self.zero_centred else 'no'} (mean {self.mean:.3g})"),
            ("monotone", "yes" if self.monotone else "no"),
            ("derivative at 0", f"{self.slope_at_zero:.4g}, at most {self.largest_slope:.4g}"),
            ("at initialisation", f"{self.slope_at_initialisation:.3g} (root mean square), {self.dead:.0%} exactly 0"),
            ("at -20 and 20", f"{self.slopes_at_extremes[0]:.3g} and {self.slopes_at_extremes[1]:.3g}"),
            (
                "cost",
                f"{self.forward:.2f} ns forward, {self.backward:.2f} ns with backward, {self.relative:.1f}x ReLU's",
            ),
        ]
        return "\n".join(columns(rows))


def activation(which: str | Function) -> Activation:
    """The sheet of an activation function, found by running it and its derivative.

    Args:
        which: a name, one of `ACTIVATIONS`, or any function or module that acts on each element of an array.

    Raises:
        ConfigError: a name that is not known, or a function that does not act on each element by itself.
    """
    if isinstance(which, str):
        if which not in ACTIVATIONS:
            raise ConfigError(f"unknown activation {which!r}. Known: {', '.join(ACTIVATIONS)}.")
        name, function = which, ACTIVATIONS[which]()
    elif callable(which):
        name, function = getattr(which, "__name__", type(which).__name__), which
        _check_elementwise(name, function)
    else:
        raise ConfigError(f"activation: expected a name or a function, got {type(which).__name__}")
    x = np.linspace(-FAR, FAR, 4001)
    y, slope = _value_and_slope(function, x)
    points, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    typical, typical_slope = _value_and_slope(function, points)
    mean = float(np.sum(weights * typical))
    left, right = _flat_beyond(x, slope)
    forward, backward = _cost(function)
    _, of_relu = (forward, backward) if which == "relu" else _cost(nn.ReLU())
    return Activation(
        name=name,
        minimum=_end(function, y, -1),
        maximum=_end(function, y, 1),
        saturates={(0, 0): "nowhere", (1, 0): "left", (0, 1): "right", (1, 1): "both sides"}[
            left is not None, right is not None
        ],
        bounds=(left, right),
        mean=mean,
        zero_centred=abs(mean) < 1e-6,
        monotone=bool((np.diff(y) >= -1e-12).all() or (np.diff(y) <= 1e-12).all()),
        slope_at_zero=float(_value_and_slope(function, np.zeros(1))[1][0]),
        slope_at_initialisation=math.sqrt(float(np.sum(weights * typical_slope**2))),
        slopes_at_extremes=(float(slope[0]), float(slope[-1])),
        largest_slope=float(np.max(np.abs(slope))),
        dead=float(np.sum(weights[typical_slope == 0])),
        forward=forward,
        backward=backward,
        relative=backward / of_relu,
        _function=function,
    )


def _value_and_slope(function: Function, x: Plain) -> tuple[Plain, Plain]:
    y, pullback = vjp(function, x)
    return np.asarray(y), np.asarray(pullback(np.ones_like(x))[0])


def _check_elementwise(name: str, function: Function) -> None:
    x = np.array([-1.5, 0.3, 2.0])
    try:
        together = np.asarray(function(x))
        alone = np.array([np.asarray(function(x[k : k + 1]))[0] for k in range(3)])
    except (PullbackError, TypeError, ValueError, IndexError) as error:
        raise ConfigError(f"activation: {name} cannot be applied to an array of numbers: {error}") from error
    if together.shape != x.shape or not np.allclose(together, alone):
        raise ConfigError(f"activation: {name} does not act on each element by itself, as an activation does")


def _end(function: Function, y: Plain, side: int) -> float:
    """The end of the range: what the function goes to, or infinity where it keeps growing."""
    with np.errstate(all="ignore"):  # an exponential may overflow there, and its quotient be right
        far = [np.asarray(function(np.array([-scale, scale]))) for scale in (1e3, 1e6)]
    near, further = (float(np.max(side * values)) for values in far)
    if further > near + 1.0:
        return side * math.inf
    return side * max(float(np.max(side * y)), further) + 0.0


def _flat_beyond(x: Plain, slope: Plain) -> tuple[float | None, float | None]:
    """Where the slope last exceeds `FLAT`, from the left and from the right."""
    steep = np.flatnonzero(np.abs(slope) >= FLAT)
    if not len(steep):
        return float(x[-1]), float(x[0])
    left = float(x[steep[0] - 1]) if steep[0] > 0 else None
    right = float(x[steep[-1] + 1]) if steep[-1] < len(x) - 1 else None
    return left, right


def _cost(function: Function) -> tuple[float, float]:
    """Nanoseconds an element: forward, and forward with backward; the best of a few runs."""
    x = np.random.default_rng(0).normal(size=ELEMENTS).astype(np.float32)
    x.flags.writeable = False
    seed = np.ones_like(x)

    def both() -> None:
        _, pullback = vjp(function, x)
        pullback(seed)

    return _best(lambda: function(x)), _best(both)


def _best(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times) / ELEMENTS * 1e9
