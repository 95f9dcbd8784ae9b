"""NumPy by hand and HIPS autograd as peers: fully connected networks with ReLU, and functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.bench.workload import Step
from pullback.core import tree

if TYPE_CHECKING:
    from pullback.bench.networks import Network


def training(network: Network) -> Step:
    """Steps of training as one writes them who knows NumPy: everything in place that can be."""
    layers = _layers(network)
    images, labels = network.data()
    move = _Adam(network.rate) if network.optimiser == "adam" else _Descent(network.rate)
    rows = np.arange(len(labels))

    def step() -> Any:
        values = _forward(layers, images)
        logits = values[-1]
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[rows, labels]
        np.exp(logits, out=logits)
        total = logits.sum(axis=1, keepdims=True)
        loss = np.mean(np.log(total[:, 0]) - chosen)
        g = np.divide(logits, total, out=logits)
        g[rows, labels] -= 1.0
        g /= np.float32(len(labels))
        gradients: list[Any] = []
        for k in range(len(layers) - 1, -1, -1):
            gradients[:0] = [values[k].T @ g, g.sum(axis=0)]
            if k:
                g = g @ layers[k][0].T
                g *= values[k] > 0.0
        move([array for layer in layers for array in layer], gradients)
        return loss

    return step


def training_by_autograd(network: Network) -> Step:
    """Gradients by HIPS autograd, the update by NumPy in place."""
    autograd = importlib.import_module("autograd")
    anp = importlib.import_module("autograd.numpy")
    layers = _layers(network)
    images, labels = network.data()
    rows = np.arange(len(labels))
    move = _Adam(network.rate) if network.optimiser == "adam" else _Descent(network.rate)

    def loss_of(layers: Any) -> Any:
        x = images
        for weight, bias in layers[:-1]:
            x = anp.maximum(anp.dot(x, weight) + bias, 0.0)
        weight, bias = layers[-1]
        logits = anp.dot(x, weight) + bias
        logits = logits - anp.max(logits, axis=1, keepdims=True)
        return anp.mean(anp.log(anp.sum(anp.exp(logits), axis=1)) - logits[rows, labels])

    value_and_grad = autograd.value_and_grad(loss_of)

    def step() -> Any:
        loss, gradients = value_and_grad(layers)
        move([array for layer in layers for array in layer], [g for pair in gradients for g in pair])
        return loss

    return step


def inference(network: Network) -> Step:
    """The logits of a batch."""
    layers = _layers(network)
    images, _ = network.data()
    return lambda: _forward(layers, images)[-1]


def _layers(network: Network) -> list[tuple[Any, Any]]:
    leaves = [np.array(leaf) for leaf in tree.leaves(network.build())]
    return list(zip(leaves[::2], leaves[1::2], strict=True))


def _forward(layers: list[tuple[Any, Any]], x: Any) -> list[Any]:
    """The input of each layer, and the logits."""
    values = [x]
    for k, (weight, bias) in enumerate(layers):
        x = x @ weight
        x += bias
        if k < len(layers) - 1:
            np.maximum(x, 0.0, out=x)
        values.append(x)
    return values


class _Descent:
    def __init__(self, rate: float) -> None:
        self.rate = np.float32(rate)

    def __call__(self, parameters: list[Any], gradients: list[Any]) -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p -= self.rate * g


class _Adam:
    def __init__(self, rate: float) -> None:
        self.rate, self.count = rate, 0
        self.moments: list[tuple[Any, Any]] = []

    def __call__(self, parameters: list[Any], gradients: list[Any]) -> None:
        self.moments = self.moments or [(np.zeros_like(p), np.zeros_like(p)) for p in parameters]
        self.count += 1
        rate = np.float32(self.rate / (1.0 - 0.9**self.count))
        correction = np.float32(1.0 / np.sqrt(1.0 - 0.999**self.count))
        for p, g, (m, v) in zip(parameters, gradients, self.moments, strict=True):
            m *= np.float32(0.9)
            m += np.float32(0.1) * g
            v *= np.float32(0.999)
            v += np.float32(0.001) * (g * g)
            root = np.sqrt(v)
            root *= correction
            root += np.float32(1e-8)
            np.divide(m, root, out=root)
            root *= rate
            p -= root


# -- functions -------------------------------------------------------------------------------------------------------
def gradient_by_autograd(f: Any, arguments: Any, with_value: bool = False) -> Step:
    """The gradient of f(autograd.numpy, *arguments) by the first argument; or its value and the gradients."""
    autograd = importlib.import_module("autograd")
    anp = importlib.import_module("autograd.numpy")

    def of_arguments(*arguments: Any) -> Any:
        return f(anp, *arguments)

    run = autograd.value_and_grad(of_arguments) if with_value else autograd.grad(of_arguments)
    if with_value:
        return lambda: run(*arguments)[0]
    return lambda: run(*arguments)


def value(f: Any, arguments: Any) -> Step:
    """f(numpy, *arguments)."""
    return lambda: f(np, *arguments)
