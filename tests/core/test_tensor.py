"""The imperative face, NumPy's protocols on tensors, in-place writes, and what happens when a value would leave the
tape."""

from __future__ import annotations

import gc
import math
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest

import pullback as pb


# -- the imperative style ----------------------------------------------------------------------------------------------
def test_backward_leaves_the_gradient_and_adds_up() -> None:
    x = pb.tensor([1.0, 2.0, 3.0])
    assert x.grad is None
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [2.0, 4.0, 6.0])
    (3 * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5.0, 7.0, 9.0])
    x.grad = None
    assert x.grad is None


def test_backward_with_a_cotangent() -> None:
    x = pb.tensor([1.0, 2.0])
    y = np.exp(x)
    with pytest.raises(pb.NonScalarError, match=r"shape \(2,\)"):
        y.backward()
    with pytest.raises(pb.ShapeError, match=r"\(2,\).*got \(3,\)"):
        y.backward(np.ones(3))
    y.backward(np.array([1.0, 10.0]))
    np.testing.assert_allclose(x.grad, np.exp([1.0, 2.0]) * [1.0, 10.0])


def test_the_tape_is_freed_by_backward_unless_retained() -> None:
    x = pb.tensor(2.0)
    y = np.sin(x) * x
    y.backward(retain=True)
    first = x.grad
    y.backward()
    np.testing.assert_allclose(x.grad, 2 * first)
    with pytest.raises(pb.FreedError, match="retain=True"):
        y.backward()


def test_gradients_do_not_share_memory() -> None:
    x, y = pb.tensor([1.0, 2.0]), pb.tensor([3.0, 4.0])
    cotangent = np.ones(2)
    (x + y).backward(cotangent)
    x.grad[0] = 100.0
    np.testing.assert_array_equal(y.grad, [1.0, 1.0])
    np.testing.assert_array_equal(cotangent, [1.0, 1.0])


def test_no_grad_and_updates_of_leaves() -> None:
    w = pb.tensor([1.0, 2.0])
    (w * w).sum().backward()
    with pb.no_grad():
        assert not isinstance(w * 2, pb.Tensor)
        w -= 0.1 * w.grad
    np.testing.assert_allclose(w.value, [0.8, 1.6])
    w.grad = None
    (w * w).sum().backward()
    np.testing.assert_allclose(w.grad, [1.6, 3.2])


def test_no_grad_does_not_reach_into_a_transform_begun_inside() -> None:
    with pb.no_grad():
        assert pb.grad(lambda x: x * x)(3.0) == 6.0
    assert pb.grad(lambda x: _without(x) * x)(3.0) == 3.0


def _without(x: Any) -> Any:
    with pb.no_grad():
        return 1.0 * x


def test_tensor_copies_and_refuses_integers() -> None:
    a = np.ones(3)
    x = pb.tensor(a)
    y = (x * x).sum()
    a[:] = 100.0
    y.backward()
    np.testing.assert_array_equal(x.grad, [2.0, 2.0, 2.0])
    with pytest.raises(pb.DtypeError, match="int64"):
        pb.tensor([1, 2])
    with pytest.raises(pb.DtypeError, match="complex128"):
        pb.tensor([1j])


def test_value_is_read_only() -> None:
    x = pb.tensor([1.0])
    with pytest.raises(ValueError, match="read-only"):
        x.value[0] = 2.0


def test_python_control_flow_and_formatting() -> None:
    x = pb.tensor(2.0)
    assert bool(x > 1)
    assert (x if x > 1 else -x) is x
    assert f"{x:.2f}" == "2.00"
    assert repr(pb.tensor([1.0, 2.5])) == "tensor([1. , 2.5], dtype=float64)"
    assert x.item() == 2.0
    assert round(pb.tensor(2.6)).item() == 3.0
    assert len(pb.tensor([1.0, 2.0])) == 2
    assert [float(v.value) for v in pb.tensor([1.0, 2.0])] == [1.0, 2.0]
    assert pb.tensor([[1.0]]).tolist() == [[1.0]]
    with pytest.raises(TypeError, match="unhashable"):
        hash(x)


def test_numpy_scalars_and_arrays_on_the_left() -> None:
    x = pb.tensor([1.0, 2.0])
    for left in (np.float64(3.0), np.array([3.0, 3.0]), 3, 3.0, [3.0, 3.0]):
        y = left * x
        assert isinstance(y, pb.Tensor)
        np.testing.assert_array_equal(y.value, [3.0, 6.0])


# -- memory ------------------------------------------------------------------------------------------------------------
def test_a_long_chain_differentiates_and_is_freed_without_the_garbage_collector() -> None:
    def chain(x: Any) -> Any:
        for _ in range(100_000):
            x = x * 1.00001
        return x

    np.testing.assert_allclose(pb.grad(chain)(1.0), 1.00001**100_000, rtol=1e-9)
    gc.collect()
    gc.disable()
    try:
        x = pb.tensor(1.0)
        before = sys.getallocatedblocks()
        y = chain(x)
        held = sys.getallocatedblocks() - before
        y.backward()
        del y
        left = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert held > 200_000
    assert left < held / 100


def test_what_is_saved_is_freed_while_walking_back() -> None:
    """The peak of the backward pass stays near that of the forward pass, not above it by another copy of everything."""

    def f(x: Any) -> Any:
        for _ in range(20):
            x = np.tanh(x)
        return np.sum(x)

    x = np.ones(100_000)
    tracemalloc.start()
    pb.grad(f)(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 26 * x.nbytes  # 20 saved outputs, and a handful in flight


# -- in place ----------------------------------------------------------------------------------------------------------
def test_assignment_is_differentiable() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x, shape=(4,))
        y[0] = x[0] ** 2
        y[1:3] = x * 3
        y[[3, 3]] = x  # the last write counts
        y += 1.0
        y *= x[1]
        return np.sum(np.square(y))

    def plain(x: Any) -> Any:
        y = np.zeros(4)
        y[0] = x[0] ** 2
        y[1:3] = x * 3
        y[[3, 3]] = x
        y += 1.0
        y *= x[1]
        return np.sum(np.square(y))

    x, v, h = np.array([1.5, -0.5]), np.array([0.3, 0.7]), 1e-6
    assert pb.value_and_grad(f)(x)[0] == plain(x)
    np.testing.assert_allclose(pb.grad(f)(x) @ v, (plain(x + h * v) - plain(x - h * v)) / (2 * h), rtol=1e-7)
    assert x.tolist() == [1.5, -0.5]


def test_ufunc_at_and_out() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        np.add.at(y, [0, 0, 1], x[:3] * 2)
        np.subtract.at(y, 2, x[0])
        z = np.empty_like(x)
        np.multiply(y, x, out=z)
        return np.sum(z)

    np.testing.assert_allclose(
        pb.grad(f)(np.array([1.0, 2.0, 3.0, 4.0])), [2 * 2 * 1 + 2 * 2 - 3, 2 * 1 + 2 * 3, 2 * 2 - 1, 0]
    )


def test_float32_stays_float32_in_place() -> None:
    t = pb.tensor(np.ones(3, np.float32))
    t += np.ones(3)
    t[0] = np.float64(2.0)
    assert t.dtype == np.float32


def test_in_place_with_a_result_of_another_shape_is_refused() -> None:
    t = pb.tensor(np.ones(3))
    with pytest.raises(pb.ShapeError, match=r"expected a result of shape \(3,\), got \(2, 3\)"):
        t += np.ones((2, 3))


def test_methods_that_work_in_place() -> None:
    x = pb.tensor([3.0, 1.0, 2.0])
    y = x * 1.0
    y.sort()
    np.testing.assert_array_equal(y.value, [1.0, 2.0, 3.0])
    (y * np.array([1.0, 10.0, 100.0])).sum().backward()
    np.testing.assert_array_equal(x.grad, [100.0, 1.0, 10.0])
    y.fill(0.0)
    assert y.value.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "write",
    [
        lambda t, v: t.__setitem__(0, 5.0),
        lambda t, v: v.__setitem__(0, 5.0),
        lambda t, v: t.sort(),
        lambda t, v: v.fill(2.0),
        lambda t, v: t.__setitem__([0, 1], 5.0),
        lambda t, v: np.negative(t, out=t),
    ],
)
@pytest.mark.parametrize("view", [lambda t: t[:2], lambda t: t.reshape(2, 2)[0], lambda t: t.reshape(1, 4)[0, :2]])
def test_writes_that_another_view_would_see_are_refused(write: Any, view: Any) -> None:
    t = pb.tensor(np.arange(4.0))
    v = view(t)
    with pytest.raises(pb.AliasError, match="view of the same memory"):
        write(t, v)


def test_augmented_assignment_to_a_part() -> None:
    def f(x: Any) -> Any:
        y = x * 1.0
        y[0] += x[1]
        y[..., -1] *= 3.0
        y[1, :2] -= y[0, :2]
        y[[0, 0]] += 1.0
        return y

    x = np.random.default_rng(0).normal(size=(2, 3))
    v = np.random.default_rng(1).normal(size=(2, 3))
    value, pullback = pb.vjp(f, x)
    np.testing.assert_array_equal(value, f(x))
    h = 1e-6
    np.testing.assert_allclose(
        np.sum(pullback(v)[0] * v), np.sum((f(x + h * v) - f(x - h * v)) * v) / (2 * h), rtol=1e-7
    )


def test_what_was_written_through_a_view_cannot_be_used() -> None:
    t = pb.tensor(np.arange(4.0))
    v = t[:2]
    v += 1.0
    np.testing.assert_array_equal(v.value, [1.0, 2.0])
    for use in (
        lambda: t * 2,
        lambda: t.value,
        lambda: repr(t),
        lambda: t[3],
        lambda: t.backward(),
        lambda: bool(t[0]),
    ):
        with pytest.raises(pb.AliasError, match="view of the same memory"):
            use()
    with pytest.raises(pb.AliasError):
        t[1:3] = v  # not the place the view was taken from
    t[:2] = v
    np.testing.assert_array_equal(t.value, [1.0, 2.0, 2.0, 3.0])


def test_complex_numbers_are_refused() -> None:
    for f in (
        lambda x: np.abs(np.exp(1j * x)),
        lambda x: np.abs(x * np.array([1j])).sum(),
        lambda x: x + np.complex64(1),
    ):
        with pytest.raises(pb.DtypeError, match="complex"):
            pb.grad(f)(1.0)
        with pytest.raises(pb.DtypeError, match="complex"):
            pb.jvp(f, (1.0,), (1.0,))


def test_views_of_constants_are_views_too() -> None:
    def f(x: Any) -> Any:
        y = np.zeros_like(x)
        v = y[:2]
        y[0] = x[0]
        return np.sum(v)

    with pytest.raises(pb.AliasError):  # NumPy would see the write through v
        pb.grad(f)(np.array([3.0, 4.0, 5.0]))


def test_what_leaves_the_tape_as_a_view_is_read_only() -> None:
    x = pb.tensor(np.arange(4.0))
    with pb.no_grad():
        part = x[:2]
    for plain in (part, pb.stop_gradient(x), x.value):
        with pytest.raises(ValueError, match="read-only"):
            plain[0] = 9.0


def test_a_leaf_written_to_keeps_the_gradient_of_what_it_was_made_with() -> None:
    t = pb.tensor([1.0, 2.0])
    t += 1.0
    t[0] *= 3.0
    np.sum(t * t).backward()
    np.testing.assert_array_equal(t.grad, [2 * 6.0 * 3.0, 2 * 3.0])
    t.grad = None
    assert t.grad is None


def test_writes_that_no_view_can_see_are_allowed() -> None:
    t = pb.tensor(np.arange(4.0))
    first = t[0:1]
    t[1] = first[0] * 2  # a view elsewhere, and a temporary one
    t[2] = t[1]
    t[3:] = t[2:3]
    np.testing.assert_array_equal(t.value, [0.0, 0.0, 0.0, 0.0])
    with pytest.raises(pb.AliasError):
        t[0] = 1.0  # `first` still looks there, although t has moved to new memory
    del first
    t[0] = 1.0
    copied = t[:2].copy()
    t[:] = 7.0
    assert copied.value.tolist() == [1.0, 0.0]


# -- leaving the tape --------------------------------------------------------------------------------------------------
def _assign_into_array(t: Any) -> Any:
    a = np.zeros(3)
    a[0] = t
    return a


def _array_of_tensors(t: Any) -> Any:
    return np.array([t, t])


def _asarray(t: Any) -> Any:
    return np.asarray(t)


def _float(t: Any) -> Any:
    return float(t)


def _math(t: Any) -> Any:
    return math.sin(t)


def _augmented(t: Any) -> Any:
    a = np.zeros(())
    a += t
    return a


def _mean_of_list(t: Any) -> Any:
    return np.mean([t, 2.0])


def _two_statements(t: Any) -> Any:
    a = np.zeros(2)
    a[0] = t
    return a


def _out(t: Any) -> Any:
    a = np.zeros(())
    return np.add(t, 1.0, out=a)


def _int(t: Any) -> Any:
    return int(t)


@pytest.mark.parametrize(
    ("escape", "mend"),
    [
        (_assign_into_array, r"np.zeros_like\(t, shape=...\)"),
        (_array_of_tensors, r"np.stack\(\[...\]\)"),
        (_asarray, "leave it out"),
        (_float, "t.value"),
        (_math, "use np.sin instead of math.sin"),
        (_augmented, r"np.zeros_like\(t, shape=...\)"),
        (_mean_of_list, r"np.stack\(\[...\]\)"),
        (_two_statements, r"np.zeros_like\(t, shape=...\)"),
        (_out, r"np.zeros_like\(t, shape=...\)"),
        (_int, "t.value"),
    ],
)
def test_leaving_the_tape_is_refused_with_the_line_and_the_mend(escape: Any, mend: str) -> None:
    with pytest.raises(pb.LeavesTapeError, match=mend) as error:
        pb.grad(escape)(1.0)
    line = escape.__code__.co_firstlineno
    assert "test_tensor.py" in str(error.value)
    assert any(f":{line + k} in {escape.__name__}" in str(error.value) for k in (1, 2))
    with pytest.raises((pb.LeavesTapeError, ValueError)) as error:
        escape(pb.tensor(1.0))
    # NumPy puts an error of its own before ours in `a[0] = t`; the traceback shows both, and transforms show ours
    # alone.
    assert isinstance(error.value.__cause__ or error.value, pb.LeavesTapeError)


def test_array_takes_nested_lists() -> None:
    g = pb.grad(lambda x: np.sum(pb.array([[x[0], 1.0], [x[1], x[0]]]) * np.array([[1.0, 2.0], [3.0, 4.0]])))
    np.testing.assert_array_equal(g(np.array([5.0, 6.0])), [5.0, 3.0])
    assert isinstance(pb.array([[1.0, 2.0]]), np.ndarray)


def test_a_tensor_used_after_its_transform_has_ended() -> None:
    kept = []

    def f(x: Any) -> Any:
        kept.append(x)
        return x * x

    pb.grad(f)(1.0)
    with pytest.raises(pb.FreedError, match="has_aux"):
        kept[0] + 1.0


# -- mutation ----------------------------------------------------------------------------------------------------------
def test_a_constant_changed_after_it_was_saved() -> None:
    def f(x: Any) -> Any:
        c = np.full(3, 2.0)
        y = x * c
        c[0] = 100.0
        return np.sum(y)

    with pytest.raises(pb.MutationError, match=r"argument 1 of multiply.*shape \(3,\)"):
        pb.grad(f)(np.ones(3))


def test_a_constant_of_a_fused_primitive_changed_after_it_was_saved() -> None:
    def f(x: Any) -> Any:
        targets = np.eye(3)
        loss = pb.nn.softmax_cross_entropy(x, targets)
        targets[0] = [0.0, 1.0, 0.0]
        return loss

    with pytest.raises(pb.MutationError, match="argument 1 of softmax_cross_entropy"):
        pb.grad(f)(np.zeros((3, 3)))


def test_an_input_changed_after_it_was_read() -> None:
    x = np.ones(3)

    def f(t: Any) -> Any:
        y = np.sum(t * t)
        x[0] = 5.0
        return y

    with pytest.raises(pb.MutationError, match="argument 0"):
        pb.grad(f)(x)


@pytest.mark.parametrize("size", [10, 5000, 100_001])
@pytest.mark.parametrize("change", ["one", "swap", "sort"])
def test_any_change_is_noticed(size: int, change: str) -> None:
    x = np.random.default_rng(size).normal(size=size)

    def f(t: Any) -> Any:
        y = np.sum(t * x)
        if change == "one":
            x[size // 2] += 1e-9
        elif change == "swap":
            x[[1, size - 2]] = x[[size - 2, 1]]
        else:
            x.sort()
        return y

    with pytest.raises(pb.MutationError):
        pb.grad(f)(np.ones(size))


def test_unsaved_arrays_may_change() -> None:
    def f(x: Any) -> Any:
        c = np.ones(3)
        y = x + c  # addition saves nothing
        c[0] = 100.0
        return np.sum(y)

    np.testing.assert_array_equal(pb.grad(f)(np.ones(3)), np.ones(3))


# -- NaNs --------------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_first_nan_is_named_forward_and_backward() -> None:
    def forward(x: Any) -> Any:
        y = x - 2.0
        z = np.log(y)  # the culprit
        return np.sum(z * z)

    def backward(x: Any) -> Any:
        y = np.sqrt(x)  # finite at 0, its derivative is not
        return np.sum(y * 3.0)

    with pb.trace_nans():
        with pytest.raises(pb.NonFiniteError, match=r"forward pass: log made NaN from finite inputs .*culprit"):
            pb.grad(forward)(np.ones(2))
        with pytest.raises(pb.NonFiniteError, match=r"backward pass: sqrt made infinity .*finite at 0"):
            pb.grad(backward)(np.zeros(2))
        with pytest.raises(pb.NonFiniteError, match="already in its input 0"):
            pb.grad(lambda x: np.sum(x * 2.0))(np.array([np.nan]))
        with pytest.raises(pb.NonFiniteError, match="forward pass: log"):
            pb.jvp(forward, (np.ones(2),), (np.ones(2),))
    assert np.isnan(pb.grad(forward)(np.ones(2))).all()
