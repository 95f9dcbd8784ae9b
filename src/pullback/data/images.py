"""Image files to uint8 arrays: finding them in a folder, and decoding them, alone or many at a time.

Pillow decodes. What it cannot read becomes a `DataError` that names the file and the reason.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pullback.data.parallel import map_ahead
from pullback.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})

# Pillow also knows formats that call other programs or hold documents; a folder of photographs needs none of them.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_MAX_PIXELS = 64 * 1024 * 1024
_TOO_LARGE = f"more than {_MAX_PIXELS >> 20} Mpixel; reduce the image first"
_MODES = {1: "L", 3: "RGB"}

MAX_BYTES = 512 * 1024 * 1024
"""Longer files are refused: 64 Mpixel are at most 384 MiB, and no name of a file may fill the memory."""

TOO_LONG = f"longer than {MAX_BYTES >> 20} MiB"

_REASONS = {
    FileNotFoundError: "no such file",
    PermissionError: "no permission to read it",
    IsADirectoryError: "is a folder, not an image",
}


def list_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Every image file below `folder`, by suffix, sorted by relative path; hidden files and folders are left out.

    Links to folders are followed, each folder once, so that a loop of links ends.
    Raises `DataError` where the folder is missing or holds no image.
    """
    root = existing_folder(folder)
    found = [path for path in list_files(root) if path.suffix.lower() in IMAGE_SUFFIXES]
    if not found:
        raise DataError(f"no images in {root}: expected files ending in {', '.join(sorted(IMAGE_SUFFIXES))}")
    return found


def read_image(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 3,
    resample: str = "bicubic",
) -> NDArray[np.uint8]:
    """Decodes one image file to uint8 `(H, W, channels)`, turned upright by its EXIF orientation.

    Args:
        path: a PNG, JPEG, WebP, BMP, GIF (first frame) or TIFF (first page) file.
        size: `(H, W)` to resize to, without keeping the aspect ratio; None keeps the image's own.
        channels: 3 for RGB, 1 for grey (ITU-R 601 luma).
        resample: Pillow's filter: "nearest", "box", "bilinear", "hamming", "bicubic" or "lanczos".

    Grey, palette and CMYK images are converted. Transparency is laid over white, as on paper and in most viewers.
    16-bit grey is scaled by 255/65535. Raises `DataError` for a file that is missing, damaged, no image, of
    floating-point pixels, or larger than 64 Mpixel (which a file of a few kilobytes can claim to be).
    """
    check_options(size, channels, resample)
    return _decode(Path(path), size, channels, resample)


def read_images(
    paths: Iterable[str | os.PathLike[str]],
    size: tuple[int, int] | None = None,
    workers: int | None = None,
    channels: int = 3,
    resample: str = "bicubic",
) -> Iterator[tuple[Path, NDArray[np.uint8] | DataError]]:
    """Decodes many files in `workers` threads (default: one per core, at most 8) and yields them in the order given.

    An unreadable file yields its `DataError` in place of the array, so that one bad file does not end a long run. At
    most four images per worker are held at a time. The options are those of `read_image`.
    """
    check_options(size, channels, resample)
    workers = min(os.cpu_count() or 1, 8) if workers is None else workers
    if workers < 1:
        raise ConfigError(f"expected workers of at least 1, got {workers}")

    def decode(path: str | os.PathLike[str]) -> tuple[Path, NDArray[np.uint8] | DataError]:
        try:
            return Path(path), _decode(Path(path), size, channels, resample)
        except DataError as error:
            return Path(path), error

    return map_ahead(decode, paths, workers=workers, ahead=4 * workers)


def existing_folder(folder: str | os.PathLike[str]) -> Path:
    """`folder` as a path; raises `DataError` unless it is a folder."""
    path = Path(folder).expanduser()
    if not path.is_dir():
        problem = "is a file, not a folder" if path.exists() else "does not exist"
        raise DataError(f"{path} {problem}: expected a folder of images")
    return path


def list_files(root: Path) -> list[Path]:
    """Every file below `root` that is not hidden, sorted by relative path; see `list_images` for links."""
    found: list[Path] = []
    seen: set[tuple[int, int]] = set()

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot list {error.filename}: {error.strerror}") from error

    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse):
        here = os.stat(folder)
        if (here.st_dev, here.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((here.st_dev, here.st_ino))
        # In place: it is this list that os.walk goes on with. Sorted, so that which of two links comes first is fixed.
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def check_options(size: tuple[int, int] | None, channels: int, resample: str) -> None:
    """Raises `ConfigError` for options that `read_image` does not know."""
    from PIL import Image

    if channels not in _MODES:
        raise ConfigError(f"expected channels 3 (RGB) or 1 (grey), got {channels}")
    if resample.upper() not in Image.Resampling.__members__:
        known = ", ".join(name.lower() for name in Image.Resampling.__members__)
        raise ConfigError(f"unknown resample filter {resample!r}; known: {known}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"expected size (H, W) in pixels, at least 1 each, got {size}")


def decode_image(
    content: bytes | NDArray[np.uint8], size: tuple[int, int] | None, channels: int = 3, resample: str = "bicubic"
) -> NDArray[np.uint8]:
    """Decodes the content of an image file, or takes pixels `(H, W, 3)` as they are; see `read_image`.

    Raises `DataError` with the reason alone: the caller knows the name.
    """
    image = _opened(content, channels)
    return _pixels(image if size is None else _resized(image, size, resample), channels)


def decode_with_hash(
    content: bytes | NDArray[np.uint8], size: tuple[int, int], channels: int = 3, resample: str = "bicubic"
) -> tuple[NDArray[np.uint8], int]:
    """`decode_image`, and 64 bits that differ little between images that look alike, whatever their size and format.

    Which of the lowest 8 by 8 frequencies but the constant one are above their median, in the image reduced to 32 by 32
    (C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). 0 for a single colour.
    """
    from PIL import Image

    original = _opened(content, channels)
    resized = _resized(original, size, resample)
    # The smaller of the two is quicker to reduce, as long as it is no smaller than the grid.
    quicker = min(size) >= _GRID and resized.width * resized.height < original.width * original.height
    seen = resized if quicker else original
    grey = seen.convert("L").resize((_GRID, _GRID), Image.Resampling.BOX)
    frequencies = (_COSINES @ np.asarray(grey, np.float32) @ _COSINES.T).round(2)
    ordered = np.sort(frequencies, axis=None)  # quicker than np.median, which is written for large arrays
    bits = np.packbits(frequencies > (ordered[31] + ordered[32]) / 2).tobytes()
    return _pixels(resized, channels), int.from_bytes(bits, "big")


_GRID = 32
_COSINES = np.cos(np.pi / _GRID * np.outer(np.arange(1, 9), np.arange(_GRID) + 0.5)).astype(np.float32)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The content of an image file. Raises `DataError` with the reason alone where there is none of a sane length."""
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size > MAX_BYTES:
                raise DataError(TOO_LONG)
            if not stat.S_ISREG(status.st_mode):
                raise DataError("is no ordinary file")
            return file.read()
    except OSError as error:
        raise DataError(_REASONS.get(type(error), f"cannot be read ({error.strerror})")) from error


def _decode(path: Path, size: tuple[int, int] | None, channels: int, resample: str) -> NDArray[np.uint8]:
    try:
        return decode_image(read_file(path), size, channels, resample)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error.__cause__


def _opened(content: bytes | NDArray[np.uint8], channels: int) -> Image.Image:
    """The image in its own size."""
    from PIL import Image

    return _converted(Image.fromarray(content) if isinstance(content, np.ndarray) else _open(content), _MODES[channels])


def _resized(image: Image.Image, size: tuple[int, int], resample: str) -> Image.Image:
    from PIL import Image

    height, width = size
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling[resample.upper()])


def _pixels(image: Image.Image, channels: int) -> NDArray[np.uint8]:
    return np.array(image, dtype=np.uint8).reshape(image.height, image.width, channels)


def _open(content: bytes) -> Image.Image:
    """The image in a file's content, upright."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not content:
        raise DataError("the file is empty")
    try:
        file = Image.open(io.BytesIO(content), formats=_FORMATS)
        width, height = file.size
        if width * height > _MAX_PIXELS:
            raise DataError(f"{width}x{height} pixels are {_TOO_LARGE}")
        file.load()
        ImageOps.exif_transpose(file, in_place=True)
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"not an image, or of a format other than {', '.join(_FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(_TOO_LARGE) from error
    except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged files; each means the same here.
        raise DataError(f"cannot be decoded: {error}") from error
    return file


def _converted(image: Image.Image, mode: str) -> Image.Image:
    try:
        return _to_mode(image, mode)
    except Exception as error:
        raise DataError(f"cannot be decoded: {error}") from error


def _to_mode(image: Image.Image, mode: str) -> Image.Image:
    """Converts what `convert` alone would clip (more than 8 bits) or show the hidden colours of (transparency)."""
    from PIL import Image

    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range; save them with 8 or 16 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray(_eight_bits(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    elif image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(values: NDArray[Any]) -> NDArray[np.uint8]:
    if values.min() < 0 or values.max() > 65535:
        raise ValueError(f"32-bit pixels from {values.min()} to {values.max()} do not fit 16 bits")
    return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
