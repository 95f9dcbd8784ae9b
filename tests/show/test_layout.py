"""Formulas say what their expressions mean: written as NumPy, they run and give the same numbers."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback.show.expression import Partial, Symbol, Unit
from pullback.show.layout import Style, Writer
from pullback.show.notation import ATOM, PRODUCT, Piece
from pullback.show.symbolic import as_expression
from pullback.show.writers import Text

RNG = np.random.default_rng(0)
SIZES = {"i": 3, "j": 4, "k": 5, "l": 6}
NAMES = {"A": "ij", "B": "jk", "C": "kl", "D": "ik", "E": "jl", "a": "i", "b": "j", "c": "k", "d": "l"}
VALUES = {name: RNG.normal(size=tuple(SIZES[i] for i in axes)) for name, axes in NAMES.items()}


class InNumpy(Writer):
    """Formulas of products of matrices in the language of NumPy, where every product of matrices is in brackets."""

    latex = False
    dot, gap, minus, ones = " * ", " @ ", "-", "ones"

    def decimal(self, number: str) -> str:
        return number

    def symbol(self, symbol: Symbol, marks: list[str]) -> Piece:
        assert not marks, "an index is written out"
        return Piece(symbol.name)

    def transpose(self, piece: Piece) -> Piece:
        return Piece(f"{piece.within(ATOM)}.T")

    def diagonal(self, piece: Piece) -> Piece:
        return Piece(f"np.diag({piece.text})")

    def sum_over(self, letters: list[str], piece: Piece) -> Piece:
        axes = tuple("ij".index(c) for c in letters)
        return Piece(f"np.sum({piece.text}, axis={axes})")

    def over(self, top: Piece, bottom: Piece) -> Piece:
        return Piece(f"{top.within(ATOM)} / {bottom.within(ATOM)}", PRODUCT)

    def norm_squared(self, piece: Piece) -> Piece:
        return Piece(f"np.sum({piece.text} ** 2)")

    def partial(self, partial: Partial) -> Piece:
        raise NotImplementedError

    def unit(self, unit: Unit, marks: list[str]) -> Piece:
        raise NotImplementedError

    def subscripted(self, piece: Piece, marks: list[str]) -> Piece:
        raise NotImplementedError

    def indicator(self, piece: Piece) -> Piece:
        raise NotImplementedError

    def raised(self, piece: Piece, power: Fraction) -> Piece:
        raise NotImplementedError

    def product_over(self, span: str, piece: Piece) -> Piece:
        raise NotImplementedError


PRODUCTS = [
    "ij,jk->ik", "ij,jk->ki", "ij,jk,ik->ik", "ij,jk,ik->ki", "ij,jk,ik->i", "ij,jk,ik->k", "ij,jk,ik->",
    "ij,jk,ik,kl->il", "ij,jk,ik,kl->l", "ij,jk,b,ik,c,kl->il", "ij,jk,ik,kl,a,d->il",
    "ij,jk->i", "ij,jk->k", "ij,jk->", "ij,jl,jk->ik", "jl,jk->j", "ij,jk,kl,jl->ik", "ij,jk,kl,jl->i",
    "ij,j,jk,kl,l->i", "ij,b,jk,kl,d->i", "ik,kl,jl->ij", "ij,ik,jk->jk", "ij,jk,ik,c->ik", "ij,jk,ik,c->i",
]  # fmt: skip


@pytest.mark.parametrize("product", PRODUCTS)
def test_products_of_matrices_are_written_without_indices(product: str) -> None:
    by_axes = {axes: name for name, axes in NAMES.items()}
    inputs, output = product.split("->")
    names = [part if part in "abcd" and len(part) == 1 else by_axes[part] for part in inputs.split(",")]
    subscripts = ",".join(NAMES[name] for name in names) + "->" + output
    used = [VALUES[name] for name in names]
    text = InNumpy(Style()).write(product_of(names, subscripts))
    expected = np.einsum(subscripts, *used)
    np.testing.assert_allclose(eval(text, {"np": np, **VALUES}), expected, rtol=1e-12, err_msg=text)


def product_of(names: list[str], subscripts: str) -> Any:
    arguments = ", ".join(names)
    scope: dict[str, Any] = {"np": np}
    exec(f"def f({arguments}): return np.einsum({subscripts!r}, {arguments})", scope)
    return as_expression(scope["f"], {name: VALUES[name] for name in names})


def test_where_an_index_joins_three_others_the_indices_are_written() -> None:
    text = Text(Style()).write(product_of(["A", "B", "C", "D", "E"], "ij,jk,kl,ik,jl->il"))
    assert text == "Σₖₗ (A[i,l] B[l,k] C[k,j] D[i,k] E[l,j])"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (math.sqrt(2), "√2 x"),
        (1 / math.sqrt(3), "x / √3"),
        (math.sqrt(12), "2 √3 x"),
        (-1 / math.sqrt(108), "−x / (6 √3)"),
        (1 / math.sqrt(7), "x / √d"),
        (0.5773, "0.5773 x"),
        (1.4142135, "1.41421 x"),
        (0.0123, "0.0123 x"),
        (2 / 7, "(2/d) x"),
    ],
)
def test_numbers_as_one_would_write_them(number: float, text: str) -> None:
    e = as_expression(lambda x: number * x, {"x": np.ones(3)})
    assert Text(Style(sizes=((7, "d"), (5, "B")))).write(e) == text


def test_a_sum_with_a_small_constant_keeps_it() -> None:
    def normalised(x: Any, s: Any) -> Any:
        return x / (s + 1e-5)

    d = pb.derive(normalised, RNG.normal(size=(4, 3)), np.array([0.5, 1.0, 2.0]))
    assert str(d.closed_form["x"]) == "∂e/∂y / (s + 1e-05)"
