"""Mathematical expressions of arrays in one normal form: a sum of terms, each a product of factors with indices.

`A @ x` is the term `sum over j of A[i, j] x[j]`, an outer product is `x[i] y[j]`, a broadcast is an axis that no
factor mentions. So products of matrices, elementwise products, sums, transposes and broadcasts obey one set of rules.
Axis k of an expression is the index k; indices from the rank on are summed over.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Shape = tuple[int, ...]
Values = Mapping[str, Any]
"""The arrays that symbols stand for, by identifier."""


@dataclass(frozen=True)
class At:
    """A fixed place on an axis, and what it is called."""

    position: int
    name: str = field(default="", compare=False)

    def __str__(self) -> str:
        return self.name or str(self.position)


Index = int | At
TRUTHS = {"greater", "greater_equal", "less", "less_equal", "equal", "not_equal", "isfinite", "isnan"}
TRUTHS |= {"bitwise_and", "bitwise_or", "logical_and", "logical_or", "logical_not", "invert"}
"""Primitives that are true or false: as factors, 1 or 0."""
ONLY = At(0)  # the only place on an axis of size one


# -- atoms: what cannot be taken apart -------------------------------------------------------------------------------
class Atom:
    """A part of a product that the algebra does not look into."""

    shape: Shape

    @cached_property
    def key(self) -> str:
        """Equal for equal atoms, and what they are ordered by."""
        raise NotImplementedError

    @abstractmethod
    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        """The array it stands for."""

    def parts(self) -> tuple[Expression, ...]:
        """The expressions inside."""
        return ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atom) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return self.key


@dataclass(frozen=True, eq=False, repr=False)
class Symbol(Atom):
    """A named array: a variable of the program, or its adjoint or tangent."""

    name: str
    shape: Shape = ()
    role: str = "value"  # or adjoint, tangent

    @cached_property
    def identifier(self) -> str:
        """What `evaluate` calls it: `x`, `x_bar` for its adjoint, `x_dot` for its tangent."""
        return self.name + {"value": "", "adjoint": "_bar", "tangent": "_dot"}[self.role]

    @cached_property
    def key(self) -> str:
        return f"{self.identifier}"

    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        return values[self.identifier]


@dataclass(frozen=True, eq=False, repr=False)
class Partial(Atom):
    """The Jacobian of one variable with respect to another, as the left-hand side of a line."""

    of: Symbol
    by: Symbol
    shape: Shape = ()

    @cached_property
    def key(self) -> str:
        return f"d({self.of.key})/d({self.by.key})"

    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        return np.nan  # it is written, and never computed with


@dataclass(frozen=True, eq=False, repr=False)
class Unit(Atom):
    """The vector with 1 at one place and 0 elsewhere."""

    place: At
    size: int

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return (self.size,)

    @cached_property
    def key(self) -> str:
        return f"unit({self.place.position},{self.size})"

    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        vector = np.zeros(self.size)
        vector[self.place.position] = 1.0
        return vector


@dataclass(frozen=True, eq=False, repr=False)
class Group(Atom):
    """A sum in brackets."""

    inside: Expression

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        return self.inside.shape

    @cached_property
    def key(self) -> str:
        return f"({self.inside.key})"

    def parts(self) -> tuple[Expression, ...]:
        return (self.inside,)

    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        return self.inside.evaluated(values, known)


@dataclass(frozen=True, eq=False, repr=False)
class Applied(Atom):
    """A function that is none of sum, product and power, applied to expressions; elementwise ones share their axes."""

    function: Any  # a primitive: its name is printed, and its `fn` computes
    arguments: tuple[Expression, ...]
    params: tuple[tuple[str, Any], ...]
    shape: Shape
    elementwise: bool

    @cached_property
    def key(self) -> str:
        options = "".join(f",{name}={value!r}" for name, value in self.params)
        return f"{self.function.name}[{';'.join(e.key for e in self.arguments)}{options}]{list(self.shape)}"

    def parts(self) -> tuple[Expression, ...]:
        return self.arguments

    def compute(self, values: Values, known: dict[str, Any]) -> Any:
        arguments = [e.evaluated(values, known) for e in self.arguments]
        return self.function.fn(*arguments, **dict(self.params))


# -- products and sums -----------------------------------------------------------------------------------------------
class Factor(NamedTuple):
    """A power of an atom, with the index of each of its axes."""

    atom: Atom
    indices: tuple[Index, ...] = ()
    power: Fraction = Fraction(1)

    def moved(self, move: Callable[[int], Index]) -> Factor:
        """With other indices."""
        return self._replace(indices=tuple(move(i) if isinstance(i, int) else i for i in self.indices))

    @property
    def labels(self) -> set[int]:
        """The indices that are not fixed."""
        return {i for i in self.indices if isinstance(i, int)}

    @property
    def key(self) -> str:
        places = ",".join(f"{i:03d}" if isinstance(i, int) else f"@{i.position}" for i in self.indices)
        return f"{self.atom.key}[{places}]^{self.power}"


@dataclass(frozen=True)
class Term:
    """A number times factors, summed over the indices from the rank of the expression on, whose sizes are `bound`."""

    coefficient: Fraction
    factors: tuple[Factor, ...] = ()
    bound: Shape = ()

    @cached_property
    def key(self) -> str:
        """Equal for terms that differ only in their coefficient."""
        return " ".join(f.key for f in self.factors) + f"|{self.bound}"

    @property
    def labels(self) -> set[int]:
        return set().union(*[f.labels for f in self.factors])


@dataclass(frozen=True, eq=False)
class Expression:
    """An immutable expression of a given shape, in normal form: equal expressions compare equal."""

    shape: Shape
    terms: tuple[Term, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def key(self) -> str:
        return " + ".join(f"{t.coefficient} {t.key}" for t in self.terms)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.shape == other.shape and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __repr__(self) -> str:
        return f"<{self.key} {list(self.shape)}>"

    @property
    def labels(self) -> set[int]:
        """The axes that it depends on; it is constant along the others."""
        return {i for t in self.terms for i in t.labels if i < self.rank}

    @property
    def number(self) -> Fraction | None:
        """Its value where it is a number, the same everywhere."""
        if not self.terms:
            return Fraction(0)
        term = self.terms[0]
        return term.coefficient if len(self.terms) == 1 and not term.factors and not term.bound else None

    @property
    def symbols(self) -> dict[str, Symbol]:
        """Every symbol in it, by identifier."""
        found: dict[str, Symbol] = {}
        for atom in self.atoms():
            if isinstance(atom, Symbol):
                found[atom.identifier] = atom
            for part in atom.parts():
                found |= part.symbols
        return found

    def atoms(self) -> Iterable[Atom]:
        return (f.atom for t in self.terms for f in t.factors)

    @cached_property
    def cost(self) -> int:
        """How much there is to read."""
        return sum(
            1 + (t.coefficient not in (1, -1)) + len(t.bound) + sum(_cost(f.atom) for f in t.factors)
            for t in self.terms
        )

    # -- numbers -----------------------------------------------------------------------------------------------------
    def evaluate(self, **arrays: Any) -> Any:
        """Its value where its symbols are these arrays: `x`, `x_bar` for the adjoint of x, `x_dot` for its tangent."""
        with np.errstate(all="ignore"):
            value = self.evaluated(arrays, {})
            if np.all(np.isfinite(value)):
                return value
            # exp(1000) / sum(exp(1000)) is beyond float64 on the way, and not beyond wider numbers.
            wide = {name: _wide(array) for name, array in arrays.items()}
            return np.asarray(self.evaluated(wide, {}), np.float64)[()]

    def evaluated(self, values: Values, known: dict[str, Any]) -> Any:
        """The same; `known` remembers what was computed already."""
        lone = self.terms[0] if len(self.terms) == 1 and len(self.terms[0].factors) == 1 else None
        if lone and lone.coefficient == 1 and lone.factors[0].power == 1 and not lone.bound:
            value = _read(lone.factors[0], values, known)  # as it is: truth values and whole numbers stay what they are
            kept = sorted(i for i in lone.labels if i < self.rank)
            if kept == [i for i in lone.factors[0].indices if isinstance(i, int)]:
                value = value.reshape([size if k in kept else 1 for k, size in enumerate(self.shape)])
                return np.broadcast_to(value, self.shape)[()]
        key = f"{self.key}{self.shape}"
        if key not in known:
            total: Any = np.zeros(self.shape)
            for term in self.terms:
                total = total + _term_value(term, self.shape, values, known)
            known[key] = total[()]
        return known[key]


def _wide(array: Any) -> Any:
    return np.asarray(array, np.longdouble) if np.asarray(array).dtype.kind == "f" else array


def _cost(atom: Atom) -> int:
    return (1 if isinstance(atom, Group) else 3) + sum(part.cost for part in atom.parts())


def _term_value(term: Term, shape: Shape, values: Values, known: dict[str, Any]) -> Any:
    """One term as an array that broadcasts to the shape."""
    scale: Any = float(term.coefficient)
    operands: list[Any] = []
    for factor in term.factors:
        value = _raised(_read(factor, values, known), factor.power)
        labels = [i for i in factor.indices if isinstance(i, int)]
        if labels:
            operands += [value, labels]
        else:
            scale = scale * value
    if not operands:
        return scale
    kept = sorted(i for i in term.labels if i < len(shape))
    if not term.bound and len(operands) == 2 and operands[1] == kept:
        product = operands[0]
    else:
        operands[::2] = [np.asarray(x, dtype=np.float64) if x.dtype == bool else x for x in operands[::2]]
        product = np.einsum(*operands, kept, optimize=len(operands) > 4 and bool(term.bound))
    return scale * product.reshape([size if k in kept else 1 for k, size in enumerate(shape)])


def _read(factor: Factor, values: Values, known: dict[str, Any]) -> Any:
    """The atom of a factor, at its fixed indices."""
    if factor.atom.key not in known:
        known[factor.atom.key] = np.broadcast_to(factor.atom.compute(values, known), factor.atom.shape)
    return known[factor.atom.key][tuple(slice(None) if isinstance(i, int) else i.position for i in factor.indices)]


def _raised(value: Any, power: Fraction) -> Any:
    if power == 1:
        return value
    if power == -1:
        return 1.0 / value
    if power.denominator == 1 and power > 0:
        return value ** int(power)
    return np.asarray(value, np.result_type(value, float)) ** float(power)
