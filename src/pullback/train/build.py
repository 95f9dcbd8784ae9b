"""From a configuration to the things that train: data, network, optimiser and batches."""

from __future__ import annotations

import hashlib
import math
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pullback import data, nn, optim
from pullback.data import Batches, CutMix, Dataset, Normalise, RandomCrop, RandomFlip, RandomZoom, Splits
from pullback.data.cache import Pixels
from pullback.errors import ConfigError, DataError, RunError
from pullback.nn.models import MODELS
from pullback.train.config import Config, Facts, Settings
from pullback.train.labelled import Recipe, read_labelled, split_labelled

DEFAULT_EPOCHS = 10


def measure(splits: Splits) -> Facts:
    """The facts of the data that a run depends on. Raises DataError where its two parts do not fit together."""
    train, test = splits
    if train.image_shape != test.image_shape or train.classes != test.classes:
        raise DataError(
            f"{train.name}: the training images are {train.image_shape} in {len(train.classes)} classes, "
            f"the validation images {test.image_shape} in {len(test.classes)}: expected the same."
        )
    normalise = Normalise.fit(train.images)
    return Facts(
        fingerprint=fingerprint(splits),
        image_shape=train.image_shape,
        classes=train.classes,
        mean=normalise.mean,
        std=normalise.std,
    )


def fingerprint(splits: Splits) -> str:
    """SHA-256 over images, labels and class names, so that a run notices when its data have changed."""
    digest = hashlib.sha256()
    for dataset in splits:
        for array in (dataset.images, dataset.labels):
            digest.update(f"{array.dtype.str} {array.shape} ".encode())
            if isinstance(array, Pixels):
                digest.update(array.digest())
                continue
            for block in np.array_split(array, max(1, array.nbytes >> 24)):  # a memory-mapped array is never read whole
                digest.update(np.ascontiguousarray(block).data)
        digest.update("\0".join(dataset.classes).encode())
    return digest.hexdigest()


def load_data(settings: Settings) -> Splits:
    """The data that the settings name, or that a distillation left there. Raises DataError where they cannot be had."""
    folder = Path(settings.data)
    recipe = Recipe.read(folder)
    if recipe is not None:
        return split_labelled(read_labelled(folder, recipe, settings.image_size), recipe)
    size = None if settings.image_size is None else (settings.image_size, settings.image_size)
    return data.load(settings.data, size)


def load_again(config: Config) -> Splits:
    """The data of a run that was begun before. Raises RunError where they have changed since."""
    splits = load_data(config.settings)
    check_same(config, splits)
    return splits


def check_same(config: Config, splits: Splits) -> None:
    """Raises RunError where `splits` are not the data that the run was begun with."""
    if fingerprint(splits) != config.facts.fingerprint:
        raise RunError(
            f"the data {config.settings.data!r} have changed since the run began. "
            f"Put them back as they were, or train again into another folder."
        )


def build_model(settings: Settings, image_shape: tuple[int, ...], classes: int) -> Any:
    """The network for images `(H, W, C)`; its initial weights follow from the settings and their seed alone."""
    if settings.build is not None:
        return _built_by_user(settings.build, image_shape, classes, settings.seed)
    name = "levels-cnn" if settings.model == "cnn" else settings.model
    options: dict[str, dict[str, Any]] = {
        "mlp": {"hidden": settings.hidden},
        "levels-cnn": {"levels": settings.levels, "repeats": settings.repeats, "extra": settings.extra},
        "residual": {"levels": settings.levels, "repeats": settings.repeats},
    }
    return MODELS[name](image_shape, classes, seed=settings.seed, **options.get(name, {}))


def _built_by_user(build: str, image_shape: tuple[int, ...], classes: int, seed: int) -> Any:
    """The network that FILE.py:FUNCTION returns. Raises ConfigError where it cannot be had."""
    path, _, name = build.rpartition(":")
    try:
        function = runpy.run_path(path)[name]
    except OSError as error:
        raise ConfigError(f"build: cannot read {path}: {error.strerror}.") from error
    except KeyError:
        raise ConfigError(f"build: {path} defines no function {name}.") from None
    model = function(image_shape, classes, seed)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"build: {build} returned a {type(model).__name__}: expected a pullback.nn.Module.")
    return model


def build_schedule(settings: Settings, steps: int, steps_per_epoch: int) -> optim.Schedule:
    """The learning rate of a run of `steps` steps as a function of the steps done."""
    lr = settings.lr
    if settings.warmup_steps is not None:
        warmup = settings.warmup_steps
    elif settings.warmup_epochs is not None:
        warmup = round(settings.warmup_epochs * steps_per_epoch)
    else:
        warmup = round(settings.warmup * steps)
    if warmup >= steps > 1:
        raise ConfigError(f"the warm-up of {warmup:,} steps is not shorter than the run of {steps:,}.")
    schedules: dict[str, Callable[[], optim.Schedule]] = {
        "constant": lambda: optim.constant(lr),
        "cosine": lambda: optim.warmup_cosine(lr, min(warmup, steps - 1), steps),
        "one-cycle": lambda: optim.one_cycle(lr, steps, settings.warmup),
        "exponential": lambda: optim.exponential(lr, settings.decay, steps),
        "staircase": lambda: optim.staircase(lr, settings.decay, math.ceil(steps / 3)),
    }
    return schedules[settings.schedule]()


def build_optimizer(settings: Settings, schedule: optim.Schedule) -> optim.Transform:
    """The optimiser of a run with this learning rate."""
    decay = settings.weight_decay
    optimizers: dict[str, Callable[[], optim.Transform]] = {
        "sgd": lambda: optim.sgd(schedule, momentum=settings.momentum, weight_decay=decay),
        "rmsprop": lambda: optim.rmsprop(schedule, momentum=settings.momentum, weight_decay=decay),
        "adam": lambda: optim.adam(schedule, weight_decay=decay),
        "adamw": lambda: optim.adamw(schedule, weight_decay=decay),
    }
    optimizer = optimizers[settings.optimizer]()
    if settings.average:
        optimizer = optim.chain(optimizer, optim.average_parameters(settings.average))
    return optimizer


def averaged(settings: Settings, optimizer_state: Any) -> Any:
    """The moving average of the parameters in the state of the optimiser; None where none is kept."""
    return optimizer_state[-1].average if settings.average else None


def build_batches(settings: Settings, facts: Facts, train: Dataset) -> Batches:
    """The training batches, each a function of the settings, the seed and its step alone."""
    height = facts.image_shape[0]
    augmentations: dict[str, Callable[[], Any]] = {
        "flip": RandomFlip,
        "crop": lambda: RandomCrop(padding=max(1, height // 8)),
        "zoom": RandomZoom,
    }
    augment = [augmentations[name]() for name in settings.augment if name in augmentations]
    mix = CutMix() if "cutmix" in settings.augment else None
    return Batches(train, settings.batch_size, settings.seed, augment, normalise(facts), mix=mix)


def normalise(facts: Facts) -> Normalise:
    """The normalisation by the training images' statistics."""
    return Normalise(mean=facts.mean, std=facts.std)


def run_length(settings: Settings, steps_per_epoch: int) -> int:
    """Steps of training in the whole run."""
    if settings.steps is not None:
        return settings.steps
    return math.ceil((settings.epochs or DEFAULT_EPOCHS) * steps_per_epoch)
