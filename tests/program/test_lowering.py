"""Lowering to kernels and their fusion: the training steps as without, and in place where arguments are donated."""

from __future__ import annotations

import numpy as np
import pytest

import pullback as pb
from pullback import nn, optim
from pullback.kernels import convolution as kernels
from pullback.kernels import matmul
from pullback.nn.models import cifar_cnn, levels_cnn, mlp
from pullback.program import lowering
from pullback.program.operations import DIRECTIONS
from pullback.rules.convolution import conv2d
from pullback.rules.nn import relu


@pytest.fixture(autouse=True)
def lower_everything(monkeypatch):
    """Small networks are lowered as large ones are."""
    monkeypatch.setattr(lowering, "worth_compiling", lambda operations, *arrays: True)


class Residual(nn.Module):
    """A block whose ReLU comes after a sum, and a second use of what a ReLU gave."""

    def __init__(self) -> None:
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False, rng=0)
        self.norm = nn.BatchNorm(8)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1, rng=1)
        self.other = nn.BatchNorm(8)
        self.side = nn.Conv2d(8, 8, 1, stride=2, rng=2)
        self.output = nn.Linear(8, 5, rng=3)

    def forward(self, x):
        y = relu(self.norm(self.first(x)))
        z = relu(self.other(self.second(y)) + self.side(y))
        return self.output(np.mean(relu(z) * 2.0, axis=(1, 2)))


MODELS = {
    "levels": lambda: levels_cnn((16, 16, 3), 5, (8, 16), 2),
    "cifar": lambda: cifar_cnn((32, 32, 3), 5),
    "mlp": lambda: mlp((16, 16, 3), 5, (20, 20)),
    "residual": Residual,
}
OPTIMISERS = {
    "adam": lambda: optim.adam(1e-3),
    "adamw": lambda: optim.adamw(optim.warmup_cosine(1e-3, 2, 10), weight_decay=0.1),
    "sgd": lambda: optim.sgd(1e-3, momentum=0.9),
}


def training_step(optimiser):
    def loss(model, x, y):
        logits = model(x)
        return nn.softmax_cross_entropy(logits, y), logits

    def step(model, state, x, y):
        (value, logits), gradient = pb.value_and_grad(loss, has_aux=True)(model, x, y)
        updates, state = optimiser.update(gradient, state, model)
        return optim.apply_updates(model, updates), state, value, logits

    return step


def batch(size=16, images=6, classes=5):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((images, size, size, 3)).astype(np.float32)
    return x, np.eye(classes, dtype=np.float32)[rng.integers(classes, size=images)]


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("name", MODELS)
def test_a_lowered_training_step_is_the_eager_one(name, optimiser):
    x, y = batch(32, 24) if name == "cifar" else batch()
    rule = OPTIMISERS[optimiser]()
    step = training_step(rule)
    compiled = pb.compile(step, donate=(0, 1))
    ours, theirs = MODELS[name](), MODELS[name]()
    our_state, their_state = rule.init(ours), rule.init(theirs)
    for _ in range(2):
        ours, our_state, our_loss, our_logits = compiled(ours, our_state, x, y)
        theirs, their_state, their_loss, their_logits = step(theirs, their_state, x, y)
        np.testing.assert_allclose(our_loss, their_loss, rtol=2e-3)
        np.testing.assert_allclose(our_logits, their_logits, rtol=0.02, atol=0.02)
    # Adam's first steps have the size of the learning rate wherever a gradient is rounded to another sign.
    limit = 1e-4 if optimiser == "sgd" else 4.1e-3
    for path, a, b in zip(pb.tree.paths(theirs), pb.tree.leaves(ours), pb.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=limit * max(1.0, float(np.abs(b).max())), err_msg=path)
    for a, b in zip(ours.state().values(), theirs.state().values(), strict=True):
        assert np.asarray(a).dtype == np.asarray(b).dtype


def mlp_step(optimiser, x, y):
    model = MODELS["mlp"]()
    rule = OPTIMISERS[optimiser]()
    return pb.compile(training_step(rule), donate=(0, 1)), model, rule.init(model), x, y


def test_a_layer_of_neurons_is_one_step_and_gradient_descent_another():
    x, y = batch()
    compiled, *arguments = mlp_step("sgd", x, np.argmax(y, axis=1))
    program = compiled.explain(*arguments).after
    products = [step for step in program.steps if step.primitive.name == "matmul[panels]"]
    assert [step.params.get("ending") for step in products].count("relu") == 2
    assert [step.params.get("ending") for step in products].count("mask") == 2
    assert not {"relu", "greater", "one_hot", "softmax_cross_entropy.forward"} & {
        s.primitive.name for s in program.steps
    }
    (loss,) = [step for step in program.steps if step.primitive.name == "softmax_cross_entropy"]
    assert program.types[loss.inputs[1]].dtype.kind == "i"  # the labels themselves


def plain_descent(model, x, y):
    value, gradient = pb.value_and_grad(lambda m: nn.softmax_cross_entropy(m(x), y))(model)
    return value, pb.tree.map(lambda p, g: p - 0.1 * g, model, gradient)


def test_plain_gradient_descent_adds_products_to_the_weights():
    x, y = batch()
    labels = np.argmax(y, axis=1)
    compiled = pb.compile(plain_descent, donate=(0,))
    products = [s for s in compiled.explain(MODELS["mlp"](), x, labels).after.steps if s.params.get("scaled")]
    assert len(products) == 3
    ours, theirs = MODELS["mlp"](), MODELS["mlp"]()
    first = pb.tree.leaves(ours)[0]
    before = first.copy()
    for _ in range(3):
        (our_loss, ours), (their_loss, theirs) = compiled(ours, x, labels), plain_descent(theirs, x, labels)
        np.testing.assert_allclose(our_loss, their_loss, rtol=1e-5)
        for a, b in zip(pb.tree.leaves(ours), pb.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(first, before)  # what the caller made is never written over


def test_a_wrong_label_makes_the_loss_of_a_program_nan():
    x, y = batch()
    labels = np.argmax(y, axis=1)
    labels[2] = 5
    loss, _ = pb.compile(plain_descent)(MODELS["mlp"](), x, labels)
    assert isinstance(loss, np.float32)
    assert np.isnan(loss)


def test_a_loss_of_which_more_is_asked_stays_as_it_is():
    def of_targets(logits, targets):
        return nn.softmax_cross_entropy(logits, targets)

    logits, targets = np.random.default_rng(0).random((2, 6, 5)).astype(np.float32)
    both = pb.compile(pb.grad(of_targets, argnums=(0, 1)))
    for got, expected in zip(both(logits, targets), pb.grad(of_targets, argnums=(0, 1))(logits, targets), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    scaled = pb.compile(pb.grad(lambda z, t: 3.0 * nn.softmax_cross_entropy(z @ np.eye(5, dtype=np.float32), t)))
    exact = pb.grad(lambda z, t: 3.0 * nn.softmax_cross_entropy(z @ np.eye(5, dtype=np.float32), t))(logits, targets)
    np.testing.assert_allclose(scaled(logits, targets), exact, rtol=1e-5, atol=1e-6)


MOVES = {
    "factor": lambda p, b: p - 0.01 * (p @ b),
    "transposed": lambda p, b: p - 0.01 * (p.T @ b),
    "view": lambda p, b: p + b @ p[:64],
    "right": lambda p, b: p - b.T @ p,
}


@pytest.mark.parametrize("name", MOVES)
def test_a_factor_that_a_product_is_added_to_is_read_as_it_was(name):
    move = MOVES[name]
    p, b = np.random.default_rng(0).standard_normal((2, 64, 64)).astype(np.float32) / 8
    compiled, ours, theirs = pb.compile(move, donate=(0,)), p, p
    assert any("sign" in step.params for step in compiled.explain(p, b).after.steps)
    for _ in range(3):
        ours, theirs = compiled(ours, b), move(theirs, b)
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_product_is_added_to_itself():
    a, b = np.random.default_rng(0).standard_normal((2, 6, 6)).astype(np.float32)
    for f in (lambda a, b: (y := a @ b) + y, lambda a, b: (y := a @ b) - y, lambda a, b: (y := a @ b) + 2.0 * y):
        np.testing.assert_allclose(pb.compile(f)(a, b), f(a, b), rtol=1e-5, atol=1e-6)


def test_what_else_takes_a_product_keeps_it():
    def f(x, w, row):
        y = x @ w
        z = x @ (2.0 * w)
        return relu(y + row) + y, (z + row) * (z > 0)

    rng = np.random.default_rng(0)
    x, w, row = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (4, 5), (5,)))
    for got, expected in zip(pb.compile(f)(x, w, row), f(x, w, row), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def steps_of(f, *args):
    return [step.primitive.name for step in pb.compile(f).explain(*args).after.steps]


def program_of(algorithms):
    x, y = batch()
    rule = optim.adam(1e-3)
    model = MODELS["levels"]()
    compiled = pb.compile(training_step(rule), algorithms=dict.fromkeys(DIRECTIONS.values(), algorithms))
    return compiled.explain(model, rule.init(model), x, y).after


def test_batch_norms_and_their_relus_become_affine_maps():
    names = [step.primitive.name for step in program_of("shifted").steps]
    assert not {"relu", "greater", "batch_norm.forward", "batch_norm.backward", "max_pool2d_choices", "adam_step"} & {
        *names
    }
    assert names.count("moments") == names.count("norm_gradient") == 4
    assert names.count("affine") == 3  # the one before the pool is done there
    assert names.count("adam") == len(pb.tree.leaves(MODELS["levels"]()))
    assert sum(name.startswith("conv2d[") for name in names) == 4


def test_batch_norms_cost_no_pass_of_their_own_where_convolutions_do_their_work():
    program = program_of("winograd")
    names = [step.primitive.name for step in program.steps]
    assert not {"moments", "through_relu", "norm_gradient"} & {*names}
    assert names.count("affine") == names.count("norm_sums") == 1  # behind the last convolution is no other
    forward = [step for step in program.steps if step.primitive.name == "conv2d[winograd]"]
    assert all(len(step.outputs) == 3 for step in forward)  # with the moments of the result
    assert [step.params.get("load") for step in forward] == [None, "relu", None, "relu"]  # the pool's input is plain
    pool = next(step for step in program.steps if step.primitive.name == "max_pool2d")
    assert pool.params["load"] == "relu"
    back = [step for step in program.steps if step.primitive.name == "conv2d_input_adjoint[winograd]"]
    assert [step.params["load_gradient"] for step in back] == ["masked", "norm", "norm"]
    assert [step.params.get("store") for step in back] == [True, None, True]
    scatter = next(step for step in program.steps if step.primitive.name == "max_pool2d_scatter")
    assert scatter.params["store"]


def test_wide_gradients_are_computed_once_and_not_at_each_reading():
    conv, norm = nn.Conv2d(72, 8, 3, padding=1, bias=False, rng=0), nn.BatchNorm(8)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 72)).astype(np.float32)

    def f(x, conv, norm):
        return np.sum(relu(norm(conv(x))) ** 2)

    wide = pb.compile(pb.grad(f, argnums=(0, 1)), algorithms=dict.fromkeys(DIRECTIONS.values(), "winograd"))
    assert "norm_gradient" in [step.primitive.name for step in wide.explain(x, conv, norm).after.steps]
    ours, theirs = wide(x, conv, norm), pb.grad(f, argnums=(0, 1))(x, conv, norm)
    for a, b in zip(pb.tree.leaves(ours), pb.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * float(np.abs(b).max()))


def test_a_batch_norm_whose_input_has_another_use_is_fused_and_right():
    first, norm, second = nn.Conv2d(3, 8, 3, padding=1, rng=0), nn.BatchNorm(8), nn.Conv2d(8, 8, 3, padding=1, rng=1)
    x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)

    def f(layers, x):
        first, norm, second = layers
        y = first(x)
        z = relu(norm(y))
        return np.sum((second(z) + z + y) ** 2)

    compiled = pb.compile(pb.grad(f), algorithms=dict.fromkeys(DIRECTIONS.values(), "winograd"))
    ours, theirs = compiled([first, norm, second], x), pb.grad(f)([first, norm, second], x)
    for a, b in zip(pb.tree.leaves(ours), pb.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-4 * max(1.0, float(np.abs(b).max())))


@pytest.mark.parametrize("precision", ["float32-fast", "bfloat16"])
@pytest.mark.parametrize("name", MODELS)
def test_steps_in_less_than_float32(name, precision, monkeypatch):
    """With all products in the arithmetic that is asked for, whether it is fast on this CPU or not."""
    for module in (kernels, matmul):
        monkeypatch.setattr(module, "RATES", {"bfloat16": -2e6, "bfloat16x3": -1e6})
    x, y = batch()
    rule = optim.sgd(1e-2)
    plain, model = MODELS[name](), MODELS[name]()
    step = pb.compile(training_step(rule), precision=precision)
    names = [each.primitive.name for each in step.explain(model, rule.init(model), x, y).after.steps]
    wanted = {"float32-fast": "bfloat16x3", "bfloat16": "bfloat16"}[precision]
    products = [name for name in names if name.startswith(("conv2d", "matmul"))]
    reduced = [name for name in products if name.endswith(f"[{wanted}]")]
    assert len(reduced) >= len(products) - 6  # convolutions with a stride stay in float32
    moved, _, value, logits = step(model, rule.init(model), x, y)
    expected, _, exact, exact_logits = training_step(rule)(plain, rule.init(plain), x, y)
    bound = {"float32-fast": 1e-3, "bfloat16": 0.1}[precision]
    np.testing.assert_allclose(logits, exact_logits, rtol=0, atol=bound * float(np.abs(exact_logits).max()))
    assert value == pytest.approx(exact, rel=bound)
    before, ours, theirs = (
        np.concatenate([leaf.ravel() for leaf in pb.tree.leaves(each)]) for each in (MODELS[name](), moved, expected)
    )
    # Ten batch norms of six images amplify rounding; a wrong sign or a product left out would be off by 1 and more.
    assert np.linalg.norm(ours - theirs) <= 5 * bound * np.linalg.norm(theirs - before)


def test_a_precision_that_there_is_not():
    with pytest.raises(pb.ConfigError, match="precision: expected one of float32, float32-fast, bfloat16, got 'half'"):
        pb.compile(lambda x: x, precision="half")


def test_a_relu_whose_input_is_used_again_stays_beside_it():
    norm = nn.BatchNorm(8)

    def f(norm, x):
        z = norm(x)
        return np.sum(relu(z) * z)

    x = np.random.default_rng(0).standard_normal((4, 6, 6, 8)).astype(np.float32)
    names = steps_of(pb.value_and_grad(f), norm, x)
    assert "relu" in names
    assert "affine" in names
    value, gradient = pb.compile(pb.value_and_grad(f))(norm, x)
    expected, other = pb.value_and_grad(f)(norm, x)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for a, b in zip(pb.tree.leaves(gradient), pb.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)


def test_a_rule_of_ones_own_is_not_taken_for_the_batch_norm():
    mine = pb.custom(lambda x, gamma, beta: (x * gamma + beta, (x, gamma)), lambda saved, g: (g * saved[1], g, g))
    mine.name = "batch_norm"
    x = np.ones((3, 4, 4, 8), np.float32)
    names = steps_of(lambda x, a, b: mine(x, a, b) @ np.ones((8, 8), np.float32), x, x[0, 0, 0], x[0, 0, 0])
    assert "affine" not in names


@pytest.mark.parametrize("transposed", ["none", "left", "right", "both"])
def test_products_with_a_transposed_factor(transposed):
    a, b = (np.random.default_rng(k).standard_normal((7, 7)).astype(np.float32) for k in range(2))

    def f(a, b, w, x):
        left = a.T if transposed in ("left", "both") else a
        right = b.T if transposed in ("right", "both") else b
        return left @ right + conv2d(x, w)[0, 0, 0, 0]

    w, x = np.ones((1, 1, 2, 1), np.float32), np.ones((1, 3, 3, 2), np.float32)
    names = steps_of(f, a, b, w, x)
    assert ("matmul[panels]" in names) == (transposed != "both")
    np.testing.assert_allclose(pb.compile(f)(a, b, w, x), f(a, b, w, x), rtol=1e-5, atol=1e-5)


# -- donation --------------------------------------------------------------------------------------------------------
def test_what_a_step_returned_is_updated_in_place_and_what_it_was_given_is_not():
    rule = optim.adam(1e-2)
    step = pb.compile(training_step(rule), donate=(0, 1))
    x, y = batch()
    model = MODELS["levels"]()
    state = rule.init(model)
    given = pb.tree.leaves((model, state))
    copies = [np.array(leaf) for leaf in given]
    one, moments, *_ = step(model, state, x, y)
    for a, b in zip(given, copies, strict=True):
        np.testing.assert_array_equal(a, b)
    two, more, *_ = step(one, moments, x, y)
    assert all(a is b for a, b in zip(pb.tree.leaves(one), pb.tree.leaves(two), strict=True))
    pairs = zip(pb.tree.leaves(moments), pb.tree.leaves(more), strict=True)
    assert all(a is b for a, b in pairs if a.ndim)
    assert not any(leaf.flags.writeable for leaf in pb.tree.leaves(two))


def test_two_trainings_with_one_step_do_not_meet():
    rule = optim.adam(1e-2)
    plain, compiled = training_step(rule), pb.compile(training_step(rule), donate=(0, 1))
    x, y = batch()
    runs = [(MODELS["levels"](), levels_cnn((16, 16, 3), 5, (8, 16), 2, seed=7)) for _ in range(2)]
    states = [[rule.init(model) for model in models] for models in runs]
    (eager, ours) = ([*models] for models in runs)
    for _ in range(2):
        for k in range(2):
            eager[k], states[0][k], *_ = plain(eager[k], states[0][k], x, y)
            ours[k], states[1][k], *_ = compiled(ours[k], states[1][k], x, y)
    for k in range(2):
        for a, b in zip(pb.tree.leaves(ours[k]), pb.tree.leaves(eager[k]), strict=True):
            np.testing.assert_allclose(a, b, atol=0.041)
    assert not np.array_equal(pb.tree.leaves(ours[0])[0], pb.tree.leaves(ours[1])[0])


def test_donating_an_argument_that_is_not_there_is_an_error():
    with pytest.raises(pb.ConfigError, match="donate names argument 3, and 1 were given"):
        pb.compile(lambda x: x + 1, donate=(3,))(np.ones(3))


def test_a_profile_changes_nothing_of_what_is_donated():
    step = pb.compile(lambda w, g: w - 0.1 * g, donate=(0,))
    w = step(np.ones(3000), np.ones(3000))
    before = w.copy()
    step.explain(w, np.ones(3000), profile=True)
    np.testing.assert_array_equal(w, before)
    assert step(w, np.ones(3000)) is w


# -- what a user asks for --------------------------------------------------------------------------------------------
def test_an_algorithm_can_be_asked_for():
    x, w = np.ones((2, 16, 16, 8), np.float32), np.ones((3, 3, 8, 8), np.float32)

    def f(x, w):
        return conv2d(x, w, padding=((1, 1), (1, 1)))

    for algorithm in ("winograd", "shifted"):
        compiled = pb.compile(f, algorithms={"conv2d": algorithm})
        assert [step.primitive.name for step in compiled.explain(x, w).after.steps] == [f"conv2d[{algorithm}]"]
        np.testing.assert_allclose(compiled(x, w), f(x, w), rtol=1e-5, atol=1e-3)
    with pytest.raises(pb.ConfigError, match=r"expected one of winograd, .* got 'fft'"):
        pb.compile(f, algorithms={"conv2d": "fft"})
    with pytest.raises(pb.ConfigError, match=r"expected one of conv2d, .* got 'matmul'"):
        pb.compile(f, algorithms={"matmul": "winograd"})


def test_memory_is_traded_for_time():
    rule = optim.adam(1e-3)
    step, model, (x, y) = training_step(rule), MODELS["levels"](), batch()
    plainly = dict.fromkeys(DIRECTIONS.values(), "shifted")  # whose neighbours' work is steps of its own
    plain = pb.compile(step, algorithms=plainly)
    peak = plain.explain(model, rule.init(model), x, y).peak
    assert pb.compile(step).explain(model, rule.init(model), x, y).peak < peak  # what is fused is not kept either
    tight = pb.compile(step, memory_limit=peak * 9 // 10, algorithms=plainly)
    explanation = tight.explain(model, rule.init(model), x, y)
    assert explanation.peak <= peak * 9 // 10
    assert len(explanation.after.steps) > len(plain.explain(model, rule.init(model), x, y).after.steps)
    for a, b in zip(
        pb.tree.leaves(tight(model, rule.init(model), x, y)),
        pb.tree.leaves(plain(MODELS["levels"](), rule.init(model), x, y)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(pb.ConfigError, match=r"memory_limit is 1,000 bytes, and the program needs [\d,]+ at least"):
        pb.compile(step, memory_limit=1000)(model, rule.init(model), x, y)
