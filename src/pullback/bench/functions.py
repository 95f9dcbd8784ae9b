"""Functions as workloads: a recurrent network, a chain of scalar operations, elementwise work on a large array.

Each is written once, in terms of a module of array functions (numpy, jax.numpy, torch, autograd.numpy).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from pullback.bench import in_jax, in_numpy, in_torch
from pullback.bench.workload import Step, Workload

STEPS, UNITS = 100, 20
OPERATIONS, OPERATIONS_A_ROUND = 300, 10
ELEMENTS = 1_000_000


# -- a chain of scalar operations ------------------------------------------------------------------------------------
def chain(xp: Any, x: Any, operations: int = OPERATIONS) -> Any:
    """A mixed chain of scalar operations, bounded for any length: six operators and four functions a round."""
    for _ in range(operations // OPERATIONS_A_ROUND):
        y = xp.sin(x) * 0.5 + x
        y = xp.tanh(y * 1.1)
        x = xp.exp(-y) - xp.cos(y) / 2.0
    return x


_POINT = (np.float64(0.3),)


def _compiled_chain() -> Step:
    import pullback as pb

    gradient = pb.compile(pb.grad(functools.partial(chain, np)))
    return lambda: gradient(*_POINT)


def _eager_chain() -> Step:
    import pullback as pb

    gradient = pb.grad(functools.partial(chain, np))
    return lambda: gradient(*_POINT)


# -- a recurrent network ---------------------------------------------------------------------------------------------
def recurrent_loss(xp: Any, weights: Any, inputs: Any) -> Any:
    """The sum of squares of all hidden vectors of a recurrent network, for one sequence `(STEPS, UNITS)`."""
    from_input, from_hidden, bias = weights
    projected = inputs @ from_input + bias
    hidden, total = 0.0 * bias, 0.0
    for t in range(STEPS):
        hidden = xp.tanh(projected[t] + hidden @ from_hidden)
        total = total + xp.sum(hidden * hidden)
    return total


def recurrent_loss_by_scan(xp: Any, weights: Any, inputs: Any) -> Any:
    """The same by `jax.lax.scan`, as JAX would have loops written."""
    jax = in_jax.load()
    from_input, from_hidden, bias = weights

    def cell(hidden: Any, projected: Any) -> Any:
        hidden = xp.tanh(projected + hidden @ from_hidden)
        return hidden, xp.sum(hidden * hidden)

    return xp.sum(jax.lax.scan(cell, xp.zeros_like(bias), inputs @ from_input + bias)[1])


def sequence() -> tuple[Any, Any]:
    """Weights and inputs."""
    rng = np.random.default_rng(0)
    shapes = ((UNITS, UNITS), (UNITS, UNITS), (UNITS,))
    weights = tuple(rng.normal(scale=0.2, size=shape).astype(np.float32) for shape in shapes)
    return weights, rng.normal(size=(STEPS, UNITS)).astype(np.float32)


def _compiled_rnn() -> Step:
    import pullback as pb

    run = pb.compile(pb.value_and_grad(functools.partial(recurrent_loss, np)))
    weights, inputs = sequence()
    return lambda: run(weights, inputs)[0]


def _torch_rnn(compiled: bool = False) -> Step:
    weights, inputs = sequence()
    tensor = in_torch.load().from_numpy(inputs)
    return in_torch.gradient(lambda torch, *weights: recurrent_loss(torch, weights, tensor), weights, True, compiled)


def _jax_rnn(f: Callable[..., Any]) -> Step:
    return in_jax.gradient(f, sequence(), with_value=True)


def _rnn_by_hand() -> Step:
    (from_input, from_hidden, bias), inputs = sequence()
    hidden = np.zeros((STEPS + 1, UNITS), np.float32)
    through = np.empty((STEPS, UNITS), np.float32)

    def step() -> Any:
        projected = inputs @ from_input
        projected += bias
        for t in range(STEPS):
            np.tanh(projected[t] + hidden[t] @ from_hidden, out=hidden[t + 1])
        after = hidden[1:]
        slope = 1.0 - after * after
        g = np.zeros(UNITS, np.float32)
        for t in range(STEPS - 1, -1, -1):
            g = (g + 2.0 * after[t]) * slope[t]
            through[t] = g
            g = from_hidden @ g
        _ = inputs.T @ through, hidden[:-1].T @ through, through.sum(axis=0)
        return np.sum(after * after)

    return step


# -- elementwise work ------------------------------------------------------------------------------------------------
def elementwise(xp: Any, x: Any) -> Any:
    """tanh(x) sigmoid(x) + x^2."""
    return xp.tanh(x) / (1.0 + xp.exp(-x)) + x * x


def _million() -> tuple[Any]:
    return (np.random.default_rng(0).normal(size=ELEMENTS).astype(np.float32),)


def _compiled_elementwise() -> Step:
    import pullback as pb

    run = pb.compile(functools.partial(elementwise, np))
    arguments = _million()
    return lambda: run(*arguments)


def _torch_elementwise(compiled: bool = False) -> Step:
    def with_sigmoid(torch: Any, x: Any) -> Any:
        return torch.addcmul(x * x, torch.tanh(x), torch.sigmoid(x))

    return in_torch.value(with_sigmoid, _million(), compiled)


def _jax_elementwise() -> Step:
    jax = in_jax.load()
    return in_jax.value(lambda xp, x: xp.tanh(x) * jax.nn.sigmoid(x) + x * x, _million())


partial = functools.partial
WORKLOADS = [
    Workload(
        "rnn",
        f"loss and gradients of a recurrent network, {STEPS} steps of {UNITS} units",
        {"float32": _compiled_rnn},
        {
            "torch-eager": _torch_rnn,
            "torch-compile": partial(_torch_rnn, compiled=True),
            "jax-scan": partial(_jax_rnn, recurrent_loss_by_scan),
            "jax": partial(_jax_rnn, recurrent_loss),
            "autograd": lambda: in_numpy.gradient_by_autograd(recurrent_loss, sequence(), True),
            "numpy": _rnn_by_hand,
        },
    ),
    Workload(
        "scalar-chain",
        f"gradient of a chain of {OPERATIONS} scalar operations, float64",
        {"float64": _compiled_chain},
        {
            "torch-eager": lambda: in_torch.gradient(chain, _POINT),
            "torch-compile": lambda: in_torch.gradient(chain, _POINT, compiled=True),
            "jax": lambda: in_jax.gradient(chain, _POINT, double=True),
            "autograd": lambda: in_numpy.gradient_by_autograd(chain, _POINT),
        },
    ),
    Workload(
        "scalar-chain-eager",
        f"the same chain of {OPERATIONS} operations, traced anew at each run",
        {"float64": _eager_chain},
        {
            "torch-eager": lambda: in_torch.gradient(chain, _POINT),
            "autograd": lambda: in_numpy.gradient_by_autograd(chain, _POINT),
        },
    ),
    Workload(
        "elementwise",
        f"tanh(x) sigmoid(x) + x^2 of {ELEMENTS:,} numbers",
        {"float32": _compiled_elementwise},
        {
            "torch-eager": _torch_elementwise,
            "torch-compile": partial(_torch_elementwise, compiled=True),
            "jax": _jax_elementwise,
            "numpy": lambda: in_numpy.value(elementwise, _million()),
        },
    ),
]
