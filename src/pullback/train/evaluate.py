"""How well a network does: loss and accuracy on labelled images, and its predictions for others."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback import nn
from pullback.core import tree
from pullback.data import Dataset, Normalise, in_order
from pullback.errors import DataError, RunError, ShapeError
from pullback.train.build import averaged, build_model, build_optimizer, load_again, normalise
from pullback.train.checkpoint import Arrays
from pullback.train.run import Run
from pullback.train.signals import Stop

BATCH = 200  # images; no setting, because any number gives the same result to rounding
TOP = 5


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
    model = trained_model(opened, checkpoint).eval()
    unlabelled = Dataset(images, np.zeros(len(images), np.int64), facts.classes, "images")
    predictions = []
    for batch in in_order(unlabelled, BATCH, normalise(facts)):
        logits = np.asarray(model(batch.images), np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        for row in exponentials / exponentials.sum(axis=1, keepdims=True):
            top = {facts.classes[index]: float(row[index]) for index in np.argsort(-row, kind="stable")[:TOP]}
            label, probability = next(iter(top.items()))
            predictions.append(Prediction(label, probability, top))
    return predictions


def evaluate_dataset(model: Any, dataset: Dataset, normalise: Normalise, stop: Stop | None = None) -> Evaluation | None:
    """Evaluate `model` on `dataset`, and leave it in training mode; None where `stop` came to be set."""
    began = time.perf_counter()
    loss = 0.0
    right: list[NDArray[np.bool_]] = []
    model.eval()
    for batch in in_order(dataset, BATCH, normalise):
        if stop:
            break
        logits = model(batch.images)
        loss += float(nn.softmax_cross_entropy(logits, batch.targets)) * len(logits)
        right.append(hits(logits, batch.targets))
    model.train()
    if stop:
        return None
    correct = np.concatenate(right)
    labels = class_numbers(dataset.labels)
    of_class, right_of_class = Counter(labels.tolist()), Counter(labels[correct].tolist())
    return Evaluation(
        loss=loss / len(dataset),
        accuracy=float(correct.mean()),
        images=len(dataset),
        class_accuracy={dataset.classes[k]: right_of_class[k] / n for k, n in sorted(of_class.items())},
        seconds=time.perf_counter() - began,
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
    optimizer, _ = build_optimizer(settings, 1)
    _, structure = tree.flatten(optimizer.init(model))
    return averaged(settings, structure.unflatten([state[name] for name in structure.paths()]))


def load_arrays(model: Any, arrays: Arrays, path: Path) -> None:
    """Put the arrays of the checkpoint at `path` into `model`. Raises RunError where they are of another network."""
    try:
        model.load_state(arrays)
    except (RunError, ShapeError) as error:
        raise RunError(f"{path} holds another network than config.toml says: {error}. Train again.") from error
