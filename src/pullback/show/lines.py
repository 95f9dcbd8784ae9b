"""The lines of a derivation, and the closed forms they end in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pullback.show.algebra import transposed
from pullback.show.expression import Expression, Partial, Symbol
from pullback.show.jacobians import structure, write_jacobian
from pullback.show.layout import Style, Writer
from pullback.show.notation import SUM
from pullback.show.rows import row
from pullback.show.running import Variable
from pullback.show.simplify import Definitions, same
from pullback.show.writers import Latex, Text

TOLERANCE = 1e-6


@dataclass(frozen=True)
class Shown:
    """What a line shows where it is not its expression as it is: a sum of parts, some summed over an index, and
    possibly a product over an index before it."""

    parts: tuple[tuple[str, Expression], ...]  # the range of the index, such as `t=1..4`, or nothing
    product: tuple[str, Expression] | None = None


@dataclass(frozen=True)
class Entry:
    """A line before it is written."""

    variable: Variable
    left: Expression
    expression: Expression
    error: float
    reason: str = ""
    source: str = ""
    shown: Shown | None = None
    span: str = ""  # the range of the index, where the line stands for several
    count: int = 1


@dataclass(frozen=True)
class Line:
    """One line of a derivation: an equation, why it holds, and how far its numbers are from those of the program."""

    part: str  # forward, jacobian, tangent, backward or closed
    entry: Entry
    style: Style

    @property
    def variable(self) -> str:
        """The name of the variable that the line is about; of the last, where it is about several."""
        return self.entry.variable.name

    @property
    def expression(self) -> Expression:
        return self.entry.expression

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.variable.shape

    @property
    def reason(self) -> str:
        """Why the line holds, in words."""
        [factor] = self.entry.left.terms[0].factors
        name = Text(self.style).name(factor.atom.name) if isinstance(factor.atom, Symbol) else ""
        return self.entry.reason.replace("{name}", name)

    @property
    def source(self) -> str:
        """The line of the program."""
        return self.entry.source

    @property
    def error(self) -> float:
        """The relative error of its numbers; where the line stands for several, the largest."""
        return self.entry.error

    @property
    def ok(self) -> bool:
        return self.error < TOLERANCE

    @property
    def span(self) -> str:
        """The values of its index, such as `t = 1, …, 4`; empty for a line that stands for itself."""
        return self.entry.span

    @cached_property
    def text(self) -> str:
        """The equation in one line of Unicode."""
        writer = Text(self.style)
        return f"{writer.left(self.entry.left)} = {written(self.entry, writer)}"

    @cached_property
    def latex(self) -> str:
        """The equation in LaTeX."""
        writer = Latex(self.style)
        return f"{writer.left(self.entry.left)} = {written(self.entry, writer)}"


def written(entry: Entry, writer: Writer) -> str:
    """The right-hand side of a line."""
    [factor] = entry.left.terms[0].factors
    if isinstance(factor.atom, Partial):
        return write_jacobian(structure(entry.expression, factor.atom) or [], writer)
    gradient = isinstance(factor.atom, Symbol) and factor.atom.role == "adjoint" and writer.style.rows
    if entry.shown is None:
        return row(entry.expression, writer).text if gradient else writer.write(entry.expression)
    pieces = []
    for span, e in entry.shown.parts:
        piece = row(e, writer) if gradient else writer.piece(e)
        pieces.append(writer.sum_over([span], piece).text if span else piece.text)
    total = " + ".join(pieces)
    if entry.shown.product is None:
        return total
    span, jacobian = entry.shown.product
    if gradient:
        index, first, last = re.split(r"=|\.\.", span)
        turned = writer.matrix(transposed(jacobian, (1, 0)))
        return f"{total}{writer.gap}{writer.product_over(f'{index}={last}..{first}', turned).text}"
    return f"{writer.product_over(span, writer.matrix(jacobian)).within(SUM)}{writer.gap}{total}"


class Formula:
    """The gradient of one input in closed form: `str`, `.latex()`, `.evaluate(**arrays)`, `==` with expressions."""

    def __init__(self, entry: Entry, style: Style, values: Mapping[str, Any], known: Definitions) -> None:
        self._entry, self._style, self._values, self._known = entry, style, values, known

    @property
    def expression(self) -> Expression:
        """The formula as an expression."""
        return self._entry.expression

    def __str__(self) -> str:
        return written(self._entry, Text(self._style))

    def latex(self) -> str:
        """The formula in LaTeX."""
        return written(self._entry, Latex(self._style))

    def evaluate(self, **arrays: Any) -> Any:
        """Its value; symbols that are not given have the values of the derivation's own run."""
        return self.expression.evaluate(**{**self._values, **arrays})

    def __eq__(self, other: object) -> bool:
        other = other.expression if isinstance(other, Formula) else other
        return isinstance(other, Expression) and same(self.expression, other, self._known)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Formula {self}>"
