"""The page that compares ways of resizing: the same images by each, side by side, with what the teacher answers."""

from __future__ import annotations

import numpy as np

from pullback.show import html_page as html
from pullback.teach.interpolation import Comparison

WORDS = {
    "nearest": "repeats pixels",
    "box": "means of whole pixels",
    "bilinear": "straight lines between pixels",
    "hamming": "as bilinear, sharper",
    "bicubic": "smooth curves between pixels",
    "lanczos": "the sharpest; rings at edges",
}


def resize_page(comparison: Comparison, names: list[str], teacher: str, folder: str, shown: int) -> str:
    """The page, with the first `shown` of the images on which the methods differ most.

    `names` are those of the classes in the comparison.
    """
    best = comparison.recommended()
    labels, confidences = comparison.labels, comparison.confidences
    height, width = comparison.images.shape[2:4]
    rows = [
        (
            method,
            WORDS[method],
            f"{confidences[m].mean():.1%}",
            f"{comparison.support[m].mean():.1%}",
            f"{(labels[m] == comparison.consensus).mean():.1%}",
            f"{(comparison.agreement[m].sum() - 1) / (len(comparison.methods) - 1):.1%}",
            "recommended" if method == best else "",
        )
        for m, method in enumerate(comparison.methods)
    ]
    matrix = [
        (method, *(f"{value:.1%}" for value in comparison.agreement[m])) for m, method in enumerate(comparison.methods)
    ]
    parts = [
        html.paragraph(
            f"{len(comparison.paths)} images of {folder}, resized to {width}x{height} for {teacher}. "
            f"Recommended: {best}."
        ),
        html.heading("Methods"),
        html.table(
            rows,
            ("method", "", "mean confidence", "support of the consensus", "agrees with it", "agrees with others", ""),
        ),
        html.paragraph(
            "The consensus is the class that the mean of all methods' answers finds most probable; it stands in for "
            "the truth, which is not known here. Recommended is the method that gives it the highest mean probability, "
            "or bicubic where that is not clearly lower.",
            note=True,
        ),
        html.heading("Agreement between methods"),
        html.table(matrix, ("", *comparison.methods)),
        html.heading("Images"),
        html.paragraph("Those first on whose class the methods differ most.", note=True),
    ]
    if comparison.skipped:
        parts.insert(1, html.paragraph(f"{len(comparison.skipped)} images of the sample could not be read."))
    differ = (labels != comparison.consensus).sum(axis=0)
    for n in np.lexsort((confidences.mean(axis=0), -differ))[:shown]:
        parts.append(html.heading(comparison.paths[n], 3))
        parts.append(
            html.strip(
                (
                    html.figure(comparison.images[m, n], (method, names[labels[m, n]], f"{confidences[m, n]:.1%}"))
                    for m, method in enumerate(comparison.methods)
                ),
                wide=True,
            )
        )
    return html.page("Ways of resizing, as the teacher sees them", parts)
