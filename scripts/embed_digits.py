"""Makes src/pullback/data/digits.npz from the copy of the UCI handwritten digits that scikit-learn's wheel carries.

    pip download --no-deps scikit-learn
    python scripts/embed_digits.py scikit_learn-*.whl

The wheel is only read as an archive. Each row of `digits.csv.gz` is 64 pixels from 0 to 16, then the digit; the order
of the rows is kept. The result is the same file byte for byte each time.
"""

from __future__ import annotations

import gzip
import sys
import zipfile
from pathlib import Path

import numpy as np

SOURCE = "sklearn/datasets/data/digits.csv.gz"
TARGET = Path(__file__).parent.parent / "src" / "pullback" / "data" / "digits.npz"


def main(wheel: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(SOURCE)).decode("ascii").splitlines()
    table = np.loadtxt(lines, delimiter=",").astype(np.int64)
    counts, labels = table[:, :64], table[:, 64]
    if table.shape != (1797, 65) or counts.min() != 0 or counts.max() != 16 or set(labels.tolist()) != set(range(10)):
        raise SystemExit(f"{wheel}: {SOURCE} is not the table of 1,797 digits expected here")
    images = (counts * 255 // 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    np.savez_compressed(TARGET, images=images, labels=labels.astype(np.uint8))
    print(f"{TARGET}: {len(images)} digits, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
