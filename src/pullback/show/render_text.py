"""A derivation for the terminal."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pullback.show.derivation import Derivation
    from pullback.show.lines import Line

_TITLES = {"forward": "Forward", "backward": "Backward", "closed": "Closed form"}


def render(derivation: Derivation) -> str:
    """The derivation as text: each part a table of equations, reasons or shapes, and errors."""
    parts = []
    for part, lines in (
        ("forward", derivation.forward),
        ("backward", derivation.backward),
        ("closed", derivation.closed),
    ):
        if lines:
            parts.append("\n".join([_TITLES[part], *_table(lines)]))
    verdict = "every line agrees" if derivation.ok else "NOT every line agrees"
    parts.append(f"{verdict} with the program and with differences; largest relative error {derivation.max_error:.1e}")
    return "\n\n".join(parts)


def _table(lines: list[Line]) -> list[str]:
    sides = [(_equation(line), line.reason or shape_text(line.shape), f"{line.error:.0e}", line.ok) for line in lines]
    first = min(max(width(row[0]) for row in sides), 72)
    second = min(max(width(row[1]) for row in sides), 60)
    return [
        f"  {pad(text, first)}   {pad(said, second)}   {'✓' if ok else '✗'} {error}" for text, said, error, ok in sides
    ]


def _equation(line: Line) -> str:
    return f"{line.text}   ({line.span})" if line.span else line.text


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as `3 × 4`; a number as `scalar`."""
    return " × ".join(map(str, shape)) if shape else "scalar"


def width(text: str) -> int:
    """Columns that a text takes: combining marks take none."""
    return sum(not unicodedata.combining(c) for c in text)


def pad(text: str, columns: int) -> str:
    """The text filled up with blanks."""
    return text + " " * max(0, columns - width(text))
