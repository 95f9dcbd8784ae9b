"""How well a network does: loss and accuracy on labelled images, and its predictions for others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.core import tree
from pullback.data import Dataset, Normalise, in_order
from pullback.errors import DataError, RunError, ShapeError
from pullback.optim import constant
from pullback.rules.nn import softmax
from pullback.train.build import averaged, build_model, build_optimizer, load_again, normalise
from pullback.train.checkpoint import Arrays
from pullback.train.run import Run
from pullback.train.signals import Stop

BATCH = 200  # images; no setting, because any number gives the same result to rounding
TOP = 5
CONFUSABLE = 100
"""Classes in the largest table of confusion."""
_BINS = 10


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a network on a set of images."""

    loss: float
    """Mean cross-entropy over the images, nats."""
    accuracy: float
    """Part of the images whose most probable class is that of the label, between 0 and 1."""
    images: int
    """Number of images."""
    class_accuracy: dict[str, float]
    """The accuracy on the images of each class; classes without images are left out."""
    seconds: float
    """Wall-clock time, seconds."""
    top5_accuracy: float = 0.0
    """Part of the images whose class is among the five most probable ones."""
    calibration_error: float = 0.0
    """The mean distance between the probability of the answer and how often such answers are right, over ten bins of
    that probability (Naeini, Cooper and Hauskrecht, "Obtaining well calibrated probabilities using Bayesian binning",
    AAAI 2015)."""
    reliability: tuple[tuple[float, float, int], ...] = ()
    """Of each bin: the mean probability of the answers, the part of them that is right, and how many there are."""
    confusion: tuple[tuple[int, ...], ...] = ()
    """Images by class (rows) and answer (columns); empty where there are more than 100 classes."""

    @classmethod
    def of(
        cls, probabilities: NDArray[Any], targets: NDArray[Any], classes: Sequence[str], seconds: float = 0.0
    ) -> Evaluation:
        """Of answers (N, K) to images whose targets are numbers of classes (N,), or probabilities (N, K)."""
        count, labels = len(probabilities), class_numbers(targets)
        logs = np.log(np.maximum(probabilities, np.finfo(np.float32).tiny))
        if targets.ndim == 2:
            loss = -float(np.einsum("nk,nk->", targets, logs, dtype=np.float64)) / count
        else:
            loss = -float(np.mean(logs[np.arange(count), labels], dtype=np.float64))
        answers = np.argmax(probabilities, axis=1)
        right = answers == labels
        own = probabilities[np.arange(count), labels]
        before = np.count_nonzero(probabilities > own[:, None], axis=1)
        of_class, right_of_class = Counter(labels.tolist()), Counter(labels[right].tolist())
        bins = _reliability(probabilities[np.arange(count), answers], right)
        confusion: tuple[tuple[int, ...], ...] = ()
        if len(classes) <= CONFUSABLE:
            pairs = np.bincount(labels * len(classes) + answers, minlength=len(classes) ** 2)
            confusion = tuple(map(tuple, pairs.reshape(len(classes), -1).tolist()))
        return cls(
            loss=loss,
            accuracy=float(right.mean()),
            images=count,
            class_accuracy={classes[k]: right_of_class[k] / n for k, n in sorted(of_class.items())},
            seconds=seconds,
            top5_accuracy=float(np.mean(before < TOP)),
            calibration_error=sum(n * abs(p - a) for p, a, n in bins) / count,
            reliability=bins,
            confusion=confusion,
        )


@dataclass(frozen=True)
class Prediction:
    """What a network says about one image."""

    label: str
    """The most probable class."""
    probability: float
    """Its probability according to the network, between 0 and 1."""
    top: dict[str, float]
    """The five most probable classes and their probabilities, the most probable first."""


def evaluate(run: str | Path, data: Dataset | None = None, checkpoint: str = "last") -> Evaluation:
    """Evaluate the network of a run, as its checkpoint `last` or `best` has it, on its validation images or on `data`.

    Raises RunError where the run cannot be read or its data have changed, DataError where `data` do not suit it.
    """
    opened = Run.open(run)
    facts = opened.config.facts
    if data is None:
        data = load_again(opened.config).test
    if data.image_shape != facts.image_shape or data.classes != facts.classes:
        raise DataError(
            f"{data.name}: expected images {facts.image_shape} in the classes {', '.join(facts.classes)}, "
            f"got {data.image_shape} in {', '.join(data.classes)}."
        )
    result = evaluate_dataset(trained_model(opened, checkpoint), data, normalise(facts))
    assert result is not None  # nothing asked it to stop
    return result


def predict(run: str | Path, images: NDArray[np.uint8], checkpoint: str = "last") -> list[Prediction]:
    """What the network of a run says about images, uint8 `(N, H, W, C)`, of the shape of those it was trained on.

    Image files are read into that shape by `pullback.data.read_image`. Raises RunError where the run cannot be read,
    DataError where the images are of another shape or type.
    """
    opened = Run.open(run)
    facts = opened.config.facts
    if images.shape[1:] != facts.image_shape or images.dtype != np.uint8:
        expected = ", ".join(map(str, facts.image_shape))
        raise DataError(f"expected images uint8 (N, {expected}), as in training, got {images.dtype} {images.shape}.")
    model = trained_model(opened, checkpoint)
    predictions = []
    unlabelled = Dataset(images, np.zeros(len(images), np.int64), facts.classes, "images")
    for row in answers(model, unlabelled, normalise(facts)):
        top = {facts.classes[index]: float(row[index]) for index in np.argsort(-row, kind="stable")[:TOP]}
        label, probability = next(iter(top.items()))
        predictions.append(Prediction(label, probability, top))
    return predictions


def evaluate_dataset(model: Any, dataset: Dataset, normalise: Normalise, stop: Stop | None = None) -> Evaluation | None:
    """Evaluate `model` on `dataset`, and leave it in training mode; None where `stop` came to be set."""
    began = time.perf_counter()
    found = answers(model, dataset, normalise, stop)
    if stop:
        return None
    return Evaluation.of(found, dataset.labels, dataset.classes, time.perf_counter() - began)


def answers(model: Any, dataset: Dataset, normalise: Normalise, stop: Stop | None = None) -> NDArray[np.float32]:
    """The probabilities (N, K) that `model` gives to the images, or to those until `stop` came to be set.

    The model is left in training mode.
    """
    found = np.empty((len(dataset), len(dataset.classes)), np.float32)
    done = 0
    model.eval()
    for batch in in_order(dataset, BATCH, normalise):
        if stop:
            break
        logits = np.asarray(model(batch.images))
        found[done : done + len(logits)] = softmax(logits)
        done += len(logits)
    model.train()
    return found[:done]


def _reliability(confidence: NDArray[Any], right: NDArray[np.bool_]) -> tuple[tuple[float, float, int], ...]:
    """The bins of `Evaluation.reliability` that hold images."""
    number = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return tuple(
        (float(confidence[chosen].mean(dtype=np.float64)), float(right[chosen].mean()), int(chosen.sum()))
        for k in range(_BINS)
        if (chosen := number == k).any()
    )


def hits(logits: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether the most probable class is that of the target, for each image; of a soft target, the largest counts."""
    result: NDArray[np.bool_] = np.argmax(logits, axis=1) == class_numbers(targets)
    return result


def class_numbers(targets: NDArray[Any]) -> NDArray[np.int64]:
    """The class of each target, `(N,)` numbers or `(N, K)` probabilities."""
    result: NDArray[np.int64] = targets if targets.ndim == 1 else np.argmax(targets, axis=1)
    return result


def trained_model(run: Run, checkpoint: str = "last") -> Any:
    """The network of a run with the weights of its checkpoint, averaged ones where the run keeps them.

    Raises RunError where they do not fit it.
    """
    settings, facts = run.config.settings, run.config.facts
    model = build_model(settings, facts.image_shape, len(facts.classes))
    _, arrays, state = run.checkpoint(checkpoint)
    load_arrays(model, arrays, run.checkpoint_path(checkpoint))
    if not settings.average:
        return model
    optimizer = build_optimizer(settings, constant(settings.lr))  # whose state has the same structure
    _, structure = tree.flatten(optimizer.init(model))
    return averaged(settings, structure.unflatten([state[name] for name in structure.paths()]))


def load_arrays(model: Any, arrays: Arrays, path: Path) -> None:
    """Put the arrays of the checkpoint at `path` into `model`. Raises RunError where they are of another network."""
    try:
        model.load_state(arrays)
    except (RunError, ShapeError) as error:
        raise RunError(f"{path} holds another network than config.toml says: {error}. Train again.") from error
