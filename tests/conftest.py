"""What all tests share: where the real data is, reproducible random numbers, and a plotting backend without windows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent

os.environ.setdefault("MPLBACKEND", "Agg")

# Data beside the checkout is found without setting anything; subprocesses inherit the variable.
if "PULLBACK_DATA" not in os.environ and (REPOSITORY.parent / "shared" / "data").is_dir():
    os.environ["PULLBACK_DATA"] = str(REPOSITORY.parent / "shared" / "data")

# A shared machine is slow at times, which is not a failure; the same examples every time make a failure repeatable.
settings.register_profile("pullback", deadline=None, derandomize=True)
settings.load_profile("pullback")


@pytest.fixture
def rng() -> np.random.Generator:
    """Random numbers that are the same in every run."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The folder of real data, named by PULLBACK_DATA; the test is skipped where there is none."""
    folder = Path(os.environ.get("PULLBACK_DATA", ""))
    if "PULLBACK_DATA" not in os.environ or not folder.is_dir():
        pytest.skip("needs real data: set PULLBACK_DATA to a folder with cifar10/, imagenette64/ and teacher/")
    return folder
