"""Threads, memory and the cache of compiled kernels: damaged, not writable, for another CPU, shared by threads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pullback.errors import ConfigError
from pullback.kernels import convolution, elementwise, runtime
from pullback.kernels.runtime import Floats, kernel

_ONE_STEP = """
import sys
import numpy as np
from pullback.kernels import elementwise, target
p, g, v = np.ones(100, np.float32), np.full(100, 2.0, np.float32), np.zeros(100, np.float32)
elementwise.sgd(p, g, v, 0.25)
assert (p == 0.5).all()
print("numba" if "numba" in sys.modules else "no numba", target.WIDTH)
"""


def _run(code: str, cache: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "PULLBACK_CACHE": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_kernels_are_compiled_once_and_damage_is_survived(tmp_path: Path) -> None:
    first = _run(_ONE_STEP, tmp_path)
    assert "compiling kernels for this CPU (once)" in first.stderr
    assert "sgd step" in first.stderr
    assert first.stdout.startswith("numba")
    second = _run(_ONE_STEP, tmp_path)
    assert second.stderr == ""
    assert second.stdout.startswith("no numba"), "machine code on disk is run without Numba, whose import is slow"

    files = list(tmp_path.rglob("*.o"))
    assert len(files) > 1
    for file in files:
        file.write_bytes(file.read_bytes()[:40])
    damaged = _run(_ONE_STEP, tmp_path)
    assert damaged.stderr.count("UserWarning") == 1
    assert "cannot be read" in damaged.stderr
    assert "compiling kernels" in damaged.stderr
    assert _run(_ONE_STEP, tmp_path).stderr == "", "the damaged files were not replaced"


def test_a_cache_that_cannot_be_written_costs_one_warning(tmp_path: Path) -> None:
    file = tmp_path / "not-a-folder"
    file.write_text("")
    done = _run(_ONE_STEP, file)
    assert done.stderr.count("UserWarning") == 1
    assert "cannot be written" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("cpu", "width"), [("haswell", 8), ("nehalem", 4)])
def test_narrower_vectors_give_the_same_results(cpu: str, width: int, tmp_path: Path) -> None:
    code = """
import numpy as np
from pullback.kernels import convolution as c, reference as r, target
random = np.random.default_rng(0)
for algorithm in ("winograd", "shifted", "tiny"):
    for inputs, outputs in ((20, 37), (64, 64)):
        x = random.standard_normal((3, 7, 9, inputs)).astype(np.float32)
        w = random.standard_normal((3, 3, inputs, outputs)).astype(np.float32)
        g = random.standard_normal((3, 7, 9, outputs)).astype(np.float32)
        pairs = [(c.forward(x, w, 1, 1, algorithm=algorithm), r.forward(x, w, 1, 1)),
                 (c.input_adjoint(g, w, x.shape, 1, 1, algorithm=algorithm), r.input_adjoint(g, w, x.shape, 1, 1)),
                 (c.weight_adjoint(x, g, w.shape, 1, 1, algorithm=algorithm), r.weight_adjoint(x, g, w.shape, 1, 1))]
        for found, exact in pairs:
            assert np.abs(found - exact).max() < 1e-4 * np.abs(exact).max()
print("width", target.WIDTH)
"""
    done = _run(code, tmp_path, NUMBA_CPU_NAME=cpu)
    assert int(done.stdout.split()[-1]) <= width


@pytest.fixture(autouse=True)
def threads_as_they_were() -> Iterator[None]:
    yield
    runtime.threads.cache_clear()


def with_threads(monkeypatch: pytest.MonkeyPatch, count: str | None) -> None:
    """As a process has it that starts with this count in its environment."""
    if count is None:
        monkeypatch.delenv("PULLBACK_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("PULLBACK_NUM_THREADS", count)
    runtime.threads.cache_clear()


def test_thread_count_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    x = random.standard_normal((3, 9, 9, 20)).astype(np.float32)
    w = random.standard_normal((3, 3, 20, 40)).astype(np.float32)
    with_threads(monkeypatch, None)
    assert runtime.threads() >= 1
    expected = convolution.forward(x, w, 1, 1)
    for count in ("1", "3", "7"):
        with_threads(monkeypatch, count)
        assert runtime.threads() == int(count)
        for algorithm in ("winograd", "shifted", "tiny"):
            found = convolution.forward(x, w, 1, 1, algorithm=algorithm)
            np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3)
    for wrong in ("0", "-1", "two", "", "1025"):
        with_threads(monkeypatch, wrong)
        with pytest.raises(ConfigError, match="PULLBACK_NUM_THREADS: expected a whole number"):
            runtime.threads()


def test_buffers_start_on_a_cache_line() -> None:
    for shape, kind in ((3, np.float32), ((5, 7), np.float32), (1, np.uint8), ((2, 1), np.float32)):
        array = runtime.empty(shape, kind)
        assert array.shape == np.empty(shape).shape
        assert array.dtype == kind
        assert array.ctypes.data % 64 == 0
    room, step = runtime.scratch(100)
    assert step >= 100
    assert room.size >= step * runtime.threads()
    assert step % 16 == 0


def test_kernels_may_be_called_from_several_threads() -> None:
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((2, 8, 8, 16)).astype(np.float32) for _ in range(4)]
    w = random.standard_normal((3, 3, 16, 32)).astype(np.float32)
    expected = [convolution.forward(x, w, 1, 1) for x in inputs]
    found: list[Any] = [None] * len(inputs)

    def work(index: int) -> None:
        for _ in range(20):
            found[index] = convolution.forward(inputs[index], w, 1, 1)

    workers = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for mine, exact in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mine, exact)


@kernel
def mark(thread: int, threads: int, counts: Floats, most: int) -> None:
    """counts[thread] += 1, and the number of threads where there should be none."""
    if thread < threads and threads <= most:
        counts[16 * thread] += np.float32(1.0)
    else:
        counts[0] = np.float32(-1e6)


def marks(counts: Any) -> Any:
    return counts[::16].tolist()


def test_every_thread_does_its_share_once_whether_workers_are_awake_or_asleep(monkeypatch: pytest.MonkeyPatch) -> None:
    expected, counts = [0.0] * 9, np.zeros(16 * 9, np.float32)
    random = np.random.default_rng(0)
    for turn in range(300):
        threads = int(random.integers(1, 9))
        with_threads(monkeypatch, str(threads))
        for _ in range(20):
            mark(counts, 9)
        expected = [count + 20 * (thread < threads) for thread, count in enumerate(expected)]
        if turn % 30 == 0:
            time.sleep(0.05)  # long enough to go to sleep
        assert marks(counts) == expected


def test_a_kernel_that_several_threads_want_first_is_compiled_once(tmp_path: Path) -> None:
    code = """
import threading
import numpy as np
from pullback.kernels import elementwise
start, results = threading.Barrier(6), [np.ones(1000, np.float32) for _ in range(6)]
def work(p):
    start.wait()
    elementwise.sgd(p, np.full(1000, 2.0, np.float32), np.zeros(1000, np.float32), 0.25)
callers = [threading.Thread(target=work, args=(each,)) for each in results]
for caller in callers:
    caller.start()
for caller in callers:
    caller.join()
assert all((each == 0.5).all() for each in results)
assert sum(each.name.startswith("pullback-") for each in threading.enumerate()) == 2
"""
    assert "kernel 2" not in _run(code, tmp_path, PULLBACK_NUM_THREADS="3").stderr
    _run(code, tmp_path, PULLBACK_NUM_THREADS="3")


def test_callers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    with_threads(monkeypatch, "3")
    counts = [np.zeros(16 * 9, np.float32) for _ in range(4)]

    def work(mine: Any) -> None:
        for _ in range(500):
            mark(mine, 9)

    callers = [threading.Thread(target=work, args=(each,)) for each in counts]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    for each in counts:
        assert marks(each) == [500.0] * 3 + [0.0] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_forked_process_has_threads_of_its_own(tmp_path: Path) -> None:
    code = """
import os
import numpy as np
from pullback.kernels import elementwise
p, g = np.ones(1000, np.float32), np.full(1000, 2.0, np.float32)
elementwise.sgd(p, g, np.zeros(1000, np.float32), 0.25)
child = os.fork()
elementwise.sgd(p, g, np.zeros(1000, np.float32), 0.25)
assert (p == 0.0).all()
if child:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    _run(code, tmp_path, PULLBACK_NUM_THREADS="3")


def test_kernels_refuse_arrays_they_would_misread() -> None:
    p = np.zeros(4, np.float32)
    with pytest.raises(TypeError, match="contiguous float32"):
        elementwise.sgd(p, p.astype(np.float64), p.copy(), 0.1)
    with pytest.raises(TypeError, match="contiguous float32"):
        elementwise.sgd(p, np.zeros(8, np.float32)[::2], p.copy(), 0.1)
    with pytest.raises(TypeError, match="contiguous float32 arrays, got float32"):
        elementwise.sgd(p[:1], np.float32(1.0), p[:1].copy(), 0.1)
