"""`pullback report`: a run as one self-contained HTML page, drawn from the run folder alone."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import pullback as pb
from pullback import files, nn
from pullback.data import Dataset
from pullback.show import html_page as html
from pullback.teach import LabelTable
from pullback.train.build import build_model, load_again, normalise
from pullback.train.evaluate import Evaluation, answers, class_numbers, trained_model
from pullback.train.labelled import Recipe, labels_folder
from pullback.train.report import duration
from pullback.train.run import Run

_SHOWN = 18
"""Images in each of the groups that are shown."""
_LEGIBLE = 40
"""Classes in the largest table of confusion that is drawn with names."""
_MEASURED = 8
"""Images in the batch of which memory and gradients are measured."""


def report(run: str | Path, out: str | Path | None = None, checkpoint: str = "last") -> Path:
    """Write the page of a run to `out`, by default `report.html` in the run folder, and return its path.

    Raises RunError where the run cannot be read or its data have changed, or the page cannot be written.
    """
    opened = Run.open(run)
    position, _, _ = opened.checkpoint(checkpoint)
    test = load_again(opened.config).test
    facts = opened.config.facts
    found = answers(trained_model(opened, checkpoint), test, normalise(facts))
    evaluation = Evaluation.of(found, test.labels, facts.classes)
    summary = _summary(opened)
    parts = [
        _key_figures(opened, evaluation, position, summary),
        *_curves(opened),
        *_labels(opened),
        *_agreement(evaluation, facts.classes, summary is not None),
        *_images(test, found),
        *_network(opened, test),
        html.heading("Settings"),
        html.table([(name, str(value)) for name, value in asdict(opened.config.settings).items()]),
        html.heading("Versions"),
        html.table(_versions(opened)),
    ]
    path = Path(out) if out is not None else opened.folder / "report.html"
    title = (
        f"{opened.config.settings.model}, {Path(summary['folder'] if summary else opened.config.settings.data).name}"
    )
    files.replace(path, html.page(title, parts).encode())
    return path


def _summary(run: Run) -> dict[str, Any] | None:
    """What a distillation left behind; None for another run, or one that has not come to its end."""
    path = run.folder / "summary.json"
    return dict(json.loads(path.read_text())) if path.exists() else None


def _key_figures(run: Run, evaluation: Evaluation, position: Any, summary: dict[str, Any] | None) -> str:
    facts = run.config.facts
    model = build_model(run.config.settings, facts.image_shape, len(facts.classes))
    against = "agreement with the teacher" if summary else "accuracy"
    rows: list[tuple[object, object]] = [
        (against, f"{evaluation.accuracy:.2%} of {evaluation.images:,} held-out images"),
        ("among the top 5", f"{evaluation.top5_accuracy:.2%}"),
        ("cross-entropy", f"{evaluation.loss:.4f} nats"),
        ("calibration error", f"{evaluation.calibration_error:.2%}"),
        ("network", f"{run.config.settings.model}, {nn.count_parameters(model):,} parameters"),
        ("images", f"{'x'.join(map(str, facts.image_shape))}, {len(facts.classes):,} classes"),
        ("training", f"{position.step:,} steps in {duration(position.train_seconds)}, "
                     f"{position.images_per_second:,.0f} images/s"),
    ]  # fmt: skip
    if summary:
        rows[5:5] = [
            ("teacher", f"{summary['teacher']}, SHA-256 {summary['teacher_sha256'][:16]}..."),
            ("folder", summary["folder"]),
            ("images used", f"{summary['train_images']:,} to train on, {summary['held_out_images']:,} held out, "
                            f"{summary['skipped_images']:,} skipped"),
            ("labelling", f"{summary['labelling_images_per_second']:,.0f} images/s"),
            ("targets", summary["targets"]),
        ]  # fmt: skip
        if summary.get("command"):
            rows.append(("the command", summary["command"]))
    return html.table(rows)


def _curves(run: Run) -> list[str]:
    rows = run.metrics()
    if not rows:
        return []

    def draw(figure: Any) -> None:
        for axes, quantity in zip(figure.subplots(1, 3), ("loss", "accuracy", "learning_rate"), strict=True):
            for split, style in (("training", "-"), ("validation", "o-")):
                points = [(row["step"], row[quantity]) for row in rows if row["split"] == split and quantity in row]
                if points:
                    axes.plot(*zip(*points, strict=True), style, label=split, linewidth=1.1, markersize=2.5)
            axes.set_xlabel("step")
            axes.set_title(quantity.replace("_", " "), fontsize=10)
            axes.grid(alpha=0.3)
            if quantity != "learning_rate":
                axes.legend(fontsize=8)

    return [html.heading("Curves"), _picture(draw, (11, 3.2), "loss, accuracy and learning rate over the steps")]


def _labels(run: Run) -> list[str]:
    """The labels that the network was trained on."""
    if Recipe.read(run.folder) is None:
        return []
    table = LabelTable(labels_folder(run.folder))
    names = run.config.facts.classes
    counts = np.bincount(table.labels, minlength=len(names))
    order = np.argsort(-counts, kind="stable")[:_LEGIBLE]

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        left.barh([names[k] for k in order][::-1], counts[order][::-1], color="#4477aa")
        left.tick_params(labelsize=8)
        left.set_title("images by class of the teacher", fontsize=10)
        right.hist(table.confidences, bins=20, range=(0, 1), color="#4477aa")
        right.set_title("probability of the teacher's class", fontsize=10)

    height = max(2.6, 0.22 * len(order))
    return [
        html.heading("The teacher's labels"),
        _picture(draw, (11, height), "histograms of classes and of confidence"),
        html.paragraph(
            f"{len(table):,} images; the mean probability of the teacher's class is {table.confidences.mean():.1%}."
        ),
    ]


def _agreement(evaluation: Evaluation, classes: Sequence[str], distilled: bool) -> list[str]:
    names = list(evaluation.class_accuracy)
    what = "Agreement" if distilled else "Accuracy"

    def reliability(figure: Any) -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], ":", color="grey")
        axes.plot([p for p, _, _ in evaluation.reliability], [a for _, a, _ in evaluation.reliability], "o-")
        axes.set_xlabel("probability of the answer")
        axes.set_ylabel("part that is right")

    parts = [
        html.heading(f"{what} by class"),
        html.table([(name, f"{evaluation.class_accuracy[name]:.1%}") for name in names]),
        html.heading("Calibration"),
        _picture(reliability, (4.2, 3.4), "how often answers of a probability are right"),
    ]
    confusion = np.array(evaluation.confusion)
    if confusion.size and len(confusion) <= _LEGIBLE:
        parts += [html.heading("Confusion"), _confusion(confusion, classes)]
    return parts


def _confusion(confusion: NDArray[np.int64], names: Sequence[str]) -> str:
    classes = len(confusion)

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        part = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(part, cmap="Blues", vmin=0, vmax=1)
        if classes <= 15:
            for i in range(classes):
                for j in range(classes):
                    if confusion[i, j]:
                        colour = "white" if part[i, j] > 0.5 else "black"
                        axes.text(j, i, str(confusion[i, j]), ha="center", va="center", fontsize=8, color=colour)
        axes.set_xticks(range(classes), names, rotation=90, fontsize=8)
        axes.set_yticks(range(classes), names, fontsize=8)
        axes.set_xlabel("the network's answer")
        axes.set_ylabel("class")

    side = min(9.0, 2.5 + 0.35 * classes)
    return _picture(draw, (side, side * 0.92), "confusion: rows are classes, columns the network's answers")


def _images(test: Dataset, found: NDArray[np.float32]) -> list[str]:
    """The images on which the network is most wrong, and most right."""
    labels = class_numbers(test.labels)
    own = found[np.arange(len(found)), labels]
    order = np.argsort(own, kind="stable")
    shape = test.image_shape

    def figure(k: int) -> str:
        image = np.asarray(test.images[k : k + 1])[0]
        shown = np.repeat(image, 3, axis=2) if shape[2] == 1 else image
        answer = int(found[k].argmax())
        return html.figure(
            _enlarged(shown),
            (f"{test.classes[labels[k]]} ({own[k]:.0%})", f"network: {test.classes[answer]} ({found[k, answer]:.0%})"),
        )

    return [
        html.heading("Worst images"),
        html.paragraph("Those whose class the network finds least probable.", note=True),
        html.strip(map(figure, order[:_SHOWN].tolist())),
        html.heading("Best images"),
        html.strip(map(figure, order[::-1][:_SHOWN].tolist())),
    ]


def _enlarged(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Small images several times as large, pixel by pixel."""
    times = max(1, 96 // max(image.shape[:2]))
    result: NDArray[np.uint8] = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
    return result


def _network(run: Run, test: Dataset) -> list[str]:
    """The layers, the picture of the network, and what its backward pass keeps in memory."""
    facts = run.config.facts
    model = trained_model(run)
    pixels = np.asarray(test.images[:_MEASURED])
    images = normalise(facts)(pixels)
    targets = test.labels[: len(images)]

    def loss(model: Any, images: Any) -> Any:
        return nn.softmax_cross_entropy(model(images), targets)

    ledger = pb.memory(loss, model, images)
    return [
        html.heading("The network"),
        html.table(
            [(row.name or "-", row.layer, row.output_shape, row.parameters) for row in model.rows(facts.image_shape)],
            ("name", "layer", "output shape", "parameters"),
        ),
        _image(pb.graph(model, images, depth=1).svg().encode(), "image/svg+xml", "the network's operations"),
        html.heading("Memory"),
        html.paragraph(
            f"For {len(images)} images a training step keeps {ledger.saved / 1e6:,.1f} MB from the forward to the "
            f"backward pass; at most {ledger.peak / 1e6:,.1f} MB are in use at once."
        ),
    ]


def _versions(run: Run) -> Sequence[tuple[str, str]]:
    return [
        ("pullback", f"{pb.__version__} (the run was begun by {run.config.pullback})"),
        ("Python", platform.python_version()),
        ("NumPy", np.__version__),
        ("system", f"{platform.system()} {platform.machine()}"),
    ]


def _picture(draw: Callable[[Any], None], inches: tuple[float, float], alt: str) -> str:
    """A drawing by Matplotlib, as an image in the page."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, layout="constrained")
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return _image(buffer.getvalue(), "image/svg+xml", alt)


def _image(content: bytes, kind: str, alt: str) -> str:
    data = base64.b64encode(content).decode()
    return (
        f'<p><img style="max-width:100%;background:white" alt="{html.text(alt)}" src="data:{kind};base64,{data}"></p>'
    )
