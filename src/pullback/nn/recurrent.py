"""Recurrent cells, in PyTorch's gate conventions, and the layer that unrolls one over time."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.core.tensor import Array
from pullback.errors import ShapeError
from pullback.nn import init
from pullback.nn.checks import check_features
from pullback.nn.module import Module
from pullback.rules.nn import sigmoid

__all__ = ["GRUCell", "LSTMCell", "RNNCell", "Recurrent"]


class _Cell(Module):
    """What the cells share: the affine maps of input and hidden vector, each to `gates` vectors side by side.

    A cell maps `(x, state)`, x of shape `(N, inputs)`, to the next state, whose hidden vector is `(N, hidden)`.
    """

    gates: int

    def __init__(self, inputs: int, hidden: int, *, rng: init.Seed = None, dtype: Any = np.float32) -> None:
        self.inputs, self.hidden = inputs, hidden
        generator = init.generator(rng)
        width = self.gates * hidden
        self.input_weight = init.xavier_uniform(generator, (inputs, width), dtype)
        self.hidden_weight = np.concatenate(
            [init.orthogonal(generator, (hidden, hidden), dtype) for _ in range(self.gates)], axis=1
        )
        self.input_bias = np.zeros(width, dtype)
        self.hidden_bias = np.zeros(width, dtype)

    def initial(self, x: Array) -> Any:
        """The state before the first step, all zero, for inputs like x, `(N, ...)`."""
        return np.zeros((x.shape[0], self.hidden), x.dtype)

    def output(self, state: Any) -> Array:
        """The hidden vector of a state."""
        return state

    def project(self, x: Array) -> Array:
        """The input's part of the gates, for one step `(N, inputs)` or for many at once `(N, T, inputs)`."""
        check_features(type(self).__name__, x, self.inputs)
        return x @ self.input_weight + self.input_bias

    def step(self, projected: Array, state: Any) -> Any:
        """The next state, from the projected input."""
        raise NotImplementedError

    def forward(self, x: Array, state: Any = None) -> Any:
        return self.step(self.project(x), self.initial(x) if state is None else state)

    def _split(self, gates: Array) -> list[Array]:
        return [gates[..., i * self.hidden : (i + 1) * self.hidden] for i in range(self.gates)]

    def _recur(self, hidden: Array) -> Array:
        return hidden @ self.hidden_weight + self.hidden_bias


class RNNCell(_Cell):
    """h' = tanh(x W + b + h U + c). The state is h."""

    gates = 1

    def step(self, projected: Array, state: Array) -> Array:
        return np.tanh(projected + self._recur(state))


class LSTMCell(_Cell):
    """Long short-term memory, gates in the order input, forget, candidate, output. The state is (h, c).

    c' = f c + i g, h' = o tanh(c'), with i, f, o sigmoids and g a tanh of affine maps of x and h.
    """

    gates = 4

    def initial(self, x: Array) -> tuple[Array, Array]:
        return super().initial(x), super().initial(x)

    def output(self, state: tuple[Array, Array]) -> Array:
        return state[0]

    def step(self, projected: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        hidden, cell = state
        i, f, g, o = self._split(projected + self._recur(hidden))
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(cell), cell


class GRUCell(_Cell):
    """Gated recurrent unit, gates in the order reset, update, candidate. The state is h.

    h' = (1 - z) n + z h with n = tanh(x W_n + b_n + r (h U_n + c_n)), r and z sigmoids of affine maps of x and h.
    """

    gates = 3

    def step(self, projected: Array, state: Array) -> Array:
        x_reset, x_update, x_new = self._split(projected)
        h_reset, h_update, h_new = self._split(self._recur(state))
        update = sigmoid(x_update + h_update)
        new = np.tanh(x_new + sigmoid(x_reset + h_reset) * h_new)
        return (1.0 - update) * new + update * state


class Recurrent(Module):
    """Applies a cell along time: `(N, T, inputs)` to `(N, T, hidden)`, or to the last output `(N, hidden)`."""

    def __init__(self, cell: _Cell, *, last: bool = False) -> None:
        self.cell, self.last = cell, last

    def forward(self, x: Array, state: Any = None) -> Array:
        outputs, _ = self.unroll(x, state)
        return outputs[-1] if self.last else np.stack(outputs, axis=1)

    def unroll(self, x: Array, state: Any = None) -> tuple[list[Array], Any]:
        """The output of every step, `(N, hidden)` each, and the state after the last."""
        check_features("Recurrent", x, self.cell.inputs, ("N", "T"))
        if not x.shape[1]:
            raise ShapeError("Recurrent", f"expected at least one step, got {tuple(x.shape)}")
        state = self.cell.initial(x) if state is None else state
        projected = self.cell.project(x)
        outputs = []
        for t in range(x.shape[1]):
            state = self.cell.step(projected[:, t], state)
            outputs.append(self.cell.output(state))
        return outputs, state
