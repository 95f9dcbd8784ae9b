"""What the tests of the commands share: a way to call them, and a run to call them on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pullback.cli.main import main
from pullback.train import Settings, fit


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code, standard output and standard error."""

    code: int
    out: str
    err: str


Call = Callable[..., Outcome]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls `pullback` with these words; whatever happens, no traceback may be seen."""

    def run(*words: object) -> Outcome:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        return Outcome(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short run on the digits. Tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    fit(Settings(model="mlp", steps=60, eval_every=30, lr=3e-3), folder, quiet=True)
    return folder


@pytest.fixture
def photographs(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of 8x8 images of two classes, 12 each, which differ in brightness."""
    folder = tmp_path / "photographs"
    for name, low in (("dark", 0), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(low, low + 55, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder
