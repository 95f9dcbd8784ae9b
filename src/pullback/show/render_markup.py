"""A derivation as Markdown with LaTeX, as a LaTeX document, and as HTML with MathML."""

from __future__ import annotations

import html as escapes
from typing import TYPE_CHECKING

from pullback.show.render_text import shape_text, verdict

if TYPE_CHECKING:
    from pullback.show.derivation import Derivation
    from pullback.show.lines import Line


# -- Markdown --------------------------------------------------------------------------------------------------------
def markdown(derivation: Derivation) -> str:
    """Markdown with a table a part, as GitHub and notebooks show it."""
    blocks = []
    for title, lines in derivation.parts():
        rows = [f"| ${line.latex}$ | {_note(line)} | {_check(line)} |" for line in lines]
        blocks.append("\n".join([f"### {title}", "", "| | | |", "|:--|:--|--:|", *rows]))
    if derivation.legend():
        blocks.append("\n".join(f"- {line}" for line in derivation.legend()))
    return "\n\n".join([*blocks, verdict(derivation)]) + "\n"


def _note(line: Line) -> str:
    said = line.reason or shape_text(line.shape)
    return f"({line.span}) {said}" if line.span else said


def _check(line: Line) -> str:
    return f"{'✓' if line.ok else '✗'} {line.error:.0e}"


# -- LaTeX -----------------------------------------------------------------------------------------------------------
_DOCUMENT = r"""\documentclass{article}
\usepackage[margin=2cm]{geometry}
\usepackage{amsmath, amssymb, longtable, array}
\begin{document}
\section*{%s}
%s
\end{document}
"""


def latex(derivation: Derivation) -> str:
    """A LaTeX document."""
    blocks = []
    for title, lines in derivation.parts():
        rows = [rf"$\displaystyle {line.latex}$ & {_tex(_note(line))} & {_tex(_error(line))} \\[1ex]" for line in lines]
        table = [r"\begin{longtable}{@{}>{\raggedright}p{10cm}>{\raggedright\small}p{5cm}r@{}}", *rows]
        blocks.append("\n".join([rf"\subsection*{{{title}}}", *table, r"\end{longtable}"]))
    blocks += [_tex(line) + r"\par" for line in derivation.legend()]
    return _DOCUMENT % (_tex(f"The gradient of {derivation.name}"), "\n\n".join([*blocks, _tex(verdict(derivation))]))


def _error(line: Line) -> str:
    return f"{line.error:.0e}" if line.ok else f"WRONG, {line.error:.0e}"


_SPECIAL = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}", "$": r"\$", "×": r"$\times$"}
_SPECIAL |= {"…": r"\ldots{}", "₀": "$_0$", "≥": r"$\ge$", "ᵀ": r"$^\top$", "Σ": r"$\Sigma$", "−": "$-$"}


def _tex(text: str) -> str:
    return "".join(_SPECIAL.get(c, c) for c in text)


# -- HTML ------------------------------------------------------------------------------------------------------------
_STYLE = """
.derivation{font-family:system-ui,sans-serif;line-height:1.5;overflow-x:auto}
.derivation table{border-collapse:collapse;margin:0 0 1.2em}
.derivation td{padding:.35em 1em .35em 0;text-align:left;vertical-align:middle;border-bottom:1px solid #8883}
.derivation td.why{opacity:.8;font-size:.9em}
.derivation td.check{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums;color:#17803d}
.derivation td.check.wrong{color:#c0262d;font-weight:600}
.derivation math{font-size:1.05em;math-style:normal}
@media(prefers-color-scheme:dark){.derivation td.check{color:#5cc98a}.derivation td.check.wrong{color:#ff8085}}
"""
_PAGE = (
    "<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
    "<meta name='viewport' content='width=device-width'>"
    "<style>:root{{color-scheme:light dark}}body{{margin:2em auto;max-width:72em;padding:0 1em}}</style>"
    "<h1 style='font-family:system-ui,sans-serif'>{title}</h1>{body}</html>\n"
)


def fragment(derivation: Derivation) -> str:
    """HTML to stand in a page or a notebook."""
    blocks = [f"<style>{_STYLE}</style>"]
    for title, lines in derivation.parts():
        rows = "".join(_row(line) for line in lines)
        blocks.append(f"<h3>{escapes.escape(title)}</h3><table>{rows}</table>")
    blocks += [f"<p>{escapes.escape(line)}</p>" for line in derivation.legend()]
    return f"<div class='derivation'>{''.join(blocks)}<p>{escapes.escape(verdict(derivation))}</p></div>"


def page(derivation: Derivation) -> str:
    """A page of its own that needs no network."""
    return _PAGE.format(title=escapes.escape(f"The gradient of {derivation.name}"), body=fragment(derivation))


def _row(line: Line) -> str:
    from latex2mathml.converter import convert

    source = f" title='{escapes.escape(line.source, quote=True)}'" if line.source else ""
    kind = "check" if line.ok else "check wrong"
    return (
        f"<tr{source}><td>{convert(line.latex)}</td><td class='why'>{escapes.escape(_note(line))}</td>"
        f"<td class='{kind}'>{_check(line)}</td></tr>"
    )
