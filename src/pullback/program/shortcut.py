"""The way into a program and out of it, as Python code for trees of one form.

To take arguments apart, and to find the program that serves them, costs some microseconds for every module among them.
In a training they have the same form at every step, which code made for that form sees in a tenth of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pullback.core import tree
from pullback.program.ir import is_array

Take = Callable[[Any], list[Any] | None]
"""The arrays in a tree, or None if it differs in anything else than their numbers from the one that was known."""
Build = Callable[[Sequence[Any]], Any]
"""A tree from the arrays in it."""

_FIXED = (int, float, complex, str, bytes, type(None), np.dtype, np.generic, type)
"""What cannot change, so that the same object is the same value."""


class _NoShortcutError(Exception):
    """Something in the form can change without becoming another object."""


def taking(structure: tree.Structure, leaves: Sequence[Any], ignored: Sequence[str] = ()) -> Take | None:
    """Code that takes trees of this structure apart; None where a tree could change and not be seen to.

    `ignored` are the attributes of modules that do not matter.
    """
    writer = _Taking(leaves, ignored)
    try:
        writer.check(structure, "tree")
    except _NoShortcutError:
        return None
    lines = ["def take(tree):", *writer.lines, f"return [{', '.join(writer.arrays)}]"]
    code: Take = _compiled("take", lines, writer.constants)
    return code


def building(structure: tree.Structure, leaves: Sequence[Any], placeholder: object) -> Build:
    """Code that puts trees of this structure together: from arrays, in order, where a leaf is the placeholder."""
    constants: dict[str, Any] = {}
    left, places = iter(leaves), iter(range(len(leaves)))

    def expression(part: tree.Structure) -> str:
        if part.kind is None:
            leaf = next(left)
            return f"arrays[{next(places)}]" if leaf is placeholder else _named(constants, leaf)
        children = f"[{', '.join([expression(child) for child in part.children])}]"
        if part.kind is tuple:
            return f"tuple({children})"
        join = _named(constants, tree.container(part.kind).join)
        return f"{join}({_named(constants, part.meta)}, {children})"

    code: Build = _compiled("build", ["def build(arrays):", f"return {expression(structure)}"], constants)
    return code


class _Taking:
    """The lines of a function that leaves with None at the first difference."""

    def __init__(self, leaves: Sequence[Any], ignored: Sequence[str]) -> None:
        self._leaves = iter(leaves)
        self._ignored = ignored
        self.lines: list[str] = []
        self.arrays: list[str] = []
        self.constants: dict[str, Any] = {"missing": object()}
        self._count = 0

    def check(self, structure: tree.Structure, name: str) -> None:
        """The lines for a part of the tree, which a variable holds."""
        if structure.kind is None:
            self._leaf(name, next(self._leaves))
        elif structure.kind is type(None):
            self._unless(f"{name} is None")
        else:
            self._unless(f"type({name}) is {self._constant(structure.kind)}")
            places = self._places(structure, name)
            for child, place in zip(structure.children, places, strict=True):
                self.check(child, self._variable(place))

    def _places(self, structure: tree.Structure, name: str) -> list[str]:
        """The expressions for the children, after lines that check all else of a container."""
        kind, meta = structure.kind, structure.meta
        assert kind is not None
        if kind in (tuple, list) or (issubclass(kind, tuple) and hasattr(kind, "_fields")):
            self._unless(f"len({name}) == {len(structure.children)}")
            return [f"{name}[{k}]" for k in range(len(structure.children))]
        if kind is dict:
            self._unless(f"len({name}) == {len(meta)}")
            return [f"{name}.get({self._fixed(key)}, missing)" for key in meta]
        if (settings := getattr(meta, "rest", None)) is not None:
            return self._module(name, meta.parts, settings)
        if tree.container(kind) is tree.DATACLASS:
            _, names, static = meta
            for field, value in static:
                self._unless(f"{name}.{field} is {self._fixed(value)}")
            return [f"{name}.{field}" for field in names]
        raise _NoShortcutError

    def _module(self, name: str, parts: Sequence[str], settings: dict[str, Any]) -> list[str]:
        own = self._variable(f"{name}.__dict__")
        kept = {name: value for name, value in settings.items() if name not in self._ignored}
        passed_over = "".join(f" - ({each!r} in {own})" for each in self._ignored)
        self._unless(f"len({own}){passed_over} == {len(kept) + len(parts)}")
        for attribute, value in kept.items():
            self._unless(f"{own}.get({attribute!r}, missing) is {self._fixed(value)}")
        return [f"{own}.get({part!r}, missing)" for part in parts]

    def _leaf(self, name: str, leaf: Any) -> None:
        if not is_array(leaf):
            self._unless(f"{name} is {self._constant(leaf)}")
            return
        self.arrays.append(name)
        self._unless(f"type({name}) is {self._constant(type(leaf))}")
        if isinstance(leaf, np.ndarray):
            self._unless(f"{name}.dtype is {self._constant(leaf.dtype)} and {name}.shape == {leaf.shape!r}")

    def _fixed(self, value: Any) -> str:
        """A constant that is compared by its identity, as `frozen` knows it."""
        if isinstance(value, tuple) and not all(isinstance(part, _FIXED) for part in value):
            raise _NoShortcutError
        if isinstance(value, list | dict | slice | np.ndarray):
            raise _NoShortcutError
        return self._constant(value)

    def _unless(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return None")

    def _variable(self, expression: str) -> str:
        self._count += 1
        self.lines.append(f"v{self._count} = {expression}")
        return f"v{self._count}"

    def _constant(self, value: Any) -> str:
        return _named(self.constants, value)


def _named(constants: dict[str, Any], value: Any) -> str:
    """A name for a value that the code refers to."""
    name = f"c{len(constants)}"
    constants[name] = value
    return name


def _compiled(name: str, lines: Sequence[str], constants: dict[str, Any]) -> Any:
    exec(lines[0] + "\n " + "\n ".join(lines[1:]), constants)
    return constants[name]
