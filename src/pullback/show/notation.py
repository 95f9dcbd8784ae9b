"""How each primitive is written: one line a primitive, in text and in LaTeX. Nothing else of the mathematics is typed
by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ATOM, POWER, PRODUCT, SUM, RELATION = 4, 3, 2, 1, 0
"""How tightly a piece of a formula holds together."""


class Piece(NamedTuple):
    """A piece of a formula, and how tightly it holds together."""

    text: str
    level: int = ATOM

    def within(self, level: int, brackets: str = "()") -> str:
        """The piece as part of one that holds as tightly as `level`: in brackets if it is looser."""
        return self.text if self.level >= level else f"{brackets[0]}{self.text}{brackets[1]}"


class Notation(NamedTuple):
    """Templates with `{0}`, `{1}` for the arguments and `{name}` for the options."""

    text: str
    latex: str
    level: int = ATOM
    inner: int = SUM  # how tightly the arguments must hold together


def _call(name: str, latex: str | None = None) -> Notation:
    return Notation(name + "({*})", (latex or operator(name)) + "({*})")


def operator(name: str) -> str:
    r"""An upright name of a function in LaTeX, such as `\operatorname{relu}`."""
    return rf"\operatorname{{{name.replace('_', ' ')}}}"


def _infix(text: str, latex: str, level: int = RELATION) -> Notation:
    return Notation(f"{{0}} {text} {{1}}", f"{{0}} {latex} {{1}}", level, level + 1)


NOTATIONS: dict[str, Notation] = {
    "exp": Notation("exp({0})", r"e^{{{0}}}", POWER),
    "exp2": Notation("2^({0})", r"2^{{{0}}}", POWER),
    "log": _call("log", r"\log"),
    "log2": _call("log2", r"\log_2"),
    "log10": _call("log10", r"\log_{10}"),
    "log1p": Notation("log(1 + {0})", r"\log(1 + {0})"),
    "expm1": Notation("(exp({0}) − 1)", r"(e^{{{0}}} - 1)"),
    **{name: _call(name, "\\" + name) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{f"arc{name}": _call(f"arc{name}") for name in ("sin", "cos", "tan", "tan2", "sinh", "cosh", "tanh")},
    "absolute": Notation("|{0}|", r"\lvert {0} \rvert"),
    "fabs": Notation("|{0}|", r"\lvert {0} \rvert"),
    "sign": _call("sign"),
    "cbrt": Notation("∛({0})", r"\sqrt[3]{{{0}}}"),
    "floor": Notation("⌊{0}⌋", r"\lfloor {0} \rfloor"),
    "ceil": Notation("⌈{0}⌉", r"\lceil {0} \rceil"),
    "remainder": _infix("mod", r"\bmod", PRODUCT),
    "power": Notation("{0}^({1})", r"{{{0}}}^{{{1}}}", POWER, ATOM),
    "float_power": Notation("{0}^({1})", r"{{{0}}}^{{{1}}}", POWER, ATOM),
    "maximum": _call("max", r"\max"),
    "minimum": _call("min", r"\min"),
    "max": _call("max", r"\max"),
    "min": _call("min", r"\min"),
    "sigmoid": _call("σ", r"\sigma"),
    "relu": _call("relu"),
    "greater": _infix(">", ">"),
    "greater_equal": _infix("≥", r"\ge"),
    "less": _infix("<", "<"),
    "less_equal": _infix("≤", r"\le"),
    "equal": _infix("=", "="),
    "not_equal": _infix("≠", r"\ne"),
    "bitwise_and": _infix("∧", r"\wedge"),
    "logical_and": _infix("∧", r"\wedge"),
    "bitwise_or": _infix("∨", r"\vee"),
    "logical_or": _infix("∨", r"\vee"),
    "logical_not": Notation("¬{0}", r"\neg {0}", POWER, POWER),
    "invert": Notation("¬{0}", r"\neg {0}", POWER, POWER),
    "where": Notation(
        "({1} if {0} else {2})", r"\begin{{cases}} {1} & {0} \\ {2} & \text{{else}} \end{{cases}}", ATOM, RELATION
    ),
    "cumsum": _call("cumsum"),
    "max_pool2d": _call("maxpool"),
    "max_pool2d_scatter": Notation("{0} → {1}", r"{0} \to {1}", RELATION, PRODUCT),
    "max_pool2d_choices": _call("argmaxpool"),
    "conv2d": Notation("Σ_rc {0}[+r,+c] {1}[r,c]", r"\sum_{{r,c}} {0}_{{[+r,+c]}}\, {1}_{{r,c}}", PRODUCT, ATOM),
    "conv2d_input_adjoint": Notation(
        "Σ_rc ({0} {1}[r,c]ᵀ)[−r,−c]", r"\sum_{{r,c}} \bigl({0}\, {1}_{{r,c}}^\top\bigr)_{{[-r,-c]}}", PRODUCT, ATOM
    ),
    "conv2d_weight_adjoint": Notation(
        "[{0}[+r,+c]ᵀ {1}]_rc", r"\bigl[{0}_{{[+r,+c]}}^\top\, {1}\bigr]_{{r,c}}", ATOM, ATOM
    ),
}
"""By name of the primitive. A primitive without an entry is written as a function of its name."""


LEGENDS = {
    "conv2d": "x[+r,+c] is the image x shifted by (r, c), so that each pixel meets the entry w[r,c] of the kernel; "
    "y[−r,−c] is put back at its shift; what falls outside the image is left out.",
    "max_pool2d": "g → s puts each element of g back at the place s that it was selected from.",
}
"""What a notation means, where it is not usual, by name of the primitive."""
TIES = "Where the two sides of a maximum or minimum are equal, each takes half of the gradient; here they nowhere are."
"""What is left out of the formulas of a run without ties."""


def write(name: str, arguments: list[Piece], params: dict[str, Any], latex: bool, value: Callable[[Any], str]) -> Piece:
    """A primitive of its arguments, in its notation."""
    if name in ("getitem", "index_add", "index_update"):
        return _indexed(name, arguments, params, latex)
    known = NOTATIONS.get(name) or _call(name)
    template = known.latex if latex else known.text
    inner = [piece.within(known.inner) for piece in arguments]
    if "{*}" in template:
        options = [f"{key}={value(item)}" for key, item in params.items() if key not in _UNSAID]
        return Piece(template.replace("{*}", ", ".join([piece.text for piece in arguments] + options)), known.level)
    return Piece(template.format(*inner), known.level)


def _indexed(name: str, arguments: list[Piece], params: dict[str, Any], latex: bool) -> Piece:
    """Reading or writing at an index: x[1:], zeros with v at [1:], x with v at [1:]."""
    first = 2 if name == "index_update" else 1
    arrays = iter(arguments[first:])
    marks = [_slice(part) or next(arrays, Piece("…")).text for part in params["template"]]
    at = f"[{', '.join(marks)}]"
    at = at.replace("…", r"\ldots") if latex else at
    if name == "getitem":
        return Piece(f"{arguments[0].within(ATOM)}_{{{at}}}" if latex else f"{arguments[0].within(ATOM)}{at}")
    into = r"\text{ at }" if latex else " at "
    if name == "index_add":
        return Piece(f"({arguments[0].text}{into}{at})")
    among = r"\text{ with }" if latex else " with "
    return Piece(f"({arguments[0].text}{among}{arguments[1].text}{into}{at})")


def _slice(part: Any) -> str:
    """A part of an index; empty for an array."""
    if isinstance(part, slice):
        ends = ["" if end is None else str(end) for end in (part.start, part.stop)]
        return ":".join(ends) + ("" if part.step is None else f":{part.step}")
    if part is ... or part is None:
        return "…" if part is ... else "new"
    return str(part) if isinstance(part, int | np.integer) else ""


_UNSAID = {"axis", "window", "keepdims", "offsets", "stride", "padding", "groups", "size", "kernel", "eps"}
