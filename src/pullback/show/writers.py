"""The two ways a formula is written: text with Unicode, and LaTeX."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

from pullback.show.expression import Partial, Symbol, Unit
from pullback.show.layout import Writer
from pullback.show.notation import ATOM, POWER, PRODUCT, Piece, operator

_GREEK = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eps": "ε", "zeta": "ζ", "eta": "η",
    "theta": "θ", "kappa": "κ", "lam": "λ", "lambda": "λ", "lambda_": "λ", "lamda": "λ", "mu": "μ", "nu": "ν",
    "xi": "ξ", "pi": "π", "rho": "ρ", "sigma": "σ", "tau": "τ", "phi": "φ", "chi": "χ", "psi": "ψ", "omega": "ω",
}  # fmt: skip
_LATEX_NAMES = {"eps": "varepsilon", "lam": "lambda", "lambda_": "lambda", "lamda": "lambda"}
_ACCENTS = {"hat": ("\u0302", "hat"), "tilde": ("\u0303", "tilde"), "bar": ("\u0304", "bar"), "dot": ("\u0307", "dot")}
_SUBSCRIPTS = str.maketrans("0123456789+-−·,hijklmnoprstuvx", "₀₁₂₃₄₅₆₇₈₉₊₋₋.,ₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ")
_SUPERSCRIPTS = str.maketrans("0123456789-+", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺")


def name_parts(name: str) -> tuple[str, str, str]:
    """A variable's name as base, accent and subscript: `xhat_2` is x, hat, 2; `h1` is h, nothing, 1."""
    match = (
        re.fullmatch(r"(.+)_([tlijmnpq](?:[−+]\d+)?)", name)
        or re.fullmatch(r"(.+?)_?(\d+)", name)
        or re.fullmatch(r"([A-Za-z])_(\w{1,3})", name)
        or re.fullmatch(r"([A-Z])([a-z])", name)
    )
    base, mark = (match[1], match[2]) if match and not match[1].endswith("]") else (name, "")
    for accent in _ACCENTS:
        if (
            base.endswith(accent)
            and len(base.removesuffix(accent).rstrip("_")) >= 1
            and (len(base.removesuffix(accent).rstrip("_")) == 1 or base.removesuffix(accent).rstrip("_") in _GREEK)
        ):
            return base.removesuffix(accent).rstrip("_"), accent, mark
    numbered = re.fullmatch(r"([A-Za-z])(\d+)", base)  # the first, second, ... of an iteration
    return (numbered[1], "", f"{numbered[2]},{mark}") if numbered and mark else (base, "", mark)


def _parameter(name: str) -> tuple[str, str]:
    """A parameter of a network as its usual letter and where it is: `model.level0.conv1.weight` is W, level0.conv1."""
    _, *path, leaf = name.split(".")
    return {"weight": "W", "bias": "b"}.get(leaf, leaf), ".".join(part for part in path if part != "branch")


class Text(Writer):
    """Formulas in one line of Unicode."""

    latex = False
    dot, gap, minus, ones = " ⊙ ", " ", "−", "𝟏"

    def name(self, name: str) -> str:
        """A variable's name: Greek letters, accents and small numbers."""
        if "." in name:
            base, path = _parameter(name)
            return f"{_GREEK.get(base, base)}_{path}" if path else _GREEK.get(base, base)
        base, accent, mark = name_parts(name)
        written = _composed(_GREEK.get(base, base) + (_ACCENTS[accent][0] if accent else ""))
        return written + _low(mark)

    def decimal(self, number: str) -> str:
        return number

    def symbol(self, symbol: Symbol, marks: list[str]) -> Piece:
        name = self.name(symbol.name)
        if symbol.role == "adjoint":
            name = self.barred(name) if self.style.bars else f"∂{self.name(self.style.loss)}/∂{name}"
        elif symbol.role == "tangent":
            name = _composed(name[:1] + "\u0307" + name[1:])
        return Piece(name + ("[" + ",".join(marks) + "]" if marks else ""))

    def barred(self, name: str) -> str:
        """A name with a bar over its first letter."""
        return _composed(name[:1] + "\u0304" + name[1:])

    def partial(self, partial: Partial) -> Piece:
        return Piece(f"∂{self.name(partial.of.name)}/∂{self.name(partial.by.name)}")

    def unit(self, unit: Unit, marks: list[str]) -> Piece:
        return Piece(f"δ[{marks[0]},{unit.place}]" if marks else f"onehot({unit.place})")

    def subscripted(self, piece: Piece, marks: list[str]) -> Piece:
        return Piece(f"{piece.within(ATOM)}[{','.join(marks)}]")

    def transpose(self, piece: Piece) -> Piece:
        return Piece(f"{_closed(piece)}ᵀ")

    def diagonal(self, piece: Piece) -> Piece:
        return Piece(f"diag({piece.text})")

    def norm_squared(self, piece: Piece) -> Piece:
        return Piece(f"‖{piece.text}‖²", POWER)

    def indicator(self, piece: Piece) -> Piece:
        return Piece(f"𝟏{{{piece.text}}}")

    def raised(self, piece: Piece, power: Fraction) -> Piece:
        if power == Fraction(1, 2):
            return Piece(f"√{_closed(piece)}", POWER)
        if power < 0:
            return self.over(Piece("1"), piece if power == -1 else self.raised(piece, -power))
        whole = power.denominator == 1
        return Piece(f"{_closed(piece)}{str(power).translate(_SUPERSCRIPTS) if whole else f'^({power})'}", POWER)

    def over(self, top: Piece, bottom: Piece) -> Piece:
        if top.text.isdigit() and bottom.text.removeprefix("√").isalnum():
            return Piece(f"{top.text}/{bottom.text}", PRODUCT)
        return Piece(f"{top.within(PRODUCT)} / {bottom.within(POWER)}", PRODUCT)

    def sum_over(self, letters: list[str], piece: Piece) -> Piece:
        loose = ".." in letters[0]
        return Piece(f"Σ{_low(''.join(letters))} {piece.within(PRODUCT if loose else POWER)}", PRODUCT)

    def product_over(self, span: str, piece: Piece) -> Piece:
        return Piece(f"(∏_{span} {piece.text})", PRODUCT)


def _composed(text: str) -> str:
    """With accents as parts of their letters, where Unicode has such letters."""
    return unicodedata.normalize("NFC", text)


def _low(mark: str) -> str:
    """Characters as subscripts, or after an underscore where Unicode has none."""
    small = mark.translate(_SUBSCRIPTS)
    return small if not mark or all(c not in mark or c in ".," for c in small) else f"_{mark}"


def _closed(piece: Piece) -> str:
    """A piece that a superscript can stand at: one name, or brackets."""
    return f"({piece.text})" if "/" in piece.text and "(" not in piece.text[:1] else piece.within(ATOM)


class Latex(Writer):
    """Formulas in LaTeX."""

    latex = True
    dot, gap, minus, ones = r" \odot ", r"\, ", "-", r"\mathbf{1}"

    def name(self, name: str) -> str:
        if "." in name:
            base, path = _parameter(name)
            path = path.replace("_", r"\_").replace("−", "-")
            return (rf"\{base}" if base in _GREEK else base) + (rf"_{{\text{{{path}}}}}" if path else "")
        base, accent, mark = name_parts(name)
        if base in _GREEK:
            written = "\\" + _LATEX_NAMES.get(base, base)
        elif len(base) == 1:
            written = base
        else:
            written = r"\mathrm{" + base.replace("_", r"\_") + "}"
        if accent:
            written = rf"\{_ACCENTS[accent][1]}{{{written}}}"
        return written + (f"_{{{mark.replace('−', '-')}}}" if mark else "")

    def decimal(self, number: str) -> str:
        mantissa, _, exponent = number.partition("e")
        ten = f"10^{{{int(exponent)}}}" if exponent else ""
        return ten if mantissa == "1" and ten else rf"{mantissa} \cdot {ten}" if ten else mantissa

    def symbol(self, symbol: Symbol, marks: list[str]) -> Piece:
        name = self.name(symbol.name)
        if symbol.role == "adjoint":
            name = (
                rf"\bar{{{name}}}"
                if self.style.bars
                else rf"\frac{{\partial {self.name(self.style.loss)}}}{{\partial {name}}}"
            )
        elif symbol.role == "tangent":
            name = rf"\dot{{{name}}}"
        if not marks:
            return Piece(name)
        return Piece(
            (f"{{{name}}}" if "_" in name or "frac" in name else name) + "_{" + ",".join(map(_mark, marks)) + "}"
        )

    def partial(self, partial: Partial) -> Piece:
        return Piece(rf"\frac{{\partial {self.name(partial.of.name)}}}{{\partial {self.name(partial.by.name)}}}")

    def unit(self, unit: Unit, marks: list[str]) -> Piece:
        return Piece(
            rf"\delta_{{{marks[0]}{_mark(str(unit.place))}}}"
            if marks
            else rf"{operator('onehot')}({_mark(str(unit.place))})"
        )

    def subscripted(self, piece: Piece, marks: list[str]) -> Piece:
        return Piece(rf"{self._closed(piece)}_{{{','.join(map(_mark, marks))}}}")

    def transpose(self, piece: Piece) -> Piece:
        return Piece(rf"{self._closed(piece)}^\top")

    def diagonal(self, piece: Piece) -> Piece:
        return Piece(rf"{operator('diag')}({piece.text})")

    def norm_squared(self, piece: Piece) -> Piece:
        return Piece(rf"\lVert {piece.text} \rVert^2", POWER)

    def indicator(self, piece: Piece) -> Piece:
        return Piece(rf"\mathbf{{1}}\{{{piece.text}\}}")

    def raised(self, piece: Piece, power: Fraction) -> Piece:
        if power == Fraction(1, 2):
            return Piece(rf"\sqrt{{{piece.text}}}", POWER)
        if power < 0:
            return self.over(Piece("1"), piece if power == -1 else self.raised(piece, -power))
        return Piece(f"{self._closed(piece)}^{{{power}}}", POWER)

    def _closed(self, piece: Piece) -> str:
        return f"{{{piece.text}}}" if piece.level == ATOM else f"({piece.text})"

    def over(self, top: Piece, bottom: Piece) -> Piece:
        return Piece(rf"\frac{{{top.text}}}{{{bottom.text}}}", POWER)

    def sum_over(self, letters: list[str], piece: Piece) -> Piece:
        loose = ".." in letters[0]
        return Piece(rf"\sum{_limits(','.join(letters))} {piece.within(PRODUCT if loose else POWER)}", PRODUCT)

    def product_over(self, span: str, piece: Piece) -> Piece:
        return Piece(rf"\Bigl(\prod{_limits(span)} {piece.text}\Bigr)", PRODUCT)


def _limits(letters: str) -> str:
    """The index below a sign of summation, and its end above."""
    start, _, end = letters.partition("..")
    return f"_{{{start}}}" + (f"^{{{end}}}" if end else "")


def _mark(mark: str) -> str:
    return r"\cdot" if mark == "·" else mark.replace("−", "-")
