"""The pixel cache: the same pixels as the files hold, made once, whole again after any damage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pullback.data import Dataset, Normalise, cache, cache_images, open_source
from pullback.errors import DataError

COUNT = 23


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(COUNT):
        Image.fromarray(rng.integers(0, 255, (9, 7, 3), np.uint8)).save(
            folder / ("sub" if k % 2 else ".") / f"{k:02}.png"
        )
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "SHARD_BYTES", 3 * 8 * 8 * 5)


def cached(photos: Path, out: Path, size: int | None = 8, paths: Any = None, **options: Any) -> cache.Cached:
    source = open_source(photos)
    paths = list(reversed(source.listing().paths)) if paths is None else paths
    sha = [hashlib.sha256((photos / p).read_bytes()).hexdigest() if (photos / p).exists() else "0" for p in paths]
    return cache_images(source, paths, sha, out, size=size, **options)


def test_pixels_are_those_of_the_files(photos: Path, tmp_path: Path) -> None:
    found = cached(photos, tmp_path / "pixels")
    paths = list(reversed(open_source(photos).listing().paths))
    assert found.pixels is not None
    assert found.pixels.shape == (COUNT, 8, 8, 3)
    for image, position in zip(found.pixels[:], found.kept, strict=True):
        expected = Image.open(photos / paths[position]).resize((8, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image, np.asarray(expected))
    assert len(list((tmp_path / "pixels").glob("*.npy"))) == 5


def test_it_is_indexed_like_an_array(photos: Path, tmp_path: Path) -> None:
    pixels = cached(photos, tmp_path / "pixels").pixels
    assert pixels is not None
    whole = pixels[:]
    rng = np.random.default_rng(1)
    for _ in range(5):
        chosen = rng.integers(0, COUNT, 11)
        np.testing.assert_array_equal(pixels[chosen], whole[chosen])
        np.testing.assert_array_equal(pixels.take(chosen)[3:7], whole[chosen][3:7])
        np.testing.assert_array_equal(pixels[[-1, 0]], whole[[-1, 0]])
    mask = rng.random(COUNT) < 0.5
    np.testing.assert_array_equal(pixels.take(mask)[:], whole[mask])
    assert pixels.take(mask).digest() != pixels.digest()
    assert len(pixels[5:5]) == 0
    dataset = Dataset(pixels, np.zeros(COUNT, int), ("a",), "photos")
    np.testing.assert_array_equal(dataset.subset(mask).images[:], whole[mask])
    assert Normalise.fit(pixels) == Normalise.fit(whole)


def test_it_is_made_once(photos: Path, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    first = cached(photos, tmp_path / "pixels", on_progress=lambda done, total: calls.append((done, total)))
    assert calls[0] == (0, COUNT)
    assert calls[-1] == (COUNT, COUNT)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").iterdir()}
    again = cached(photos, tmp_path / "pixels")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "pixels").iterdir()} == before
    assert first.pixels is not None
    assert again.pixels is not None
    assert first.pixels.digest() == again.pixels.digest()


@pytest.mark.parametrize("damage", ["cut", "flip", "note", "gone"])
def test_a_damaged_shard_is_made_again(photos: Path, tmp_path: Path, damage: str) -> None:
    whole = cached(photos, tmp_path / "pixels").pixels
    assert whole is not None
    expected = whole[:]
    shard, note = tmp_path / "pixels" / "00002.npy", tmp_path / "pixels" / "00002.json"
    content = shard.read_bytes()
    if damage == "cut":
        shard.write_bytes(content[:-7])
    elif damage == "flip":
        shard.write_bytes(content[:-7] + bytes([content[-7] ^ 1]) + content[-6:])
    elif damage == "note":
        note.write_text("{")
    else:
        shard.unlink()
    mended = cached(photos, tmp_path / "pixels").pixels
    assert mended is not None
    np.testing.assert_array_equal(mended[:], expected)


def test_what_is_gone_changed_or_unreadable_is_skipped_with_the_reason(photos: Path, tmp_path: Path) -> None:
    paths = open_source(photos).listing().paths
    sha = [hashlib.sha256((photos / p).read_bytes()).hexdigest() for p in paths]
    (photos / paths[0]).unlink()
    (photos / paths[1]).write_bytes((photos / paths[2]).read_bytes())
    (photos / paths[3]).write_bytes(b"no image")
    found = cache_images(open_source(photos), paths, sha, tmp_path / "pixels", size=8)
    assert found.skipped[paths[0]] == "is no longer there"
    assert found.skipped[paths[1]] == "has changed since it was labelled"
    assert set(found.skipped) == {paths[0], paths[1], paths[3]}
    assert [paths[k] for k in found.kept] == [paths[2], *paths[4:]]


def test_nothing_readable(photos: Path, tmp_path: Path) -> None:
    found = cached(photos, tmp_path / "pixels", paths=["not-there.png"])
    assert found.pixels is None
    assert found.skipped == {"not-there.png": "is no longer there"}


def test_images_of_several_sizes_need_one(photos: Path, tmp_path: Path) -> None:
    pixels = cached(photos, tmp_path / "same", size=None).pixels
    assert pixels is not None
    assert pixels.shape == (COUNT, 9, 7, 3)
    Image.new("RGB", (4, 5)).save(photos / "other.png")
    with pytest.raises(DataError, match="several sizes, such as 5x4 and 9x7 pixels: give --image-size"):
        cached(photos, tmp_path / "several", size=None)
