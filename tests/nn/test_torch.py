"""Layers and losses against PyTorch: outputs, parameter gradients and input gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")


def to_torch(x: Any) -> Any:
    return torch.tensor(np.asarray(x), requires_grad=True)


def images(x: Any) -> Any:
    """(N, H, W, C) to PyTorch's (N, C, H, W), or back."""
    return x.permute(0, 3, 1, 2)


def channels_last(y: Any) -> Any:
    return y.permute(0, 2, 3, 1)


def compare(
    ours: Callable[[Any, Any], Any],
    theirs: Callable[..., Any],
    model: nn.Module,
    x: Any,
    rng: np.random.Generator,
) -> None:
    """`theirs(x, **parameters)` gets PyTorch tensors; dots in the names of parameters become underscores."""
    y, pullback = pb.vjp(ours, model, x)
    parameters = {path.replace(".", "_"): to_torch(value) for path, value in model.parameters().items()}
    input_ = to_torch(x)
    expected = theirs(input_, **parameters)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-9, atol=1e-11)
    cotangent = rng.standard_normal(y.shape)
    expected.backward(torch.tensor(cotangent))
    gradient, input_gradient = pullback(cotangent)
    np.testing.assert_allclose(input_gradient, input_.grad.numpy(), rtol=1e-8, atol=1e-10)
    for (path, ours_), theirs_ in zip(gradient.parameters().items(), parameters.values(), strict=True):
        np.testing.assert_allclose(ours_, theirs_.grad.numpy(), rtol=1e-8, atol=1e-10, err_msg=path)


def call(model: Any, x: Any) -> Any:
    return model(x)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("padding", [0, 1, (2, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_conv2d(stride: Any, padding: Any, groups: int, rng: np.random.Generator) -> None:
    model = nn.Conv2d(4, 8, (3, 2), stride=stride, padding=padding, groups=groups, rng=0, dtype=np.float64)

    def theirs(x: Any, weight: Any, bias: Any) -> Any:
        options = {"stride": stride, "padding": padding, "groups": groups}
        return channels_last(torch.nn.functional.conv2d(images(x), weight.permute(3, 2, 0, 1), bias, **options))

    compare(call, theirs, model, rng.standard_normal((2, 7, 5, 4)), rng)


@pytest.mark.parametrize(("window", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), ((2, 3), (3, 2), (1, 0))])
def test_pools(window: Any, stride: Any, padding: Any, rng: np.random.Generator) -> None:
    functional = torch.nn.functional
    x = rng.standard_normal((2, 9, 8, 3))
    x[0] = x[0].round()  # ties
    compare(
        call,
        lambda x: channels_last(functional.max_pool2d(images(x), window, stride, padding)),
        nn.MaxPool2d(window, stride=stride, padding=padding),
        x,
        rng,
    )
    for include in (True, False):
        compare(
            call,
            lambda x, include=include: channels_last(
                functional.avg_pool2d(images(x), window, stride, padding, count_include_pad=include)
            ),
            nn.AvgPool2d(window, stride=stride, padding=padding, count_include_pad=include),
            x,
            rng,
        )


def test_batch_norm(rng: np.random.Generator) -> None:
    model = nn.BatchNorm(3, dtype=np.float64)
    model.gamma = rng.uniform(0.5, 2, 3)
    peer = torch.nn.BatchNorm1d(3).double()

    def theirs(x: Any, gamma: Any, beta: Any) -> Any:
        return torch.nn.functional.batch_norm(x, peer.running_mean, peer.running_var, gamma, beta, training=True)

    for _ in range(3):
        compare(call, theirs, model, 2 * rng.standard_normal((6, 3)) + 1, rng)
        np.testing.assert_allclose(model.running_mean.value, peer.running_mean.numpy(), rtol=1e-12)
        np.testing.assert_allclose(model.running_variance.value, peer.running_var.numpy(), rtol=1e-12)
    model.eval()

    def evaluated(x: Any, gamma: Any, beta: Any) -> Any:
        return torch.nn.functional.batch_norm(x, peer.running_mean, peer.running_var, gamma, beta, training=False)

    compare(call, evaluated, model, rng.standard_normal((6, 3)), rng)


def test_layer_norm(rng: np.random.Generator) -> None:
    model = nn.LayerNorm(5, dtype=np.float64)
    model.gamma = rng.uniform(0.5, 2, 5)
    compare(
        call,
        lambda x, gamma, beta: torch.nn.functional.layer_norm(x, (5,), gamma, beta),
        model,
        rng.standard_normal((2, 3, 5)),
        rng,
    )


@pytest.mark.parametrize(
    ("model", "theirs"),
    [
        (nn.ReLU(), torch.relu),
        (nn.LeakyReLU(0.1), lambda x: torch.nn.functional.leaky_relu(x, 0.1)),
        (nn.PReLU(4, dtype=np.float64), lambda x, slope: torch.nn.functional.prelu(x, slope)),
        (nn.Sigmoid(), torch.sigmoid),
        (nn.Tanh(), torch.tanh),
        (nn.GELU(), torch.nn.functional.gelu),
        (nn.Softmax(), lambda x: torch.softmax(x, -1)),
        (nn.Linear(4, 3, rng=0, dtype=np.float64), lambda x, weight, bias: x @ weight + bias),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_functions(model: nn.Module, theirs: Callable[..., Any], rng: np.random.Generator) -> None:
    compare(call, theirs, model, 2 * rng.standard_normal((5, 4)), rng)


@pytest.mark.parametrize(
    ("cell", "peer"),
    [(nn.RNNCell, torch.nn.RNN), (nn.LSTMCell, torch.nn.LSTM), (nn.GRUCell, torch.nn.GRU)],
    ids=["rnn", "lstm", "gru"],
)
def test_recurrent(cell: Any, peer: Any, rng: np.random.Generator) -> None:
    model = nn.Recurrent(cell(3, 4, rng=0, dtype=np.float64))
    model = pb.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape), model)
    layer = peer(3, 4, batch_first=True).double()

    def theirs(x: Any, **parameters: Any) -> Any:
        values = {
            "weight_ih_l0": parameters["cell_input_weight"].T,
            "weight_hh_l0": parameters["cell_hidden_weight"].T,
            "bias_ih_l0": parameters["cell_input_bias"],
            "bias_hh_l0": parameters["cell_hidden_bias"],
        }
        return torch.func.functional_call(layer, values, (x,))[0]

    compare(call, theirs, model, rng.standard_normal((2, 5, 3)), rng)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy(smoothing: float, rng: np.random.Generator) -> None:
    logits, labels, soft = rng.standard_normal((6, 4)), rng.integers(4, size=6), rng.dirichlet(np.ones(4), size=6)
    for targets in (labels, soft):
        value, gradient = pb.value_and_grad(nn.softmax_cross_entropy)(logits, targets, label_smoothing=smoothing)
        peer = to_torch(logits)
        loss = torch.nn.functional.cross_entropy(peer, torch.tensor(targets), label_smoothing=smoothing)
        loss.backward()
        np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
        np.testing.assert_allclose(gradient, peer.grad.numpy(), rtol=1e-9, atol=1e-13)


def test_binary_cross_entropy(rng: np.random.Generator) -> None:
    logits, targets = 5 * rng.standard_normal(20), rng.uniform(size=20)
    value, gradient = pb.value_and_grad(nn.binary_cross_entropy_with_logits)(logits, targets)
    peer = to_torch(logits)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(peer, torch.tensor(targets))
    loss.backward()
    np.testing.assert_allclose(value, loss.item(), rtol=1e-12)
    np.testing.assert_allclose(gradient, peer.grad.numpy(), rtol=1e-9)
