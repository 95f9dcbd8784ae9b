"""`pullback report`: a run as one self-contained HTML page, drawn from the run folder alone."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pullback import files, nn
from pullback.data import Splits
from pullback.files import read_json_lines
from pullback.machine import machine, versions
from pullback.show import html_page as html
from pullback.teach import LabelTable
from pullback.teach.labels import SKIPPED
from pullback.train.build import build_model, load_again, normalise
from pullback.train.checkpoint import Position
from pullback.train.compare import Comparison, compare
from pullback.train.config import Settings, words
from pullback.train.evaluate import Evaluation, answers, trained_model
from pullback.train.labelled import Recipe, labels_folder
from pullback.train.page_answers import answers_parts
from pullback.train.page_network import network_parts
from pullback.train.report import duration
from pullback.train.run import Run

LEGIBLE = 40
"""Classes that are drawn or listed by name."""

_LIBRARIES = ("numpy", "numba", "pillow", "pyarrow", "onnxruntime")

Rows = list[tuple[object, object]]


def report(
    run: str | Path,
    out: str | Path | None = None,
    checkpoint: str = "last",
    truth: Mapping[str, str] | None = None,
) -> Path:
    """Write the page of a run to `out`, by default `report.html` in the run folder, and return its path.

    `truth` is the class by file (see `read_truth`), for a part that compares the network of a distillation and its
    teacher with it. Raises RunError where the run cannot be read or its data have changed, or the page cannot be
    written.
    """
    opened = Run.open(run)
    position, _, _ = opened.checkpoint(checkpoint)
    facts, settings = opened.config.facts, opened.config.settings
    data = load_again(opened.config)
    found = answers(trained_model(opened, checkpoint), data.test, normalise(facts))
    evaluation = Evaluation.of(found, data.test.labels, facts.classes)
    summary = _summary(opened)
    distilled = Recipe.read(opened.folder) is not None
    parameters = nn.count_parameters(build_model(settings, facts.image_shape, len(facts.classes)))
    parts = [
        html.paragraph(_sentence(opened, evaluation, summary, parameters)),
        html.tiles(_key_figures(evaluation, position, parameters, distilled)),
        html.heading("The command that repeats it"),
        html.code(_command(opened, summary)),
        html.heading("Data and time"),
        html.side_by_side(
            [html.table(_data(opened, data, summary)), html.table(_times(opened, data, position, summary))]
        ),
        *(_labels(opened) if distilled else []),
        *_curves(opened),
        *(_beside_the_truth(compare(run, truth=truth, checkpoint=checkpoint)) if truth is not None else []),
        *answers_parts(evaluation, found, data, "Agreement" if distilled else "Accuracy"),
        *network_parts(opened, data, checkpoint),
        html.heading("Settings and versions"),
        html.side_by_side([html.table(_settings(opened)), html.table(_made_with(opened))]),
    ]
    path = Path(out) if out is not None else opened.folder / "report.html"
    title = f"{settings.model} on {Path(summary['folder'] if summary else settings.data).name}"
    files.replace(path, html.page(title, parts).encode())
    return path


def _summary(run: Run) -> dict[str, Any] | None:
    """What a distillation left behind; None for another run, or one that has not come to its end."""
    path = run.folder / "summary.json"
    return dict(json.loads(path.read_text())) if path.exists() else None


def _sentence(run: Run, evaluation: Evaluation, summary: dict[str, Any] | None, parameters: int) -> str:
    network = f"A network of {parameters:,} parameters"
    if summary is None:
        return f"{network}, right on {evaluation.accuracy:.1%} of {evaluation.images:,} images it was not trained on."
    return (
        f"{network}, trained from scratch on the labels of {summary['teacher']} ({len(run.config.facts.classes):,} "
        f"classes). On {evaluation.images:,} images it has not seen, it gives the teacher's answer to "
        f"{evaluation.accuracy:.1%}."
    )


def _key_figures(evaluation: Evaluation, position: Position, parameters: int, distilled: bool) -> Rows:
    what = "agreement with the teacher" if distilled else "accuracy"
    rows: Rows = [(what, f"{evaluation.accuracy:.2%}")]
    if len(evaluation.class_accuracy) > 5:
        rows.append(("among the top 5", f"{evaluation.top5_accuracy:.2%}"))
    return [
        *rows,
        ("cross-entropy, nats", f"{evaluation.loss:.4f}"),
        ("calibration error", f"{evaluation.calibration_error:.2%}"),
        ("parameters", f"{parameters:,}"),
        ("training", duration(position.train_seconds)),
        ("images/s in training", f"{position.images_per_second:,.0f}"),
    ]


def _command(run: Run, summary: dict[str, Any] | None) -> str:
    """The command of a distillation is kept; that of other runs follows from their settings."""
    if summary and summary.get("command"):
        return str(summary["command"])
    settings = run.config.settings
    if Recipe.read(run.folder) is not None:
        return f"pullback resume {shlex.quote(str(run.folder))}"
    options = words(settings, Settings(settings.model), leave_out=("model",))
    return shlex.join(["pullback", "train", settings.model, *options])


def _data(run: Run, data: Splits, summary: dict[str, Any] | None) -> Rows:
    facts = run.config.facts
    height, width, channels = facts.image_shape
    rows: Rows = [
        ("images", summary["folder"] if summary else run.config.settings.data),
        ("to train on", len(data.train)),
        ("held out", len(data.test)),
        ("as the network sees them", f"{height}x{width} pixels, {channels} channels"),
        ("mean of the channels", ", ".join(f"{value:.3f}" for value in facts.mean)),
        ("standard deviation", ", ".join(f"{value:.3f}" for value in facts.std)),
        ("classes", len(facts.classes)),
    ]
    path = labels_folder(run.folder) / SKIPPED
    if path.exists():
        reasons = Counter(entry["reason"] for entry in json.loads(path.read_text()))
        rows.append(("could not be read", sum(reasons.values())))
        rows += [(f"... {reason}", count) for reason, count in reasons.most_common(5)]
    return rows


def _times(run: Run, data: Splits, position: Position, summary: dict[str, Any] | None) -> Rows:
    evaluations = read_json_lines(run.timing_path)
    seconds = sum(row["evaluation_seconds"] for row in evaluations)
    rows: Rows = []
    if summary and (rate := summary["labelling_images_per_second"]):
        labelled = summary["train_images"] + summary["held_out_images"]
        rows.append(("labelling", f"{duration(labelled / rate)}, {rate:,.0f} images/s"))
    return [
        *rows,
        ("training", f"{duration(position.train_seconds)}, {position.images_per_second:,.0f} images/s"),
        ("... steps", position.step),
        ("... passes over the images", f"{position.images / len(data.train):.1f}"),
        ("evaluations", f"{len(evaluations)} in {duration(seconds)}"),
        ("highest at an evaluation", f"{position.best_accuracy:.2%}, step {position.best_step:,}"),
    ]


def _labels(run: Run) -> list[str]:
    """The labels that the network was trained on."""
    table = LabelTable(labels_folder(run.folder))
    used = table.selected()
    labels, confidences = table.labels[used], table.confidences[used]
    names = run.config.facts.classes
    counts = np.bincount(labels, minlength=len(names))
    order = np.argsort(-counts, kind="stable")[: min(LEGIBLE, np.count_nonzero(counts))]
    copies = len(used) - len(np.unique(table.digests()[used]))
    empty = int(np.sum(counts == 0))
    few = f"images of the {len(order)} largest classes" if len(order) < len(names) else "images by class"
    figure = html.blank(11, max(2.6, 0.22 * len(order)))
    left, right = figure.subplots(1, 2)
    left.barh([names[k] for k in order][::-1], counts[order][::-1], color=html.BLUE)
    left.tick_params(labelsize=8)
    left.set_title(few, fontsize=10)
    right.hist(confidences, bins=20, range=(0, 1), color=html.BLUE)
    right.set_title("probability of the teacher's class", fontsize=10)
    teacher = table.kind
    preprocessing = teacher.preprocessing
    rows: Rows = [
        ("teacher", teacher.teacher),
        ("its SHA-256", teacher.teacher_sha256),
        ("its input", f"{'x'.join(map(str, preprocessing.get('size') or ()))}, {teacher.interpolation}"),
        ("labels", f"{len(table):,}, of which {len(used):,} are used"),
        ("mean probability of the teacher's class", f"{confidences.mean():.1%}"),
        ("mean entropy of its answers", f"{np.mean(table.column('entropy').take(used).to_numpy()):.3f} nats"),
        ("copies of other images", copies),
    ]
    rows += [("classes without an image", empty)] if empty else []
    return [html.heading("The teacher's labels"), html.table(rows), html.drawing(figure, "histograms of the labels")]


def _curves(run: Run) -> list[str]:
    rows = run.metrics()
    if not rows:
        return []
    figure = html.blank(11, 3.2)
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
    mixed = "The training accuracy is that on mixed images (CutMix), and lower than on whole ones."
    notes = [html.paragraph(mixed)] if "cutmix" in run.config.settings.augment else []
    return [html.heading("Curves"), html.drawing(figure, "loss, accuracy and learning rate over the steps"), *notes]


def _beside_the_truth(found: Comparison) -> list[str]:
    """Network and teacher, with the truth, on the held-out images of which it is known."""
    columns = [found.student, found.teacher]
    if found.student is None:
        return [html.heading("With the truth"), html.paragraph("No true class of a held-out image is known.")]
    there = [each for each in columns if each is not None]
    rows = [
        ("right", *(f"{each.accuracy:.2%}" for each in there)),
        ("among the top 5", *(f"{each.top5_accuracy:.2%}" for each in there)),
        ("cross-entropy, nats", *(f"{each.loss:.4f}" for each in there)),
        ("calibration error", *(f"{each.calibration_error:.2%}" for each in there)),
        ("images", *(each.images for each in there)),
    ]
    return [html.heading("With the truth"), html.table(rows, ("", "network", "teacher")[: len(there) + 1])]


def _settings(run: Run) -> Rows:
    rows: Rows = [(name, _shown(value)) for name, value in asdict(run.config.settings).items()]
    recipe = Recipe.read(run.folder)
    if recipe is not None:
        rows += [(name, _shown(value)) for name, value in asdict(recipe).items() if name != "folder"]
    return rows


def _shown(value: Any) -> str:
    """A setting as the command line takes it."""
    if value is None or value == ():
        return "-"
    return ",".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _made_with(run: Run) -> Rows:
    """This machine and these versions: the run itself knows only which version of pullback began it."""
    here = machine()
    return [
        *versions(_LIBRARIES).items(),
        ("the run was begun by", f"pullback {run.config.pullback}"),
        ("data", f"SHA-256 {run.config.facts.fingerprint[:16]}..."),
        ("processor", here["processor"]),
        ("CPUs", here["cpus"]),
        ("memory", f"{int(here['memory_mib']) / 1024:,.0f} GiB"),
        ("system", here["system"]),
    ]
