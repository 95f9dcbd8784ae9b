"""Writes docs/numpy-coverage.md: every public function of numpy and numpy.linalg, and what pullback does with it.

    python scripts/coverage_table.py

All of it is read off the registry: the kinds of the primitives, and the names that the code of each composition uses.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, NamedTuple

import numpy as np

import pullback  # noqa: F401  (fills the registry)
from pullback.core.primitive import Elementwise, Primitive, Untracked
from pullback.core.tensor import RULES, UFUNC_METHODS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "numpy-coverage.md"
MODULES = {"np": np, "np.linalg": np.linalg}

PLAIN = "plain"  # runs on the values and answers with plain numbers
COMPOSITION = "composition"
ZERO = "elementwise, derivative 0"
NO_RULE = "no rule"
NOT_DISPATCHED = "not dispatched"


class Row(NamedTuple):
    """What happens when a NumPy function is given a tensor."""

    name: str
    kind: str  # that of a primitive, or one of the constants above
    uses: tuple[str, ...] = ()  # for a composition: the functions and primitives that it is made of


def rows() -> list[Row]:
    """One row for every public function."""
    return [
        _row(f"{prefix}.{name}", getattr(module, name))
        for prefix, module in MODULES.items()
        for name in _public(module)
    ]


def method_rows() -> list[Row]:
    """One row for every method of a ufunc that has a rule."""
    found = {f"np.{ufunc.__name__}.{method}": rule for (ufunc, method), rule in UFUNC_METHODS.items()}
    return [Row(name, COMPOSITION, _uses(rule)) for name, rule in sorted(found.items())]


def _public(module: ModuleType) -> list[str]:
    """The functions among the public names; `test` runs NumPy's own tests."""
    names = [name for name in dir(module) if not name.startswith("_") and name != "test"]
    return [name for name in names if callable(f := getattr(module, name)) and not isinstance(f, type)]


def _row(name: str, function: Any) -> Row:
    rule = RULES.get(function)
    if rule is None:
        # What NumPy dispatches to a tensor is a ufunc, or keeps its plain implementation beside the dispatcher.
        dispatched = isinstance(function, np.ufunc) or hasattr(function, "_implementation")
        return Row(name, NO_RULE if dispatched else NOT_DISPATCHED)
    if isinstance(rule, Primitive):
        return Row(name, _kind(rule))
    used = _primitives(rule)
    if _is_plain(rule) or (used and all(isinstance(primitive, Untracked) for primitive in used.values())):
        return Row(name, PLAIN)
    return Row(name, COMPOSITION, _uses(rule))


def _kind(primitive: Primitive) -> str:
    flat = isinstance(primitive, Elementwise) and all(partial == 0 for partial in primitive.partials)
    return PLAIN if isinstance(primitive, Untracked) else ZERO if flat else primitive.kind


def _primitives(rule: Any) -> dict[str, Primitive]:
    """The primitives that a function's code mentions, by name."""
    scope = rule.__globals__ | dict(inspect.getclosurevars(rule).nonlocals)
    mentioned = [scope.get(name) for name, _ in _mentions(rule.__code__)]
    return {value.name: value for value in mentioned if isinstance(value, Primitive)}


def _uses(rule: Any) -> tuple[str, ...]:
    """What a composition is made of: the primitives that its code mentions, or else the NumPy functions."""
    primitives = _primitives(rule).items()
    if primitives:
        return tuple(sorted(f"`{name}` ({primitive.kind})" for name, primitive in primitives))
    functions = {
        attribute for name, attribute in _mentions(rule.__code__) if name == "np" and _has_derivative(attribute)
    }
    return tuple(f"`np.{function}`" for function in sorted(functions))


def _has_derivative(function: str) -> bool:
    rule = RULES.get(getattr(np, function))
    return rule is not None and not isinstance(rule, Untracked) and not _is_plain(rule)


def _is_plain(rule: Any) -> bool:
    """Whether a composition runs the NumPy function itself on the values: all such share one inner function."""
    return getattr(rule, "__code__", None) is RULES[np.shape].__code__


def _mentions(code: CodeType) -> Iterator[tuple[str, str]]:
    """Every global or outer variable that a function mentions, with the attribute that is taken of it, if any."""
    instructions = [instruction for instruction in dis.get_instructions(code) if instruction.opname != "CACHE"]
    for instruction, following in pairwise(instructions):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_DEREF"):
            taken = following.opname in ("LOAD_ATTR", "LOAD_METHOD")
            yield str(instruction.argval), str(following.argval) if taken else ""
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _mentions(constant)


# -- the page ----------------------------------------------------------------------------------------------------------
_HEAD = """\
# NumPy coverage

What happens when a function of `numpy` or `numpy.linalg` is given a tensor. This page is written by
`scripts/coverage_table.py` from the registry of rules, and a test keeps the two equal. It lists the functions of NumPy
{version}.

{summary}

Operators and methods (`x + y`, `x @ y`, `x[i]`, `x.sum()`) are the functions of the same name. Options without a rule,
such as `np.sum(..., where=...)`, raise `NoRuleError` too; `out=` works where the output is a tensor.
"""

_SECTIONS = {
    "elementwise": (
        "Elementwise primitives",
        "Ufuncs with a partial derivative for each argument. Where arguments tie, as in `np.maximum(x, x)`, they share "
        "the gradient equally.",
    ),
    ZERO: ("Piecewise constant", "The derivative is 0 wherever it exists, and is taken to be 0 everywhere."),
    COMPOSITION: (
        "Compositions and primitives with NumPy's own argument handling",
        "Replaced on tensors by a function that is made of others with a rule. The second column says of which: the "
        "primitives that its code applies, with their kinds, or else the NumPy functions.",
    ),
    PLAIN: (
        "Answers without a derivative",
        "Comparisons, positions, predicates, shapes: they return plain arrays and numbers.",
    ),
    NO_RULE: (
        "No rule",
        "NumPy dispatches these, and a tensor raises `NoRuleError`, which says how to declare a rule. `t.value` leaves "
        "the tape on purpose.",
    ),
    NOT_DISPATCHED: (
        "Not dispatched by NumPy",
        "They make arrays from numbers, read and write files, or tell of NumPy itself. NumPy does not ask a tensor "
        "what to do; where one of them needs the numbers of a tensor, it raises `LeavesTapeError` with the mend, such "
        "as `np.stack` or `pb.array` in place of `np.array`.",
    ),
}


def page() -> str:
    """The whole page."""
    every = rows()
    kinds = {kind: [row for row in every if row.kind == kind] for kind in _SECTIONS}
    summary = "\n".join(
        ["| | functions |", "|---|---|", *(f"| {_SECTIONS[k][0]} | {len(v)} |" for k, v in kinds.items())]
    )
    parts = [_HEAD.format(version=minor_version(), summary=summary)]
    for kind, (title, text) in _SECTIONS.items():
        parts.append(f"## {title}\n\n{text}\n")
        parts.append(_table(kinds[kind]) if kind == COMPOSITION else _list(kinds[kind]))
    parts.append(
        "## Methods of ufuncs\n\nOther methods, such as `np.add.reduceat`, raise `NoRuleError`. "
        "`np.logaddexp.reduce` is the log-sum-exp.\n"
    )
    parts.append(_table(method_rows()))
    return "\n".join(parts)


def _table(rows: list[Row]) -> str:
    lines = [f"| `{row.name}` | {', '.join(row.uses) or 'plain expressions and helpers of its file'} |" for row in rows]
    return "\n".join(["| function | made of |", "|---|---|", *lines, ""])


def _list(rows: list[Row]) -> str:
    return ", ".join(f"`{row.name}`" for row in rows) + "\n"


def minor_version() -> str:
    """NumPy's version without the patch level, such as 2.3."""
    return ".".join(np.__version__.split(".")[:2])


if __name__ == "__main__":
    PAGE.write_text(page())
