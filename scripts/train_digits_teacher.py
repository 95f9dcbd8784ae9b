"""Trains src/pullback/teach/digits.onnx, the teacher of the handwritten digits that come with pullback.

    python scripts/train_digits_teacher.py

It sees the first `TAUGHT` digits of the part to train on. The others, which `pullback digits` writes as files, are left
for students. The result is the same on the same machine each time.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from pullback.data import Dataset, Splits, load_digits
from pullback.data.digits import TAUGHT
from pullback.train import Settings, fit
from pullback.train.export import export

TARGET = Path(__file__).parent.parent / "src" / "pullback" / "teach" / "digits.onnx"
SETTINGS = Settings(
    model="levels-cnn", levels=(16, 32), repeats=2, optimizer="adamw", weight_decay=0.05, lr=3e-3, schedule="cosine",
    batch_size=32, epochs=60, augment=("crop",), average=0.99,
)  # fmt: skip


def main() -> None:
    splits = load_digits()
    train, test = (Dataset(np.repeat(np.asarray(d.images), 3, axis=3), d.labels, d.classes, "digits") for d in splits)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        result = fit(SETTINGS, run, Splits(train.subset(np.arange(TAUGHT)), test))
        accuracy = result.accuracy
        export(run, TARGET, images=test.images[:])
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes, {accuracy:.2%} of {len(test)} other digits right")


if __name__ == "__main__":
    main()
