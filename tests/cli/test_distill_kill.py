"""`pullback distill` killed by SIGKILL while it labels, resizes and trains: nothing is lost, nothing doubled, and at
the end there are the files of the unbroken run."""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import load_file

from pullback.teach import LabelTable
from pullback.teach.shards import shard_paths

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")

IMAGES = 640

JOB = """
import functools, sys
from pullback.data import cache
from pullback.teach import Teacher, label_folder
from pullback.train import Settings, distill, loop

folder, out = sys.argv[1:]
cache.SHARD_BYTES = 8 * 8 * 8 * 3  # eight images in a file
distill.label_folder = functools.partial(label_folder, shard_rows=12, batch_size=4)
make, step = cache._Shard.make, loop._Trainer.step

def say(phase):
    print(phase, flush=True)

def make_and_say(self, *args):
    say("caching")
    make(self, *args)

def step_and_say(self, batch):
    say("training")
    step(self, batch)

cache._Shard.make, loop._Trainer.step = make_and_say, step_and_say
say("ready")
student = Settings(
    model="levels-cnn", levels=(4,), repeats=1, image_size=8, steps=400, eval_every=20, log_every=3, batch_size=16,
    augment=("flip", "crop"), average=0.9, schedule="cosine", optimizer="adamw", checkpoint_every=0.001,
)
distill.distill(
    folder, Teacher("mine:brightness"), out, student, bare=True, quiet=True,
    on_labelling=lambda done, total: say("labelling" if done < total else "labelled"),
)
"""

TEACHER = """
import numpy as np

def brightness(batch):
    mean = batch.mean(axis=(1, 2))
    return np.concatenate([mean, 1 - mean.mean(axis=1, keepdims=True)], axis=1)

brightness.teacher = {"size": 8, "layout": "NHWC", "mean": 0, "std": 64, "classes": ["red", "green", "blue", "dark"]}
"""


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """Images of noise around a colour each, every tenth of them twice."""
    (tmp_path / "mine.py").write_text(TEACHER)
    for k in range(IMAGES):
        path = tmp_path / "photos" / f"{k % 7}" / f"{k:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        if k % 10 == 9:
            path.write_bytes((tmp_path / "photos" / f"{(k - 1) % 7}" / f"{k - 1:03}.png").read_bytes())
            continue
        pixels = np.clip(rng.integers(0, 256, 3) + rng.integers(-30, 30, (9, 11, 3)), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "photos"


def run(folder: Path, out: Path, phase: str = "", lines: int = 0, moment: float = 0.0) -> bool:
    """Run the job; where a phase is given, kill it that many lines of progress and a moment into it. Whether it was."""
    with subprocess.Popen(
        [sys.executable, "-c", JOB, folder, out], cwd=folder.parent, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == phase:
                if lines == 0:
                    time.sleep(moment)
                    process.kill()
                    break
                lines -= 1
        process.stdout.read()
    assert process.returncode in (0, -signal.SIGKILL)
    return process.returncode != 0


def written_paths(out: Path) -> list[str]:
    """The path of every row of every shard of labels."""
    return [path for shard in shard_paths(out / "labels") for path in pq.read_table(shard)["path"].to_pylist()]


def survive(folder: Path, out: Path, kills: int) -> None:
    instants = random.Random(0)
    labelled = 0
    for phase in ("labelling", "caching", "training"):
        killed = 0
        while killed < kills:
            # Few enough lines that no phase comes to its end before the last kill.
            assert run(
                folder, out, phase, instants.randrange(6 if phase == "training" else 3), instants.uniform(0, 0.02)
            )
            killed += 1
            paths = written_paths(out)
            assert len(paths) == len(set(paths)) >= labelled  # what was once written stays, and only once
            labelled = len(paths)
    assert not run(folder, out)
    paths = written_paths(out)
    assert sorted(paths) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


def compare(folder: Path, whole: Path, broken: Path) -> None:
    """Labels by the hashes of the files, pixels, metrics and network of two jobs are the same."""
    names = ["path", "sha256", "label", "probabilities"]
    tables = [LabelTable(out / "labels").rows.select(names).sort_by("path") for out in (whole, broken)]
    assert tables[0].equals(tables[1])
    for path, sha256 in zip(tables[1]["path"].to_pylist(), tables[1]["sha256"].to_pylist(), strict=True):
        assert hashlib.sha256((folder / path).read_bytes()).hexdigest() == sha256
    pixels = [{path.name: path.read_bytes() for path in (out / "pixels").glob("*.npy")} for out in (whole, broken)]
    assert len(pixels[0]) == IMAGES // 8
    assert pixels[0] == pixels[1]
    assert (whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes()
    networks = [load_file(out / "checkpoints" / "last.safetensors") for out in (whole, broken)]
    assert networks[0].keys() == networks[1].keys()
    assert all(np.array_equal(networks[0][name], networks[1][name]) for name in networks[0])


def test_killed_once_in_each_phase(folder: Path, tmp_path: Path) -> None:
    assert not run(folder, tmp_path / "whole")
    survive(folder, tmp_path / "broken", kills=1)
    compare(folder, tmp_path / "whole", tmp_path / "broken")


@pytest.mark.slow
def test_killed_twenty_times_in_each_phase(folder: Path, tmp_path: Path) -> None:
    assert not run(folder, tmp_path / "whole")
    survive(folder, tmp_path / "broken", kills=20)
    compare(folder, tmp_path / "whole", tmp_path / "broken")
