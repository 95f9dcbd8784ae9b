"""Image files to uint8 arrays: finding them in a folder, and decoding them, alone or many at a time.

Pillow decodes. What it cannot read becomes a `DataError` that names the file and the reason.
"""

from __future__ import annotations

import os
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
_MODES = {1: "L", 3: "RGB"}


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
    _check_options(size, channels, resample)
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
    _check_options(size, channels, resample)
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


def _check_options(size: tuple[int, int] | None, channels: int, resample: str) -> None:
    from PIL import Image

    if channels not in _MODES:
        raise ConfigError(f"expected channels 3 (RGB) or 1 (grey), got {channels}")
    if resample.upper() not in Image.Resampling.__members__:
        known = ", ".join(name.lower() for name in Image.Resampling.__members__)
        raise ConfigError(f"unknown resample filter {resample!r}; known: {known}")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"expected size (H, W) in pixels, at least 1 each, got {size}")


def _decode(path: Path, size: tuple[int, int] | None, channels: int, resample: str) -> NDArray[np.uint8]:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=_FORMATS) as file:
            width, height = file.size
            if width * height > _MAX_PIXELS:
                raise DataError(
                    f"{path}: {width}x{height} pixels are more than {_MAX_PIXELS >> 20} Mpixel; reduce the image first"
                )
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            image = _to_mode(file, _MODES[channels])
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds for damaged files; each means the same here.
        raise DataError(f"{path}: {_reason(path, error)}") from error
    if size is not None and image.size != (size[1], size[0]):
        image = image.resize((size[1], size[0]), Image.Resampling[resample.upper()])
    array = np.array(image, dtype=np.uint8)
    return array.reshape(*array.shape[:2], channels)


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


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if path.is_dir():
        return "is a folder, not an image"
    if path.stat().st_size == 0:
        return "the file is empty"
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return f"not an image, or of a format other than {', '.join(_FORMATS)}"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more than {_MAX_PIXELS >> 20} Mpixel; reduce the image first"
    return f"cannot be decoded: {error}"
