"""The 1,797 handwritten digits that come with pullback: small enough to embed, real enough to learn from.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository (1998),
https://doi.org/10.24432/C50P49, CC BY 4.0; see `digits.LICENSE.txt`. `scripts/embed_digits.py` made the file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pullback.data.dataset import Dataset, Splits, class_numbers

_SPLIT_SEED = 0


def load_digits() -> Splits:
    """1,438 digits to train on and 359 to test on, uint8 8x8x1; always the same split.

    Each pixel of the original counts the set bits of a 4x4 block, 0 to 16; here it is `count * 255 // 16`, so that 16
    is white. The map is one to one: `-(-pixel * 16 // 255)` gives the count back.
    """
    with np.load(Path(__file__).with_name("digits.npz")) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    return Dataset(images, labels, class_numbers(10), "digits").split(0.2, _SPLIT_SEED)
