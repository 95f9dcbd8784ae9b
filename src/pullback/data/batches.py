"""Shuffled, augmented, normalised batches, each a pure function of the seed and the step.

Nothing is carried from one step to the next, so a run that is resumed at step k sees, bit for bit, the batches that an
unbroken run would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pullback.data.augment import Augmentation, CutMix, Normalise
from pullback.data.dataset import Dataset
from pullback.data.parallel import map_ahead
from pullback.errors import ConfigError, DataError

# Separate streams of the same generator, so that the order of epoch 5 has nothing to do with the crops of step 5.
_ORDER, _AUGMENT = 0, 1
_AHEAD = 3


class Batch(NamedTuple):
    """Images float32 `(B, H, W, C)` with targets int64 `(B,)` or float32 `(B, K)`; both contiguous and read-only."""

    images: NDArray[np.float32]
    targets: NDArray[np.int64] | NDArray[np.float32]


class Batches:
    """The batches of an endless training run over `dataset`, reshuffled every epoch.

    Args:
        dataset: what to draw from.
        batch_size: samples in each batch.
        seed: 0 to 2^64 - 1; decides the order of the samples and the augmentation.
        augment: random changes, made in this order.
        normalise: default: pixels divided by 255.
        drop_last: leave out the samples of an epoch (others each time) that do not fill a batch; else the epoch's last
            batch is smaller.
        mix: made after `augment`; the targets become probabilities, whatever they were.

    `len(batches)` is the number of steps in an epoch.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        seed: int,
        augment: Sequence[Augmentation] = (),
        normalise: Normalise | None = None,
        drop_last: bool = True,
        mix: CutMix | None = None,
    ) -> None:
        _check_batch_size(batch_size)
        if not 0 <= seed < 2**64:
            raise ConfigError(f"expected a seed from 0 to 2^64 - 1, got {seed}")
        if drop_last and batch_size > len(dataset):
            raise DataError(
                f"{dataset.name}: {len(dataset)} samples do not fill one batch of {batch_size}; "
                "use a smaller batch size, or drop_last=False"
            )
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.augment = tuple(augment)
        self.mix = mix
        self.normalise = normalise or _unit_range(dataset)
        self.drop_last = drop_last
        self._epoch_order: tuple[int, NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def __len__(self) -> int:
        whole, rest = divmod(len(self.dataset), self.batch_size)
        return whole if self.drop_last or not rest else whole + 1

    def at(self, step: int) -> Batch:
        """The batch of global step `step`, counted from 0."""
        if step < 0:
            raise ConfigError(f"expected a step of at least 0, got {step}")
        epoch, position = divmod(step, len(self))
        chosen = self._order(epoch)[position * self.batch_size : (position + 1) * self.batch_size]
        images = np.ascontiguousarray(self.dataset.images[chosen])
        rng = self._generator(step, _AUGMENT)
        for change in self.augment:
            images = change(images, rng)
        targets = self.dataset.labels[chosen]
        if self.mix:
            images, targets = self.mix(images, self._probabilities(targets), rng)
        return _batch(images, targets, self.normalise)

    def iterate(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of steps `start_step` to `stop_step - 1`, made ahead of time in one background thread.

        The thread ends with the iterator, also when that is closed or dropped early; its errors are raised here.
        """
        return map_ahead(self.at, range(start_step, stop_step), workers=1, ahead=_AHEAD)

    def _probabilities(self, targets: NDArray[Any]) -> NDArray[np.float32]:
        if self.dataset.soft:
            probabilities: NDArray[np.float32] = targets
            return probabilities
        one_hot = np.zeros((len(targets), len(self.dataset.classes)), np.float32)
        one_hot[np.arange(len(targets)), targets] = 1.0
        return one_hot

    def _order(self, epoch: int) -> NDArray[np.int64]:
        # One tuple, replaced as a whole: the background thread and a caller of `at` may both be here.
        kept, order = self._epoch_order
        if kept != epoch:
            order = self._generator(epoch, _ORDER).permutation(len(self.dataset))
            self._epoch_order = (epoch, order)
        return order

    def _generator(self, index: int, stream: int) -> np.random.Generator:
        key = np.array([self.seed, index], np.uint64)
        # Philox counts up from here; the highest of its four words would take 2^192 draws to reach the next stream.
        return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, stream]))


def in_order(dataset: Dataset, batch_size: int, normalise: Normalise | None = None) -> Iterator[Batch]:
    """Every sample once, in the order of `dataset`, for evaluation; the last batch may be smaller.

    Made ahead of time in one background thread. `normalise` defaults to pixels divided by 255.
    """
    _check_batch_size(batch_size)
    normalise = normalise or _unit_range(dataset)

    def at(start: int) -> Batch:
        chosen = slice(start, start + batch_size)
        return _batch(np.asarray(dataset.images[chosen]), dataset.labels[chosen], normalise)

    return map_ahead(at, range(0, len(dataset), batch_size), workers=1, ahead=_AHEAD)


def _batch(images: NDArray[np.uint8], labels: NDArray[np.int64] | NDArray[np.float32], normalise: Normalise) -> Batch:
    batch = Batch(normalise(images), labels.copy())
    for array in batch:
        array.flags.writeable = False
    return batch


def _unit_range(dataset: Dataset) -> Normalise:
    channels = dataset.image_shape[-1]
    return Normalise(mean=(0.0,) * channels, std=(1.0,) * channels)


def _check_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise ConfigError(f"expected a batch size of at least 1, got {batch_size}")
