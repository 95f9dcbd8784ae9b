"""The algebra of expressions, and the rewrite rules: each keeps the value on random arrays."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pullback.show.algebra import (
    constant,
    contracted,
    plus,
    power,
    scaled,
    substituted,
    summed,
    symbol,
    times,
    transposed,
)
from pullback.show.expression import Expression
from pullback.show.layout import Style
from pullback.show.simplify import Definitions, expand, factor, simplify
from pullback.show.symbolic import as_expression
from pullback.show.writers import Latex, Text

RNG = np.random.default_rng(0)
VALUES: dict[str, Any] = {
    "a": RNG.uniform(0.5, 2, 3), "b": RNG.uniform(0.5, 2, 3), "s": RNG.uniform(0.5, 2),
    "A": RNG.uniform(0.5, 2, (3, 3)), "B": RNG.uniform(0.5, 2, (3, 3)),
}  # fmt: skip
LEAVES = [symbol(name, np.shape(value)) for name, value in VALUES.items()] + [constant(2), constant(Fraction(-1, 3))]


def grown(parts: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """Larger expressions, of any of the operations that the rules produce."""
    return st.one_of(
        st.builds(plus, parts, parts),
        st.builds(times, parts, parts),
        st.builds(lambda e: scaled(e, -2), parts),
        st.builds(lambda e: power(e, Fraction(2)), parts),
        st.builds(lambda e: power(plus(power(e, Fraction(2)), constant(1)), Fraction(-1)), parts),
        st.builds(lambda e: transposed(e, range(e.rank)[::-1]), parts),
        st.builds(lambda e: summed(e, [0]) if e.rank else e, parts),
        st.builds(lambda e: summed(e, [0], keepdims=True) if e.rank else e, parts),
        st.builds(product_of_matrices, parts, parts),
    )


def product_of_matrices(a: Expression, b: Expression) -> Expression:
    return contracted(a, b, ["ij", "jk"], "ik") if a.shape == b.shape == (3, 3) else plus(a, b)


expressions = st.recursive(st.sampled_from(LEAVES), grown, max_leaves=6)


def close(e: Expression, other: Expression) -> None:
    assert e.shape == other.shape
    one, two = (np.broadcast_to(x.evaluate(**VALUES), x.shape) for x in (e, other))
    np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-9 * (1 + np.abs(one).max()))


@given(expressions)
@settings(max_examples=150, deadline=None)
def test_no_rule_changes_a_value(e: Expression) -> None:
    for rule in (expand, factor, simplify):
        close(rule(e), e)
    close(factor(expand(e)), e)


@given(expressions)
@settings(max_examples=80, deadline=None)
def test_every_expression_can_be_written(e: Expression) -> None:
    style = Style()
    text, latex = Text(style).write(e), Latex(style).write(e)
    assert text.count("(") == text.count(")")
    assert latex.count("{") - latex.count(r"\{") == latex.count("}") - latex.count(r"\}")


@given(expressions, expressions)
@settings(max_examples=60, deadline=None)
def test_the_normal_form_does_not_depend_on_the_order(a: Expression, b: Expression) -> None:
    assert plus(a, b) == plus(b, a)
    assert times(a, b) == times(b, a)
    assert plus(a, scaled(a, -1)).terms == ()


IDENTITIES: list[tuple[Any, Any]] = [
    (lambda A, B: (A @ B).T, lambda A, B: B.T @ A.T),
    (lambda A, B, a: A @ (B @ a), lambda A, B, a: (A @ B) @ a),
    (lambda A, a, b: A @ (a + b), lambda A, a, b: A @ a + A @ b),
    (lambda a, b: np.sum(a * b), lambda a, b: b @ a),
    (lambda a, b, A: np.outer(a, b) @ A, lambda a, b, A: np.outer(a, A.T @ b)),
    (lambda a, s: np.sum(s * a), lambda a, s: s * np.sum(a)),
    (lambda a: a / a * 3, lambda a: 3.0 + 0 * a),
    (lambda a, b: (a + b) ** 2, lambda a, b: a**2 + 2 * a * b + b**2),
    (lambda a: np.exp(a - np.max(a)) / np.sum(np.exp(a - np.max(a))), lambda a: np.exp(a) / np.sum(np.exp(a))),
    (lambda a: np.log(np.exp(a) * 1), lambda a: a),
    (lambda a: a[1] + a[2], lambda a: a[-1] + a[-2]),
]


@pytest.mark.parametrize(("f", "g"), IDENTITIES)
def test_equal_expressions_have_one_form(f: Any, g: Any) -> None:
    one, two = (expand(as_expression(h, VALUES)) for h in (f, g))
    assert one == two, f"{Text(Style()).write(one)} and {Text(Style()).write(two)}"


@pytest.mark.parametrize(
    ("f", "g"),
    [
        (lambda A, a: A @ a, lambda A, a: A.T @ a),
        (lambda a, b: np.outer(a, b), lambda a, b: np.outer(b, a)),
        (lambda A: np.sum(A, axis=0), lambda A: np.sum(A, axis=1)),
        (lambda a: a[1], lambda a: a[2]),
        (lambda a: np.sum(a) * a, lambda a: np.sum(a * a)),
    ],
)
def test_different_expressions_have_different_forms(f: Any, g: Any) -> None:
    assert expand(as_expression(f, VALUES)) != expand(as_expression(g, VALUES))


def test_what_the_program_has_a_name_for_takes_it() -> None:
    known = Definitions.none()
    a, m = symbol("a", (3,)), symbol("m")
    known.add("m", scaled(summed(a, [0]), Fraction(1, 3)), named=True)
    known.add("c", plus(a, scaled(m, -1)), named=True)
    known.add("s", plus(summed(power(symbol("c", (3,)), Fraction(2)), [0]), constant(1)), named=True)
    c, s = symbol("c", (3,)), symbol("s")
    known.add("h", times(c, power(s, Fraction(-1))), named=True)
    h = symbol("h", (3,))
    assert simplify(times(a, c, power(s, Fraction(-1))), known) == times(a, h)
    assert simplify(plus(a, times(summed(h, [0]), a)), known) == a  # the sum of what is centred is 0
    values = {"a": VALUES["a"]}
    for name, e in known.of.items():
        values[name] = e.evaluate(**values)
    for e in (times(a, c, power(s, Fraction(-1))), plus(a, times(summed(h, [0]), a)), summed(times(h, a), [0])):
        np.testing.assert_allclose(simplify(e, known).evaluate(**values), e.evaluate(**values), atol=1e-12)


def test_one_expression_put_into_another() -> None:
    a, b, A = symbol("a", (3,)), symbol("b", (3,)), symbol("A", (3, 3))
    e = times(contracted(A, a, ["ij", "j"], "i"), power(a, Fraction(2)))
    inner = contracted(A, b, ["ij", "j"], "i")
    put = substituted(e, {"a": inner})
    np.testing.assert_allclose(
        put.evaluate(**VALUES), e.evaluate(**{**VALUES, "a": inner.evaluate(**VALUES)}), rtol=1e-12
    )
