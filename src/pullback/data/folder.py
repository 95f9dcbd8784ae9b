"""Folders of images sorted into classes.

The layout is `root/class/image.png`, in which most image sets are kept.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pullback.data.dataset import Dataset, Splits
from pullback.data.images import IMAGE_SUFFIXES, existing_folder, list_files, read_images
from pullback.errors import DataError, SkippedFileWarning

_UNLABELLED = "images without labels can be labelled by a teacher: pullback distill"

Skipped = list[tuple[Path, str]]


def load_folder(
    path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 3,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Reads `path/class/**/image.*`, or `path/train/class/...` with `path/test/class/...` (or `path/val/class/...`).

    Classes are the names of the class folders, sorted. Without a test folder, `test_fraction` of the images is set
    aside with `seed`. Images are decoded in parallel, as `read_image` does it, and resized to `size` `(H, W)`; without
    `size` all must be of one size already.

    A file that cannot be read is set aside, as is a class folder without a readable image: one `SkippedFileWarning`
    tells of all, and `splits.skipped` lists them with reasons. Raises `DataError` for a folder that is missing, empty
    or without class folders, for fewer than two classes, and for images of different sizes.
    """
    root = existing_folder(path)
    train_root, test_root = _parts(root)
    skipped: Skipped = []
    train = _read(train_root, root.name, None, size, channels, skipped)
    if test_root is None:
        splits = train.split(test_fraction, seed)
    else:
        splits = Splits(train, _read(test_root, root.name, train, size, channels, skipped))
    if skipped:
        _warn(skipped, root)
    return Splits(splits.train, splits.test, tuple(skipped))


def _parts(root: Path) -> tuple[Path, Path | None]:
    """The folder to train on and, where there is one, the folder to test on."""
    if not _class_folders(root / "train"):
        return root, None
    return root / "train", next((root / name for name in ("test", "val") if _class_folders(root / name)), None)


def _read(
    root: Path, name: str, train: Dataset | None, size: tuple[int, int] | None, channels: int, skipped: Skipped
) -> Dataset:
    """Reads one part; the test part takes its classes, and without `size` its image size, from the training part."""
    paths = _labelled_paths(root, skipped)
    images, kept = _decode_all([path for path, _ in paths], size, channels, skipped)
    names = [paths[index][1] for index in kept]
    if train is None:
        classes = _classes(root, names)
    else:
        classes = train.classes
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise DataError(f"{root}: class folders {unknown} are not among the training classes {list(classes)}")
        if train.image_shape != images.shape[1:]:
            raise DataError(
                f"{root}: the images are {_by(images[0])} but those to train on are {_by(train.images[0])}; "
                "give a size (H, W) to resize all"
            )
    number = {label: index for index, label in enumerate(classes)}
    return Dataset(images, np.array([number[label] for label in names]), classes, name)


def _labelled_paths(root: Path, skipped: Skipped) -> list[tuple[Path, str]]:
    """Every image file below a class folder, with its class; files that are no images are set aside."""
    labelled: list[tuple[Path, str]] = []
    for folder in _class_folders(root):
        before = len(labelled)
        for path in list_files(folder):
            if path.suffix.lower() in IMAGE_SUFFIXES:
                labelled.append((path, folder.name))
            else:
                skipped.append((path, "not an image file, by its suffix"))
        if len(labelled) == before:
            skipped.append((folder, "holds no images, so it is no class"))
    loose = [path for path in root.iterdir() if path.is_file() and path.suffix.lower() in IMAGE_SUFFIXES]
    if not labelled:
        found = f"{len(loose)} images, but outside of any class folder" if loose else "no images"
        raise DataError(
            f"{root} holds {found}: expected {root.name}/CLASS/IMAGE.png with one folder per class ({_UNLABELLED})"
        )
    skipped += [(path, "outside of any class folder") for path in sorted(loose)]
    return labelled


def _decode_all(
    paths: list[Path], size: tuple[int, int] | None, channels: int, skipped: Skipped
) -> tuple[NDArray[np.uint8], list[int]]:
    """The images that can be read, in one array, and their positions in `paths`."""
    images: NDArray[np.uint8] | None = None
    kept: list[int] = []
    for index, (path, image) in enumerate(read_images(paths, size, channels=channels)):
        if isinstance(image, DataError):
            skipped.append((path, str(image).removeprefix(f"{path}: ")))
            continue
        if images is None:
            images = np.empty((len(paths), *image.shape), np.uint8)
        elif image.shape != images.shape[1:]:
            raise DataError(
                f"images of different sizes: {paths[kept[0]]} is {_by(images[0])} but {path} is {_by(image)}; "
                "give a size (H, W) to resize all"
            )
        images[len(kept)] = image
        kept.append(index)
    if images is None:
        path, reason = skipped[-1]
        raise DataError(f"none of {len(paths)} image files can be read; the last one: {path}: {reason}")
    return images[: len(kept)], kept


def _classes(root: Path, names: list[str]) -> tuple[str, ...]:
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise DataError(
            f"{root} has readable images of one class only, {classes[0]!r}: expected at least two class folders "
            f"({_UNLABELLED})"
        )
    return classes


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _by(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[0]}x{image.shape[1]}"


def _warn(skipped: Skipped, root: Path) -> None:
    shown = "; ".join(f"{path.relative_to(root)}: {reason}" for path, reason in skipped[:5])
    more = f"; and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    warnings.warn(f"{root}: set aside {len(skipped)} of its files: {shown}{more}", SkippedFileWarning, stacklevel=3)
