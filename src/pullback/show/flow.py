"""`pb.flow`: how activations run forward through the layers of a network and gradients back, and whether they vanish,
explode, die or saturate on the way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pullback import nn, optim
from pullback.core import tree
from pullback.core.tensor import plain_value
from pullback.errors import ConfigError
from pullback.show.figures import as_bytes, save
from pullback.show.flow_findings import findings
from pullback.show.ledger_text import columns
from pullback.show.traced import Box, Operation, Traced, Value, traced

Plain = np.ndarray[Any, Any]
Loss = Callable[[Any, Any], Any]

SATURATED = 0.97  # of the way to the limit of a sigmoid or tanh: there the slope is below 6 % of its largest


@dataclass(frozen=True)
class Layer:
    """One layer, in the order of the forward pass. Norms are Euclidean, over the whole batch."""

    name: str
    kind: str
    activation: float
    """Norm of the output."""
    gradient: float
    """Norm of the gradient of the loss with respect to the output."""
    weight: float | None
    """Norm of the parameters; None for a layer without."""
    weight_gradient: float | None
    """Norm of the gradient with respect to the parameters."""
    update_ratio: float | None
    """Norm of the step that the optimiser makes, over that of the parameters."""
    dead: float | None
    """Share of the units of a ReLU (entries of its last axis) that are 0 for the whole batch; None for others."""
    saturated: float | None
    """Share of the outputs of a sigmoid or tanh within 3 % of a limit; None for others."""


@dataclass(frozen=True)
class Flow:
    """The account of one network on one batch. `print` shows it as a table, a notebook as a plot."""

    title: str
    layers: list[Layer]
    loss: float

    @property
    def findings(self) -> list[str]:
        """What is out of the ordinary, in plain words, the most serious first; never empty."""
        return findings(self.layers)

    def figure(self) -> Any:
        """The plot, a matplotlib figure."""
        return draw([self])

    def save(self, path: str | Path) -> Path:
        """Writes the plot to a file of the kind that its ending names, such as .png or .svg."""
        return save(self.figure(), path)

    def _repr_png_(self) -> bytes:
        return as_bytes(self.figure(), "png")

    def __str__(self) -> str:
        head = (
            "layer",
            "kind",
            "activation",
            "gradient",
            "weight",
            "its gradient",
            "update/weight",
            "dead",
            "saturated",
        )
        rows: list[tuple[str, ...]] = [head]
        for each in self.layers:
            sizes = (each.activation, each.gradient, each.weight, each.weight_gradient, each.update_ratio)
            numbers = ["" if x is None else f"{x:.3g}" for x in sizes]
            shares = ["" if share is None else f"{share:.0%}" for share in (each.dead, each.saturated)]
            rows.append((each.name, each.kind, *numbers, *shares))
        return "\n".join([f"{self.title}: loss {self.loss:.4g}", "", *columns(rows), "", *self.findings])


def flow(
    model: Any,
    batch: Sequence[Any],
    *,
    loss: Loss = nn.softmax_cross_entropy,
    optimizer: optim.Transform | None = None,
    state: Any = None,
    title: str = "",
) -> Flow:
    """Norms of activations and gradients layer by layer, the optimiser's next step, dead and saturated units.

    Args:
        model: a network.
        batch: `(inputs, targets)`.
        loss: `loss(outputs, targets)`, a scalar.
        optimizer: whose step is compared with the weights; by default `optim.adam(1e-3)`.
        state: of the optimiser; by default that of a first step.

    Raises:
        ConfigError: the model is no module, or the batch no pair.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"flow: expected a network, an nn.Module, got {type(model).__name__}")
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ConfigError("flow: expected a batch of (inputs, targets)")
    inputs, targets = batch

    def objective(model: Any, inputs: Any) -> Any:
        return loss(model(inputs), targets)

    run = traced(objective, (model, inputs))
    optimizer = optimizer or optim.adam(1e-3)
    steps = _steps(model, run, optimizer, optimizer.init(model) if state is None else state)
    layers = [_layer(box, inside, run, steps) for box, inside in _innermost(run)]
    return Flow(title or type(model).__name__, layers, float(run.outputs[0].array))


def _innermost(run: Traced) -> list[tuple[Box, list[Operation]]]:
    """The calls of modules that compute something themselves, with their operations, in the order of their last."""
    found: dict[int, tuple[Box, list[Operation]]] = {}
    for operation in run.operations:
        modules = [box for box in operation.scope if box.kind != "function"]
        if modules:
            found.setdefault(modules[-1].number, (modules[-1], []))[1].append(operation)
    return sorted(found.values(), key=lambda pair: pair[1][-1].number)


def _steps(model: Any, run: Traced, optimizer: optim.Transform, state: Any) -> dict[str, Plain]:
    """The step of each parameter by its name, as the run calls it."""
    leaves, structure = tree.flatten(model)
    adjoints = {value.name.removeprefix("model."): value.adjoint for value in run.arguments}
    gradients = [
        np.zeros_like(leaf) if (g := adjoints.get(path)) is None else g
        for path, leaf in zip(structure.paths(), leaves, strict=True)
    ]
    updates, _ = optimizer.update(structure.unflatten(gradients), state, model)
    return {
        f"model.{path}": np.asarray(plain_value(step))
        for path, step in zip(structure.paths(), tree.leaves(updates), strict=True)
    }


def _layer(box: Box, inside: list[Operation], run: Traced, steps: dict[str, Plain]) -> Layer:
    output = inside[-1].outputs[0]
    used = {value.number: value for operation in inside for value in operation.values}
    own = [value for value in used.values() if value.name in steps]
    name = box.path.removeprefix("model.")
    return Layer(
        name,
        box.kind,
        _norm([output.array]),
        0.0 if output.adjoint is None else _norm([output.adjoint]),
        _norm([value.array for value in own]) if own else None,
        _norm([value.adjoint for value in own if value.adjoint is not None]) if own else None,
        _ratio(own, steps) if own else None,
        _share([_dead(operation) for operation in inside]),
        _share([_saturated(operation) for operation in inside]),
    )


def _norm(arrays: Sequence[Plain]) -> float:
    return math.sqrt(sum(float(np.sum(np.square(x, dtype=np.float64))) for x in arrays))


def _ratio(own: list[Value], steps: dict[str, Plain]) -> float | None:
    weight = _norm([value.array for value in own])
    return _norm([steps[value.name] for value in own]) / weight if weight else None


def _share(shares: list[float | None]) -> float | None:
    known = [share for share in shares if share is not None]
    return max(known, default=None)


def _dead(operation: Operation) -> float | None:
    """Of a ReLU, the share of units that nothing in the batch makes active."""
    numbers = [x for x in operation.inputs if not isinstance(x, Value)]
    if operation.name != "relu" and not (operation.name in ("maximum", "clip") and 0 in numbers):
        return None
    y = operation.outputs[0].array
    units = y.reshape(-1, y.shape[-1]) if y.ndim else y.reshape(1, 1)
    return float(np.mean((units == 0).all(axis=0)))


def _saturated(operation: Operation) -> float | None:
    y = operation.outputs[0].array
    if operation.name == "tanh":
        return float(np.mean(np.abs(y) > SATURATED))
    if operation.name == "sigmoid":
        return float(np.mean(np.abs(2 * y - 1) > SATURATED))
    return None


# -- the plot --------------------------------------------------------------------------------------------------------
def draw(flows: Sequence[Flow]) -> Any:
    """One plot of several accounts of one network, such as those along a run."""
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure alive and may ask for a display

    count = max(len(each.layers) for each in flows)
    figure = Figure(figsize=(max(8.0, 0.32 * count + 5), 7.5), dpi=110, layout="constrained")
    panels: dict[str, Callable[[Layer], float | None]] = {
        "norm of the activations": lambda layer: layer.activation,
        "norm of the gradients": lambda layer: layer.gradient,
        "update / weight": lambda layer: layer.update_ratio,
        "dead or saturated": lambda layer: layer.dead if layer.dead is not None else layer.saturated,
    }
    for axes, (label, read) in zip(figure.subplots(2, 2).ravel(), panels.items(), strict=True):
        for each in flows:
            points = [(k, y) for k, layer in enumerate(each.layers) if (y := read(layer)) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), "o-", markersize=3, linewidth=1.2, label=each.title)
        if label.startswith("dead"):
            axes.set_ylim(-0.02, 1.02)
        elif any((y := read(layer)) is not None and y > 0 for each in flows for layer in each.layers):
            axes.set_yscale("log")
        axes.set_title(label, fontsize=10)
        axes.set_xticks(range(count), [layer.name for layer in flows[0].layers], rotation=90, fontsize=7)
        axes.grid(alpha=0.3)
        if len(flows) > 1:
            axes.legend(fontsize=8)
    return figure
