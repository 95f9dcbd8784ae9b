from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullback.data import CutMix, Normalise, RandomCrop, RandomFlip, RandomZoom
from pullback.errors import ConfigError, DataError


class Fixed:
    """Stands in for a generator and returns the offsets that a test wants."""

    def __init__(self, rows: list[int], columns: list[int]) -> None:
        self.offsets = np.array([rows, columns])

    def integers(self, low: int, high: int, size: tuple[int, int]) -> np.ndarray:
        assert (low, size) == (0, self.offsets.shape)
        assert self.offsets.max() < high
        return self.offsets


@pytest.mark.parametrize("mode", ["reflect", "zero"])
@given(
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    channels=st.sampled_from([1, 3, 4]),
    padding=st.integers(0, 4),
    seed=st.integers(0, 100),
)
def test_crop_is_a_window_of_numpys_padding(mode, height, width, channels, padding, seed) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (5, height, width, channels), dtype=np.uint8)
    if mode == "reflect" and padding >= min(height, width):
        with pytest.raises(DataError, match=f"padding of at most {min(height, width) - 1}, or mode='zero'"):
            RandomCrop(padding, mode)(images, rng)
        return
    rows, columns = rng.integers(0, 2 * padding + 1, (2, 5)).tolist()
    cropped = RandomCrop(padding, mode)(images, Fixed(rows, columns))
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(images, border, mode="reflect" if mode == "reflect" else "constant")
    for image, window, row, column in zip(padded, cropped, rows, columns, strict=True):
        np.testing.assert_array_equal(window, image[row : row + height, column : column + width])
    assert cropped.dtype == np.uint8
    assert cropped.flags.c_contiguous


def test_crop_reaches_every_offset_equally_often(rng) -> None:
    image = np.arange(25, dtype=np.uint8).reshape(1, 5, 5, 1)
    cropped = RandomCrop(2)(np.repeat(image, 5000, axis=0), rng)
    corners, counts = np.unique(cropped[:, 2, 2, 0], return_counts=True)
    assert len(corners) == 25
    # 200 expected each; five standard deviations of a binomial count.
    assert (np.abs(counts - 200) < 5 * np.sqrt(200)).all()


def test_flip_mirrors_half_of_the_images_left_to_right(rng) -> None:
    images = rng.integers(0, 256, (2000, 3, 5, 3), dtype=np.uint8)
    before = images.copy()
    flipped = RandomFlip()(images, rng)
    np.testing.assert_array_equal(images, before)
    mirrored = (flipped == images[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 900 < mirrored.sum() < 1100


@pytest.mark.parametrize("augment", [RandomFlip(), RandomCrop(2), RandomCrop(2, "zero")])
def test_augmentation_takes_read_only_images_and_repeats_with_the_seed(augment, rng) -> None:
    images = rng.integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    images.flags.writeable = False
    once, again, other = (augment(images, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert (once != other).any()
    assert once.flags.writeable


@pytest.mark.parametrize("options", [{"padding": -1}, {"mode": "wrap"}])
def test_crop_refuses_wrong_options(options) -> None:
    with pytest.raises(ConfigError, match="RandomCrop"):
        RandomCrop(**options)


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_follows_its_formula(channels, rng) -> None:
    images = rng.integers(0, 256, (4, 3, 5, channels), dtype=np.uint8)
    mean, std = rng.random((2, channels)) + 0.1
    result = Normalise(tuple(mean), tuple(std))(images)
    assert result.dtype == np.float32
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, (images.astype(np.float64) / 255 - mean) / std, rtol=1e-5, atol=1e-6)


def test_normalise_fits_mean_and_standard_deviation(rng) -> None:
    images = rng.integers(0, 256, (1100, 3, 4, 2), dtype=np.uint8)
    images[..., 1] //= 3
    fitted = Normalise.fit(images)
    scaled = images.astype(np.float64) / 255
    np.testing.assert_allclose(fitted.mean, scaled.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(fitted.std, scaled.std(axis=(0, 1, 2)), rtol=1e-12)
    normalised = fitted(images).astype(np.float64)
    np.testing.assert_allclose(normalised.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(axis=(0, 1, 2)), 1, atol=1e-5)
    assert all(type(number) is float for number in fitted.mean + fitted.std)


def test_a_constant_channel_is_left_unscaled_and_a_tiny_variance_is_exact() -> None:
    images = np.full((1000, 10, 10, 2), 255, np.uint8)
    images[0, 0, 0, 1] = 254
    fitted = Normalise.fit(images)
    assert fitted.mean[0] == 1.0
    assert fitted.std[0] == 1.0
    np.testing.assert_allclose(fitted.std[1], np.sqrt(1e-5 - 1e-10) / 255, rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.5,), (0.5, 0.5)), ((0.5,), (0.0,)), ((0.5,), (-1.0,)), ((np.nan,), (1.0,)), ((), ())]
)
def test_normalise_refuses_wrong_numbers(mean, std) -> None:
    with pytest.raises(ConfigError, match="one finite mean and one positive std per channel"):
        Normalise(mean, std)


def test_normalise_refuses_other_channels() -> None:
    with pytest.raises(DataError, match=r"has 3 channels, but the images \(2, 4, 4, 1\) have 1"):
        Normalise((0.5,) * 3, (0.5,) * 3)(np.zeros((2, 4, 4, 1), np.uint8))


def test_zoom_of_nothing_leaves_images_as_they_are(rng) -> None:
    images = rng.integers(0, 256, (5, 7, 9, 3), dtype=np.uint8)
    np.testing.assert_array_equal(RandomZoom(least=1.0, stretch=1.0)(images, rng), images)


@given(
    height=st.integers(1, 9), width=st.integers(1, 9), channels=st.sampled_from([1, 3]), seed=st.integers(0, 100),
    least=st.floats(0.05, 1.0), stretch=st.floats(1.0, 3.0),
)  # fmt: skip
def test_zoom_interpolates_between_pixels(height, width, channels, seed, least, stretch) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (4, height, width, channels), dtype=np.uint8)
    before = images.copy()
    zoomed = RandomZoom(least, stretch)(images, rng)
    assert zoomed.shape == images.shape
    assert zoomed.dtype == np.uint8
    np.testing.assert_array_equal(images, before)
    for found, image in zip(zoomed, images, strict=True):
        assert (found >= image.min(axis=(0, 1))).all()
        assert (found <= image.max(axis=(0, 1))).all()


def test_zoom_shows_a_window_of_a_slope(rng) -> None:
    """Of an image that rises evenly, a window rises by the part that it is of the whole."""
    slope = np.arange(200, dtype=np.uint8)
    images = np.broadcast_to(slope[None, None, :, None], (300, 200, 200, 1)).copy()
    zoomed = RandomZoom(least=0.25, stretch=1.0)(images, rng)[:, 100, :, 0].astype(float)
    shares = (zoomed[:, 150] - zoomed[:, 50]) / 100
    straight = zoomed[:, [50]] + shares[:, None] * np.arange(-40, 141)
    assert np.abs(zoomed[:, 10:191] - straight).max() < 2.1  # two roundings, and that of the share
    assert (np.diff(zoomed, axis=1) >= 0).all()
    areas = shares**2
    assert 0.24 < areas.min() < 0.3
    assert 0.95 < areas.max() < 1.02
    assert abs(areas.mean() - 0.625) < 5 * 0.75 / np.sqrt(12 * 300)


def test_zoom_is_a_function_of_its_generator() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    first, second = (RandomZoom()(images, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, RandomZoom()(images, np.random.default_rng(6)))


@pytest.mark.parametrize("wrong", [{"least": 0.0}, {"least": 1.5}, {"stretch": 0.5}])
def test_zoom_refuses_windows_that_there_are_not(wrong) -> None:
    with pytest.raises(ConfigError, match="expected RandomZoom"):
        RandomZoom(**wrong)


def test_cutmix_shares_the_targets_by_what_is_seen(rng) -> None:
    """Each image is of one number, so that a pixel says which image it is from."""
    images = np.repeat(np.arange(1, 65, dtype=np.uint8), 30 * 40 * 3).reshape(64, 30, 40, 3)
    targets = np.eye(64, dtype=np.float32)
    before = images.copy()
    mixed, shares = CutMix(part=1.0)(images, targets, rng)
    np.testing.assert_array_equal(images, before)
    seen = np.stack([np.bincount(image[..., 0].ravel(), minlength=65)[1:] for image in mixed]) / (30 * 40)
    np.testing.assert_allclose(shares, seen, atol=1e-6)
    windows = 1 - np.diag(seen)
    np.testing.assert_allclose(windows, seen[np.arange(64), np.arange(64) - 1], atol=1e-6)
    assert windows.max() > 0.6
    assert 0.2 < windows.mean() < 0.45  # half the image on average, less what is beyond its border
    for image, own in zip(mixed[..., 0], range(1, 65), strict=True):
        rows, columns = np.nonzero(image != own)
        assert len(rows) == len(set(rows)) * len(set(columns))  # a rectangle


@pytest.mark.parametrize(("part", "low", "high"), [(0.0, 0.0, 0.0), (0.5, 0.35, 0.65)])
def test_cutmix_changes_a_part_of_the_images(rng, part, low, high) -> None:
    images = rng.integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)
    targets = rng.random((400, 5)).astype(np.float32)
    targets /= targets.sum(axis=1, keepdims=True)
    mixed, shares = CutMix(part)(images, targets, rng)
    changed = (mixed != images).any(axis=(1, 2, 3))
    assert low <= changed.mean() <= high
    assert shares.dtype == np.float32
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(shares[~changed], targets[~changed], atol=1e-6)


def test_cutmix_refuses_parts_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match="expected CutMix"):
        CutMix(1.5)
