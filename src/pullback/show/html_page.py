"""A self-contained HTML page: the frame and style, and the parts that pages are made of. All text is escaped here."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --bar: #4477aa; }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin-bottom: .3rem; } .note { opacity: .75; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
.bar { display: inline-block; height: .7em; background: var(--bar); vertical-align: baseline; }
.strip { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 7.5rem; }
figure img { width: 100%; image-rendering: auto; border: 1px solid var(--line); }
figcaption { font-size: .75rem; overflow-wrap: anywhere; line-height: 1.25; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole page of parts that are HTML already."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{text(title)}</title>'
    # No script runs and nothing is fetched, whatever a name may hold.
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    head += f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style>'
    body = "\n".join(parts)
    return f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body><h1>{text(title)}</h1>\n{body}\n</body></html>\n"


def text(value: object) -> str:
    """Text for HTML; characters that control a terminal or a line become visible ones."""
    shown = "".join(chr(0x2400 + ord(c)) if ord(c) < 0x20 else c for c in str(value))
    return html.escape(shown.encode("utf-8", "backslashreplace").decode())


def heading(value: object, level: int = 2) -> str:
    return f"<h{level}>{text(value)}</h{level}>"


def paragraph(value: object, note: bool = False) -> str:
    return f"<p{' class=note' if note else ''}>{text(value)}</p>"


def table(rows: Sequence[Sequence[object]], header: Sequence[object] = (), bars: int | None = None) -> str:
    """Rows of cells; numbers go to the right. `bars` is a column whose numbers are drawn as bars beside them."""
    largest = max((float(str(row[bars])) for row in rows), default=0.0) if bars is not None else 0.0

    def cell(value: object, tag: str = "td") -> str:
        number = isinstance(value, int | float)
        shown = f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else text(value)
        return f"<{tag}{' class=n' if number else ''}>{shown}</{tag}>"

    lines = ["<tr>" + "".join(f"<th>{text(name)}</th>" for name in header) + "</tr>"] if header else []
    for row in rows:
        cells = "".join(map(cell, row))
        if bars is not None and largest:
            width = 20 * float(str(row[bars])) / largest
            cells += f'<td><span class=bar style="width:{width:.2f}rem"></span></td>'
        lines.append(f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def strip(figures: Iterable[str]) -> str:
    """Figures side by side."""
    return f"<div class=strip>{''.join(figures)}</div>"


def figure(image: NDArray[np.uint8] | None, captions: Sequence[object], problem: str = "") -> str:
    """An image `(H, W, 3)` with lines of text below; the problem in its place where there is none."""
    shown = f'<img alt="" src="{data_uri(image)}">' if image is not None else f"<em>{text(problem)}</em>"
    return f"<figure>{shown}<figcaption>{'<br>'.join(map(text, captions))}</figcaption></figure>"


def data_uri(image: NDArray[np.uint8], quality: int = 85) -> str:
    """An image as an address that holds it: PNG where it is small, JPEG where it is not."""
    from PIL import Image

    buffer = io.BytesIO()
    small = image.shape[0] * image.shape[1] <= 64 * 64
    options: dict[str, Any] = {"format": "PNG"} if small else {"format": "JPEG", "quality": quality}
    Image.fromarray(image).save(buffer, **options)
    kind = options["format"].lower()
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
