"""A training step as compiled, under all conditions: odd shapes, one thread, narrow vectors, caches of every kind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn, optim
from pullback.kernels import runtime
from pullback.program import lowering

BATCHES = [1, 7, 33]
SIZES = [(5, 7), (31, 29)]
CHANNELS = [3, 5, 48, 100]


@pytest.fixture(autouse=True)
def lower_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small networks are lowered as large ones are."""
    monkeypatch.setattr(lowering, "worth_compiling", lambda operations, *arrays: True)


def network(channels: int) -> Any:
    """Every kind of convolution that there is: 3x3, with a stride, 5x5, 1x1, depthwise; norms, ReLUs, pooling."""
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1, bias=False, rng=0),
        nn.BatchNorm(channels),
        nn.ReLU(),
        nn.Conv2d(channels, channels, 3, padding=1, rng=1),
        nn.BatchNorm(channels),
        nn.ReLU(),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, rng=2),
        nn.Conv2d(channels, 5, 1, rng=3),
        nn.BatchNorm(5),
        nn.ReLU(),
        nn.Conv2d(5, channels, 5, padding=2, rng=4),
        nn.GlobalAvgPool2d(),
        nn.Linear(channels, 4, rng=5),
    )


def loss(model: Any, x: Any, y: Any) -> Any:
    return nn.softmax_cross_entropy(model(x), y)


def batch(count: int, size: tuple[int, int]) -> tuple[Any, Any]:
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, *size, 3)).astype(np.float32), rng.integers(4, size=count)


def assert_gradients_are_right(count: int, size: tuple[int, int], channels: int) -> None:
    """By kernels in float32, of the compiled step, against the plain functions in float64."""
    x, y = batch(count, size)
    value, gradient = pb.compile(pb.value_and_grad(loss))(network(channels), x, y)
    exact = pb.tree.map(lambda weight: weight.astype(np.float64), network(channels))
    expected, right = pb.value_and_grad(loss)(exact, x.astype(np.float64), y)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    scale = max(float(np.linalg.norm(each)) for each in pb.tree.leaves(right))
    for path, a, b in zip(pb.tree.paths(right), pb.tree.leaves(gradient), pb.tree.leaves(right), strict=True):
        # Of 600,000 ReLUs and choices of a maximum, one or two are decided by rounding: that is 0.5 % of a gradient.
        # What a batch norm behind it takes away again, such as a bias, has no gradient but rounding.
        assert np.linalg.norm(a - b) <= 1e-2 * np.linalg.norm(b) + 1e-5 * scale, path


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("count", BATCHES)
def test_odd_shapes(count: int, size: tuple[int, int], channels: int) -> None:
    assert_gradients_are_right(count, size, channels)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_any_number_of_threads(threads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "threads", lambda: int(threads))
    assert_gradients_are_right(7, (31, 29), 48)


def test_a_shape_that_changes_in_mid_run() -> None:
    """The parameters and moments go on, updated in place by one program after another."""
    rule = optim.adam(1e-3)

    def step(model: Any, state: Any, x: Any, y: Any) -> Any:
        value, gradient = pb.value_and_grad(loss)(model, x, y)
        updates, state = rule.update(gradient, state, model)
        return optim.apply_updates(model, updates), state, value

    compiled = pb.compile(step, donate=(0, 1))
    ours, theirs = network(5), network(5)
    our_state, their_state = rule.init(ours), rule.init(theirs)
    for count, size in ((33, (5, 7)), (33, (5, 7)), (7, (5, 7)), (7, (31, 29)), (33, (5, 7)), (1, (9, 9))):
        x, y = batch(count, size)
        ours, our_state, our_loss = compiled(ours, our_state, x, y)
        theirs, their_state, their_loss = step(theirs, their_state, x, y)
        np.testing.assert_allclose(our_loss, their_loss, rtol=5e-3)
    for (path, a), b in zip(ours.state().items(), theirs.state().values(), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=5e-3, err_msg=path)


# -- other processes -------------------------------------------------------------------------------------------------
HERE = Path(__file__)


def in_process(cache: Path, *, may_write: bool = True, **environment: str) -> str:
    """What a process says that checks some shapes; its CPU and its cache as given."""
    program = f"""
import runpy, sys
if not {may_write}:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
from pullback.program import lowering
lowering.worth_compiling = lambda operations, *arrays: True
check = runpy.run_path({str(HERE)!r})["assert_gradients_are_right"]
check(7, (5, 7), 48)
check(1, (31, 29), 5)
"""
    settings = {**os.environ, "PULLBACK_CACHE": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", program], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_caches_that_are_full_or_cannot_be_written_or_are_damaged(tmp_path: Path) -> None:
    assert "compiling kernels for this CPU (once)" in in_process(tmp_path)
    assert in_process(tmp_path) == ""
    assert in_process(tmp_path, may_write=False) == ""

    files = list(tmp_path.rglob("*.o"))
    assert len(files) > 10
    rng = np.random.default_rng(0)
    for file in files[::2]:  # some bytes of the machine code, as a failing disk would
        content = bytearray(file.read_bytes())
        for place in rng.integers(len(content) // 2, len(content), size=64):
            content[place] ^= 0xFF
        file.write_bytes(content)
    for file in files[1::2]:  # half a file, as a full disk would
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    said = in_process(tmp_path)
    assert said.count("UserWarning") == 1
    assert "cannot be read" in said
    assert in_process(tmp_path) == "", "the damaged files were not replaced"


@pytest.mark.slow
def test_an_empty_cache_that_cannot_be_written(tmp_path: Path) -> None:
    said = in_process(tmp_path, may_write=False)
    assert said.count("UserWarning") == 1
    assert "cannot be written" in said
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and file.stat().st_size]


@pytest.mark.slow
def test_a_cpu_without_avx512(tmp_path: Path) -> None:
    in_process(tmp_path, NUMBA_CPU_NAME="haswell")
    assert any("float32x8" in folder.name for folder in (tmp_path / "kernels").iterdir())
