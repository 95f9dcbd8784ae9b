"""What the flow through a network tells, in plain words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pullback.show.flow import Layer

FACTOR = 10.0  # between the first and the last layer: less is nothing to speak of
DEAD, SATURATED = 0.2, 0.3  # shares
FAST, SLOW = 0.1, 1e-5  # of the weights, in one step


def findings(layers: Sequence[Layer]) -> list[str]:
    """Sentences, the most serious first."""
    found = list(_broken(layers)) or [*_gradients(layers), *_activations(layers), *_units(layers), *_steps(layers)]
    return found or ["Nothing out of the ordinary: gradients and activations keep their size, and units are alive."]


def _broken(layers: Sequence[Layer]) -> Iterator[str]:
    for layer in layers:
        if not math.isfinite(layer.activation):
            yield f"The activations of {layer.name} are not finite: `pb.trace_nans()` finds where that began."
            return
    for layer in reversed(layers):
        if not math.isfinite(layer.gradient):
            yield f"The gradient at {layer.name} is not finite: `pb.trace_nans()` finds where that began."
            return
    cut = [layer.name for layer in layers if layer.gradient == 0]
    if cut:
        yield (
            f"No gradient reaches {_list(cut)}: every path from the loss is cut, as by units that are all dead, a "
            "constant result, or a value taken off the tape."
        )


def _gradients(layers: Sequence[Layer]) -> Iterator[str]:
    """Layers with parameters are compared, as it is they that learn; where there are fewer than two, all."""
    trained = [layer for layer in layers if layer.weight is not None]
    trained = trained if len(trained) > 1 else list(layers)
    if len(trained) < 2:
        return
    first, last = trained[0], trained[-1]
    factor = last.gradient / first.gradient
    path = f"from {last.name} to {first.name}"
    if factor >= FACTOR:
        steps = len(trained) - 1
        yield (
            f"Gradients shrink {_times(factor)} {path}, {_times(factor ** (1 / steps))} a layer: the first layers "
            f"learn that much slower. {_why_shrink(layers)}"
        )
    elif factor <= 1 / FACTOR:
        yield (
            f"Gradients grow {_times(1 / factor)} {path}: steps that suit the last layers are too long for the first. "
            "Initial weights may be too large; normalisation between layers, or clipping by norm, keeps them in bounds."
        )


def _why_shrink(layers: Sequence[Layer]) -> str:
    if any((layer.saturated or 0) > SATURATED for layer in layers):
        return "Units are saturated, where the slope is near 0: smaller initial weights, normalisation, or ReLU."
    if any(layer.saturated is not None for layer in layers):
        return "A sigmoid has a slope of at most 1/4, tanh of at most 1: ReLU, normalisation, or residual connections."
    return (
        "Initial weights may be too small: He's scale is sqrt(2 / fan_in); or normalisation, or residual connections."
    )


def _activations(layers: Sequence[Layer]) -> Iterator[str]:
    trained = [layer for layer in layers if layer.weight is not None and layer.activation > 0]
    if len(trained) < 3:
        return
    first, last = trained[0], trained[-2]  # the last one's size is a matter of the loss
    factor = last.activation / first.activation
    path = f"from {first.name} to {last.name}"
    if factor >= FACTOR:
        yield f"Activations grow {_times(factor)} {path}: initial weights may be too large."
    elif factor <= 1 / FACTOR:
        yield f"Activations shrink {_times(1 / factor)} {path}: initial weights may be too small."


def _units(layers: Sequence[Layer]) -> Iterator[str]:
    dead = max(layers, key=lambda layer: layer.dead or 0.0)
    if (dead.dead or 0.0) >= DEAD:
        yield (
            f"{dead.dead:.0%} of the units of {dead.name} are dead: 0 for every example of the batch, so that no "
            "gradient passes them. A lower learning rate, normalisation before them, or LeakyReLU keeps units alive."
        )
    full = max(layers, key=lambda layer: layer.saturated or 0.0)
    if (full.saturated or 0.0) >= SATURATED:
        yield f"{full.saturated:.0%} of the outputs of {full.name} are saturated, where the slope is near 0."


def _steps(layers: Sequence[Layer]) -> Iterator[str]:
    moved = [layer for layer in layers if layer.update_ratio is not None]
    if not moved:
        return
    if not any(layer.update_ratio for layer in moved):
        yield "The optimiser's next step changes nothing, as where a schedule has come to a learning rate of 0."
        return
    fast = max(moved, key=lambda layer: layer.update_ratio or 0.0)
    slow = min(moved, key=lambda layer: layer.update_ratio or 0.0)
    if (fast.update_ratio or 0.0) >= FAST:
        yield f"One step changes {fast.name} by {fast.update_ratio:.0%} of its size: the learning rate is high for it."
    if (slow.update_ratio or 0.0) <= SLOW:
        yield f"One step changes {slow.name} by {slow.update_ratio:.1g} of its size: it hardly moves."


def _times(factor: float) -> str:
    return f"{float(f'{factor:.2g}'):,.0f}x" if factor >= 10 else f"{factor:.1f}x"


def _list(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) < 5 else f"{', '.join(names[:3])} and {len(names) - 3} more"
