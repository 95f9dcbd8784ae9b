"""JAX as a peer: the same network with the same weights, one jitted function for the whole step, its state donated."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.bench.workload import Step
from pullback.core import tree

if TYPE_CHECKING:
    from pullback.bench.networks import Network

Layer = Callable[[Iterator[Any], Any, bool], Any]
"""(the parameters that are left, x, whether it is training) -> y."""


def load() -> Any:
    """The library, on the CPU, without a word about other devices."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    return importlib.import_module("jax")


def training(network: Network) -> Step:
    """Steps of training. The running statistics of batch norms, which JAX leaves to other libraries, are not kept."""
    jax = load()
    model = network.build()
    apply = twin(model)
    images, labels = map(jax.numpy.asarray, network.data())

    def loss_of(parameters: Any, images: Any, labels: Any) -> Any:
        logits = apply(iter(parameters), images, True)
        chosen = jax.numpy.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jax.numpy.mean(jax.nn.logsumexp(logits, axis=1) - chosen)

    def update(parameters: Any, state: Any, images: Any, labels: Any) -> Any:
        value, gradients = jax.value_and_grad(loss_of)(parameters, images, labels)
        parameters, state = _RULES[network.optimiser](jax, parameters, gradients, state, network.rate)
        return parameters, state, value

    run = jax.jit(update, donate_argnums=(0, 1))
    parameters = [jax.numpy.array(leaf) for leaf in tree.leaves(model)]
    zeros = [jax.numpy.zeros_like(p) for p in parameters]
    state: Any = (jax.numpy.zeros((), np.int32), zeros, [jax.numpy.zeros_like(p) for p in parameters])

    def step() -> Any:
        nonlocal parameters, state
        parameters, state, value = run(parameters, state, images, labels)
        return np.asarray(jax.block_until_ready((parameters, state, value))[2])

    return step


def inference(network: Network) -> Step:
    """The logits of a batch."""
    jax = load()
    model = network.build()
    apply = twin(model)
    run = jax.jit(lambda parameters, images: apply(iter(parameters), images, False))
    parameters = [jax.numpy.array(leaf) for leaf in tree.leaves(model)]
    images = jax.numpy.asarray(network.data()[0])
    return lambda: np.asarray(run(parameters, images))


def _sgd(jax: Any, parameters: Any, gradients: Any, state: Any, rate: float) -> Any:
    return [p - rate * g for p, g in zip(parameters, gradients, strict=True)], state


def _adam(jax: Any, parameters: Any, gradients: Any, state: Any, rate: float) -> Any:
    count, first, second = state
    count = count + 1
    first = [0.9 * m + 0.1 * g for m, g in zip(first, gradients, strict=True)]
    second = [0.999 * v + 0.001 * g * g for v, g in zip(second, gradients, strict=True)]
    rate = rate / (1.0 - 0.9**count)
    correction = 1.0 - 0.999**count
    moved = [
        p - rate * m / (jax.numpy.sqrt(v / correction) + 1e-8)
        for p, m, v in zip(parameters, first, second, strict=True)
    ]
    return moved, (count, first, second)


_RULES = {"sgd": _sgd, "adam": _adam}


def twin(module: Any) -> Layer:
    """The function that does what one of our modules does, with its parameters given in the order of their leaves."""
    jax = load()
    kind = type(module).__name__
    if kind == "Sequential":
        layers = [twin(module[i]) for i in range(len(module))]

        def chain(p: Iterator[Any], x: Any, training: bool) -> Any:
            for layer in layers:
                x = layer(p, x, training)
            return x

        return chain
    if kind == "Linear":
        return lambda p, x, training: x @ next(p) + next(p)
    if kind == "Conv2d":
        return lambda p, x, training: jax.lax.conv_general_dilated(
            x, next(p), module.stride, module.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
    if kind == "BatchNorm":
        return _batch_norm(jax.numpy, module)
    if kind == "MaxPool2d":
        window, step = (1, *module.window, 1), (1, *module.stride, 1)
        padding = ((0, 0), *module.padding, (0, 0))
        return lambda p, x, training: jax.lax.reduce_window(x, -np.inf, jax.lax.max, window, step, padding)
    return {
        "ReLU": lambda p, x, training: jax.nn.relu(x),
        "Flatten": lambda p, x, training: x.reshape(len(x), -1),
        "GlobalAvgPool2d": lambda p, x, training: x.mean(axis=(1, 2)),
    }[kind]


def _batch_norm(jnp: Any, module: Any) -> Layer:
    kept = [jnp.asarray(buffer.value) for buffer in (module.running_mean, module.running_variance)]

    def normalised(p: Iterator[Any], x: Any, training: bool) -> Any:
        axes = tuple(range(x.ndim - 1))
        mean, variance = (x.mean(axis=axes), x.var(axis=axes)) if training else kept
        scale = next(p) / jnp.sqrt(variance + module.eps)
        return x * scale + (next(p) - mean * scale)

    return normalised


# -- functions -------------------------------------------------------------------------------------------------------
def gradient(f: Any, arguments: Any, with_value: bool = False, double: bool = False) -> Step:
    """The gradient of f(jax.numpy, *arguments), by the first argument; or its value and the gradients."""
    jax = load()
    jax.config.update("jax_enable_x64", double)
    arrays = jax.tree.map(jax.numpy.asarray, arguments)
    g = jax.value_and_grad(f, argnums=1) if with_value else jax.grad(f, argnums=1)
    run = jax.jit(lambda *arrays: g(jax.numpy, *arrays))

    def step() -> Any:
        result = jax.block_until_ready(run(*arrays))
        return np.asarray(result[0] if with_value else result)

    return step


def value(f: Any, arguments: Any) -> Step:
    """f(jax.numpy, *arguments)."""
    jax = load()
    arrays = [jax.numpy.asarray(each) for each in arguments]
    run = jax.jit(lambda *arrays: f(jax.numpy, *arrays))
    return lambda: np.asarray(run(*arrays))
