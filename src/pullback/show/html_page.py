"""A self-contained HTML page: the frame and style, and the parts that pages are made of. All text is escaped here."""

from __future__ import annotations

import base64
import html
import io
import re
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
.wide figure { width: 11.2rem; }
.side { display: flex; flex-wrap: wrap; gap: 0 3rem; align-items: flex-start; } .side > * { min-width: 0; }
.tiles { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; font-size: .85rem; }
.tiles div { border: 1px solid var(--line); border-radius: .4rem; padding: .5rem .8rem; min-width: 6rem; }
.tiles b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
pre { border: 1px solid var(--line); border-radius: .4rem; padding: .6rem .9rem; white-space: pre-wrap; }
img.picture { max-width: 100%; background: white; }
.strip { display: flex; flex-wrap: wrap; gap: .6rem; } figure { margin: 0; width: 7.5rem; }
figure img { width: 100%; image-rendering: auto; border: 1px solid var(--line); }
figcaption { font-size: .75rem; overflow-wrap: anywhere; line-height: 1.25; }
"""

BLUE = "#4477aa"
"""Of bars, in drawings as in tables."""


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
    """Rows of cells; columns of numbers and percentages go to the right.

    `bars` is a column whose numbers are drawn as bars besides.
    """
    largest = max((float(str(row[bars])) for row in rows), default=0.0) if bars is not None else 0.0
    right = [all(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(header)

    def cells(row: Sequence[object], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=n' if numbers else ''}>{_cell(value)}</{tag}>"
            for value, numbers in zip(row, right, strict=True)
        )

    lines = [f"<tr>{cells(header, 'th')}</tr>"] if header else []
    for row in rows:
        bar = ""
        if bars is not None and largest:
            bar = f'<td><span class=bar style="width:{20 * float(str(row[bars])) / largest:.2f}rem"></span></td>'
        lines.append(f"<tr>{cells(row, 'td')}{bar}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) or bool(re.fullmatch(r"[\d.]+%", str(value)))


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else text(value)


def tiles(figures: Iterable[tuple[object, object]]) -> str:
    """The few figures that say most, large: `(what, value)` each."""
    return (
        f"<div class=tiles>{''.join(f'<div><b>{text(value)}</b>{text(what)}</div>' for what, value in figures)}</div>"
    )


def side_by_side(parts: Iterable[str]) -> str:
    """Parts that are HTML already, beside each other where the page is wide enough."""
    return f"<div class=side>{''.join(f'<div>{part}</div>' for part in parts)}</div>"


def code(value: object) -> str:
    """Text to be copied, such as a command."""
    return f"<pre>{text(value)}</pre>"


def image(content: bytes, kind: str, alt: str) -> str:
    """A picture by its content and media type, as wide as it says and no wider than the page."""
    data = base64.b64encode(content).decode()
    return f'<p><img class=picture alt="{text(alt)}" src="data:{kind};base64,{data}"></p>'


def blank(width: float, height: float) -> Any:
    """A figure of Matplotlib to draw into, of so many inches; a page is 11 wide."""
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure alive and may ask for a display

    return Figure(figsize=(width, height), layout="constrained")


def drawing(figure: Any, alt: str) -> str:
    """A figure of Matplotlib."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return image(buffer.getvalue(), "image/svg+xml", alt)


def strip(figures: Iterable[str], wide: bool = False) -> str:
    """Figures side by side, as wide as six fill the page where asked."""
    return f"<div class='strip{' wide' if wide else ''}'>{''.join(figures)}</div>"


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
