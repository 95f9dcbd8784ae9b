"""A derivation for the terminal."""

from __future__ import annotations

import shutil
import textwrap
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pullback.show.layout import Style
from pullback.show.slopes import ways
from pullback.show.tangents import Tangents
from pullback.show.walk import Walk
from pullback.show.writers import Text

if TYPE_CHECKING:
    from pullback.show.derivation import Derivation
    from pullback.show.lines import Line

TITLES = {
    "forward": "Forward",
    "jacobian": "Local derivatives",
    "tangent": "Forward mode",
    "backward": "Backward",
    "closed": "Closed form",
}
_GREEN, _RED, _BOLD, _DIM, _PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[1m", "\x1b[2m", "\x1b[0m"


def render(derivation: Derivation, colour: bool = False, columns: int | None = None) -> str:
    """The derivation as text: each part a table of equations, reasons or shapes, and errors."""
    width_of_page = columns or max(100, shutil.get_terminal_size((120, 24)).columns)
    blocks = []
    for title, lines in derivation.parts():
        rows = [row for line in lines for row in _rows(line, width_of_page, colour)]
        blocks.append("\n".join([_painted(title, _BOLD, colour), *rows]))
    blocks += ["\n".join(f"  {line}" for line in derivation.legend())] if derivation.legend() else []
    blocks.append(verdict(derivation))
    return "\n\n".join(blocks)


def render_table(walk: Walk, moving: Sequence[str]) -> str:
    """Values, tangents and adjoints of all variables."""
    inputs = walk.run.inputs
    numbers = all(not inputs[name].shape for name in moving)
    moves = [{name: np.float64(1.0)} for name in moving] if numbers else [_random_ways(walk, moving)]
    columns = [Tangents(walk, way).numbers for way in moves]
    titles = [f"d/d{Text(Style()).name(name)}" for name in moving] if numbers else ["tangent"]
    steps = [v for step in walk.run.steps for v in step.outputs if v not in walk.hidden]
    rows = [["", "value", *titles, "adjoint"]]
    for v in [*inputs.values(), *steps]:
        tangents = [_short(column.get(v, np.zeros(v.shape))) for column in columns]
        adjoint = walk.adjoint_values.get(v)
        name = Text(Style()).name(v.name)
        rows.append([name, _short(v.value), *tangents, "" if adjoint is None else _short(adjoint)])
    widths = [max(width(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(pad(c, w, least=0) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def _random_ways(walk: Walk, moving: Sequence[str]) -> dict[str, Any]:
    return ways({name: walk.run.inputs[name].shape for name in moving}, 3)


def _short(value: Any) -> str:
    """A number, the few elements of a small array, or the norm of a large one."""
    array = np.asarray(value)
    if array.size > 6:
        return f"{shape_text(array.shape)}, norm {float(np.linalg.norm(array.ravel())):.4g}"
    return np.array2string(array, precision=4, separator=", ").replace("\n", "")


def verdict(derivation: Derivation) -> str:
    """Whether the lines agree, in a sentence."""
    wrong = [line for line in derivation.lines if not line.ok]
    if not wrong:
        return (
            "Every line agrees with the program and with differences; "
            f"largest relative error {derivation.max_error:.1e}."
        )
    first = ", ".join(line.text.split(" = ")[0] for line in wrong[:3])
    return f"{len(wrong)} lines do NOT agree with the program and with differences, first {first}."


def _rows(line: Line, columns: int, colour: bool) -> list[str]:
    """A line as an equation with its check at the right edge, and what there is to say about it."""
    said = line.reason or shape_text(line.shape)
    note = "   ".join(part for part in (line.span and f"({line.span})", said) if part)
    check = _painted(f"{'✓' if line.ok else '✗'} {line.error:.0e}", _GREEN if line.ok else _RED, colour)
    edge = columns - 9
    middle = min(56, edge // 2)
    if width(line.text) <= middle - 4 and width(note) <= edge - middle - 2:
        row = pad(pad("  " + line.text, middle) + _painted(note, _DIM, colour), edge + _hidden(colour))
        return [row + check]
    wrapped = textwrap.wrap(line.text, edge - 6, subsequent_indent="      ", break_long_words=False)
    return [
        *[f"  {part}" for part in wrapped],
        pad(" " * middle + _painted(note, _DIM, colour), edge + _hidden(colour)) + check,
    ]


def _hidden(colour: bool) -> int:
    return len(_DIM) + len(_PLAIN) if colour else 0


def _painted(text: str, paint: str, colour: bool) -> str:
    return f"{paint}{text}{_PLAIN}" if colour else text


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape as `3 × 4`; a number as `scalar`."""
    return " × ".join(map(str, shape)) if shape else "scalar"


def width(text: str) -> int:
    """Columns that a text takes: combining marks take none."""
    return sum(not unicodedata.combining(c) for c in text)


def pad(text: str, columns: int, least: int = 1) -> str:
    """The text filled up with blanks, at least so many."""
    return text + " " * max(least, columns - width(text))
