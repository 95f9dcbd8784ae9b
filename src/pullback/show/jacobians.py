"""Local Jacobians in structured form: identity, diagonal, a matrix by its name, an outer product; read off what the
rule makes of a cotangent."""

from __future__ import annotations

from fractions import Fraction

from pullback.show.algebra import constant, expression
from pullback.show.expression import Expression, Factor, Partial, Symbol, Term
from pullback.show.layout import Writer
from pullback.show.notation import PRODUCT, SUM, Piece
from pullback.show.simplify import expand

Part = tuple[str, Expression]
"""What it is (identity, diagonal, matrix, row or plain), and of what."""


def structure(e: Expression, partial: Partial) -> list[Part] | None:
    """The parts of the Jacobian whose transpose takes the cotangent of `partial.of` to `e`; None where a variable is no
    vector."""
    of, by = partial.of.shape, partial.by.shape
    if len(of) > 1 or len(by) > 1 or of == (1,) or by == (1,):
        return None
    parts = []
    for term in expand(e).terms:
        part = _part(term, partial.of, by)
        if part is None:
            return None
        parts.append(part)
    return parts or [("plain", constant(0))]


def _part(term: Term, of: Symbol, by: tuple[int, ...]) -> Part | None:
    mine = [
        f for f in term.factors if isinstance(f.atom, Symbol) and f.atom.role == "adjoint" and f.atom.name == of.name
    ]
    rest = tuple(f for f in term.factors if f not in mine)
    if len(mine) > 1 or (mine and mine[0].power != 1):
        return None
    if not of.shape or not mine:
        plain = expression(by, [Term(term.coefficient, rest, term.bound)])
        return ("row" if by else "plain"), plain
    [index] = mine[0].indices
    if not isinstance(index, int):
        return None
    if by and index == 0:
        inner = expression(by, [Term(term.coefficient, rest, term.bound)])
        return ("identity" if inner.number is not None else "diagonal"), inner
    return "matrix" if by else "plain", _without(term, rest, index, of.shape, by)


def _without(term: Term, rest: tuple[Factor, ...], index: int, of: tuple[int, ...], by: tuple[int, ...]) -> Expression:
    """A term with the summed index of its cotangent free: rows of the result of the step, columns of its input."""
    rank = len(by)

    def move(i: int) -> int:
        if i == index:
            return 0
        return i + 1 if i < index else i

    bound = tuple(size for n, size in enumerate(term.bound) if n + rank != index)
    return expression((*of, *by), [Term(term.coefficient, tuple(f.moved(move) for f in rest), bound)])


def write_jacobian(parts: list[Part], writer: Writer) -> str:
    """The parts, added up."""
    text = ""
    for kind, e in sorted(parts, key=lambda part: part[1].terms[0].coefficient < 0 if part[1].terms else False):
        negative = len(e.terms) == 1 and e.terms[0].coefficient < 0
        own = expression(e.shape, [Term(-t.coefficient, t.factors, t.bound) for t in e.terms]) if negative else e
        piece = _piece(kind, own, writer)
        sign = f" {writer.minus if negative else '+'} " if text else writer.minus if negative else ""
        text += sign + piece.within(PRODUCT if text or negative else SUM)
    return text


def _piece(kind: str, e: Expression, writer: Writer) -> Piece:
    if kind == "identity":
        number = e.number or Fraction(0)
        return (
            Piece("I")
            if number == 1
            else Piece(f"{writer.piece(constant(number)).within(PRODUCT)}{writer.gap}I", PRODUCT)
        )
    if kind == "diagonal":
        return writer.diagonal(writer.piece(e))
    if kind == "matrix":
        return writer.matrix(e)
    if kind == "row":
        ones = writer.transpose(Piece(writer.ones))
        scale = writer.piece(constant(e.number or Fraction(0))).within(PRODUCT)
        same = ones if e.number == 1 else Piece(f"{scale}{writer.gap}{ones.text}", PRODUCT)
        return writer.transpose(writer.piece(e)) if e.number is None else same
    return writer.piece(e)
