"""Twelve programs whose gradients every textbook derives. `pullback derive docs/gallery/worked.py:residual` shows one.

Each function has its arguments beside it, under its name with `_example`."""

from __future__ import annotations

from typing import Any

import numpy as np

from pullback.rules.convolution import conv2d
from pullback.rules.nn import relu, sigmoid, softmax
from pullback.rules.pooling import max_pool2d

_rng = np.random.default_rng(0)


def _draw(*shape: int) -> Any:
    return _rng.normal(size=shape)


def cross_entropy(x: Any, k: int) -> Any:
    """The loss of a classifier: minus the log of the probability of class k."""
    p = softmax(x)
    e = -np.log(p[k])
    return e


cross_entropy_example = (_draw(5), 2)


def residual(x: Any, H: Any, v: Any) -> Any:
    """A residual block: a skip path beside a layer."""
    a = H @ x + v
    y = x + relu(a)
    return y


residual_example = (_draw(4), _draw(4, 4), _draw(4))


def descent_step(H: Any, v: Any, x: Any, target: Any) -> Any:
    """The loss that a step of gradient descent on H and v makes smaller."""
    y = x + relu(H @ x + v)
    e = 0.5 * np.sum((y - target) ** 2)
    return e


descent_step_example = (_draw(4, 4), _draw(4), _draw(4), _draw(4))


def linear_layer(W: Any, b: Any, X: Any, T: Any) -> Any:
    """A layer on a batch of B rows, and the mean of the squared errors of the rows."""
    Y = X @ W.T + b
    loss = np.mean(np.sum((Y - T) ** 2, axis=1))
    return loss


linear_layer_example = (_draw(3, 5), _draw(3), _draw(7, 5), _draw(7, 3))


def convolution(X: Any, H: Any) -> Any:
    """A convolution of images: the sum over r, c of the shifted image times H[r, c]."""
    Y = conv2d(X, H, stride=(1, 1), padding=((1, 1), (1, 1)), groups=1)
    return Y


convolution_example = (_draw(2, 5, 6, 3), _draw(3, 3, 3, 4))


def batch_norm(x: Any, gamma: Any, beta: Any) -> Any:
    """Batch normalisation over m rows."""
    mu = np.mean(x, axis=0)
    var = np.mean((x - mu) ** 2, axis=0)
    xhat = (x - mu) / np.sqrt(var + 1e-5)
    y = gamma * xhat + beta
    return y


batch_norm_example = (_draw(6, 3), _draw(3), _draw(3))


def logistic(w: Any, x: Any, lam: float) -> Any:
    """Regularised logistic regression on one example."""
    L = 0.5 * np.sum(w**2) - lam * np.log(sigmoid(w @ x))
    return L


logistic_example = (_draw(4), _draw(4), 0.7)


def two_paths(x1: float, x2: float) -> Any:
    """f = x1 x2 + sin(x2): two paths lead to x2."""
    return x1 * x2 + np.sin(x2)


two_paths_example = (2.0, 3.0)


def recurrent(Wx: Any, Wh: Any, b: Any, h: Any, x: Any) -> Any:
    """A recurrent network: h_t = tanh(Wx x_t + Wh h_(t-1) + b)."""
    for t in range(len(x)):
        h = np.tanh(Wx @ x[t] + Wh @ h + b)
    return h


recurrent_example = (_draw(3, 2), 0.5 * _draw(3, 3), _draw(3), _draw(3), _draw(4, 2))


def matrix_vector(W: Any, x: Any) -> Any:
    """h = W x."""
    h = W @ x
    return h


matrix_vector_example = (_draw(3, 4), _draw(4))


def largest(x: Any) -> Any:
    """The largest of the elements."""
    m = np.max(x)
    return m


largest_example = (_draw(5),)


def rectified(x: Any) -> Any:
    """A rectified linear unit."""
    y = relu(x)
    return y


rectified_example = (_draw(5),)


def pooled(x: Any) -> Any:
    """Max-pooling of images."""
    y = max_pool2d(x, window=(2, 2), stride=(2, 2), padding=((0, 0), (0, 0)))
    return y


pooled_example = (_draw(1, 4, 4, 2),)


def activations(x: Any, slope: Any) -> Any:
    """Sigmoid, tanh, ReLU, leaky and parametric ReLU."""
    s = sigmoid(x)
    t = np.tanh(x)
    r = relu(x)
    leaky = np.where(x > 0, x, 0.01 * x)
    parametric = np.where(x > 0, x, slope * x)
    return s, t, r, leaky, parametric


activations_example = (_draw(4), _draw(4))
