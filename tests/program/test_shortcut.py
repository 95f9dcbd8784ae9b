"""Arguments that are known at once: code made for one form takes the arrays out, and leaves others to the slow way."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.program import shortcut


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclasses.dataclass
class Settings:
    weight: Any
    mode: str = dataclasses.field(default="a", metadata={"static": True})


class Scaled(nn.Module):
    def __init__(self, factor: float, sizes: Any = ()) -> None:
        self.weight = np.ones(3)
        self.factor = factor
        self.sizes = sizes

    def forward(self, x: Any) -> Any:
        return x * self.weight * self.factor * len(self.sizes)


X, Y = np.arange(3.0), np.ones((2, 2), np.float32)
TREES: dict[str, Any] = {
    "array": X,
    "nested": {"b": [X, (Y, None)], "a": 2.5},
    "named": Pair(X, {"text": "s"}),
    "dataclass": Settings(X, "b"),
    "module": nn.Sequential(nn.Linear(3, 2, rng=0), nn.ReLU(), nn.Linear(2, 1, rng=1)),
    "state": nn.BatchNorm(4),
    "scalars": (np.float32(1.0), np.int64(2), 3),
    "empty": ((), [], {}),
}


@pytest.mark.parametrize("name", TREES)
def test_what_is_taken_apart_is_put_together(name: str) -> None:
    tree = TREES[name]
    leaves, structure = pb.tree.flatten(tree)
    take = shortcut.taking(structure, leaves, ("_seen", "_parts"))
    assert take is not None
    arrays = take(tree)
    assert arrays is not None
    for ours, exact in zip(arrays, [leaf for leaf in leaves if isinstance(leaf, np.ndarray | np.generic)], strict=True):
        assert ours is exact
    hole = object()
    kept = [hole if isinstance(leaf, np.ndarray | np.generic) else leaf for leaf in leaves]
    again, same = pb.tree.flatten(shortcut.building(structure, kept, hole)(arrays))
    assert same == structure
    assert all(a is b for a, b in zip(again, leaves, strict=True))


OTHERS: list[tuple[Any, Any]] = [
    (X, X.astype(np.float32)),
    (X, X[:2]),
    (X, [1.0, 2.0]),
    (X, np.float64(1.0)),
    ((X, 1), (X, 2)),
    ((X, 1), (X, True)),
    ((X, None), (X, X)),
    ((X, X), (X,)),
    ((X, X), [X, X]),
    ((X, X), Pair(X, X)),
    ({"a": X}, {"b": X}),
    ({"a": X}, {"a": X, "b": X}),
    ({"a": None}, {"b": None}),
    (Settings(X, "a"), Settings(X, "b")),
    (Scaled(2.0), Scaled(3.0)),
    (np.float32(1.0), np.float64(1.0)),
]


@pytest.mark.parametrize("number", range(len(OTHERS)))
def test_trees_of_another_form_are_left_to_the_slow_way(number: int) -> None:
    known, other = OTHERS[number]
    leaves, structure = pb.tree.flatten(known)
    take = shortcut.taking(structure, leaves, ("_seen", "_parts"))
    assert take is not None
    assert take(known) is not None
    assert take(other) is None


def test_attributes_that_come_go_or_change_are_seen() -> None:
    f = pb.compile(lambda module, x: module(x))
    module = Scaled(2.0, (1, 2))
    for _ in range(4):
        np.testing.assert_array_equal(f(module, X), X * 4.0)
    module.factor = 3.0
    np.testing.assert_array_equal(f(module, X), X * 6.0)
    module.sizes = (1,)
    np.testing.assert_array_equal(f(module, X), X * 3.0)
    module.weight = np.full(3, 2.0)
    np.testing.assert_array_equal(f(module, X), X * 6.0)
    module.other = 1
    np.testing.assert_array_equal(f(module, X), X * 6.0)
    del module.other
    np.testing.assert_array_equal(f(module, X), X * 6.0)


def test_what_can_change_in_place_is_looked_at_each_time() -> None:
    f = pb.compile(lambda module, x: module(x))
    module = Scaled(2.0, [1, 2])
    for _ in range(4):
        np.testing.assert_array_equal(f(module, X), X * 4.0)
    module.sizes.append(3)
    np.testing.assert_array_equal(f(module, X), X * 6.0)


class Stack(nn.Module):
    def __init__(self) -> None:
        self.layers = [nn.Linear(3, 3, rng=0), nn.Tanh()]

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_layer_that_is_exchanged_in_place_is_seen() -> None:
    f = pb.compile(lambda module, x: module(x))
    module = Stack()
    for _ in range(3):
        np.testing.assert_allclose(f(module, X), np.tanh(module.layers[0](X)))
    module.layers[1] = nn.ReLU()
    np.testing.assert_allclose(f(module, X), np.maximum(module.layers[0](X), 0.0))
    module.layers[0] = nn.Linear(3, 2, rng=1)
    np.testing.assert_allclose(f(module, X), np.maximum(module.layers[0](X), 0.0))


def test_several_forms_in_turn() -> None:
    calls = []

    def twice(x: Any, *, by: int = 2) -> Any:
        calls.append(by)
        return x * by

    f = pb.compile(twice)
    for _ in range(5):
        for x in (X, Y, X[:2], Y[0], X[:1]):
            np.testing.assert_array_equal(f(x), x * 2)
            np.testing.assert_array_equal(f(x, by=3), x * 3)
    assert len(calls) == 10, "each was recorded once"


def test_inside_a_transform_the_function_itself_runs() -> None:
    f = pb.compile(lambda x: np.sum(x**3))
    for _ in range(3):
        f(X)
    np.testing.assert_allclose(pb.grad(f)(X), 3 * X**2)
    outer = pb.compile(lambda x: f(x) * 2.0)
    for _ in range(3):
        np.testing.assert_allclose(outer(X), 2 * np.sum(X**3))
