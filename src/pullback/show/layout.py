"""From the normal form to the formulas of textbooks: products of matrices, transposes, elementwise products, sums; and
indices where nothing shorter will do. One layout, written in text or in LaTeX."""

from __future__ import annotations

import itertools
import math
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pullback.show.expression import (
    ONLY,
    TRUTHS,
    Applied,
    At,
    Atom,
    Expression,
    Factor,
    Group,
    Partial,
    Symbol,
    Term,
    Unit,
)
from pullback.show.notation import ATOM, POWER, PRODUCT, SUM, Piece, write

Letters = Mapping[int, str]


@dataclass(frozen=True)
class Style:
    """How a derivation is written."""

    loss: str = "e"  # what the adjoints are derivatives of
    bars: bool = False  # adjoints as x̄ and not as ∂e/∂x
    rows: bool = False  # gradients of vectors as rows: the numerator layout
    sizes: tuple[tuple[int, str], ...] = ()  # the names of sizes


class Writer:
    """Writes expressions. Subclasses know text or LaTeX."""

    latex: bool
    dot: str  # between the factors of an elementwise product
    gap: str  # between those of a product of matrices

    def __init__(self, style: Style) -> None:
        self.style = style
        self._diagonals = False  # whether vectors beside a matrix are written as diagonal matrices

    def matrix(self, e: Expression) -> Piece:
        """The formula of a matrix to be applied to a vector: elementwise factors are diagonal matrices."""
        self._diagonals = True
        piece = self.piece(e)
        self._diagonals = False
        return piece

    def write(self, e: Expression) -> str:
        """The formula of an expression."""
        return self.piece(e).text

    def left(self, e: Expression) -> str:
        """The left-hand side of a line: a symbol by itself."""
        [term] = e.terms
        return self._atom(term.factors[0].atom, term.factors[0], None).text

    def piece(self, e: Expression, letters: Letters | None = None) -> Piece:
        """The formula of an expression; with letters for its axes, with indices written out."""
        if not e.terms:
            return Piece("0")
        parts = [self._term(t, e, letters) for t in sorted(e.terms, key=_reading_order)]
        if len(parts) == 1:
            negative, piece = parts[0]
            return Piece(f"{self.minus}{piece.within(PRODUCT)}", SUM) if negative else piece
        text = ""
        for negative, piece in parts:
            sign = self.minus if negative else "+"
            text += (
                f" {sign} {piece.within(PRODUCT)}"
                if text
                else f"{self.minus if negative else ''}{piece.within(PRODUCT)}"
            )
        return Piece(text, SUM)

    # -- one term ----------------------------------------------------------------------------------------------------
    def _term(self, t: Term, e: Expression, letters: Letters | None) -> tuple[bool, Piece]:
        """Whether the term is negative, and its formula without the sign."""
        t = _turned(t) if t.coefficient < 0 else t
        number, names = self._number(abs(t.coefficient))
        top = [f for f in t.factors if not f.labels and f.power > 0]
        bottom = [f for f in t.factors if not f.labels and f.power < 0]
        scalars: list[Piece] = []
        if letters is not None:
            product, top, bottom = self._indexed(t, e.rank, letters), [], []
        else:
            scalars, product = self._product(t, e)
        scalars = [*map(self.factor, sorted(top, key=_factor_order)), *scalars]
        below = [self.factor(f._replace(power=-f.power)) for f in bottom]
        return t.coefficient < 0, self._fraction(number, names, scalars, below, product)

    def _fraction(self, number: Fraction, names: tuple[list[str], list[str]], top: list[Piece], bottom: list[Piece],
                  product: tuple[list[Piece], list[Piece]]) -> Piece:  # fmt: skip
        """number · top · product / bottom. Scalars of one letter or number go before the product."""
        body, under = product
        above = [Piece(str(number.numerator))] if number.numerator != 1 else []
        below = [Piece(str(number.denominator))] if number.denominator != 1 else []
        square = _square(number)
        if square is not None:
            above, below = self._root(square.numerator), self._root(square.denominator)
        elif number.denominator != 1 and _decimal(number):
            above, below = [Piece(self.decimal(_decimal(number) or ""))], []
        above += [Piece(n) for n in names[0]] + top
        below += [Piece(n) for n in names[1]] + bottom
        if not below and not under:
            return self._juxtaposed(above, body)
        whole = [*above, *body]
        if below and not under and body + top and (len(whole) > 1 or whole[0].level == PRODUCT or self.latex):
            numbers = above[: len(above) - len(top)]
            lead = self.over(self._juxtaposed(numbers, []), self._juxtaposed(below, []))
            return self._juxtaposed([lead, *top], body)
        return self.over(self._juxtaposed(above, body), self._juxtaposed(below, under))

    def _juxtaposed(self, scalars: list[Piece], body: list[Piece]) -> Piece:
        pieces = [*scalars, *([self.hadamard(body)] if body else [])]
        if not pieces:
            return Piece("1")
        if len(pieces) == 1:
            return pieces[0]
        return Piece(
            self.gap.join(p.within(POWER if n < len(pieces) - 1 else PRODUCT) for n, p in enumerate(pieces)), PRODUCT
        )

    def hadamard(self, pieces: Sequence[Piece]) -> Piece:
        """The elementwise product."""
        return pieces[0] if len(pieces) == 1 else Piece(self.dot.join(p.within(POWER) for p in pieces), PRODUCT)

    def _product(self, t: Term, e: Expression) -> tuple[list[Piece], tuple[list[Piece], list[Piece]]]:
        """The factors with indices: those that are summed to scalars; elementwise factors above, and those to divide
        by. Factors that share a summed index belong together."""
        factors = [f for f in t.factors if f.labels]
        scalars: list[Piece] = []
        above: dict[tuple[int, ...], list[Piece]] = {}
        below: dict[tuple[int, ...], list[Piece]] = {}
        for part in components(factors, e.rank):
            free = tuple(sorted({i for f in part for i in f.labels if i < e.rank}))
            if not free:
                scalars.append(self.scalar(part, e.rank))
                continue
            under = len(part) == 1 and part[0].power < 0
            piece = self._part([part[0]._replace(power=-part[0].power)] if under else part, free, e.rank)
            if piece is None:
                return [], self._indexed(t, e.rank, dict(enumerate(_alphabet(e.rank))), labelled=True)
            (below if under else above).setdefault(free, []).append(piece)
        arranged = self._arranged(above, below, e)
        if arranged is None:
            return [], self._indexed(t, e.rank, dict(enumerate(_alphabet(e.rank))), labelled=True)
        return scalars, arranged

    def _part(self, factors: list[Factor], free: tuple[int, ...], rank: int) -> Piece | None:
        """Factors that are joined by summed indices."""
        if len(factors) == 1 and _order(factors[0]) == list(free):
            return self.factor(factors[0])
        if len(factors) == 1 and _order(factors[0]) == list(free)[::-1] and len(free) == 2:
            return self.transpose(self.factor(factors[0]))
        chain = self._chain(factors, free) if len(free) <= 2 else None
        if chain is not None:
            return chain
        aligned = self._aligned(factors, rank)
        return self._contracted(factors, free) if aligned is None else aligned[0][0]

    def _arranged(
        self, above: dict[tuple[int, ...], list[Piece]], below: dict[tuple[int, ...], list[Piece]], e: Expression
    ) -> tuple[list[Piece], list[Piece]] | None:
        """Parts by the axes they have as elementwise factors, outer products and diagonal matrices."""
        axes = {*above, *below}
        lasts = [tuple(k for k in range(start, e.rank) if e.shape[k] != 1) for start in range(e.rank)]
        if (
            axes <= {*lasts}
            and not (self._diagonals and e.rank == 2)
            and not (e.rank == 2 and axes == {(1,)} and e.shape[0] == 1)
        ):
            return _flat(above), _flat(below)
        if e.rank != 2:
            return None
        left, right = (self._quotient(above.get((k,), []), below.get((k,), [])) for k in (0, 1))
        full, under = above.get((0, 1), []), below.get((0, 1), [])
        if full or under:
            if self._diagonals and right is not None:
                pieces = [self.hadamard(full or [Piece("1")]), self.diagonal(right)]
                return [Piece(self.gap.join(p.within(PRODUCT) for p in pieces), PRODUCT)], under
            pieces = [self.hadamard([*full, *above.get((1,), [])] or [Piece("1")])]
            if left is not None:
                pieces.insert(0, self.diagonal(left))
            return [Piece(self.gap.join(p.within(PRODUCT) for p in pieces), PRODUCT)], [*under, *below.get((1,), [])]
        ones = Piece(self.ones)
        column = left if left is not None else ones if e.shape[0] != 1 else None
        row = right if right is not None else ones if e.shape[1] != 1 else None
        if row is None:
            return [column or ones], []
        turned = self.transpose(row)
        return [turned if column is None else Piece(f"{column.within(POWER)}{self.gap}{turned.text}", PRODUCT)], []

    def _quotient(self, top: list[Piece], bottom: list[Piece]) -> Piece | None:
        if not top and not bottom:
            return None
        above = self.hadamard(top or [Piece("1")])
        return self.over(above, self.hadamard(bottom)) if bottom else above

    def scalar(self, factors: list[Factor], rank: int) -> Piece:
        """A product that is summed over all its indices."""
        graph = Graph(factors)
        if graph.is_simple and len(graph.labels) == 1:
            parts = graph.weights[graph.labels[0]]
            plain = [f for f in parts if f.power == 1]
            if len(parts) == 1 and parts[0].power == 2:
                return self.norm_squared(self.factor(parts[0]._replace(power=Fraction(1))))
            if len(parts) == 2 and plain:
                left, right = sorted(parts, key=lambda f: f.power == 1, reverse=True)
                return Piece(
                    f"{self.transpose(self.factor(left)).text}{self.gap}{self.factor(right).within(POWER)}", PRODUCT
                )
        elif graph.is_simple and graph.is_tree and any(graph.weights.values()):
            ends = [i for i in graph.labels if graph.weights[i] and len(graph.neighbours(i)) == 1]
            if ends and len(graph.labels) - 1 == len(graph.edges):
                root = ends[0]
                [child] = graph.neighbours(root)
                row = self.transpose(self._weights(graph.weights[root]))
                inner = self._branch(graph, child, root)
                if inner is not None:
                    return Piece(f"{row.text}{self.gap}{inner}", PRODUCT)
        aligned = self._aligned(factors, rank)
        if aligned is not None:
            [piece], _ = aligned
            return piece
        whole = self._contracted(factors, ())
        return whole or self.hadamard(self._indexed(Term(Fraction(1), tuple(factors)), rank, {})[0])

    def vector(self, factors: list[Factor], label: int) -> Piece:
        """A product with one free index, as a column."""
        graph = Graph(factors)
        if len(graph.labels) == 1:
            return self.hadamard([self.factor(f) for f in sorted(factors, key=_factor_order)])
        found = self._chain(factors, [label])
        aligned = self._aligned(factors, label + 1)
        if found is None and aligned is not None and not aligned[1]:
            return self.hadamard(aligned[0])
        return found or self.hadamard(self._indexed(Term(Fraction(1), tuple(factors)), label + 1, {label: "i"})[0])

    def _chain(self, factors: list[Factor], free: Sequence[int]) -> Piece | None:
        """A product of matrices and vectors with one or two free indices; None where it is none."""
        graph = Graph(factors)
        if not graph.is_simple or not graph.is_tree or not graph.edges:
            return None
        if len(free) == 1:
            [root] = free
            parts = [self._branch(graph, child, root) for child in graph.neighbours(root)]
            if not parts or any(p is None for p in parts):
                return None
            pieces = [self.factor(f) for f in graph.weights[root]] + [Piece(str(p), PRODUCT) for p in parts]
            return self.hadamard(pieces)
        path = graph.path(*free)
        if path is None or (len(path) == 2 and not graph.has_bound(free)):
            return None
        links: list[str] = []
        for n, (i, j) in enumerate(itertools.pairwise(path)):
            side = [child for child in graph.neighbours(i) if child not in path]
            if n and (graph.weights[i] or side):
                inner = self._node(graph, i, set(path))
                if inner is None:
                    return None
                links.append(self.diagonal(inner).text)
            links.append(self.matrix_of(graph.between(i, j), i, j))
        product = Piece(self.gap.join(links), PRODUCT if len(links) > 1 else ATOM)
        left, right = (graph.weights[k] for k in free)
        if any(child not in path for k in free for child in graph.neighbours(k)):
            return None
        if left:
            product = Piece(f"{self.diagonal(self._weights(left)).text}{self.gap}{product.within(PRODUCT)}", PRODUCT)
        if right:
            product = Piece(f"{product.within(PRODUCT)}{self.gap}{self.diagonal(self._weights(right)).text}", PRODUCT)
        return product

    def _contracted(self, factors: list[Factor], free: Sequence[int]) -> Piece | None:
        """Matrices that are multiplied with others and elementwise with one another, such as X^T (M * (G W^T)): summed
        indices go one by one, those that hang on a single other one first, then those that join two. None where one
        joins more than two."""
        graph = Graph(factors)
        if not graph.is_simple or len(free) > 2:
            return None
        vectors = {i: [self.factor(f) for f in weights] for i, weights in graph.weights.items()}
        links = {ends: self._link(graph.edges[ends], *sorted(ends)) for ends in graph.edges}
        heads = Counter(_order(f)[0] for f in factors)
        while True:
            ends_of = {k: [ends for ends in links if k in ends] for k in vectors if k not in free}
            k = min(ends_of, key=lambda k: (len(ends_of[k]), heads[k], k), default=None)
            if k is None or not ends_of[k]:
                break
            if len(ends_of[k]) > 2:
                return None
            weights, joined = vectors.pop(k), [links.pop(ends).seen_from(k) for ends in ends_of[k]]
            if len(joined) == 1:
                vectors[joined[0].column].append(self._applied_to(joined[0].turned, weights))
                continue
            one, other = joined[0].turned, joined[1]
            inner = [self.diagonal(self.hadamard(weights)).text] if weights else []
            ahead, back = (*one.ahead, *inner, *other.ahead), (*other.back, *inner, *one.back)
            link = Link(one.row, other.column, ahead, back)
            ends = frozenset((link.row, link.column))
            links[ends] = self._side_by_side(links[ends], link) if ends in links else link
        return self._ended(vectors, links, free)

    def _ended(self, vectors: dict[int, list[Piece]], links: dict[frozenset[int], Link], free: Sequence[int]) -> Piece:
        """What is left when only free indices are; or the last index of a sum."""
        if len(free) < 2:
            [pieces] = vectors.values()
            return self.hadamard(pieces) if free else self.sum_over(["i"], self.hadamard(pieces))
        [link] = links.values()
        link = link.seen_from(free[0])
        left, right = ([self.diagonal(self.hadamard(vectors[k])).text] if vectors[k] else [] for k in free)
        return self._matrices((*left, *link.ahead, *right))

    def _link(self, factors: list[Factor], i: int, j: int) -> Link:
        return Link(i, j, (self.matrix_of(factors, i, j),), (self.matrix_of(factors, j, i),))

    def _side_by_side(self, a: Link, b: Link) -> Link:
        """Two matrices with the same indices, multiplied elementwise."""
        b = b.seen_from(a.row)
        ahead, back = (
            self.hadamard([self._matrices(x), self._matrices(y)]).within(POWER)
            for x, y in ((a.ahead, b.ahead), (a.back, b.back))
        )
        return Link(a.row, a.column, (ahead,), (back,))

    def _applied_to(self, link: Link, weights: list[Piece]) -> Piece:
        """A matrix times a vector; without one, the sums of its rows."""
        if weights:
            return self._matrices((*link.ahead, self.hadamard(weights).within(POWER)))
        rows, columns = self._matrices(link.ahead), self._matrices(link.back)
        return self.sum_over(["j"], rows) if len(rows.text) <= len(columns.text) else self.sum_over(["i"], columns)

    def _matrices(self, texts: Sequence[str]) -> Piece:
        return Piece(self.gap.join(texts), PRODUCT if len(texts) > 1 else POWER)

    def _branch(self, graph: Graph, child: int, parent: int) -> str | None:
        """M v, where M joins parent and child and v is what hangs on the child."""
        inner = self._node(graph, child, {parent})
        return (
            None
            if inner is None
            else f"{self.matrix_of(graph.between(parent, child), parent, child)}{self.gap}{inner.within(POWER)}"
        )

    def _node(self, graph: Graph, i: int, done: set[int]) -> Piece | None:
        pieces = [self.factor(f) for f in graph.weights[i]]
        for child in graph.neighbours(i):
            if child not in done:
                branch = self._branch(graph, child, i)
                if branch is None:
                    return None
                pieces.append(Piece(branch, PRODUCT))
        return self.hadamard(pieces) if pieces else None

    def _weights(self, factors: list[Factor]) -> Piece:
        return self.hadamard([self.factor(f) for f in factors])

    def matrix_of(self, factors: list[Factor], i: int, j: int) -> str:
        """The matrix with rows i and columns j; several are multiplied elementwise."""
        if len(factors) > 1 and all(_order(f) == [j, i] for f in factors):
            return self.transpose(self.hadamard(list(map(self.factor, factors)))).text
        pieces = [self.factor(f) if _order(f) == [i, j] else self.transpose(self.factor(f)) for f in factors]
        return self.hadamard(pieces).within(POWER)

    def _aligned(self, factors: list[Factor], rank: int) -> tuple[list[Piece], list[Piece]] | None:
        """Elementwise products with broadcasting, summed over some axes; None where the axes do not line up."""
        labels = set().union(*[f.labels for f in factors])
        full = [f for f in factors if f.labels == labels and len(_order(f)) == len(labels)]
        order = _order(full[0]) if full else sorted(labels)
        free = [i for i in order if i < rank]
        if free != sorted(free) or not all(_fits(f, order) for f in factors):
            return None
        factors = sorted(factors, key=_factor_order)
        top = [self.factor(f) for f in factors if f.power > 0]
        bottom = [self.factor(f._replace(power=-f.power)) for f in factors if f.power < 0]
        bound = [n for n, i in enumerate(order) if i >= rank]
        if not bound:
            return top, bottom
        inside = self.over(self.hadamard(top or [Piece("1")]), self.hadamard(bottom)) if bottom else self.hadamard(top)
        return [self.sum_over([_alphabet(len(order))[n] for n in bound], inside)], []

    def _indexed(self, t: Term, rank: int, letters: Letters, labelled: bool = False) -> tuple[list[Piece], list[Piece]]:
        """With every index written out."""
        spare = (c for c in "ijklmnpqrstuv" if c not in letters.values())
        used = {i for f in t.factors for i in f.labels}
        names = {i: letters[i] if i in letters else next(spare) for i in sorted(used)}
        factors = [f for f in t.factors if f.labels or not labelled]
        top = [self.factor(f, names) for f in factors if f.power > 0]
        bottom = [self.factor(f._replace(power=-f.power), names) for f in factors if f.power < 0]
        bound = [names[i] for i in sorted(used) if i >= rank and i not in letters]
        if not bound:
            return top, bottom
        inside = (
            self._juxtaposed([], [])
            if not top
            else Piece(self.gap.join(p.within(POWER) for p in top), PRODUCT if len(top) > 1 else top[0].level)
        )
        inside = self.over(inside, Piece(self.gap.join(p.within(POWER) for p in bottom), PRODUCT)) if bottom else inside
        return [self.sum_over(bound, inside)], []

    # -- one factor --------------------------------------------------------------------------------------------------
    def factor(self, f: Factor, letters: Letters | None = None) -> Piece:
        """A power of an atom. Fixed indices are written out, and all of them where letters are given."""
        inner = {k: letters[i] for k, i in enumerate(f.indices) if isinstance(i, int)} if letters is not None else None
        base = self._atom(f.atom, f, inner)
        if self.style.rows and isinstance(f.atom, Symbol) and f.atom.role == "adjoint" and len(f.atom.shape) == 1:
            base = self.transpose(base)  # as a column
        if isinstance(f.atom, Applied) and f.atom.function.name in TRUTHS:
            base = self.indicator(base)
        return base if f.power == 1 else self.raised(base, f.power)

    def row_symbol(self, f: Factor) -> Piece:
        """The adjoint of a vector, as the row that it is in the numerator layout."""
        return self._atom(f.atom, f, None)

    def _atom(self, atom: Atom, f: Factor, inner: Letters | None) -> Piece:
        marks: list[str] = []
        if inner is not None:
            marks = [
                inner[k] if isinstance(i, int) else str(i)
                for k, i in enumerate(f.indices)
                if i != ONLY or atom.shape[k] != 1
            ]
        elif any(isinstance(i, At) and atom.shape[k] != 1 for k, i in enumerate(f.indices)):
            marks = ["·" if isinstance(i, int) else str(i) for k, i in enumerate(f.indices) if atom.shape[k] != 1]
            while marks and marks[-1] == "·":
                marks.pop()
        if isinstance(atom, Symbol):
            return self.symbol(atom, marks)
        if isinstance(atom, Partial):
            return self.partial(atom)
        if isinstance(atom, Unit):
            return self.unit(atom, marks if inner is not None else [])
        if isinstance(atom, Group):
            return (
                self.piece(atom.inside, inner)
                if not marks or inner is not None
                else self.subscripted(self.piece(atom.inside), marks)
            )
        assert isinstance(atom, Applied)
        pieces = [self._argument(e, inner if atom.elementwise else None) for e in atom.arguments]
        written = self.applied(atom, pieces)
        return self.subscripted(written, marks) if marks and not atom.elementwise else written

    def _argument(self, e: Expression, letters: Letters | None) -> Piece:
        """An argument of a function: a condition as it is, and not as the number 0 or 1."""
        [t] = e.terms if len(e.terms) == 1 else (None,)
        if t is not None and t.coefficient == 1 and len(t.factors) == 1:
            [f] = t.factors
            if isinstance(f.atom, Applied) and f.atom.function.name in TRUTHS:
                inner = {k: letters[i] for k, i in enumerate(f.indices) if isinstance(i, int)} if letters else None
                return self._atom(f.atom, f, inner)
        return self.piece(e, letters)

    def applied(self, atom: Applied, pieces: list[Piece]) -> Piece:
        """A function of its arguments."""
        return write(atom.function.name, pieces, dict(atom.params), self.latex, self.option)

    def option(self, value: Any) -> str:
        """An option of a primitive."""
        return str(value)

    def _root(self, number: int) -> list[Piece]:
        """The square root of a whole number: of 12, 2 and the root of 3."""
        outside = max(k for k in range(1, 32) if number % k**2 == 0)
        inside = number // outside**2
        named = next((name for size, name in self.style.sizes if size == number), None)
        if named or inside == number:
            return [self.raised(Piece(named or str(number)), Fraction(1, 2))] if number != 1 else []
        return [Piece(str(outside)), *self._root(inside)][outside == 1 :]

    def _number(self, number: Fraction) -> tuple[Fraction, tuple[list[str], list[str]]]:
        """A coefficient as a number and the names of sizes that multiply and divide it."""
        if _square(number) is not None or (number.denominator != 1 and _decimal(number)):
            return number, ([], [])
        top, numerator = self._named(number.numerator)
        bottom, denominator = self._named(number.denominator)
        return Fraction(numerator, denominator), (top, bottom)

    def _named(self, number: int) -> tuple[list[str], int]:
        names: list[str] = []
        for size, name in sorted(self.style.sizes, reverse=True):
            while size > 2 and number % size == 0:
                names.append(name)
                number //= size
        return (names, number) if number == 1 else ([], math_prod(names, self.style.sizes) * number)

    # -- what text and LaTeX write differently -----------------------------------------------------------------------
    minus: str
    ones: str

    @abstractmethod
    def decimal(self, number: str) -> str: ...
    @abstractmethod
    def symbol(self, symbol: Symbol, marks: list[str]) -> Piece: ...
    @abstractmethod
    def partial(self, partial: Partial) -> Piece: ...
    @abstractmethod
    def unit(self, unit: Unit, marks: list[str]) -> Piece: ...
    @abstractmethod
    def subscripted(self, piece: Piece, marks: list[str]) -> Piece: ...
    @abstractmethod
    def transpose(self, piece: Piece) -> Piece: ...
    @abstractmethod
    def diagonal(self, piece: Piece) -> Piece: ...
    @abstractmethod
    def norm_squared(self, piece: Piece) -> Piece: ...
    @abstractmethod
    def indicator(self, piece: Piece) -> Piece: ...
    @abstractmethod
    def raised(self, piece: Piece, power: Fraction) -> Piece: ...
    @abstractmethod
    def over(self, top: Piece, bottom: Piece) -> Piece: ...
    @abstractmethod
    def sum_over(self, letters: list[str], piece: Piece) -> Piece: ...
    @abstractmethod
    def product_over(self, span: str, piece: Piece) -> Piece: ...


def math_prod(names: list[str], sizes: Sequence[tuple[int, str]]) -> int:
    """The number that a product of named sizes stands for."""
    known = {name: size for size, name in sizes}
    total = 1
    for name in names:
        total *= known[name]
    return total


def _reading_order(t: Term) -> tuple[int, int, int]:
    """Positive terms first; the fewest sums first; variables by themselves first."""
    lone = not t.bound and len(t.factors) == 1 and isinstance(t.factors[0].atom, Symbol)
    return (_turned(t).coefficient < 0, len(t.bound), not lone)


def _turned(t: Term) -> Term:
    """-(a - b) c as (b - a) c."""
    if t.coefficient > 0:
        return t
    for n, f in enumerate(t.factors):
        if isinstance(f.atom, Group) and f.power == 1 and len(f.atom.inside.terms) == 2:
            parts = f.atom.inside.terms
            if all(part.factors for part in parts) and parts[0].coefficient * parts[1].coefficient < 0:
                turned = tuple(Term(-part.coefficient, part.factors, part.bound) for part in parts)
                group = Group(Expression(f.atom.shape, turned))
                factors = (*t.factors[:n], f._replace(atom=group), *t.factors[n + 1 :])
                return Term(-t.coefficient, factors, t.bound)
    return t


def _factor_order(f: Factor) -> tuple[int, str]:
    """Values of the program before adjoints, brackets in between."""
    adjoint = isinstance(f.atom, Symbol) and f.atom.role != "value"
    return (2 if adjoint else 1 if isinstance(f.atom, Group) else 0, f.key)


def _decimal(number: Fraction) -> str | None:
    """Numbers that are shorter as decimals, such as 0.001 and 1.1283."""
    if number.denominator <= 100 or (
        number.numerator == 1 and number.denominator < 10_000 and 10_000 % number.denominator
    ):
        return None
    return f"{float(number):.6g}"


def _square(number: Fraction) -> Fraction | None:
    """The square of a number that is the root of a simple fraction, to all its digits: of 0.5773502691896258, 1/3."""
    if number.denominator <= 1000:
        return None
    square = Fraction(float(number) ** 2).limit_denominator(1000)
    exact = square.numerator < 1000 and abs(math.sqrt(square) - float(number)) <= 4e-16 * float(number)
    return square if exact else None


def _alphabet(rank: int) -> str:
    """The letters of the axes of an array of a rank."""
    return "nhwc" if rank == 4 else "ijklmnpqrs"[: max(rank, 1)]


def _order(f: Factor) -> list[int]:
    return [i for i in f.indices if isinstance(i, int)]


def _fits(f: Factor, order: list[int]) -> bool:
    """Whether NumPy would broadcast the factor along axes in this order as its indices say."""
    axes = [i for k, i in enumerate(f.indices) if isinstance(i, int) or f.atom.shape[k] == 1]
    while axes and not isinstance(axes[0], int):
        axes.pop(0)
    tail = order[len(order) - len(axes) :]
    return len(axes) <= len(order) and all(i in (j, ONLY) for i, j in zip(axes, tail, strict=True))


def components(factors: Sequence[Factor], rank: int) -> list[list[Factor]]:
    """Factors that are joined by summed indices."""
    groups: list[tuple[set[int], list[Factor]]] = []
    for f in sorted(factors, key=_factor_order):
        bound = {i for i in f.labels if i >= rank}
        joined = [g for g in groups if g[0] & bound]
        groups = [g for g in groups if not g[0] & bound]
        groups.append((bound.union(*[g[0] for g in joined]), [x for g in joined for x in g[1]] + [f]))
    return [sorted(g[1], key=_factor_order) for g in groups]


def _flat(parts: dict[tuple[int, ...], list[Piece]]) -> list[Piece]:
    return [piece for group in parts.values() for piece in group]


@dataclass(frozen=True)
class Link:
    """A product of matrices between two indices: as a matrix with the one as rows, and with the other as rows."""

    row: int
    column: int
    ahead: tuple[str, ...]
    back: tuple[str, ...]

    @property
    def turned(self) -> Link:
        """The transpose."""
        return Link(self.column, self.row, self.back, self.ahead)

    def seen_from(self, row: int) -> Link:
        """The same with one of its two indices as rows."""
        return self if row == self.row else self.turned


class Graph:
    """Indices as nodes: vectors are weights of a node, matrices join two."""

    def __init__(self, factors: Sequence[Factor]) -> None:
        self.labels = sorted(set().union(*[f.labels for f in factors]))
        self.weights: dict[int, list[Factor]] = {i: [] for i in self.labels}
        self.edges: dict[frozenset[int], list[Factor]] = {}
        self.is_simple = all(len(_order(f)) == len(f.labels) <= 2 for f in factors)
        for f in factors if self.is_simple else ():
            if len(f.labels) == 1:
                self.weights[_order(f)[0]].append(f)
            else:
                self.edges.setdefault(frozenset(f.labels), []).append(f)

    @property
    def is_tree(self) -> bool:
        return len(self.edges) == len(self.labels) - 1 and all(
            f.power == 1 for e in self.edges.values() for f in e if len(e) == 1
        )

    def neighbours(self, i: int) -> list[int]:
        return sorted(j for edge in self.edges if i in edge for j in edge if j != i)

    def between(self, i: int, j: int) -> list[Factor]:
        return self.edges[frozenset((i, j))]

    def has_bound(self, free: Sequence[int]) -> bool:
        return any(i not in free for i in self.labels)

    def path(self, start: int, end: int) -> list[int] | None:
        """The nodes from one to another."""
        trails = [[start]]
        while trails:
            trail = trails.pop()
            if trail[-1] == end:
                return trail
            trails += [[*trail, j] for j in self.neighbours(trail[-1]) if j not in trail]
        return None
