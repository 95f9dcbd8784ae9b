"""`curves.png`: loss and accuracy over the steps, training and validation, drawn from the rows of metrics alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pullback.files import replace


def draw_curves(path: Path, rows: list[dict[str, Any]], title: str) -> None:
    """Draw the rows of metrics into the PNG file `path`, atomically. Raises RunError where it cannot be written."""
    from matplotlib.figure import Figure  # not pyplot, which keeps every figure alive and may ask for a display

    figure = Figure(figsize=(10, 4), dpi=120, layout="constrained")
    figure.suptitle(title)
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, style in (("training", "-"), ("validation", "o-")):
            points = [(row["step"], row[quantity]) for row in rows if row["split"] == split]
            steps, values = zip(*points, strict=True) if points else ((), ())
            axes.plot(steps, values, style, label=split, linewidth=1.2, markersize=3)
        axes.set_xlabel("step")
        axes.set_ylabel(quantity)
        axes.grid(alpha=0.3)
        axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    replace(path, png.getvalue())
