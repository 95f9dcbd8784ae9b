"""Pytrees: nested containers taken apart into leaves and put together again.

Dicts, lists, tuples, named tuples, dataclasses and registered classes are containers, `None` is an empty one;
anything else is a leaf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

from pullback.errors import TreeError

__all__ = ["Structure", "flatten", "leaves", "map", "paths", "register"]


class _Container(NamedTuple):
    """How one class of container is taken apart: `split(x) -> (keys, children, meta)` and put together: `join(meta,
    children)`.

    A key is the text that leads to a child, such as `[0]`, `['w']` or `.weight`.
    """

    split: Callable[[Any], tuple[Sequence[str], Sequence[Any], Any]]
    join: Callable[[Any, list[Any]], Any]


@dataclasses.dataclass(frozen=True, slots=True)
class Structure:
    """What is left of a tree when its leaves are taken out; equal for trees of the same shape."""

    kind: type | None  # None for a leaf
    meta: Any
    keys: tuple[str, ...]
    children: tuple[Structure, ...]

    def unflatten(self, leaves: Iterable[Any]) -> Any:
        """The tree with these leaves. Raises TreeError where their number is not that of the structure."""
        supply = iter(leaves)
        try:
            tree = self._join(supply)
        except StopIteration:
            raise TreeError(f"too few leaves: the structure has {len(self.paths())}") from None
        if next(supply, self) is not self:
            raise TreeError(f"too many leaves: the structure has {len(self.paths())}")
        return tree

    def _join(self, supply: Iterator[Any]) -> Any:
        if self.kind is None:
            return next(supply)
        return container(self.kind).join(self.meta, [child._join(supply) for child in self.children])

    def paths(self) -> list[str]:
        """The path of each leaf, such as `level0.conv1.weight` or `[0]['w']`."""
        return [path.removeprefix(".") for path in self._paths()]

    def _paths(self) -> Iterator[str]:
        if self.kind is None:
            yield ""
        for key, child in zip(self.keys, self.children, strict=True):
            for rest in child._paths():
                yield key + rest


def _split_dict(x: dict[Any, Any]) -> tuple[list[str], list[Any], Any]:
    try:
        keys = sorted(x)
    except TypeError:  # keys of several types keep their order
        keys = list(x)
    return [f"[{k!r}]" for k in keys], [x[k] for k in keys], tuple(keys)


@cache
def _numbered(count: int) -> tuple[str, ...]:
    return tuple(f"[{i}]" for i in range(count))


def _split_dataclass(x: Any) -> tuple[list[str], list[Any], Any]:
    static: list[str] = []
    names: list[str] = []
    for field in dataclasses.fields(x):
        (static if field.metadata.get("static") else names).append(field.name)
    meta = (type(x), tuple(names), tuple((name, getattr(x, name)) for name in static))
    return [f".{n}" for n in names], [getattr(x, n) for n in names], meta


def _join_dataclass(meta: Any, children: list[Any]) -> Any:
    kind, names, static = meta
    tree = object.__new__(
        kind
    )  # __init__ and __post_init__ may convert or check, which a tree of tangents need not survive
    for name, value in (*zip(names, children, strict=True), *static):
        object.__setattr__(tree, name, value)
    return tree


_LEAF = Structure(None, None, (), ())
_NONE = _Container(lambda x: ((), (), None), lambda meta, children: None)
DATACLASS = _Container(_split_dataclass, _join_dataclass)
_NAMED_TUPLE = _Container(lambda x: ([f".{n}" for n in x._fields], x, type(x)), lambda meta, children: meta(*children))
_CONTAINERS: dict[type, _Container | None] = {
    type(None): _NONE,
    dict: _Container(_split_dict, lambda meta, children: dict(zip(meta, children, strict=True))),
    list: _Container(lambda x: (_numbered(len(x)), x, None), lambda meta, children: children),
    tuple: _Container(lambda x: (_numbered(len(x)), x, None), lambda meta, children: tuple(children)),
}


def register(
    kind: type,
    split: Callable[[Any], tuple[Sequence[str], Sequence[Any], Any]],
    join: Callable[[Any, list[Any]], Any],
) -> None:
    """Makes instances of `kind` and of its subclasses containers.

    `split(x)` returns the keys (text such as `.weight`), the children, and whatever else `join(meta, children)`
    needs; the latter must compare with `==`, because two trees match when their structures are equal."""
    _CONTAINERS[kind] = _Container(split, join)


def _lookup(kind: type) -> _Container | None:
    """The container of a class, found once and remembered; None for a leaf."""
    try:
        return _CONTAINERS[kind]
    except KeyError:
        pass
    found = next((_CONTAINERS[base] for base in kind.__mro__[1:] if base in _CONTAINERS), None)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        found = _NAMED_TUPLE
    elif found is None and dataclasses.is_dataclass(kind):
        found = DATACLASS
    _CONTAINERS[kind] = found
    return found


def container(kind: type) -> _Container:
    found = _lookup(kind)
    assert found is not None, kind
    return found


def flatten(tree: Any) -> tuple[list[Any], Structure]:
    """The leaves of a tree in a fixed order (dicts by sorted key), and its structure."""
    out: list[Any] = []
    return out, _flatten(tree, out)


def _flatten(tree: Any, out: list[Any]) -> Structure:
    kind = type(tree)
    container = _lookup(kind)
    if container is None:
        out.append(tree)
        return _LEAF
    keys, children, meta = container.split(tree)
    return Structure(kind, meta, tuple(keys), tuple([_flatten(child, out) for child in children]))


def leaves(tree: Any) -> list[Any]:
    """The leaves of a tree."""
    return flatten(tree)[0]


def paths(tree: Any) -> list[str]:
    """The path of each leaf of a tree, in the order of `leaves`."""
    return flatten(tree)[1].paths()


def map(f: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """The tree with `f(leaf, *corresponding leaves of the other trees)` at each leaf.

    Raises TreeError, naming the first difference, where the trees do not match.
    """
    first, structure = flatten(tree)
    columns = [first]
    for i, other in enumerate(rest, 1):
        column, its = flatten(other)
        if its != structure:
            raise TreeError(f"tree {i} does not match tree 0: {_difference(structure, its)}")
        columns.append(column)
    return structure.unflatten([f(*row) for row in zip(*columns, strict=True)])


def _difference(expected: Structure, got: Structure, path: str = "") -> str:
    where = f"at {path.removeprefix('.')}" if path else "at the top"
    if expected.kind is not got.kind:
        names = [s.kind.__name__ if s.kind else "a leaf" for s in (expected, got)]
        return f"{where}, expected {names[0]}, got {names[1]}"
    if expected.keys != got.keys:
        return f"{where}, expected children {list(expected.keys)}, got {list(got.keys)}"
    for key, a, b in zip(expected.keys, expected.children, got.children, strict=True):
        if a != b:
            return _difference(a, b, path + key)
    return f"{where}, the static parts differ: expected {expected.meta!r}, got {got.meta!r}"
