"""Pytrees: every container goes apart and together again, and differences are named."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pullback as pb
from pullback.core import tree


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclasses.dataclass(frozen=True)
class Layer:
    weight: Any
    name: str = dataclasses.field(default="linear", metadata={"static": True})

    def __post_init__(self) -> None:
        if self.weight is None:
            raise ValueError("a layer needs a weight")


class Box:
    def __init__(self, inside: Any) -> None:
        self.inside = inside


tree.register(Box, lambda box: ((".inside",), (box.inside,), None), lambda meta, children: Box(*children))

trees = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda children: (
        st.lists(children, max_size=3)
        | st.tuples(children, children)
        | st.dictionaries(st.text(max_size=3), children, max_size=3)
        | st.builds(Pair, children, children)
    ),
    max_leaves=10,
)


@given(trees)
def test_flatten_and_unflatten_are_inverse(t: Any) -> None:
    leaves, structure = tree.flatten(t)
    assert structure.unflatten(leaves) == t
    assert len(structure.paths()) == len(leaves)
    assert tree.flatten(tree.map(lambda x: [x], t))[0] == leaves


def test_paths_read_like_python() -> None:
    t = {"w": [1, Pair(2, None)], "b": Layer(3), "box": Box((4,))}
    assert tree.paths(t) == ["['b'].weight", "['box'].inside[0]", "['w'][0]", "['w'][1].a"]
    assert tree.paths(Layer(1)) == ["weight"]
    assert tree.leaves(t) == [3, 4, 1, 2]


def test_dataclasses_keep_static_fields_and_are_not_checked_again() -> None:
    layer = tree.map(lambda w: None, Layer(1, name="first"))
    assert (layer.weight, layer.name) == (None, "first")


def test_dicts_match_whatever_the_order() -> None:
    assert tree.map(lambda a, b: a - b, {"x": 3, "y": 5}, {"y": 1, "x": 1}) == {"x": 2, "y": 4}


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        ({"a": [1, 2]}, r"at \['a'\], expected children \['\[0\]'\], got \['\[0\]', '\[1\]'\]"),
        ({"b": [1]}, r"at the top, expected children"),
        ({"a": 1}, r"at \['a'\], expected list, got a leaf"),
        ({"a": (1,)}, "expected list, got tuple"),
    ],
)
def test_differences_are_named(other: Any, difference: str) -> None:
    with pytest.raises(pb.TreeError, match=difference):
        tree.map(lambda a, b: a, {"a": [1]}, other)


def test_static_differences_are_named() -> None:
    with pytest.raises(pb.TreeError, match="static parts differ"):
        tree.map(lambda a, b: a, Layer(1, name="x"), Layer(1, name="y"))


def test_the_number_of_leaves_is_checked() -> None:
    structure = tree.flatten([1, 2])[1]
    with pytest.raises(pb.TreeError, match="too few"):
        structure.unflatten([1])
    with pytest.raises(pb.TreeError, match="too many"):
        structure.unflatten([1, 2, 3])
