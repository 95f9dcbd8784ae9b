"""The rule of an operation in mathematics: the primitive's own rule, run on symbols and printed."""

from __future__ import annotations

import inspect
import textwrap
import unicodedata

import numpy as np

from pullback.core.primitive import Elementwise, Fused, Linear, Multilinear, Primitive, Selection
from pullback.errors import PullbackError
from pullback.show.algebra import symbol
from pullback.show.expression import Expression
from pullback.show.layout import Style
from pullback.show.symbolic import can_be_read, fused_gradients, pulled
from pullback.show.traced import Operation
from pullback.show.writers import Text

_STYLE = Style(bars=True)
_LONGEST = 300  # characters of a formula that still explains something


def rule_text(operation: Operation) -> dict[int, str]:
    """By input, what the backward pass adds to its adjoint, such as `x̄ = (1 − y²) ⊙ ȳ`; for a backward by hand that
    is not written in functions that can be read, its Python text under the number of the first input."""
    application = operation.application
    if application is None:
        return {}
    try:
        found = _expressions(operation)
    except (PullbackError, TypeError, ValueError, AttributeError, IndexError):
        found = {}
    texts = {}
    for i, e in found.items():
        left = Text(_STYLE).write(symbol(name_of(operation.primitive, i), np.shape(application.values[i]), "adjoint"))
        right = Text(_STYLE).write(e)
        if len(right) <= _LONGEST:
            texts[i] = unicodedata.normalize("NFC", f"{left} = {right}")
    return texts or {application.tracked[0]: _source(operation.primitive, application.tracked[0])}


def name_of(primitive: Primitive, i: int) -> str:
    """What the rules call an input."""
    return primitive.inputs[i] if i < len(primitive.inputs) else f"x{i + 1}"


def jacobian_text(primitive: Primitive) -> str:
    """The structure of the local Jacobian, in words."""
    if isinstance(primitive, Elementwise):
        return "diagonal: each output depends on the inputs at its place"
    if isinstance(primitive, Multilinear):
        return "linear in each input while the others are held"
    if isinstance(primitive, Linear):
        return "constant: the operation is linear"
    if isinstance(primitive, Selection):
        return "zeros and ones: each output is one of the inputs"
    return "several steps at once, with a backward of its own"


def _expressions(operation: Operation) -> dict[int, Expression]:
    application, primitive = operation.application, operation.primitive
    assert application is not None
    values = application.values
    arguments = [(symbol(name_of(primitive, i), np.shape(v)), v) for i, v in enumerate(values)]
    parts = application.result if type(application.result) is tuple else (application.result,)
    names = ["y"] if len(parts) == 1 else [f"y{k + 1}" for k in range(len(parts))]
    outputs = [(symbol(name, np.shape(part)), part) for name, part in zip(names, parts, strict=True)]
    pairs = zip(names, parts, strict=True)
    cotangents = [(symbol(name, np.shape(part), "adjoint"), np.ones_like(part)) for name, part in pairs]
    if isinstance(primitive, Fused):
        if not can_be_read(primitive, values, operation.params):
            return {}
        every = fused_gradients(primitive, arguments, outputs, cotangents, operation.params)
        return {i: e for i in application.tracked if (e := every[i]) is not None}
    return {
        i: pulled(primitive, i, arguments, outputs[0], cotangents[0], operation.params) for i in application.tracked
    }


def _source(primitive: Primitive, i: int) -> str:
    """The rule as it is written in Python."""
    rule = primitive.backward if isinstance(primitive, Fused) else (primitive.rule(i) or (None,))[0]
    try:
        text = textwrap.dedent(inspect.getsource(rule)) if rule is not None else ""
    except (OSError, TypeError):
        text = ""
    return text.strip() or "no text of this rule can be found"
