"""Every layer: gradients against central differences, dtypes, one-element batches, and what it computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.program import lowering

Build = Callable[[Any], nn.Module]

LAYERS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "linear": (lambda t: nn.Linear(5, 3, rng=0, dtype=t), (4, 5)),
    "linear without bias": (lambda t: nn.Linear(5, 3, bias=False, rng=0, dtype=t), (2, 4, 5)),
    "conv": (lambda t: nn.Conv2d(3, 4, 3, padding=1, rng=0, dtype=t), (2, 5, 4, 3)),
    "conv of many channels": (lambda t: nn.Conv2d(36, 4, 2, padding=1, rng=0, dtype=t), (2, 3, 4, 36)),
    "conv, stride": (lambda t: nn.Conv2d(3, 4, (3, 2), stride=(2, 3), padding=(1, 0), rng=0, dtype=t), (2, 7, 8, 3)),
    "conv same": (lambda t: nn.Conv2d(2, 3, 4, stride=2, padding="same", rng=0, dtype=t), (1, 5, 6, 2)),
    "conv in groups": (lambda t: nn.Conv2d(4, 6, 3, groups=2, rng=0, dtype=t), (2, 4, 5, 4)),
    "depthwise conv": (lambda t: nn.Conv2d(3, 3, 3, padding=1, groups=3, rng=0, dtype=t), (2, 4, 4, 3)),
    "depthwise, two outputs each": (lambda t: nn.Conv2d(3, 6, 2, stride=2, groups=3, rng=0, dtype=t), (2, 5, 4, 3)),
    "batch norm": (lambda t: nn.BatchNorm(3, dtype=t), (4, 2, 3, 3)),
    "batch norm, evaluation": (lambda t: nn.BatchNorm(3, dtype=t).eval(), (4, 3)),
    "layer norm": (lambda t: nn.LayerNorm(5, dtype=t), (2, 3, 5)),
    "dropout": (lambda t: nn.Dropout(0.4, rng=0), (6, 5)),
    "relu": (lambda t: nn.ReLU(), (3, 4)),
    "relu6": (lambda t: nn.ReLU6(), (3, 4)),
    "leaky relu": (lambda t: nn.LeakyReLU(0.1), (3, 4)),
    "prelu": (lambda t: nn.PReLU(4, dtype=t), (3, 4)),
    "prelu, one slope": (lambda t: nn.PReLU(dtype=t), (3, 4)),
    "sigmoid": (lambda t: nn.Sigmoid(), (3, 4)),
    "tanh": (lambda t: nn.Tanh(), (3, 4)),
    "gelu": (lambda t: nn.GELU(), (3, 4)),
    "softmax": (lambda t: nn.Softmax(), (3, 4)),
    "max pool": (lambda t: nn.MaxPool2d(3, stride=2, padding=1), (2, 7, 6, 3)),
    "max pool, odd window": (lambda t: nn.MaxPool2d((2, 3), stride=(3, 1)), (2, 7, 5, 3)),
    "average pool": (lambda t: nn.AvgPool2d(2), (2, 5, 4, 3)),
    "average pool of what is inside": (
        lambda t: nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
        (1, 5, 6, 2),
    ),
    "global average": (lambda t: nn.GlobalAvgPool2d(), (2, 3, 4, 5)),
    "flatten": (lambda t: nn.Flatten(), (2, 3, 4)),
    "rnn": (lambda t: nn.Recurrent(nn.RNNCell(3, 4, rng=0, dtype=t)), (2, 5, 3)),
    "lstm": (lambda t: nn.Recurrent(nn.LSTMCell(3, 4, rng=0, dtype=t)), (2, 5, 3)),
    "gru, last output": (lambda t: nn.Recurrent(nn.GRUCell(3, 4, rng=0, dtype=t), last=True), (2, 5, 3)),
    "residual": (lambda t: nn.Residual(nn.Linear(3, 3, rng=0, dtype=t)), (4, 3)),
    "residual with shortcut": (
        lambda t: nn.Residual(nn.Linear(3, 2, rng=0, dtype=t), nn.Linear(3, 2, rng=1, dtype=t)),
        (4, 3),
    ),
    "sequential": (
        lambda t: nn.Sequential(nn.Linear(3, 4, rng=0, dtype=t), nn.Tanh(), nn.Linear(4, 2, rng=1, dtype=t)),
        (5, 3),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_gradients(name: str, rng: np.random.Generator, check_gradients: Callable[..., None]) -> None:
    build, shape = LAYERS[name]
    model = build(np.float64)
    # Off the initial values, where biases and slopes are special.
    model = pb.tree.map(lambda w: w + 0.1 * rng.standard_normal(w.shape), model)
    check_gradients(lambda model, x: model(x), model, rng.standard_normal(shape))


@pytest.mark.parametrize("name", LAYERS)
def test_float32_stays_float32(name: str, rng: np.random.Generator) -> None:
    build, shape = LAYERS[name]
    model = build(np.float32)
    x = rng.standard_normal(shape).astype(np.float32)
    y, pullback = pb.vjp(lambda model, x: model(x), model, x)
    assert y.dtype == np.float32
    gradients = pb.tree.leaves(pullback(np.ones_like(y)))
    assert {g.dtype for g in gradients} == {np.dtype(np.float32)}
    assert {value.dtype for value in model.state().values()} <= {np.dtype(np.float32), np.dtype(np.int64)}


@pytest.mark.parametrize("name", LAYERS)
def test_one_example(name: str, rng: np.random.Generator) -> None:
    build, shape = LAYERS[name]
    y = build(np.float64).eval()(rng.standard_normal((1, *shape[1:])))
    assert y.shape[0] == 1
    assert np.isfinite(y).all()


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", LAYERS)
def test_compiled_as_eager(name: str, dtype: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs and gradients, with the kernels wherever they serve."""
    monkeypatch.setattr(lowering, "worth_compiling", lambda *work: True)
    build, shape = LAYERS[name]
    x = rng.standard_normal(shape).astype(dtype)

    def loss(layer: Any, x: Any) -> Any:
        y = layer(x)
        return np.sum(np.sin(y)), y

    both = pb.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    compiled = pb.compile(both)
    for _ in range(2):
        ours, theirs = compiled(build(dtype), x), both(build(dtype), x)
        tolerance = 1e-10 if dtype == np.float64 else 2e-4
        for got, expected in zip(pb.tree.leaves(ours), pb.tree.leaves(theirs), strict=True):
            assert np.asarray(got).dtype == np.asarray(expected).dtype
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


def test_examples_do_not_mix(rng: np.random.Generator) -> None:
    for name, (build, shape) in LAYERS.items():
        model = build(np.float64).eval()
        x = rng.standard_normal(shape)
        alone = np.concatenate([model(x[i : i + 1]) for i in range(len(x))])
        np.testing.assert_allclose(model(x), alone, rtol=1e-12, atol=1e-12, err_msg=name)


def test_embedding(check_gradients: Callable[..., None]) -> None:
    layer = nn.Embedding(5, 3, rng=0, dtype=np.float64)
    numbers = np.array([[0, 4], [4, 1]])
    np.testing.assert_array_equal(layer(numbers)[0, 1], layer.weight[4])
    check_gradients(lambda layer: layer(numbers), layer)
    with pytest.raises(pb.DataError, match=r"from 0 to 4, got 5 at index \(1,\)"):
        layer(np.array([0, 5]))
    with pytest.raises(pb.DtypeError, match="expected integers"):
        layer(np.array([0.0]))


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (0,)])
def test_embedding_in_a_program(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lowering, "worth_compiling", lambda *work: True)
    layer, numbers = nn.Embedding(5, 3, rng=0), np.random.default_rng(0).integers(0, 5, shape)
    matrix = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)

    def loss(layer: Any, numbers: Any) -> Any:
        return np.sum(np.sin(layer(numbers) @ matrix))

    compiled = pb.compile(pb.grad(loss))
    np.testing.assert_allclose(compiled(layer, numbers).weight, pb.grad(loss)(layer, numbers).weight, atol=1e-6)
    for wrong in (5, -1):
        with pytest.raises(IndexError):
            pb.compile(loss)(layer, np.array([0, wrong]))


def test_dropout_keeps_the_mean_and_repeats_from_its_state() -> None:
    layer = nn.Dropout(0.25, rng=3)
    x = np.ones((200, 50))
    y = layer(x)
    assert set(np.unique(y)) == {0.0, 1 / 0.75}
    assert abs(y.mean() - 1) < 0.03
    state = layer.state()
    second = layer(x)
    assert not np.array_equal(y, second)
    again = nn.Dropout(0.25, rng=3)
    again.load_state(state)
    np.testing.assert_array_equal(again(x), second)
    assert layer.eval()(x) is x
    with pytest.raises(pb.ConfigError, match="rate"):
        nn.Dropout(1.0)


def test_dropout_under_checkpoint_draws_one_mask(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 5))
    plain, recomputed = (nn.Dropout(0.5, rng=1) for _ in range(2))
    expected = pb.grad(lambda x: np.sum(plain(x) ** 2))(x)
    np.testing.assert_array_equal(pb.grad(lambda x: np.sum(pb.checkpoint(recomputed)(x) ** 2))(x), expected)
    assert recomputed.calls.value == plain.calls.value == 1


def test_max_pool_gives_ties_to_the_first() -> None:
    gradient = pb.grad(lambda x: np.sum(nn.MaxPool2d(2)(x)))(np.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


def test_max_pool_passes_nan_on(rng: np.random.Generator) -> None:
    x = rng.standard_normal((1, 4, 4, 1))
    x[0, 1, 1, 0] = np.nan
    assert np.isnan(nn.MaxPool2d(3, stride=2, padding=1)(x)).all(), "every window has it"
    gradient = pb.grad(lambda x: np.sum(nn.MaxPool2d(2)(x)))(x)
    assert gradient[0, :2, :2].sum() == 1


def test_recurrent_state_continues(rng: np.random.Generator) -> None:
    layer = nn.Recurrent(nn.LSTMCell(3, 4, rng=0, dtype=np.float64))
    x = rng.standard_normal((2, 6, 3))
    outputs, state = layer.unroll(x[:, :4])
    rest, _ = layer.unroll(x[:, 4:], state)
    np.testing.assert_allclose(np.stack(outputs + rest, axis=1), layer(x), rtol=1e-14)


def test_gelu_values() -> None:
    # x Phi(x) with Phi from tables of the normal distribution.
    np.testing.assert_allclose(
        nn.GELU()(np.array([1.0, -2.0])), [0.8413447460685429, -2 * 0.022750131948179195], rtol=1e-14
    )
