"""What happens to the pixels of a batch: random crops, zooms, flips and mixtures in uint8, then normalisation.

Everything works on the whole batch at once; there is no loop over images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pullback.data import cache
from pullback.errors import ConfigError, DataError

Pixels = NDArray[np.uint8]


class Augmentation(Protocol):
    """A random change of a batch of images that leaves the labels true."""

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        """Returns changed images of the same shape `(N, H, W, C)`; `images` is left as it is."""
        ...


@dataclass(frozen=True)
class RandomFlip:
    """Mirrors each image left to right with probability 1/2."""

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        chosen = np.flatnonzero(rng.random(len(images)) < 0.5)
        flipped = images.copy()
        pixels = _whole_pixels(flipped)
        pixels[chosen] = pixels[chosen][:, :, ::-1]
        return flipped


@dataclass(frozen=True)
class RandomCrop:
    """Pads each image by `padding` pixels on every side and cuts a random window of the original size out of it.

    `mode` fills the border: "reflect" mirrors the image about its edge pixels, "zero" is black.
    """

    padding: int = 4
    mode: Literal["reflect", "zero"] = "reflect"

    def __post_init__(self) -> None:
        if self.padding < 0 or self.mode not in ("reflect", "zero"):
            raise ConfigError(f"expected RandomCrop(padding >= 0, mode 'reflect' or 'zero'), got {self}")

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        count, height, width, _ = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise DataError(
                f"RandomCrop cannot reflect {self.padding} pixels of images of {height}x{width}; "
                f"use a padding of at most {min(height, width) - 1}, or mode='zero'"
            )
        offsets = 2 * self.padding + 1
        rows, columns = rng.integers(0, offsets, size=(2, count))
        padded = self._pad(_whole_pixels(np.ascontiguousarray(images)))
        # All windows of all images as one view, (N, row offset, column offset, H, W); indexing it copies one per image.
        image, row, column = padded.strides
        windows = as_strided(
            padded, (count, offsets, offsets, height, width), (image, row, column, row, column), writeable=False
        )
        cropped: Pixels = windows[np.arange(count), rows, columns].view(np.uint8)
        return cropped.reshape(images.shape)

    def _pad(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """What `np.pad` does, three times faster for a batch of small images."""
        count, height, width = pixels.shape
        p = self.padding
        padded = np.zeros((count, height + 2 * p, width + 2 * p), pixels.dtype)
        padded[:, p : p + height, p : p + width] = pixels
        if self.mode == "reflect" and p:
            middle = padded[:, p : p + height]
            middle[:, :, :p] = pixels[:, :, p:0:-1]
            middle[:, :, p + width :] = pixels[:, :, width - 2 :: -1][:, :, :p]
            padded[:, :p] = middle[:, p:0:-1]
            padded[:, p + height :] = middle[:, height - 2 :: -1][:, :p]
        return padded


@dataclass(frozen=True)
class RandomZoom:
    """Cuts a random window out of each image and enlarges it, bilinearly, to the whole image.

    The window's area is a random part of the image's, from `least` to 1, and its sides differ by a random factor of up
    to `stretch` (Szegedy et al., "Going deeper with convolutions", arXiv:1409.4842, section 6).
    """

    least: float = 0.35
    stretch: float = 4 / 3

    def __post_init__(self) -> None:
        if not (0 < self.least <= 1 <= self.stretch):
            raise ConfigError(f"expected RandomZoom(0 < least <= 1, stretch >= 1), got {self}")

    def __call__(self, images: Pixels, rng: np.random.Generator) -> Pixels:
        area = rng.uniform(self.least, 1.0, len(images))
        factor = np.exp(rng.uniform(-0.5, 0.5, len(images)) * math.log(self.stretch))
        shares = np.minimum(np.sqrt(area) * np.stack([factor, 1 / factor]), 1.0)  # of the height and of the width
        starts = rng.random((2, len(images))) * (1.0 - shares)
        rows, columns = (_sampled(images.shape[1 + axis], starts[axis], shares[axis]) for axis in range(2))
        # Rows and then columns are interpolated: what is bilinear is one after the other.
        tall = _interpolated(images.astype(np.float32), rows, 1)
        zoomed: Pixels = np.rint(_interpolated(tall, columns, 2)).astype(np.uint8)
        return zoomed


def _sampled(size: int, starts: NDArray[Any], shares: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """For `size` pixels along windows: the pixel before each, and how far it is on the way to the next; (N, size)."""
    places = (starts[:, None] + shares[:, None] * (np.arange(size) + 0.5) / size) * size - 0.5
    places = np.clip(places, 0, size - 1)
    before = np.minimum(places.astype(np.intp), max(size - 2, 0))
    return before, (places - before).astype(np.float32)


def _interpolated(images: NDArray[Any], sampled: tuple[NDArray[Any], NDArray[Any]], axis: int) -> NDArray[Any]:
    """Images (N, H, W, C) at the sampled places along their rows (axis 1) or columns (axis 2)."""
    before, way = sampled
    after = np.minimum(before + 1, images.shape[axis] - 1)
    every = np.arange(len(images))[:, None]
    if axis == 1:
        low, high, part = images[every, before], images[every, after], way[:, :, None, None]
    else:
        lines = np.arange(images.shape[1])[None, :, None]
        low, high = (images[every[:, :, None], lines, each[:, None]] for each in (before, after))
        part = way[:, None, :, None]
    mixed: NDArray[Any] = low + part * (high - low)
    return mixed


@dataclass(frozen=True)
class CutMix:
    """Puts a window of the image before it in the batch into each image, with probability `part`.

    The window's area is a uniformly random share of the image's, in the same ratio of sides, and its centre is
    anywhere, so that the border may cut it; the target becomes the mean of the two images' targets, weighted by what is
    seen of each (Yun et al., "CutMix", arXiv:1905.04899).
    """

    part: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.part <= 1:
            raise ConfigError(f"expected CutMix(0 <= part <= 1), got {self}")

    def __call__(
        self, images: Pixels, targets: NDArray[np.float32], rng: np.random.Generator
    ) -> tuple[Pixels, NDArray[np.float32]]:
        """Images `(N, H, W, C)` and targets `(N, K)`, probabilities, as new arrays of the same shapes."""
        count, height, width, _ = images.shape
        share = np.sqrt(rng.random(count)) * (rng.random(count) < self.part)
        centres = rng.random((2, count))
        inside = np.ones((count, height, width), bool)
        for axis, size in enumerate((height, width)):
            low = np.rint((centres[axis] - share / 2) * size)
            high = np.rint((centres[axis] + share / 2) * size)
            places = np.arange(size)
            within = (places >= low[:, None]) & (places < high[:, None])
            inside &= np.expand_dims(within, 2 - axis)
        covered = inside.mean(axis=(1, 2), dtype=np.float32)[:, None]
        mixed: Pixels = np.where(inside[..., None], np.roll(images, 1, axis=0), images)
        return mixed, (1 - covered) * targets + covered * np.roll(targets, 1, axis=0)


@dataclass(frozen=True)
class Normalise:
    """Brings pixels to float32 `(x / 255 - mean) / std`, with one mean and one standard deviation per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if len(self.mean) != len(self.std) or not all(map(math.isfinite, numbers)) or min(self.std, default=0) <= 0:
            raise ConfigError(f"expected one finite mean and one positive std per channel, got {self}")

    @classmethod
    def fit(cls, images: Pixels | cache.Pixels) -> Normalise:
        """Mean and standard deviation of each channel over all `images` `(N, H, W, C)`, exactly, from integer sums.

        Fit it to the images to train on, never to those to test on. A constant channel gets std 1.
        """
        channels = images.shape[-1]
        sums, squares = np.zeros((2, channels), np.int64)
        for start in range(0, len(images), 512):  # in blocks, because squares need eight times the memory of pixels
            block = images[start : start + 512].reshape(-1, *images.shape[2:]).astype(np.int64)
            sums += block.sum(axis=0).reshape(-1, channels).sum(axis=0)
            squares += np.einsum("nwc,nwc->wc", block, block).sum(axis=0)
        count = math.prod(images.shape[:-1])
        mean = [int(total) / count / 255 for total in sums]
        # n * sum(x^2) - sum(x)^2 in Python's integers: no cancellation, however small the variance.
        spread = [count * int(square) - int(total) ** 2 for total, square in zip(sums, squares, strict=True)]
        return cls(tuple(mean), tuple(math.sqrt(value) / count / 255 if value else 1.0 for value in spread))

    def __call__(self, images: Pixels) -> NDArray[np.float32]:
        """float32, of the same shape as `images`."""
        if images.shape[-1] != len(self.mean):
            raise DataError(
                f"Normalise has {len(self.mean)} channels, but the images {images.shape} have {images.shape[-1]}"
            )
        # Along whole images, because NumPy's loops over three channels at a time are ten times slower.
        pixels_per_image = math.prod(images.shape[1:-1])
        scale = np.tile(np.array([1 / (255 * std) for std in self.std], np.float32), pixels_per_image)
        shift = np.tile(
            np.array([-mean / std for mean, std in zip(self.mean, self.std, strict=True)], np.float32), pixels_per_image
        )
        result = images.reshape(len(images), -1).astype(np.float32, order="C")
        result *= scale
        result += shift
        return result.reshape(images.shape)


def _whole_pixels(images: Pixels) -> NDArray[Any]:
    """A view `(N, H, W)` whose elements are whole pixels, so that NumPy moves the channels of one together."""
    return images.view(f"V{images.shape[-1]}")[..., 0]
