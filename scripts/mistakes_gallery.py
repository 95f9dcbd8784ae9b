"""Writes docs/gallery/mistakes.md: the mistakes people make in a backward by hand, each found by `pb.check`.

python scripts/mistakes_gallery.py
"""

from __future__ import annotations

import contextlib
import inspect
import io
import linecache
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Array = Any
PAGE = Path(__file__).resolve().parent.parent / "docs" / "gallery" / "mistakes.md"


class Mistake(NamedTuple):
    """A backward with one mistake in it, and what is to be found."""

    title: str
    forward: Callable[..., Any]
    backward: Callable[..., Any]
    args: tuple[Any, ...]
    causes: dict[str, str]
    """The cause to be found, by input; every other input is right."""


RNG = np.random.default_rng(7)


def normal(*shape: int) -> Any:
    """Random numbers for an example."""
    return RNG.normal(size=shape)


# -- a residual layer ------------------------------------------------------------------------------------------------
def residual(H: Array, x: Array, v: Array) -> Array:
    """y = x + ReLU(H x + v)."""
    h = H @ x + v
    a = np.maximum(h, 0)
    return x + a


RESIDUAL = normal(6, 6), normal(6), normal(6) + 0.5


def a_wrong_factor(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return m @ H, g + H.T @ m, m


def b_lost_incoming(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), H.T @ m + 1, m


def b_identity(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), H.T @ m + np.eye(len(x)), m


def b_no_skip(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), H.T @ m, m


def d_row_vector(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), (g + m @ H)[None, :], m


def j_transposed_in_a_residual(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    return np.outer(m, x), g + H @ m, m


def j_wrong_mask(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (x > 0) * g
    return np.outer(m, x), g + H.T @ m, m


def j_output_for_input(g: Array, H: Array, x: Array, v: Array) -> Any:
    m = (H @ x + v > 0) * g
    y = x + np.maximum(H @ x + v, 0)
    return np.outer(m, y), g + H.T @ m, m


# -- ReLU alone ------------------------------------------------------------------------------------------------------
def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def e_mask_alone(g: Array, x: Array) -> Array:
    return (x > 0) * 1.0


# -- a linear layer with a mean loss ---------------------------------------------------------------------------------
def mean_loss(W: Array, b: Array, x: Array, t: Array) -> Array:
    """The mean over a batch of half the squared error."""
    y = x @ W + b
    return np.sum((y - t) ** 2) / (2 * len(x))


LINEAR = normal(3, 5), normal(5), normal(32, 3), normal(32, 5)


def right_linear(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return x.T @ e, e.sum(axis=0), e @ W.T, -e


def f_mean_missing(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t)
    return x.T @ e, e.sum(axis=0), e @ W.T / len(x), -e / len(x)


def f_mean_twice(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return x.T @ e / len(x), e.mean(axis=0), e @ W.T, -e


def no_sum_over_the_batch(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return x.T @ e, e, e @ W.T, -e


def sum_over_the_wrong_axis(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return x.T @ e, e.sum(axis=1), e @ W.T, -e


def j_sign(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return x.T @ e, e.sum(axis=0), e @ W.T, e


def j_layout(g: Array, W: Array, b: Array, x: Array, t: Array) -> Any:
    e = g * (x @ W + b - t) / len(x)
    return e.T @ x, e.sum(axis=0), e @ W.T, -e


# -- batch normalisation ---------------------------------------------------------------------------------------------
EPS = 1e-5


def batch_norm(x: Array, gamma: Array, beta: Array) -> Array:
    """gamma * (x - mean) / sqrt(var + eps) + beta over a batch."""
    mean = np.mean(x, axis=0)
    centred = x - mean
    var = np.mean(centred**2, axis=0)
    normal = centred / np.sqrt(var + EPS)
    return gamma * normal + beta


BATCH_NORM = normal(16, 3) * [1.0, 2.0, 0.5] + 1, normal(3), normal(3)


def statistics(x: Array) -> Any:
    """The normalised input and one over the standard deviation."""
    inverse = 1 / np.sqrt(x.var(axis=0) + EPS)
    return (x - x.mean(axis=0)) * inverse, inverse


def right_batch_norm(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    h = g * gamma
    dx = inverse / len(x) * (len(x) * h - n * np.sum(h * n, axis=0) - h.sum(axis=0))
    return dx, np.sum(g * n, axis=0), g.sum(axis=0)


def g_mean_constant(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    h = g * gamma
    dx = inverse / len(x) * (len(x) * h - n * np.sum(h * n, axis=0))
    return dx, np.sum(g * n, axis=0), g.sum(axis=0)


def g_variance_constant(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    h = g * gamma
    dx = inverse * (h - h.mean(axis=0))
    return dx, np.sum(g * n, axis=0), g.sum(axis=0)


def g_both_constant(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    return g * gamma * inverse, np.sum(g * n, axis=0), g.sum(axis=0)


def sum_for_mean(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    h = g * gamma
    dx = inverse * (h - n * np.mean(h * n, axis=0) - h.sum(axis=0))
    return dx, np.sum(g * n, axis=0), g.sum(axis=0)


def x_for_normal(g: Array, x: Array, gamma: Array, beta: Array) -> Any:
    n, inverse = statistics(x)
    h = g * gamma
    dx = inverse / len(x) * (len(x) * h - n * np.sum(h * n, axis=0) - h.sum(axis=0))
    return dx, np.sum(g * x, axis=0), g.sum(axis=0)


# -- a convolution ---------------------------------------------------------------------------------------------------
def convolution(X: Array, H: Array) -> Array:
    """A 3x3 convolution of images (N, height, width, channels) with zeros around them: a sum of shifted products."""
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = 0.0
    for r in range(3):
        for c in range(3):
            y = y + padded[:, r : r + X.shape[1], c : c + X.shape[2]] @ H[r, c]
    return y


CONVOLUTION = normal(2, 6, 5, 3), normal(3, 3, 3, 4)


def shifted_back(g: Array, H: Array, flip: bool) -> Any:
    """The sum over taps of H[r, c]^T g, put back at its shift; with `flip`, of the filter turned by 180 degrees."""
    n, h, w, _ = g.shape
    dX = np.zeros((n, h + 2, w + 2, H.shape[2]))
    for r in range(3):
        for c in range(3):
            tap = H[2 - r, 2 - c] if flip else H[r, c]
            dX[:, r : r + h, c : c + w] += g @ tap.T
    return dX


def filter_gradient(g: Array, X: Array) -> Any:
    """g X[r, c]^T for every tap."""
    padded = np.pad(X, ((0, 0), (1, 1), (1, 1), (0, 0)))
    h, w = X.shape[1:3]
    taps = [[np.einsum("nhwi,nhwo->io", padded[:, r : r + h, c : c + w], g) for c in range(3)] for r in range(3)]
    return np.array(taps)


def right_convolution(g: Array, X: Array, H: Array) -> Any:
    return shifted_back(g, H, False)[:, 1:-1, 1:-1], filter_gradient(g, X)


def h_flipped(g: Array, X: Array, H: Array) -> Any:
    return shifted_back(g, H, True)[:, 1:-1, 1:-1], filter_gradient(g, X)


def h_border(g: Array, X: Array, H: Array) -> Any:
    whole = shifted_back(g, H, False)
    dX = whole[:, 1:-1, 1:-1]
    dX[:, 0] += whole[:, 0, 1:-1]
    dX[:, -1] += whole[:, -1, 1:-1]
    return dX, filter_gradient(g, X)


# -- softmax ---------------------------------------------------------------------------------------------------------
def softmax(x: Array) -> Array:
    """p = exp(x) / sum(exp(x)) along rows."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    return e / np.sum(e, axis=-1, keepdims=True)


SOFTMAX = (normal(4, 5),)


def right_softmax(g: Array, x: Array) -> Array:
    p = softmax(x)
    return p * (g - np.sum(g * p, axis=-1, keepdims=True))


def i_diagonal(g: Array, x: Array) -> Array:
    p = softmax(x)
    return g * p * (1 - p)


def softmax_wrong_axis(g: Array, x: Array) -> Array:
    p = softmax(x)
    return p * (g - np.sum(g * p, axis=0, keepdims=True))


def softmax_no_normaliser(g: Array, x: Array) -> Array:
    return g * softmax(x)


# -- a recurrent network ---------------------------------------------------------------------------------------------
def rnn(Wx: Array, Wh: Array, x: Array, h0: Array) -> Array:
    """The last state of h_t = tanh(Wx x_t + Wh h_(t-1))."""
    h = h0
    for t in range(len(x)):
        h = np.tanh(Wx @ x[t] + Wh @ h)
    return h


RNN = normal(4, 3) * 0.5, normal(4, 4) * 0.5, normal(5, 3), normal(4)


def states(Wx: Array, Wh: Array, x: Array, h0: Array) -> list[Array]:
    """Every state, the first one included."""
    h = [h0]
    for row in x:
        h.append(np.tanh(Wx @ row + Wh @ h[-1]))
    return h


def back_through_time(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array, step: Any, carry: Any) -> Any:
    """The walk back through time; `step` gives the gradient of the pre-activation, `carry` that of the state before."""
    h, dWx, dWh, dx = states(Wx, Wh, x, h0), np.zeros_like(Wx), np.zeros_like(Wh), np.zeros_like(x)
    for t in reversed(range(len(x))):
        a = step(g, h[t + 1], h[t])
        dWx += np.outer(a, x[t])
        dWh += np.outer(a, h[t])
        dx[t] = Wx.T @ a
        g = carry(a, Wh)
    return dWx, dWh, dx, g


def right_rnn(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array) -> Any:
    return back_through_time(g, Wx, Wh, x, h0, lambda g, y, before: g * (1 - y * y), lambda a, Wh: Wh.T @ a)


def rnn_transposed(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array) -> Any:
    return back_through_time(g, Wx, Wh, x, h0, lambda g, y, before: g * (1 - y * y), lambda a, Wh: Wh @ a)


def rnn_wrong_state(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array) -> Any:
    return back_through_time(g, Wx, Wh, x, h0, lambda g, y, before: g * (1 - before * before), lambda a, Wh: Wh.T @ a)


def rnn_last_step_only(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array) -> Any:
    dWx, _, dx, dh0 = right_rnn(g, Wx, Wh, x, h0)
    h = states(Wx, Wh, x, h0)
    return dWx, np.outer(g * (1 - h[-1] ** 2), h[-2]), dx, dh0


def rnn_no_tanh(g: Array, Wx: Array, Wh: Array, x: Array, h0: Array) -> Any:
    return back_through_time(g, Wx, Wh, x, h0, lambda g, y, before: g, lambda a, Wh: Wh.T @ a)


# -- saved tensors ---------------------------------------------------------------------------------------------------
def squash(x: Array) -> Array:
    """tanh."""
    return np.tanh(x)


def j_x_for_y(g: Array, x: Array) -> Array:
    return g * (1 - x * x)


RESIDUAL_ALL = {"H": "wrong_mask", "x": "wrong_mask", "v": "wrong_mask"}

MISTAKES: dict[str, list[Mistake]] = {
    "A residual layer": [
        Mistake("The factor is H where x^T belongs", residual, a_wrong_factor, RESIDUAL, {"H": "wrong_saved"}),
        Mistake(
            "The skip path lost the incoming gradient", residual, b_lost_incoming, RESIDUAL, {"x": "missing_incoming"}
        ),
        Mistake("The skip path is an identity matrix", residual, b_identity, RESIDUAL, {"x": "missing_incoming"}),
        Mistake("The skip path is missing", residual, b_no_skip, RESIDUAL, {"x": "missing_term"}),
        Mistake("Right, as a row vector", residual, d_row_vector, RESIDUAL, {}),
        Mistake("H where its transpose belongs", residual, j_transposed_in_a_residual, RESIDUAL, {"x": "transposed"}),
        Mistake("The mask is taken from the wrong tensor", residual, j_wrong_mask, RESIDUAL, RESIDUAL_ALL),
        Mistake(
            "The output is used where the input was saved", residual, j_output_for_input, RESIDUAL, {"H": "wrong_saved"}
        ),
    ],
    "ReLU": [Mistake("The mask alone", relu, e_mask_alone, (normal(6),), {"x": "missing_incoming"})],
    "A linear layer with a mean loss": [
        Mistake("1/B is missing", mean_loss, f_mean_missing, LINEAR, {"W": "constant_factor", "b": "constant_factor"}),
        Mistake(
            "1/B is applied twice", mean_loss, f_mean_twice, LINEAR, {"W": "constant_factor", "b": "constant_factor"}
        ),
        Mistake("No sum over the batch", mean_loss, no_sum_over_the_batch, LINEAR, {"b": "wrong_shape"}),
        Mistake("A sum over the wrong axis", mean_loss, sum_over_the_wrong_axis, LINEAR, {"b": "wrong_axis"}),
        Mistake("A sign", mean_loss, j_sign, LINEAR, {"t": "sign"}),
        Mistake("Right, in the other layout", mean_loss, j_layout, LINEAR, {}),
    ],
    "Batch normalisation": [
        Mistake(
            "The mean is treated as a constant", batch_norm, g_mean_constant, BATCH_NORM, {"x": "constant_statistic"}
        ),
        Mistake(
            "The variance is treated as a constant",
            batch_norm,
            g_variance_constant,
            BATCH_NORM,
            {"x": "constant_statistic"},
        ),
        Mistake("Both are", batch_norm, g_both_constant, BATCH_NORM, {"x": "constant_statistic"}),
        Mistake(
            "One term is summed where it should be averaged",
            batch_norm,
            sum_for_mean,
            BATCH_NORM,
            {"x": "sum_for_mean"},
        ),
        Mistake(
            "x where the normalised input was saved", batch_norm, x_for_normal, BATCH_NORM, {"gamma": "wrong_saved"}
        ),
    ],
    "A convolution": [
        Mistake("The filter is flipped", convolution, h_flipped, CONVOLUTION, {"X": "flipped_filter"}),
        Mistake("Wrong at the border", convolution, h_border, CONVOLUTION, {"X": "border"}),
    ],
    "Softmax": [
        Mistake("The diagonal of the Jacobian only", softmax, i_diagonal, SOFTMAX, {"x": "diagonal_only"}),
        Mistake("A sum over the wrong axis", softmax, softmax_wrong_axis, SOFTMAX, {"x": "wrong_axis"}),
        Mistake(
            "The normaliser is treated as a constant",
            softmax,
            softmax_no_normaliser,
            SOFTMAX,
            {"x": "constant_statistic"},
        ),
    ],
    "A recurrent network": [
        Mistake(
            "Wh where its transpose belongs",
            rnn,
            rnn_transposed,
            RNN,
            dict.fromkeys(("Wx", "Wh", "x", "h0"), "transposed"),
        ),
        Mistake(
            "The state before where the state after was saved",
            rnn,
            rnn_wrong_state,
            RNN,
            dict.fromkeys(("Wx", "Wh", "x", "h0"), "wrong_saved"),
        ),
        Mistake("The last step only", rnn, rnn_last_step_only, RNN, {"Wh": "missing_term"}),
        Mistake(
            "The derivative of tanh is left out",
            rnn,
            rnn_no_tanh,
            RNN,
            dict.fromkeys(("Wx", "Wh", "x", "h0"), "missing_term"),
        ),
    ],
    "tanh": [Mistake("x where y was saved", squash, j_x_for_y, (normal(5),), {"x": "wrong_saved"})],
}
"""The ten mistakes, in the settings where they apply."""


# -- the page --------------------------------------------------------------------------------------------------------
INTRODUCTION = """# Ten mistakes, diagnosed

Each backward below has one of the mistakes that people make when they derive by hand. `pb.check` compares it with the
true gradient, and where they differ it tests which mistake would have led to just these numbers.
[The page on checking](../check.md) says how. This page is written by `scripts/mistakes_gallery.py`.

"""

HEAD = """import textwrap

import numpy as np

import pullback as pb

rng = np.random.default_rng(7)


def normal(*shape):
    return rng.normal(size=shape)


def show(report, name):
    verdict = report.verdicts[name]
    print(f"{name}: {verdict.status}, {verdict.cause}, {verdict.confidence:.0%} sure")
    print(textwrap.fill(verdict.explanation, 110))
"""

CLAIMS = r"""H, x, v = normal(6, 6), normal(6), normal(6)
for claim in (
    "v <- H - a de/dv",
    "de/dH = de/dy I{0,1} H",
    r"\frac{\partial e}{\partial x} = H^\top I\{0,1\} \frac{\partial e}{\partial y} + I",
    "de/dx = de/dy (I + I{0,1} H)",
):
    [verdict] = pb.check_claim(claim, residual, H, x, v, a=0.1).verdicts.values()
    print(f"{claim}\n  {verdict.status}: {verdict.explanation}")
"""

SETTINGS: dict[str, tuple[tuple[Callable[..., Any], ...], str]] = {
    "A residual layer": ((residual,), "normal(6, 6), normal(6), normal(6) + 0.5"),
    "ReLU": ((relu,), "(normal(6),)"),
    "A linear layer with a mean loss": ((mean_loss,), "normal(3, 5), normal(5), normal(32, 3), normal(32, 5)"),
    "Batch normalisation": ((batch_norm, statistics), "normal(16, 3) * [1.0, 2.0, 0.5] + 1, normal(3), normal(3)"),
    "A convolution": ((convolution, shifted_back, filter_gradient), "normal(2, 6, 5, 3), normal(3, 3, 3, 4)"),
    "Softmax": ((softmax,), "(normal(4, 5),)"),
    "A recurrent network": (
        (rnn, states, back_through_time, right_rnn),
        "normal(4, 3) * 0.5, normal(4, 4) * 0.5, normal(5, 3), normal(4)",
    ),
    "tanh": ((squash,), "(normal(5),)"),
}
"""What the mistakes of a setting need: its functions, the forward first, and its inputs."""


def page() -> str:
    """The page as Markdown, each block of code with what it prints."""
    writer = Writer(INTRODUCTION)
    writer.code(HEAD)
    for setting, mistakes in MISTAKES.items():
        functions, example = SETTINGS[setting]
        writer.text += f"## {setting}\n\n"
        constants = f"EPS = {EPS}\n\n\n" if setting == "Batch normalisation" else ""
        writer.code(f"{constants}{sources(functions)}\n\nexample = {example}\n")
        for mistake in mistakes:
            shown = next(iter(mistake.causes), "x" if setting == "A residual layer" else "W")
            call = f"pb.check({functions[0].__name__}, *example, backward={mistake.backward.__name__})"
            writer.text += f"### {mistake.title}\n\n"
            writer.code(f'{sources([mistake.backward])}\n\nshow({call}, "{shown}")\n')
    writer.text += "## On paper\n\nThe same mistakes in formulas, for the residual layer.\n\n"
    writer.code(CLAIMS)
    return writer.text.rstrip() + "\n"


class Writer:
    """A page that runs its code as it grows."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.namespace: dict[str, Any] = {"__name__": "__main__"}

    def code(self, block: str) -> None:
        """Adds a block of code, and what it prints."""
        self.text += "```python\n"
        above = "\n" * self.text.count("\n")
        lines = (self.text + block).splitlines(keepends=True)
        linecache.cache[str(PAGE)] = (len(block), None, lines, str(PAGE))  # where the program's lines are read from
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(above + block, str(PAGE), "exec", dont_inherit=True), self.namespace)
        self.text += f"{block}```\n\n"
        if printed.getvalue():
            self.text += f"```output\n{printed.getvalue().strip()}\n```\n\n"


def sources(functions: Sequence[Callable[..., Any]]) -> str:
    """The functions as one would write them in a notebook: without annotations."""
    return "\n\n".join(re.sub(r": (Array|Any|bool)(?=[,)])| -> [^:]*(?=:\n)", "", inspect.getsource(f))
                       for f in functions)  # fmt: skip


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page())
