"""The 1,797 handwritten digits that come with pullback: small enough to embed, real enough to learn from.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, CC BY 4.0; see `digits.LICENSE.txt`. `scripts/embed_digits.py` made the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pullback import files
from pullback.data.dataset import Dataset, Splits, class_numbers

_SPLIT_SEED = 0
TAUGHT = 700
"""The first so many digits to train on are what the teacher `digits` was trained on."""


def write_digits(folder: Path) -> tuple[Path, Path]:
    """The digits that the teacher `digits` has not seen, as PNG files without labels in `folder`/images.

    Their true classes are in `folder`/truth.csv, with the columns file and class. Returns the two paths. Files that are
    there already are written again. Raises RunError where they cannot be written.
    """
    from PIL import Image

    train, test = load_digits()
    images = np.concatenate([train.images[TAUGHT:], test.images])
    labels = np.concatenate([train.labels[TAUGHT:], test.labels])
    place, truth = folder / "images", folder / "truth.csv"
    try:
        place.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            Image.fromarray(image[:, :, 0]).save(place / f"{number:04}.png")
    except OSError as error:
        raise files.cannot_write(place, error) from error
    rows = [f"{number:04}.png,{label}" for number, label in enumerate(labels)]
    files.replace(truth, "\n".join(["file,class", *rows, ""]).encode())
    return place, truth


def load_digits() -> Splits:
    """1,438 digits to train on and 359 to test on, uint8 8x8x1; always the same split.

    Each pixel of the original counts the set bits of a 4x4 block, 0 to 16; here it is `count * 255 // 16`, so that 16
    is white. The map is one to one: `-(-pixel * 16 // 255)` gives the count back.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return Dataset(images, labels, class_numbers(10), "digits").split(0.2, _SPLIT_SEED)
