"""Processes that are really killed, by SIGKILL at random instants, and the metrics of the runs they left behind."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

ENTRY = "import sys; from pullback.cli.main import main; sys.exit(main())"
TRAIN = ["train", "mlp", "--hidden", "32", "--eval-every", "40", "--log-every", "7", "--checkpoint-every", "0.05"]


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ENTRY, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def run_and_kill(folder: Path, steps: int, kills: int, instants: random.Random, seconds: float) -> int:
    """Train in `folder` to the last step, killing the process up to `kills` times; return how often it was."""
    killed = 0
    while True:
        begun = (folder / "config.toml").exists()
        words = ["resume", str(folder)] if begun else [*TRAIN, "--steps", str(steps), "--out", str(folder)]
        with start(*words) as process:
            if killed < kills:
                try:
                    process.wait(instants.uniform(0, seconds))
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    killed += 1
            _, err = process.communicate(timeout=120)
        if process.returncode == 0:
            return killed
        assert process.returncode == -signal.SIGKILL, err


def survive(tmp_path: Path, steps: int, kills: int) -> None:
    """Kill runs of so many steps, each twice at most, until there were `kills`; compare each with an unbroken one."""
    began = time.monotonic()
    run_and_kill(tmp_path / "unbroken", steps, 0, random.Random(), 0)
    seconds = time.monotonic() - began
    expected = (tmp_path / "unbroken" / "metrics.jsonl").read_bytes()
    instants = random.Random(0)
    killed = 0
    while killed < kills:
        folder = tmp_path / f"killed-{killed}"
        killed += run_and_kill(folder, steps, min(2, kills - killed), instants, seconds)
        assert (folder / "metrics.jsonl").read_bytes() == expected
        shutil.rmtree(folder)  # a run that ended before it was killed leaves the name to the next


def test_killed_twice(tmp_path: Path) -> None:
    survive(tmp_path, steps=100, kills=2)


@pytest.mark.slow
def test_killed_at_twenty_random_instants(tmp_path: Path) -> None:
    survive(tmp_path, steps=600, kills=20)
