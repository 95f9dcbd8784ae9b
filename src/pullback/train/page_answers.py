"""The parts of a run's page about its answers: by class, how certain, what is confused with what, and images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pullback.data import Dataset, Splits
from pullback.show import html_page as html
from pullback.train.evaluate import Evaluation, class_numbers

_SHOWN = 16
"""Images in each of the groups that are shown."""
_DRAWN = 40
"""Classes in the largest table of confusion that is drawn with names."""
_LISTED = 15
"""Classes that are listed at either end, where there are more than are drawn; and kinds of confusion."""


def answers_parts(evaluation: Evaluation, found: NDArray[np.float32], data: Splits, what: str) -> list[str]:
    """Of a network's answers (N, K) to the held-out images. `what` is the right answers' name: accuracy, agreement."""
    classes, labels = data.test.classes, class_numbers(data.test.labels)
    confusions = _confusions(labels, found.argmax(axis=1), classes)
    drawn = [_reliability(evaluation)]
    if len(classes) <= _DRAWN:
        drawn.append(_confusion(np.array(evaluation.confusion), classes))
    return [
        html.heading(f"{what} by class"),
        html.side_by_side([*_by_class(evaluation, data, what.lower()), confusions]),
        html.heading("Calibration and confusion" if len(classes) <= _DRAWN else "Calibration"),
        html.side_by_side(drawn),
        html.paragraph(
            "Calibration: the numbers are images; on the dotted line an answer is right as often as the network says.",
            note=True,
        ),
        *_images(data.test, found),
    ]


def _by_class(evaluation: Evaluation, data: Splits, what: str) -> list[str]:
    """One table, the lowest first; of very many classes, one of either end."""
    classes = data.test.classes
    trained, held_out = (
        np.bincount(class_numbers(part.labels), minlength=len(classes)) for part in (data.train, data.test)
    )
    rows = [
        (name, int(trained[k]), int(held_out[k]), f"{evaluation.class_accuracy[name]:.1%}")
        for k, name in enumerate(classes)
        if name in evaluation.class_accuracy
    ]
    rows.sort(key=lambda row: evaluation.class_accuracy[row[0]])
    header = ("class", "trained on", "held out", what)
    if len(rows) <= _DRAWN:
        return [html.table(rows, header)]
    return [
        html.heading("Lowest", 3) + html.table(rows[:_LISTED], header),
        html.heading("Highest", 3) + html.table(rows[::-1][:_LISTED], header),
    ]


def _confusions(labels: NDArray[np.int64], answers: NDArray[np.int64], classes: Sequence[str]) -> str:
    """The pairs of a class and another one that was answered, the most frequent first."""
    wrong = labels != answers
    pairs, counts = np.unique(labels[wrong] * len(classes) + answers[wrong], return_counts=True)
    of_class = np.bincount(labels, minlength=len(classes))
    rows = []
    for k in np.argsort(-counts, kind="stable")[:_LISTED]:
        label, answer = divmod(int(pairs[k]), len(classes))
        rows.append((classes[label], classes[answer], int(counts[k]), f"{counts[k] / of_class[label]:.1%}"))
    if not rows:
        return html.paragraph("No image is taken for one of another class.")
    return html.table(rows, ("class", "taken for", "images", "of the class"))


def _reliability(evaluation: Evaluation) -> str:
    figure = html.blank(4.4, 3.9)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], ":", color="grey")
    axes.plot([p for p, _, _ in evaluation.reliability], [a for _, a, _ in evaluation.reliability], "o-")
    for p, a, images in evaluation.reliability:
        axes.annotate(f"{images:,}", (p, a), (4, -9), textcoords="offset points", fontsize=7)
    axes.set_xlabel("probability of the answer")
    axes.set_ylabel("part that is right")
    return html.drawing(figure, "how often answers of a probability are right")


def _confusion(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    classes = len(confusion)
    side = min(9.0, 2.5 + 0.35 * classes)
    figure = html.blank(side, side * 0.92)
    axes = figure.subplots()
    part = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
    if classes <= 15:
        for i, j in zip(*np.nonzero(confusion), strict=True):
            colour = "white" if part[i, j] > 0.5 else "black"
            axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(classes), names, rotation=90, fontsize=8)
    axes.set_yticks(range(classes), names, fontsize=8)
    axes.set_xlabel("the network's answer")
    axes.set_ylabel("class")
    return html.drawing(figure, "confusion: rows are classes, columns the network's answers")


def _images(test: Dataset, found: NDArray[np.float32]) -> list[str]:
    """The images on which the network is most wrong, and the most certain ones of each class."""
    labels = class_numbers(test.labels)
    own = found[np.arange(len(found)), labels]
    worst = np.argsort(own, kind="stable")
    by_class = np.lexsort((-own, labels))
    counts = np.bincount(labels)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within its class
    best = by_class[np.lexsort((-own[by_class], place))]

    def figure(k: int) -> str:
        image = np.asarray(test.images[k : k + 1])[0]
        shown = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
        answer = int(found[k].argmax())
        return html.figure(
            _enlarged(shown),
            (f"{test.classes[labels[k]]} ({own[k]:.0%})", f"network: {test.classes[answer]} ({found[k, answer]:.0%})"),
        )

    return [
        html.heading("Worst images"),
        html.paragraph("Those whose class the network finds least probable.", note=True),
        html.strip(map(figure, worst[:_SHOWN].tolist())),
        html.heading("Best images"),
        html.paragraph("The most certain one of each class, then the next of each.", note=True),
        html.strip(map(figure, best[:_SHOWN].tolist())),
    ]


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small images several times as large, pixel by pixel."""
    times = max(1, 96 // max(image.shape[:2]))
    result: NDArray[np.uint8] = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    return result
