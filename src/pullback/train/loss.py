"""The loss of a run's network on some of its validation images, as a function and its arguments: what the explorer and
the account of the flow look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pullback import nn
from pullback.data import Dataset, in_order
from pullback.errors import ConfigError
from pullback.train.build import build_model, load_again, normalise
from pullback.train.evaluate import trained_model
from pullback.train.run import Run

INITIAL = "initial"


def loss(model: Any, images: Any, targets: Any) -> Any:
    """The mean cross-entropy of a network's predictions."""
    return nn.softmax_cross_entropy(model(images), targets)


def loss_of_run(
    run: str | Path, checkpoint: str = "last", images: int = 8, validation: Dataset | None = None
) -> tuple[Callable[..., Any], tuple[Any, Any, Any]]:
    """`(loss, (network, images, targets))`: the loss of a run on its first validation images.

    The network is that of the checkpoint `last` or `best`, or, with `initial`, as it was before the first step. It is
    in training mode. `validation` are the images of the run, where they have been read already. Raises RunError where
    the run cannot be read or its data have changed.
    """
    opened = Run.open(run)
    if images < 1:
        raise ConfigError(f"expected at least 1 image, got {images}")
    facts = opened.config.facts
    if checkpoint == INITIAL:
        model = build_model(opened.config.settings, facts.image_shape, len(facts.classes))
    else:
        model = trained_model(opened, checkpoint)
    test = load_again(opened.config).test if validation is None else validation
    few = Dataset(test.images[:images], test.labels[:images], test.classes, test.name)
    batch = next(iter(in_order(few, images, normalise(facts))))
    return loss, (model, batch.images, batch.targets)
