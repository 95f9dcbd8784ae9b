"""The transforms: pytrees, composition to any order, custom rules, checkpoints, recordings, and what they refuse."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pullback as pb


@dataclasses.dataclass
class Params:
    w: Any
    b: Any
    kind: str = dataclasses.field(default="affine", metadata={"static": True})


def test_any_pytree_goes_in_and_comes_out() -> None:
    def f(p: Params, x: dict[str, Any]) -> Any:
        assert p.kind == "affine"
        return np.sum((x["in"] @ p.w + p.b[0]) ** 2)

    p = Params(np.ones((3, 2)), [np.zeros(2)])
    x = {"in": np.arange(6.0).reshape(2, 3)}
    value, (gp, gx) = pb.value_and_grad(f, argnums=(0, 1))(p, x)
    residual = 2 * (x["in"] @ p.w)
    assert value == np.sum((residual / 2) ** 2)
    np.testing.assert_allclose(gp.w, x["in"].T @ residual)
    np.testing.assert_allclose(gp.b[0], residual.sum(0))
    np.testing.assert_allclose(gx["in"], residual @ p.w.T)
    assert gp.kind == "affine"
    out, pullback = pb.vjp(lambda q: {"a": q.w * 2, "b": [q.b[0]]}, p)
    (g,) = pullback({"a": np.ones((3, 2)), "b": [np.full(2, 3.0)]})
    np.testing.assert_array_equal(g.w, np.full((3, 2), 2.0))
    np.testing.assert_array_equal(g.b[0], np.full(2, 3.0))
    assert isinstance(out["a"], np.ndarray)


def test_every_mixture_of_orders() -> None:
    def f(x: Any) -> Any:
        return np.sin(x) * np.exp(2 * x)

    x = 0.3
    exact = [(2 + 1j) ** n * np.exp((2 + 1j) * x) for n in range(5)]
    g, h = pb.grad(f), pb.grad(pb.grad(f))

    def d(f: Any) -> Any:
        return lambda x: pb.jvp(f, (x,), (1.0,))[1]

    np.testing.assert_allclose(g(x), exact[1].imag)
    for third in (pb.grad(h), d(h), d(d(g)), pb.grad(d(g)), pb.grad(d(d(f))), d(d(d(f))), d(pb.grad(d(f)))):
        np.testing.assert_allclose(third(x), exact[3].imag)
    np.testing.assert_allclose(pb.grad(pb.grad(h))(x), exact[4].imag)
    np.testing.assert_allclose(pb.jacobian(d(f))(x), exact[2].imag)
    np.testing.assert_allclose(
        pb.jacobian(lambda x: pb.jacobian(f, mode="forward")(x), mode="forward")(x), exact[2].imag
    )


def _reverse(f: Any, x: Any) -> Any:
    return pb.grad(f)(x)


def _forward(f: Any, x: Any) -> Any:
    return pb.jvp(f, (x,), (1.0,))[1]


@pytest.mark.parametrize("outer", [_reverse, _forward])
@pytest.mark.parametrize("inner", [_reverse, _forward])
def test_no_confusion_of_perturbations(outer: Any, inner: Any) -> None:
    # d/dx (x * d/dy (x + y)) = 1: the derivative of Siskind and Pearlmutter (2005).
    assert outer(lambda x: x * inner(lambda y: x + y, 1.0), 1.0) == 1.0
    assert outer(lambda x: x * inner(lambda y: x * y, 2.0), 1.0) == 2.0


def test_an_imperative_tensor_inside_a_transform() -> None:
    w = pb.tensor(3.0)
    y = pb.grad(lambda x: w * x * x)(2.0)
    y.backward()
    assert w.grad == 4.0


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
def test_jacobian(mode: Any) -> None:
    a = np.random.default_rng(0).normal(size=(3, 2))
    j = pb.jacobian(lambda x: {"y": np.sin(a @ x["u"]), "z": x["v"] * 2}, mode=mode)(
        {"u": np.ones(2), "v": np.ones((2, 2))}
    )
    np.testing.assert_allclose(j["y"]["u"], np.cos(a @ np.ones(2))[:, None] * a)
    assert j["y"]["v"].shape == (3, 2, 2)
    assert not j["y"]["v"].any()
    np.testing.assert_allclose(j["z"]["v"], 2 * np.eye(4).reshape(2, 2, 2, 2))
    assert j["z"]["u"].shape == (2, 2, 2)


def test_jacobian_of_a_second_argument_and_of_nothing() -> None:
    np.testing.assert_array_equal(pb.jacobian(lambda a, x: a * x, argnums=1)(3.0, np.ones(2)), 3 * np.eye(2))
    assert pb.jacobian(lambda x: x[:0])(np.ones(2)).shape == (0, 2)
    assert pb.jacobian(lambda x: x)(np.ones(0)).shape == (0, 0)
    both = pb.jacobian(lambda a, x: a * x, argnums=(0, 1))(3.0, np.ones(2))
    np.testing.assert_array_equal(both[0], np.ones(2))
    np.testing.assert_array_equal(both[1], 3 * np.eye(2))
    with pytest.raises(pb.ConfigError, match="mode"):
        pb.jacobian(np.sin, mode="sideways")  # type: ignore[arg-type]


def test_hessian_and_hvp() -> None:
    def f(x: Any) -> Any:
        return np.sum(x[0] ** 2 * x[1]) + np.prod(x)

    x, v = np.array([1.0, 2.0, 3.0]), np.array([1.0, -1.0, 0.5])
    expected = np.array([[2 * x[1], 2 * x[0] + x[2], x[1]], [2 * x[0] + x[2], 0, x[0]], [x[1], x[0], 0]])
    np.testing.assert_allclose(pb.hessian(f)(x), expected)
    np.testing.assert_allclose(pb.hvp(f, (x,), (v,)), expected @ v)
    np.testing.assert_allclose(pb.hvp(f, x, v), expected @ v)
    two = pb.hvp(lambda a, b: np.sum(a * b * b), (x, x), (v, v))
    np.testing.assert_allclose(two[0], 2 * x * v)


# -- random programs ---------------------------------------------------------------------------------------------------
_UNARY = [
    np.sin,
    np.tanh,
    np.exp,
    lambda x: x * x,
    lambda x: 1 / (2 + x * x),
    lambda x: -x,
    lambda x: np.log(2 + x * x),
]
_BINARY = [
    np.add,
    np.multiply,
    np.subtract,
    np.maximum,
    lambda a, b: np.arctan2(a, 3 + b * b),
    lambda a, b: a / (1 + b * b),
]
_SHAPE = [
    lambda x: x[::-1], lambda x: np.cumsum(x), lambda x: np.roll(x, 1), lambda x: np.outer(x, x).sum(0),
    lambda x: x - np.mean(x),
    lambda x: np.sort(x), lambda x: np.where(x > 0, x, 0.1 * x), lambda x: x[[0, 0, 2]],
]  # fmt: skip
_programs = st.lists(
    st.tuples(st.sampled_from("ubs"), st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)),
    min_size=1,
    max_size=12,
)


def _run(program: Any, x: Any) -> Any:
    values = [x]
    for kind, which, i, j in program:
        a, b = values[i % len(values)], values[j % len(values)]
        a = np.tanh(a)  # keeps numbers tame, so that differences are accurate
        if kind == "u":
            values.append(_UNARY[which % len(_UNARY)](a))
        elif kind == "b":
            values.append(_BINARY[which % len(_BINARY)](a, b))
        else:
            values.append(_SHAPE[which % len(_SHAPE)](a))
    return np.sum(np.tanh(values[-1]) * np.array([1.0, 2.0, -3.0]))


@given(_programs, st.integers(0, 1000))
def test_random_programs_in_both_modes_and_second_order(program: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, v, w = rng.normal(size=(3, 3))

    def f(x: Any) -> Any:
        return _run(program, x)

    def slope(t: float, at: Any = x) -> Any:
        return f(at + t * v)

    h = 1e-4
    numeric = (8 * (slope(h) - slope(-h)) - (slope(2 * h) - slope(-2 * h))) / (12 * h)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pb.IndependentWarning)
        reverse = pb.grad(f)(x) @ v
        forward = pb.jvp(f, (x,), (v,))[1]
        np.testing.assert_allclose(reverse, forward, rtol=1e-9, atol=1e-11)
        hv = pb.hvp(f, (x,), (w,)) @ v
        np.testing.assert_allclose(hv, pb.grad(lambda x: pb.grad(f)(x) @ w)(x) @ v, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(hv, pb.hvp(f, (x,), (v,)) @ w, rtol=1e-8, atol=1e-9)  # symmetric
    smooth = abs(slope(h) - 2 * f(x) + slope(-h)) < 1e-4 * (1 + abs(f(x)))  # no kink within the step
    if smooth and abs(numeric - (slope(h / 4) - slope(-h / 4)) / (h / 2)) < 1e-6 * (1 + abs(numeric)):
        np.testing.assert_allclose(reverse, numeric, rtol=1e-5, atol=1e-6)


# -- custom rules and checkpoints --------------------------------------------------------------------------------------
def _my_tanh(jvp: Any = None) -> Any:
    def forward(x: Any) -> Any:
        y = np.tanh(x)
        return y, y

    return pb.custom(forward, lambda y, g: g * (1 - y * y), jvp)


def test_custom_is_used_in_every_order() -> None:
    tanh, x = _my_tanh(), np.array([0.3, -1.0])
    np.testing.assert_allclose(tanh(x), np.tanh(x))
    np.testing.assert_allclose(pb.grad(lambda x: np.sum(tanh(x)))(x), 1 - np.tanh(x) ** 2)
    np.testing.assert_allclose(pb.hessian(lambda x: np.sum(tanh(x)))(x), pb.hessian(lambda x: np.sum(np.tanh(x)))(x))
    with pytest.raises(pb.NoRuleError, match="jvp"):
        pb.jvp(tanh, (x,), (x,))
    both = _my_tanh(lambda primals, tangents: tangents[0] * (1 - np.tanh(primals[0]) ** 2))
    np.testing.assert_allclose(pb.jvp(both, (x,), (x,))[1], x * (1 - np.tanh(x) ** 2))


def test_a_custom_rule_wins_over_the_body_at_every_level() -> None:
    straight_through = pb.custom(lambda x: (np.round(x), None), lambda saved, g: (g,))
    assert pb.grad(straight_through)(0.7) == 1.0
    assert pb.grad(pb.grad(lambda x: straight_through(x) * x))(0.7) == 2.0


def test_custom_with_several_inputs_and_outputs() -> None:
    def forward(a: Any, b: Any) -> Any:
        return (a * b, a + b), (a, b)

    def backward(saved: Any, g: Any) -> Any:
        _, b = saved
        return g[0] * b + g[1], None

    f = pb.custom(forward, backward)
    with pytest.warns(pb.IndependentWarning, match="argument 1"):
        gradients = pb.grad(lambda a, b: f(a, b)[0] * 2 + f(a, b)[1], argnums=(0, 1))(3.0, 5.0)
    assert gradients == (11.0, 0.0)


def test_custom_mistakes_are_named() -> None:
    wrong_shape = pb.custom(lambda x: (np.sum(x), x), lambda x, g: g)
    with pytest.raises(pb.ShapeError, match=r"gradient of shape \(\) for an input of shape \(3,\)"):
        pb.grad(wrong_shape)(np.ones(3))
    wrong_number = pb.custom(lambda x, y: (x * y, None), lambda saved, g: (g,))
    with pytest.raises(pb.ShapeError, match="returned 1 gradients for 2 inputs"):
        pb.grad(wrong_number)(1.0, 2.0)
    w = pb.tensor(2.0)
    closes_over = pb.custom(lambda x: (x * w, None), lambda saved, g: (g,))
    with pytest.raises(pb.LeavesTapeError, match="not one of its arguments"):
        closes_over(pb.tensor(1.0))


def test_checkpoint_gives_the_same_derivatives() -> None:
    def block(p: dict[str, Any], x: Any) -> Any:
        h = np.tanh(x @ p["w"])
        return {"y": h * p["s"], "h": h}

    def loss(p: Any, x: Any, block: Any) -> Any:
        out = block(p, x)
        return np.sum(out["y"] ** 2) + np.sum(out["h"])

    p = {"w": np.random.default_rng(0).normal(size=(3, 3)), "s": np.ones(3)}
    x = np.random.default_rng(1).normal(size=(2, 3))
    again = pb.checkpoint(block)
    plain, checked = pb.grad(loss, (0, 1))(p, x, block), pb.grad(loss, (0, 1))(p, x, again)
    np.testing.assert_array_equal(plain[0]["w"], checked[0]["w"])
    np.testing.assert_array_equal(plain[1], checked[1])
    direction = ({"w": np.ones((3, 3)), "s": np.ones(3)},)
    for of in (block, again):
        second = pb.hvp(lambda q, of=of: loss(q, x, of), (p,), direction)
        np.testing.assert_allclose(second["w"], pb.hvp(lambda q: loss(q, x, block), (p,), direction)["w"])
    np.testing.assert_allclose(
        pb.grad(lambda x: np.sum(pb.grad(loss, 1)(p, x, again) ** 2))(x),
        pb.grad(lambda x: np.sum(pb.grad(loss, 1)(p, x, block) ** 2))(x),
    )


def test_checkpoint_takes_keywords() -> None:
    scaled = pb.checkpoint(lambda x, *, by, power: np.sum((x * by) ** power))
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(pb.grad(lambda x, b: scaled(x, by=b, power=2), (0, 1))(x, 3.0)[0], 2 * 9 * x)


def test_checkpoint_saves_memory_and_refuses_what_is_not_repeatable() -> None:
    import tracemalloc

    def deep(x: Any) -> Any:
        for _ in range(30):
            x = np.tanh(x)
        return x

    def peak(f: Any) -> int:
        tracemalloc.start()
        pb.grad(lambda x: np.sum(f(f(f(f(x))))))(np.ones(50_000))
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return top

    assert peak(pb.checkpoint(deep)) < 0.5 * peak(deep)
    noisy = pb.checkpoint(lambda x: x * np.random.default_rng().normal())
    with pytest.raises(pb.MutationError, match="other values the second time"):
        pb.grad(noisy)(1.0)


def test_stop_gradient() -> None:
    assert pb.grad(lambda x: pb.stop_gradient(x) * x)(3.0) == 3.0
    assert pb.jvp(lambda x: pb.stop_gradient(x) * x, (3.0,), (1.0,))[1] == 3.0
    assert pb.grad(pb.grad(lambda x: pb.stop_gradient(x) * x * x))(3.0) == 6.0


# -- recordings --------------------------------------------------------------------------------------------------------
def test_record_sees_forward_backward_and_update() -> None:
    def step(w: Any, x: Any) -> Any:
        loss, g = pb.value_and_grad(lambda w: np.sum(np.tanh(x @ w) ** 2))(w)
        return w - 0.1 * g, loss

    w, x = np.ones((3, 2)), np.arange(6.0).reshape(2, 3)
    record = pb.record(step, w, x)
    new, loss = step(w, x)
    np.testing.assert_array_equal(record.result[0], new)
    assert record.result[1] == loss
    counts = record.counts()
    assert counts["matmul"] == 2  # forward, and the gradient of w
    assert counts["tanh"] == 1
    assert counts["subtract"] >= 2  # 1 - y^2 in the rule of tanh, and the update
    text = str(record)
    assert "test_modes.py" in text
    assert "float64[3, 2]" in text
    # It is a program: run again from the inputs, step by step, it gives the same result.
    values: list[Any] = [w, x]
    for s in record.steps:
        args = [values[i] if known else i for i, known in zip(s.inputs, s.refers, strict=True)]
        y = s.primitive.fn(*args, **s.params)
        values.extend(y if isinstance(y, tuple) else (y,))
    np.testing.assert_array_equal(values[-1], new)


# -- what is refused ---------------------------------------------------------------------------------------------------
def test_integers_are_refused() -> None:
    for bad in (2, np.arange(3), True, "text", 1j):
        with pytest.raises(pb.DtypeError):
            pb.grad(lambda x: np.sum(x * 1.0))(bad)
    with pytest.raises(pb.DtypeError, match=r"argument 0 at \['n'\].*int64"):
        pb.grad(lambda p: p["x"])({"x": 1.0, "n": np.array(3)})
    with pytest.raises(pb.DtypeError, match="int64"):
        pb.jacobian(lambda x: x)(np.arange(3))


def test_non_scalars_are_refused() -> None:
    with pytest.raises(pb.NonScalarError, match=r"shape \(3,\); sum it, or use pb.jacobian"):
        pb.grad(np.sin)(np.ones(3))
    with pytest.raises(pb.NonScalarError, match=r"shape \(1,\)"):
        pb.grad(np.sin)(np.ones(1))
    with pytest.raises(pb.NonScalarError, match="NoneType"):
        pb.grad(lambda x: None)(1.0)
    with pytest.raises(pb.DtypeError, match="the result"):
        pb.grad(lambda x: np.argmax(x))(np.ones(3))


def test_a_result_that_does_not_depend_on_the_input_is_warned_of() -> None:
    with pytest.warns(pb.IndependentWarning, match="argument 0"):
        assert pb.grad(lambda x: 3.0)(1.0) == 0.0
    with pytest.warns(pb.IndependentWarning, match="argument 1"):
        assert pb.grad(lambda x, y: x.value.sum() + x * 1, argnums=(0, 1))(1.0, 2.0) == (1.0, 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", pb.IndependentWarning)
        with pytest.raises(pb.IndependentWarning):
            pb.grad(lambda x: pb.stop_gradient(x))(1.0)


def test_a_bare_array_of_primals_is_refused() -> None:
    with pytest.raises(pb.TreeError, match=r"jvp\(f, \(x,\), \(v,\)\), got ndarray"):
        pb.jvp(np.sin, np.ones(2), np.ones(2))  # type: ignore[arg-type]
    with pytest.raises(pb.TreeError, match="tangent of argument 0"):
        pb.hvp(np.sum, np.ones(2), (np.ones(2),))


def test_the_mend_fits_what_was_given() -> None:
    with pytest.raises(pb.DtypeError, match=r"write 3.0"):
        pb.grad(lambda x: x)(3)
    with pytest.raises(pb.DtypeError, match=r"static"):
        pb.grad(lambda p: p.w)(Params(1.0, 2))


def test_wrong_structures_are_named() -> None:
    _, pullback = pb.vjp(lambda x: {"y": x}, 1.0)
    with pytest.raises(pb.TreeError, match="cotangent like the output"):
        pullback(1.0)
    with pytest.raises(pb.TreeError, match="1 primals but 2 tangents"):
        pb.jvp(np.sin, (1.0,), (1.0, 2.0))
    with pytest.raises(pb.ShapeError, match=r"argument 0: expected a tangent of shape \(2,\), got \(3,\)"):
        pb.jvp(np.sin, (np.ones(2),), (np.ones(3),))
    with pytest.raises(pb.TreeError, match="argnums names argument 2"):
        pb.grad(lambda x: x, argnums=2)(1.0)
    with pytest.raises(pb.TreeError, match="has_aux"):
        pb.grad(lambda x: x, has_aux=True)(1.0)


def test_gradients_belong_to_the_caller() -> None:
    a, b = pb.grad(lambda x, y: np.sum(x + y), argnums=(0, 1))(np.ones(3), np.ones(3))
    a[0] = 5.0
    assert b[0] == 1.0


def test_aux() -> None:
    (value, aux), g = pb.value_and_grad(lambda x: (x * x, {"twice": 2 * x, "name": "n"}), has_aux=True)(3.0)
    assert (value, aux["twice"], aux["name"], g) == (9.0, 6.0, "n", 6.0)
    assert not isinstance(aux["twice"], pb.Tensor)
