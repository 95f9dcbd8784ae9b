"""Gradients of vectors as rows, on request: the numerator layout, in which the chain rule multiplies from the right.
Gradients of matrices keep the shape of the matrix."""

from __future__ import annotations

from pullback.show.algebra import expression
from pullback.show.expression import Expression, Factor, Symbol, Term
from pullback.show.layout import Graph, Writer, components
from pullback.show.notation import ATOM, POWER, PRODUCT, SUM, Piece
from pullback.show.simplify import expand


def row(e: Expression, writer: Writer) -> Piece:
    """The formula of a gradient, as a row where it is that of a vector."""
    if e.rank != 1:
        return writer.piece(e)
    text = ""
    terms = sorted(expand(e).terms, key=lambda t: t.coefficient < 0)
    for term in terms:
        negative = term.coefficient < 0
        piece = _term(Term(abs(term.coefficient), term.factors, term.bound), e, writer)
        sign = f" {writer.minus if negative else '+'} " if text else writer.minus if negative else ""
        text += sign + piece.within(PRODUCT)
    return Piece(text or "0", SUM if len(terms) > 1 else PRODUCT if terms else ATOM)


def _term(term: Term, e: Expression, writer: Writer) -> Piece:
    plain = tuple(f for f in term.factors if not f.labels)
    scale = writer.piece(expression((), [Term(term.coefficient, plain)]))
    pieces = [] if scale.text == "1" else [scale]
    along: list[Factor] = []
    for part in components([f for f in term.factors if f.labels], e.rank):
        if any(i < e.rank for f in part for i in f.labels):
            along += part
        else:
            pieces.append(_product(part, writer) or writer.scalar(part, e.rank))
    pieces.append(_vector(along, writer) if along else writer.transpose(Piece(writer.ones)))
    last = len(pieces) - 1
    return Piece(writer.gap.join(p.within(POWER if n < last else PRODUCT) for n, p in enumerate(pieces)), PRODUCT)


def is_row(f: Factor) -> bool:
    """Whether a factor is the adjoint of a vector."""
    return isinstance(f.atom, Symbol) and f.atom.role == "adjoint" and len(f.atom.shape) == 1 and f.power == 1


def _vector(factors: list[Factor], writer: Writer) -> Piece:
    """A vector as a row: the adjoint first, then matrices and diagonal matrices from the right."""
    graph = Graph(factors)
    found = _walk(graph, 0, None, writer) if graph.is_simple and graph.is_tree else None
    return found or writer.transpose(writer.vector(factors, 0))


def _walk(graph: Graph, label: int, parent: int | None, writer: Writer) -> Piece | None:
    rows = [f for f in graph.weights[label] if is_row(f)]
    values = [writer.factor(f) for f in graph.weights[label] if not is_row(f)]
    children = [j for j in graph.neighbours(label) if j != parent]
    if len(rows) + len(children) > 1:
        return None
    if children:
        start = _walk(graph, children[0], label, writer)
        if start is None:
            return None
        matrix = writer.matrix_of(graph.between(children[0], label), children[0], label)
        start = Piece(f"{start.within(PRODUCT)}{writer.gap}{matrix}", PRODUCT)
    elif rows:
        start = writer.row_symbol(rows[0])
    else:
        return writer.transpose(writer.hadamard(values) if values else Piece(writer.ones))
    if not values:
        return start
    return Piece(f"{start.within(PRODUCT)}{writer.gap}{writer.diagonal(writer.hadamard(values)).text}", PRODUCT)


def _product(factors: list[Factor], writer: Writer) -> Piece | None:
    """A row times a column."""
    labels = {i for f in factors for i in f.labels}
    rows = [f for f in factors if is_row(f)]
    if len(labels) != 1 or len(rows) != 1 or len(factors) < 2:
        return None
    values = writer.hadamard([writer.factor(f) for f in factors if f is not rows[0]])
    return Piece(f"{writer.row_symbol(rows[0]).text}{writer.gap}{values.within(POWER)}", PRODUCT)
