from __future__ import annotations

import itertools
import os
import struct
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pullback.data import list_images, read_image, read_images
from pullback.errors import ConfigError, DataError


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (8, 12, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp"])
def test_lossless_formats_give_every_pixel_back(save_image, photo, suffix) -> None:
    path = save_image(f"a.{suffix}", photo, **({"lossless": True} if suffix == "webp" else {}))
    read = read_image(path)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    np.testing.assert_array_equal(read, photo)


def test_jpeg_comes_close(save_image) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[:, None, None], (16, 16, 3))
    np.testing.assert_allclose(read_image(save_image("a.jpg", smooth, quality=95)).astype(int), smooth, atol=8)


def test_the_content_decides_not_the_suffix(save_image, photo) -> None:
    path = save_image("a.png", photo)
    np.testing.assert_array_equal(read_image(path.rename(path.with_suffix(".jpg"))), photo)


def test_grey_is_repeated_and_colour_reduced(save_image) -> None:
    grey = np.arange(24, dtype=np.uint8).reshape(4, 6)
    path = save_image("a.png", grey)
    np.testing.assert_array_equal(read_image(path), np.repeat(grey[..., None], 3, axis=2))
    np.testing.assert_array_equal(read_image(path, channels=1), grey[..., None])
    red = save_image("red.png", np.tile(np.uint8([255, 0, 0]), (2, 2, 1)))
    np.testing.assert_array_equal(read_image(red, channels=1), np.full((2, 2, 1), 76))  # 0.299 * 255


def test_transparency_is_laid_over_white(save_image) -> None:
    # Hidden colours under full transparency must not come through.
    rgba = np.uint8([[[10, 20, 30, 255], [200, 0, 0, 0], [0, 0, 0, 51]]])
    expected = [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]
    np.testing.assert_array_equal(read_image(save_image("a.png", rgba)), expected)
    grey_alpha = Image.fromarray(np.uint8([[[7, 255], [9, 0]]]), "LA")
    np.testing.assert_array_equal(read_image(save_image("b.png", grey_alpha), channels=1), [[[7], [255]]])


def test_palette_with_and_without_transparency(save_image) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    np.testing.assert_array_equal(read_image(save_image("a.png", image)), [[[10, 20, 30], [40, 50, 60]]])
    clear = read_image(save_image("b.png", image, transparency=1))
    np.testing.assert_array_equal(clear, [[[10, 20, 30], [255, 255, 255]]])
    np.testing.assert_array_equal(read_image(save_image("c.gif", image)), [[[10, 20, 30], [40, 50, 60]]])


def test_two_colours(save_image) -> None:
    image = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(read_image(save_image("a.png", image), channels=1), [[[255], [0]]])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(save_image, suffix) -> None:
    deep = np.array([[0, 257, 32768, 65535, 128, 129]], np.uint16)
    read = read_image(save_image(f"a.{suffix}", deep), channels=1)
    np.testing.assert_array_equal(read[..., 0], np.round(deep / 257).astype(np.uint8))


def test_cmyk(save_image) -> None:
    path = save_image("a.tif", Image.new("CMYK", (2, 2), (0, 255, 255, 0)))
    np.testing.assert_array_equal(read_image(path), np.tile(np.uint8([255, 0, 0]), (2, 2, 1)))


def test_an_animation_gives_its_first_frame(save_image) -> None:
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "blue")]
    path = save_image("a.gif", frames[0], save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(read_image(path), np.tile(np.uint8([255, 0, 0]), (3, 3, 1)))


def test_exif_orientation_is_undone(save_image, photo) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side: turn clockwise to view
    path = save_image("a.png", photo, exif=exif)
    np.testing.assert_array_equal(read_image(path), np.rot90(photo, -1))
    assert read_image(path, size=(6, 4)).shape == (6, 4, 3)


def test_resize_is_pillows(save_image, photo) -> None:
    path = save_image("a.png", photo)
    for name in ("bicubic", "box", "nearest"):
        expected = np.asarray(Image.fromarray(photo).resize((3, 5), Image.Resampling[name.upper()]))
        np.testing.assert_array_equal(read_image(path, size=(5, 3), resample=name), expected)
    np.testing.assert_array_equal(read_image(path, size=(8, 12)), photo)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(bytes(1000))) + png_chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"this is no picture", "not an image, or of a format other than PNG"),
        (b"", "the file is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
        (b"P6 2 2 255\n" + bytes(12), "not an image"),
        (bomb(8200, 8200), "8200x8200 pixels are more than 64 Mpixel"),
        (bomb(9700, 9700), "more than 64 Mpixel"),
        (bomb(60000, 60000), "more than 64 Mpixel"),
        (bomb(100, 100), "cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_with_its_name_and_reason(tmp_path, content, reason) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"bad.png: .*{reason}"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
def test_a_file_cut_anywhere_is_an_error_or_an_image_but_no_crash(save_image, photo, suffix) -> None:
    path = save_image(f"a.{suffix}", photo)
    whole = path.read_bytes()
    messages = []
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        try:
            assert read_image(path).shape == (8, 12, 3)
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 15
    assert all(message.startswith(f"{path}: ") for message in messages)


def test_truncated_png_is_refused(save_image, photo) -> None:
    path = save_image("a.png", photo)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"a\.png: cannot be decoded: .*truncated"):
        read_image(path)


def test_other_refusals(tmp_path, save_image) -> None:
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="is a folder"):
        read_image(tmp_path)
    with pytest.raises(DataError, match="floating-point pixels"):
        read_image(save_image("f.tif", np.ones((2, 2), np.float32)))
    with pytest.raises(DataError, match="do not fit 16 bits"):
        read_image(save_image("i.tif", np.full((2, 2), 70000, np.int32)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 4}, "channels 3 .* or 1"),
        ({"size": (0, 5)}, "size"),
        ({"size": (5,)}, "size"),
        ({"resample": "cubic"}, "'cubic'; known: nearest"),
    ],
)
def test_wrong_options_are_named(save_image, options, message) -> None:
    path = save_image("a.png")
    with pytest.raises(ConfigError, match=message):
        read_image(path, **options)
    with pytest.raises(ConfigError, match=message):
        read_images([path], **options)


def test_read_images_keeps_order_and_goes_on_past_bad_files(tmp_path, save_image) -> None:
    paths = [save_image(f"{n:02}.png", np.full((3, 5), n, np.uint8)) for n in range(30)]
    paths[7].write_text("text")
    paths.insert(20, tmp_path / "missing.png")
    results = list(read_images(paths, size=(2, 2), workers=4, channels=1))
    assert [path for path, _ in results] == paths
    bad = [index for index, (_, image) in enumerate(results) if isinstance(image, DataError)]
    assert bad == [7, 20]
    good = [image for _, image in results if not isinstance(image, DataError)]
    assert [int(image.mean()) for image in good] == [n for n in range(30) if n != 7]
    assert {image.shape for image in good} == {(2, 2, 1)}


def test_read_images_reads_no_further_ahead_than_four_a_worker(save_image) -> None:
    path = save_image("a.png")
    taken = itertools.count()
    endless = (path for _ in taken)
    results = read_images(endless, workers=2)
    for _ in range(5):
        next(results)
    assert next(taken) <= 5 + 8 + 1
    results.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pullback-data")]


def test_read_images_refuses_no_workers() -> None:
    with pytest.raises(ConfigError, match="workers"):
        read_images([], workers=0)
    assert list(read_images([])) == []


def test_list_images_is_sorted_recursive_and_sees_nothing_hidden(tmp_path, save_image) -> None:
    for name in ("b/2.JPG", "b/10.png", "a.png", "b/c/d.webp", ".hidden/x.png", "b/.x.png"):
        save_image(name.lower()).rename(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("text")
    assert [path.relative_to(tmp_path).as_posix() for path in list_images(tmp_path)] == [
        "a.png",
        "b/10.png",
        "b/2.JPG",
        "b/c/d.webp",
    ]


def test_list_images_follows_links_but_not_in_circles(tmp_path, save_image) -> None:
    save_image("real/a.png")
    save_image("elsewhere/b.png")
    root = tmp_path / "real"
    os.symlink(tmp_path / "elsewhere", root / "link")
    os.symlink(root, root / "self")
    os.symlink(root, tmp_path / "elsewhere" / "up")
    os.symlink(tmp_path / "nothing.png", root / "dangling.png")
    found = [path.relative_to(root).as_posix() for path in list_images(root)]
    assert found == ["a.png", "dangling.png", "link/b.png"]
    assert isinstance(dict(read_images(list_images(root)))[root / "dangling.png"], DataError)


def test_list_images_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no images in .*expected files ending in \.bmp"):
        list_images(tmp_path)
    (tmp_path / "file.png").write_text("")
    with pytest.raises(DataError, match="is a file, not a folder"):
        list_images(tmp_path / "file.png")
