"""Closed forms: the gradient of each input with the adjoints of all steps put in, simplified."""

from __future__ import annotations

from pullback.show.algebra import constant, substituted, symbol
from pullback.show.expression import Expression
from pullback.show.folding import carried_offsets, is_adjoint, product_of_jacobians
from pullback.show.lines import Entry, Shown
from pullback.show.loops import Loop
from pullback.show.running import Variable
from pullback.show.simplify import simplify
from pullback.show.walk import Walk

READABLE = 40
"""A closed form that costs more keeps the variables that only the derivation has names for."""
LARGEST = 60
"""An adjoint whose expression costs more keeps its name in the closed forms."""


class Closing:
    """The closed forms of a walk."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.names = {v.name: v for v in walk.run.variables()}
        self.carried = carried_offsets(walk)
        self.known: dict[str, Expression] = {}
        self._wholes: dict[Variable, Expression] = {}
        for v in walk.reached():
            whole = self.whole(v)
            if not self._is_carried(v) and whole.cost <= LARGEST:
                self.known[f"{v.name}_bar"] = whole

    def whole(self, v: Variable) -> Expression:
        """The adjoint of a variable with the others put in."""
        if v not in self._wholes:
            self._wholes[v] = self._put_together(v)
        return self._wholes[v]

    def _put_together(self, v: Variable) -> Expression:
        e = substituted(self.walk.adjoint.get(v, constant(0, v.shape)), self.known)
        folds = self.walk.loops and len(e.terms) > 2  # its terms are sorted by iteration before they are simplified
        return e if folds else simplify(e, self.walk.definitions)

    def _is_carried(self, v: Variable) -> bool:
        return any(v in loop.places and loop.places[v][0] in offsets for loop, offsets in self.carried.items())

    def recurrences(self) -> list[Variable]:
        """The variables whose adjoints keep their names since the iteration after them decides them."""
        return [v for v in self.walk.reached() if self._is_carried(v)]

    def entry(self, v: Variable, error: float) -> Entry:
        """The line of the closed form of a variable."""
        left = symbol(v.name, v.shape, "adjoint")
        return Entry(v, left, self.spelt_out(v), error, shown=self._product(v))

    def spelt_out(self, v: Variable) -> Expression:
        """The adjoint of a variable in terms of what the program names, where that is short enough to read."""
        whole = self.whole(v)
        if self.walk.loops:
            return whole
        unnamed = self.walk.definitions.unnamed
        if not any(name in unnamed for name in whole.symbols):
            return whole
        full = simplify(substituted(whole, unnamed), self.walk.definitions)
        return full if full.cost <= READABLE else whole

    def _product(self, v: Variable) -> Shown | None:
        """Where a variable goes into a loop: the product of the Jacobians of its iterations."""
        for loop in self.walk.loops:
            if v not in loop.carried or len(self.carried[loop]) != 1:
                continue
            offset = loop.carried[v][0]
            chain = [w for w, (k, _) in loop.places.items() if k == offset]
            last = chain[-1]
            template = loop.seen_from(0, self.names).template(self.whole(v))
            jacobian = product_of_jacobians(template, is_adjoint)
            if jacobian is None or not self._repeats(loop, chain, v):
                continue
            span = f"{loop.letter}=1..{loop.count}"
            return Shown((("", symbol(last.name, last.shape, "adjoint")),), (span, jacobian))
        return None

    def _repeats(self, loop: Loop, chain: list[Variable], v: Variable) -> bool:
        """Whether each iteration applies the Jacobian of the first."""
        first = loop.seen_from(0, self.names).template(self.whole(v))
        others = [loop.seen_from(r + 1, self.names).template(self.whole(w)) for r, w in enumerate(chain[:-1])]
        return all(e == first for e in others)
