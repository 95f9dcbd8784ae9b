"""`pb.compile`: the same results as the function itself, for every kind of program, and clear errors elsewhere."""

from __future__ import annotations

import contextlib
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pullback as pb
from pullback import nn, optim
from pullback.program import recording
from pullback.rules.nn import softmax_cross_entropy

RNG = np.random.default_rng(0)


def assert_same(got, expected, rtol=1e-10):
    """Equal trees: structure, types, shapes, and values to `rtol` of the largest number (the machine's own tanh)."""
    leaves, structure = pb.tree.flatten(got)
    others, other = pb.tree.flatten(expected)
    assert structure == other
    floats = [leaf for leaf in others if getattr(leaf, "dtype", np.dtype(int)).kind == "f"]
    scale = max((np.max(np.abs(leaf), initial=0) for leaf in floats), default=0)
    for a, b in zip(leaves, others, strict=True):
        assert type(a) is type(b)
        if isinstance(b, np.ndarray | np.generic):
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            tolerance = rtol if b.dtype != np.float32 else 1e-5
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)
        else:
            assert a == b


# -- random programs -------------------------------------------------------------------------------------------------
UNARY = [
    np.tanh, np.sin, np.exp, np.negative, np.square, np.abs, np.transpose,
    lambda x: x.reshape(-1), lambda x: x[..., 1:], lambda x: x[::-1], lambda x: np.expand_dims(x, 0),
    lambda x: np.sum(x, axis=0), lambda x: np.mean(x, axis=-1, keepdims=True), lambda x: np.max(x, axis=-1),
    lambda x: x * 1.0, lambda x: np.where(x > 0, x, 0.5), lambda x: x**3, lambda x: np.concatenate([x, x * 2]),
    lambda x: np.cumsum(x, axis=0), lambda x: np.sqrt(np.abs(x) + 0.1),
]  # fmt: skip
BINARY = [np.add, np.subtract, np.multiply, np.maximum, np.minimum, lambda x, y: x / (y * y + 1.0), np.matmul]


@st.composite
def programs(draw):
    """A function of two matrices made of a list of choices; what does not fit is left out when it runs."""
    choices = draw(
        st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=3, max_size=12)
    )

    def f(a, b):
        values = [a, b]
        for which, first, second in choices:
            x, y = values[-1 - first % len(values)], values[-1 - second % len(values)]
            pool = UNARY if which % 2 else BINARY
            function = pool[which // 2 % len(pool)]
            try:
                new = function(x) if which % 2 else function(x, y)
            except (ValueError, IndexError):  # the shapes do not fit
                continue
            if new.size and new.size < 300 and new.ndim < 5:
                values.append(new)
        return values[-1], sum(np.sum(np.tanh(v)) for v in values)

    return f


@contextlib.contextmanager
def unknown_from(elements):
    """Numbers are not computed in a recording from so many elements on."""
    before, recording.LARGE = recording.LARGE, elements
    try:
        yield
    finally:
        recording.LARGE = before


@given(f=programs(), dtype=st.sampled_from([np.float64, np.float32]), unknown=st.sampled_from([0, 20, 1 << 20]))
@settings(max_examples=100, deadline=None)
def test_a_random_program_equals_the_function(f, dtype, unknown):
    compiled = pb.compile(f)
    for seed in (1, 2):
        a, b = np.random.default_rng(seed).normal(size=(2, 3, 3)).astype(dtype)
        with np.errstate(all="ignore"):
            expected = f(a, b)
            if all(np.isfinite(leaf).all() for leaf in expected):
                with unknown_from(unknown):
                    assert_same(compiled(a, b), expected)


@given(f=programs(), unknown=st.sampled_from([0, 20, 1 << 20]))
@settings(max_examples=50, deadline=None)
def test_the_gradient_of_a_random_program_equals_the_gradient(f, unknown):
    def loss(a, b):
        return f(a, b)[1]

    compiled = pb.compile(pb.value_and_grad(loss, (0, 1)))
    for seed in (1, 2):
        a, b = np.random.default_rng(seed).normal(size=(2, 3, 3))
        with np.errstate(all="ignore"):
            expected = pb.value_and_grad(loss, (0, 1))(a, b)
            if all(np.isfinite(leaf).all() for leaf in pb.tree.leaves(expected)):
                with unknown_from(unknown):
                    assert_same(compiled(a, b), expected, rtol=1e-8)


# -- training --------------------------------------------------------------------------------------------------------
def network(seed, *extra):
    return nn.Sequential(nn.Linear(6, 8, rng=seed), *extra, nn.Tanh(), nn.Linear(8, 3, rng=seed + 1))


def batches(count, size=16):
    rng = np.random.default_rng(7)
    for _ in range(count):
        x = rng.normal(size=(size, 6)).astype(np.float32)
        yield x, np.eye(3, dtype=np.float32)[rng.integers(3, size=size)]


def train(model, optimiser, steps, compiled):
    def loss(model, x, y):
        logits = model(x)
        return softmax_cross_entropy(logits, y), logits

    def step(model, state, x, y):
        (value, logits), gradient = pb.value_and_grad(loss, has_aux=True)(model, x, y)
        updates, state = optimiser.update(gradient, state, model)
        accuracy = np.mean(np.equal(np.argmax(logits, -1), np.argmax(y, -1)) * 1.0)
        return value, accuracy, optim.apply_updates(model, updates), state

    run = pb.compile(step) if compiled else step
    state, history = optimiser.init(model), []
    for x, y in batches(steps):
        value, accuracy, model, state = run(model, state, x, y)
        history.append((value, accuracy))
    return history, model.state(), run


@pytest.mark.parametrize(
    "optimiser",
    [optim.sgd(0.1, momentum=0.9), optim.adam(0.01), optim.adamw(0.01, weight_decay=0.1), optim.rmsprop(0.01)],
    ids=["sgd", "adam", "adamw", "rmsprop"],
)
def test_training_steps_equal_the_eager_ones(optimiser):
    eager = train(network(0), optimiser, 6, compiled=False)
    compiled = train(network(0), optimiser, 6, compiled=True)
    assert_same(compiled[0], eager[0])
    assert_same(compiled[1], eager[1])
    assert len(compiled[2]._programs) == 1


def test_running_statistics_and_dropout_move_on_as_in_eager():
    models = [network(0, nn.BatchNorm(8), nn.Dropout(0.5, rng=3)) for _ in range(2)]
    eager = train(models[0], optim.sgd(0.1), 5, compiled=False)
    compiled = train(models[1], optim.sgd(0.1), 5, compiled=True)
    assert_same(compiled[0], eager[0])
    assert_same(compiled[1], eager[1])
    assert compiled[1]["2.calls"] == 5
    assert np.abs(compiled[1]["1.running_mean"]).max() > 0


@pytest.mark.parametrize("kind", [nn.RNNCell, nn.LSTMCell, nn.GRUCell])
def test_recurrent_networks(kind):
    model = nn.Recurrent(kind(4, 5, rng=0, dtype=np.float64))
    x = RNG.normal(size=(2, 7, 4))

    def loss(model, x):
        return np.mean(model(x) ** 2)

    both = pb.value_and_grad(loss, (0, 1))
    assert_same(pb.tree.leaves(pb.compile(both)(model, x)), pb.tree.leaves(both(model, x)))


def test_convolution_and_pooling():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2 * 3 * 3, 3, rng=1))
    gradient = pb.grad(lambda model, x: np.sum(model(x) ** 2))
    compiled = pb.compile(gradient)
    for seed in (0, 1):
        x = np.random.default_rng(seed).normal(size=(2, 8, 8, 1)).astype(np.float32)
        assert_same(pb.tree.leaves(compiled(model, x)), pb.tree.leaves(gradient(model, x)))


# -- arguments -------------------------------------------------------------------------------------------------------
def test_other_shapes_dtypes_and_settings_are_recorded_again():
    calls = []

    def f(x, power, mode="sum"):
        calls.append((x.shape, power, mode))
        y = x**power
        return np.sum(y) if mode == "sum" else y

    compiled = pb.compile(f)
    small, large = RNG.normal(size=3), RNG.normal(size=(2, 3))
    for arguments in ((small, 2), (large, 2), (small, 2), (small, 3), (small.astype(np.float32), 2), (large, 2)):
        assert_same(compiled(*arguments), f(*arguments))
    assert_same(compiled(small, 2, mode="all"), small**2)
    recorded = [call for call in calls if call[0] is not None]
    assert len(compiled._programs) == 5
    assert len(recorded) == 5 + 6  # one a program, and the six eager calls


def test_a_python_float_keeps_the_dtype_as_in_eager():
    compiled = pb.compile(lambda x, rate: x * rate)
    x = np.ones(3, np.float32)
    assert compiled(x, 0.1).dtype == np.float32
    np.testing.assert_array_equal(compiled(x, 0.2), x * 0.2)
    assert_same(compiled(x, np.float64(0.2)), x * np.float64(0.2))


def test_modes_of_a_module_are_settings():
    model = nn.Sequential(nn.Linear(6, 8, rng=0), nn.Dropout(0.5, rng=1))
    compiled = pb.compile(lambda model, x: model(x))
    x = RNG.normal(size=(4, 6)).astype(np.float32)
    trained = compiled(model.train(), x)
    evaluated = compiled(model.eval(), x)
    assert (trained == 0).any()
    assert_same(evaluated, model(x))


def test_a_module_is_compiled_with_its_parameters_as_inputs():
    model = nn.Linear(3, 2, rng=0)
    compiled = pb.compile(model)
    x = RNG.normal(size=(4, 3)).astype(np.float32)
    first = compiled(x)
    model.weight = model.weight * 2
    assert_same(compiled(x), model(x))
    assert not np.allclose(first, model(x))


def test_a_method():
    class Double(nn.Module):
        def __init__(self):
            self.weight = np.full(2, 2.0)

        @pb.compile
        def forward(self, x):
            return x * self.weight

    model = Double()
    np.testing.assert_array_equal(model(np.ones(2)), [2.0, 2.0])
    model.weight = np.full(2, 3.0)
    np.testing.assert_array_equal(model(np.ones(2)), [3.0, 3.0])
    np.testing.assert_array_equal(pb.grad(lambda m: np.sum(m(np.ones(2))))(model).weight, [1.0, 1.0])


def test_results_are_the_caller_s_own():
    x = RNG.normal(size=5)
    compiled = pb.compile(lambda x: (x, x * 1.0, x[1:], np.ones(2), [np.exp(x)], "text", None, 3))
    first = compiled(x)
    assert first[5:] == ("text", None, 3)
    second = compiled(x)
    for y in pb.tree.leaves(first)[:5]:
        y[:] = -1
    assert_same(second, compiled(x))
    assert not (x == -1).any()


def test_indices_and_labels_are_inputs():
    table = RNG.normal(size=(5, 3))
    compiled = pb.compile(pb.grad(lambda table, rows: np.sum(table[rows] ** 2)))
    for rows in (np.array([0, 1, 1]), np.array([4, 4, 2])):
        assert_same(compiled(table, rows), pb.grad(lambda table: np.sum(table[rows] ** 2))(table))  # noqa: B023


def test_writes_at_traced_indices():
    def f(x, rows):
        y = np.zeros_like(x)
        y[rows] = x[rows] * 2
        y[0] += 1.0
        return np.sum(y**2)

    compiled = pb.compile(pb.grad(f))
    x = RNG.normal(size=5)
    for rows in (np.array([0, 1, 1]), np.array([4, 4, 2])):
        assert_same(compiled(x, rows), pb.grad(f)(x, rows))


def test_logsumexp_moves_its_maximum_with_the_values():
    compiled = pb.compile(lambda x: np.logaddexp.reduce(x))
    compiled(np.zeros(3))
    np.testing.assert_allclose(compiled(np.array([1e4, 0.0, 0.0])), 1e4)


def test_closed_over_arrays_are_read_when_recorded():
    offset = np.array([1.0, 2.0])
    compiled = pb.compile(lambda x: x + offset)
    assert_same(compiled(np.zeros(2)), np.array([1.0, 2.0]))
    offset[:] = 5.0
    assert_same(compiled(np.zeros(2)), np.array([1.0, 2.0]))


def test_inside_a_transform_and_inside_another_program_the_function_itself_runs():
    inner = pb.compile(lambda x: np.sum(np.tanh(x) ** 2))
    x = RNG.normal(size=4)
    assert_same(pb.grad(inner)(x), pb.grad(lambda x: np.sum(np.tanh(x) ** 2))(x))
    assert_same(pb.compile(pb.grad(inner))(x), pb.grad(inner)(x))


def test_higher_derivatives_and_checkpoint():
    def f(x):
        return np.sum(pb.checkpoint(lambda x: np.sin(x) * np.exp(x))(x))

    x = RNG.normal(size=3)
    for transform in (pb.hessian(f), pb.grad(lambda x: np.sum(pb.grad(f)(x) ** 2)), lambda x: pb.jvp(f, (x,), (x,))):
        assert_same(pb.compile(transform)(x), transform(x))


def test_several_threads_at_once():
    compiled = pb.compile(pb.grad(lambda x: np.sum(np.tanh(x) ** 2)))
    inputs = [RNG.normal(size=50) for _ in range(8)]
    expected = [compiled(x) for x in inputs]
    wrong = []

    def work(k):
        for _ in range(50):
            if not np.array_equal(compiled(inputs[k]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_old_programs_are_dropped():
    compiled = pb.compile(lambda x, n: x * n)
    for n in range(40):
        compiled(np.ones(1), n)
    assert len(compiled._programs) == 32
    np.testing.assert_array_equal(compiled(np.ones(1), 0), [0.0])


# -- errors ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "f",
    [
        lambda x: x if x[0] > 0 else -x,
        lambda x: x * float(x[0]),
        lambda x: x * x[0].item(),
        lambda x: x * x.value,
        lambda x: x * int(x[0]),
        lambda x: x + np.array(x.tolist()),
        lambda x: np.asarray(x) + x,
        lambda x: x[np.nonzero(x)[0]] if np.array_equal(x, x) else x,
        lambda x: np.zeros(3) if (x > 0).any() else x,
    ],
)
def test_values_are_hidden_from_python(f):
    with pytest.raises(
        pb.LeavesTapeError, match=r"pb\.compile: Python asks for the value of an array at .*test_compile"
    ):
        pb.compile(f)(np.ones(3))
    # Inside a gradient, too.
    with pytest.raises(pb.LeavesTapeError, match=r"pb\.compile"):
        pb.compile(pb.grad(lambda x: np.sum(f(x))))(np.ones(3))


def test_a_mask_that_changes_a_shape_is_refused_when_it_does():
    compiled = pb.compile(lambda x: np.sum(x[x > 0] * 2))
    assert compiled(np.array([1.0, 2.0, -1.0])) == 6.0
    assert compiled(np.array([-1.0, 2.0, 3.0])) == 10.0
    with pytest.raises(pb.ShapeError, match="Shapes must not depend on the values"):
        compiled(np.array([1.0, -2.0, -1.0]))


def test_writing_into_an_argument_is_refused():
    def f(weights, x):
        weights["w"][0] = 1.0
        return x * weights["w"]

    with pytest.raises(pb.MutationError, match=r"writes into its argument at \[0\]\[0\]\['w'\]"):
        pb.compile(f)({"w": np.zeros(3)}, np.ones(3))


def test_a_custom_rule_that_saves_a_number_of_the_values_is_refused():
    top = pb.custom(lambda x: (x * 2, (x, float(np.max(x)))), lambda saved, g: g * saved[1])
    compiled = pb.compile(pb.grad(lambda x: np.sum(top(x))))
    np.testing.assert_array_equal(compiled(np.array([1.0, 2.0])), [2.0, 2.0])
    with pytest.raises(pb.PullbackError, match="must be an array"):
        compiled(np.array([1.0, 3.0]))


def test_an_error_in_the_function_leaves_nothing_behind():
    model = nn.BatchNorm(2)

    def f(x, fail):
        y = model(x)
        if fail:
            raise ValueError("mine")
        return y

    x = RNG.normal(size=(4, 2)).astype(np.float32)
    with pytest.raises(ValueError, match="mine"):
        pb.compile(f)(x, True)
    assert not model.running_mean.value.any()
    model(x)  # eager again
    assert model.running_mean.value.any()


# -- explain ---------------------------------------------------------------------------------------------------------
def test_explain_shows_steps_types_bytes_lines_and_times():
    compiled = pb.compile(pb.grad(lambda x: np.sum(np.tanh(x) * 1.0)))
    text = str(compiled.explain(np.ones(4), profile=True))
    before, after = text.split("after the passes")
    assert "float64[4] 32 B" in before
    assert "test_compile.py" in before
    assert len(before.splitlines()) > len(after.splitlines())
    assert " us" in after
    assert "memory alive at once: at most" in after
    assert " us" not in str(compiled.explain(np.ones(4)))


def test_explain_changes_no_state():
    model = nn.BatchNorm(2)
    compiled = pb.compile(lambda model, x: model(x))
    compiled.explain(model, np.ones((3, 2), np.float32), profile=True)
    assert not model.running_mean.value.any()
