"""Modules as plain data: trees, state, modes, tables, and errors that name the layer."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn


class Net(nn.Module):
    """Parts in an attribute, a list and a dict, and a parameter and a setting of its own."""

    def __init__(self) -> None:
        self.first = nn.Linear(3, 4, rng=0)
        self.hidden = [nn.Linear(4, 4, rng=i) for i in (1, 2)]
        self.heads = {"a": nn.Linear(4, 2, rng=3), "b": nn.Sequential(norm=nn.BatchNorm(4))}
        self.scale = np.ones(1, np.float32)
        self.depth = 2

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        for layer in self.hidden:
            x = layer(x)
        return self.heads["a"](self.heads["b"](x)) * self.scale


PATHS = [
    "first.weight", "first.bias", "hidden[0].weight", "hidden[0].bias", "hidden[1].weight", "hidden[1].bias",
    "heads['a'].weight", "heads['a'].bias", "heads['b'].norm.gamma", "heads['b'].norm.beta", "scale",
]  # fmt: skip


def test_parameters_and_state() -> None:
    net = Net()
    assert list(net.parameters()) == PATHS == pb.tree.paths(net)
    buffers = ["heads['b'].norm.running_mean", "heads['b'].norm.running_variance"]
    assert list(net.buffers()) == buffers
    assert list(net.state()) == PATHS + buffers
    assert nn.count_parameters(net) == 16 + 20 + 20 + 10 + 8 + 1


def test_gradients_are_shaped_like_the_model(rng: np.random.Generator) -> None:
    net = Net()
    x = rng.standard_normal((5, 3)).astype(np.float32)
    value, gradient = pb.value_and_grad(lambda net, x: np.sum(net(x) ** 2))(net, x)
    assert isinstance(gradient, Net)
    assert gradient.depth == 2
    better = pb.tree.map(lambda w, g: w - 1e-3 * g, net, gradient)
    assert np.sum(better(x) ** 2) < value
    assert better.buffers()["heads['b'].norm.running_mean"] is net.buffers()["heads['b'].norm.running_mean"]


def test_any_leaves_keep_the_structure() -> None:
    net = Net()
    sizes = pb.tree.map(lambda w: w.size, net)
    assert pb.tree.leaves(sizes) == [w.size for w in pb.tree.leaves(net)]
    assert pb.tree.paths(pb.tree.map(lambda size: str(size), sizes)) == PATHS


def test_models_with_other_parts_do_not_match() -> None:
    with pytest.raises(pb.TreeError):
        pb.tree.map(lambda a, b: a, nn.Linear(2, 2, rng=0), nn.Linear(2, 2, bias=False, rng=0))


def test_state_inside_a_transform_is_seen_outside(rng: np.random.Generator) -> None:
    layer = nn.BatchNorm(3, dtype=np.float64)
    x = rng.standard_normal((10, 3)) + 5
    pb.grad(lambda layer: np.sum(layer(x)))(layer)
    np.testing.assert_allclose(layer.running_mean.value, 0.1 * x.mean(axis=0))
    np.testing.assert_allclose(layer.running_variance.value, 0.9 + 0.1 * x.var(axis=0, ddof=1))
    assert type(layer.running_mean.value) is np.ndarray


def test_round_trip(rng: np.random.Generator) -> None:
    source, target = Net(), Net()
    source(rng.standard_normal((6, 3)).astype(np.float32))
    source = pb.tree.map(lambda w: w + 1, source)
    parts = [target.first, *target.hidden]
    state = source.state()
    target.load_state(state)
    for path, value in state.items():
        np.testing.assert_array_equal(target.state()[path], value)
    assert all(a is b for a, b in zip(parts, [target.first, *target.hidden], strict=True))
    target.first.weight += 1
    assert not np.array_equal(target.first.weight, state["first.weight"]), "the loaded arrays are copies"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda s: s.pop("first.bias"), pb.RunError, "no array 'first.bias'"),
        (lambda s: s.update(other=np.zeros(1)), pb.RunError, "an array 'other'"),
        (
            lambda s: s.update(scale=np.zeros(2, np.float32)),
            pb.ShapeError,
            r"expected 'scale' of shape \(1,\), got \(2,\)",
        ),
        (lambda s: s.update(scale=np.zeros(1)), pb.RunError, "expected 'scale' of dtype float32, got float64"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change: Any, error: type[Exception], message: str) -> None:
    net = Net()
    before = net.state()
    state = {path: value + 1 for path, value in before.items()}
    change(state)
    with pytest.raises(error, match=message):
        net.load_state(state)
    for path, value in net.state().items():
        np.testing.assert_array_equal(value, before[path])


def test_train_and_eval_reach_every_layer() -> None:
    net = Net()
    assert net.eval() is net
    assert not any(module.training for _, module in net.modules())
    assert all(module.training for _, module in net.train().modules())


def test_copies_are_independent() -> None:
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        other.first.weight += 1
        other(np.ones((4, 3), np.float32))
        assert not np.array_equal(other.first.weight, net.first.weight)
        np.testing.assert_array_equal(net.buffers()["heads['b'].norm.running_mean"].value, 0)


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        (
            nn.Sequential(level1=nn.Sequential(conv0=nn.Conv2d(32, 8, rng=0))),
            (2, 9, 9, 3),
            "Conv2d 'level1.conv0': expected input (N, H, W, 32), got (N, H, W, 3)",
        ),
        (
            nn.Sequential(level1=nn.Conv2d(32, 8, rng=0)),
            (9, 32),
            "Conv2d 'level1': expected input (N, H, W, 32), got (9, 32)",
        ),
        (nn.Linear(4, 2, rng=0), (5, 3), "Linear: expected input (..., 4), got (..., 3)"),
        (Net(), (2, 5), "Linear 'first': expected input (..., 3), got (..., 5)"),
        (nn.Sequential(nn.LayerNorm(4)), (2, 5), "LayerNorm '0': expected input (..., 4), got (..., 5)"),
        (nn.Sequential(pool=nn.MaxPool2d(2)), (2, 5), "MaxPool2d 'pool': expected input (N, H, W, C), got (2, 5)"),
        (
            nn.Sequential(conv=nn.Conv2d(1, 1, 5, rng=0)),
            (1, 4, 9, 1),
            "conv2d 'conv': a kernel (5, 5) does not fit in images (4, 9) with padding ((0, 0), (0, 0))",
        ),
        (
            nn.Sequential(res=nn.Residual(nn.Linear(3, 2, rng=0))),
            (5, 3),
            "Residual 'res': expected the branch to give the shape of the input, (5, 3), got (5, 2)",
        ),
        (nn.Recurrent(nn.GRUCell(3, 2, rng=0)), (5, 3), "Recurrent: expected input (N, T, 3), got (5, 3)"),
    ],
)
def test_shape_errors_name_the_layer(model: nn.Module, shape: tuple[int, ...], message: str) -> None:
    x = np.zeros(shape, np.float32)
    with pytest.raises(pb.ShapeError) as caught:
        model(x)
    assert str(caught.value) == message
    with pytest.raises(pb.ShapeError) as caught:
        pb.grad(lambda model: np.sum(model(x)))(pb.tree.map(lambda w: w, model))
    assert str(caught.value) == message


def test_shape_error_in_a_list_names_the_place() -> None:
    net = Net()
    net.hidden[1] = nn.Linear(7, 4, rng=0)
    with pytest.raises(pb.ShapeError, match=r"Linear 'hidden\[1\]': expected input \(\.\.\., 7\)"):
        net(np.zeros((2, 3), np.float32))


def test_summary() -> None:
    model = nn.Sequential(
        conv=nn.Conv2d(3, 8, padding=1, rng=0), mean=nn.GlobalAvgPool2d(), out=nn.Linear(8, 10, rng=0)
    )
    assert "-" in str(model).splitlines()[2]
    lines = model.summary((6, 5, 3)).splitlines()
    assert lines[0].split() == ["name", "layer", "output", "shape", "parameters"]
    assert lines[2].split() == ["conv", "Conv2d", "(N,", "6,", "5,", "8)", "224"]
    assert lines[4].split() == ["out", "Linear", "(N,", "10)", "90"]
    assert lines[-1].split() == ["total", "314"]
    model(np.zeros((2, 4, 4, 3), np.float32))
    assert "(N, 4, 4, 8)" in str(model), "the shape last seen"
    model.input_shape = (7, 7, 3)
    assert "(N, 7, 7, 8)" in str(model)


def test_summary_leaves_the_model_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4, rng=0), nn.Dropout(rng=0), nn.BatchNorm(4))
    model[1].eval()
    before = {path: np.array(value) for path, value in model.state().items()}
    model.summary((3,))
    assert [layer.training for layer in (model[0], model[1], model[2])] == [True, False, True]
    for path, value in model.state().items():
        np.testing.assert_array_equal(value, before[path])


def test_a_tuple_of_modules_is_refused() -> None:
    net = Net()
    net.pair = (nn.Linear(2, 2, rng=0), 1)
    with pytest.raises(pb.TreeError, match=r"Net\.pair is a tuple"):
        net.parameters()


def test_sequential_names() -> None:
    model = nn.Sequential(("act", nn.ReLU()), out=nn.Linear(2, 1, rng=0))
    assert model["act"] is model[0] is model.act
    assert len(model) == 2
    with pytest.raises(pb.ConfigError, match="'train' is taken"):
        nn.Sequential(train=nn.ReLU())


def test_a_whole_training_step_is_recorded_as_a_program() -> None:
    """Forward, backward and update are one list of steps, fused primitives whole, and running it again gives the
    same."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, rng=0), nn.BatchNorm(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, rng=0))
    optimiser = pb.optim.adam(1e-2)
    images = np.random.default_rng(0).normal(size=(2, 6, 6, 3)).astype(np.float32)

    def step(model: Any, state: Any) -> Any:
        loss, gradient = pb.value_and_grad(lambda model: nn.softmax_cross_entropy(model(images), np.array([1, 2])))(
            model
        )
        updates, state = optimiser.update(gradient, state, model)
        return pb.optim.apply_updates(model, updates), loss

    state = optimiser.init(model)
    record = pb.record(step, model, state)
    assert record.counts()["batch_norm.forward"] == record.counts()["batch_norm.backward"] == 1
    values = pb.tree.leaves((model, state))
    assert len(values) == len(record.inputs)
    for s in record.steps:
        args = [values[i] if known else i for i, known in zip(s.inputs, s.refers, strict=True)]
        y = s.primitive.fn(*args, **s.params)
        values.extend(
            part for part in (y if isinstance(y, tuple) else (y,)) if isinstance(part, np.ndarray | np.generic)
        )
        assert [v.shape for v in values[-len(s.outputs) :]] == [v.shape for v in s.outputs.values()]
    expected, loss = step(model, state)
    np.testing.assert_allclose(record.result[1], loss, rtol=1e-6)
    last = [v for v in values if v.shape == expected[4].bias.shape][-1]
    np.testing.assert_allclose(last, expected[4].bias, rtol=1e-6)
