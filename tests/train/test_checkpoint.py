"""Checkpoints read back to the bit, and anything else is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pullback.errors import RunError
from pullback.train.checkpoint import Position, load, save

POSITION = Position(step=7, loss_sum=0.1 + 0.2, correct=3, seen=5, best_accuracy=1 / 3, metrics_size=99)
MODEL = {
    "weight": np.arange(6, dtype=np.float32).reshape(2, 3).T,  # not contiguous
    "empty": np.zeros((0, 3), np.float32),
}
OPTIMIZER = {"[0].count": np.array(7, np.int64), "[0].mean.weight": np.ones((3, 2), np.float32)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.safetensors"
    save(path, POSITION, MODEL, OPTIMIZER)
    return path


def test_what_is_saved_loads_to_the_bit(path: Path) -> None:
    position, model, optimizer = load(path)
    assert position == POSITION
    for saved, loaded in [(MODEL, model), (OPTIMIZER, optimizer)]:
        assert sorted(saved) == sorted(loaded)
        for name, array in saved.items():
            assert loaded[name].dtype == array.dtype
            np.testing.assert_array_equal(loaded[name], array, strict=True)


def test_a_missing_checkpoint_names_the_other(path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no checkpoint .*best.safetensors.*`--checkpoint last`"):
        load(path.with_name("best.safetensors"))


def test_every_flipped_bit_and_every_cut_is_noticed(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(RunError, match=r"last\.safetensors"):
            load(path)
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match="damaged"):
            load(path)


def test_a_foreign_safetensors_file_is_refused(path: Path) -> None:
    save_file({"weight": np.zeros(3, np.float32)}, path)
    with pytest.raises(RunError, match="is no checkpoint of pullback"):
        load(path)


def test_a_pickle_is_refused_unopened(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("the pickle was executed",))

    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RunError, match="damaged, or no safetensors file"):
        load(path)
