"""Labelling beside the bare teacher: what decoding, resizing, hashing and writing cost; and a folder of many files.

Run `python -m benchmarks.labelling` for 64x64 photographs (PULLBACK_DATA must name the folder with imagenette64/ and
teacher/), and `python -m benchmarks.labelling --many 200000` for as many generated files and a teacher that costs
nothing, labelled halfway, killed and continued.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from pullback.bench import memory
from pullback.data import open_source
from pullback.data.parallel import map_ahead
from pullback.teach import LabelTable, Teacher, TeacherSpec, label_folder

IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
BATCHES = (4, 8)


def photographs(folder: Path, count: int) -> Path:
    """The first photographs of the data, as files."""
    data = Path(os.environ["PULLBACK_DATA"])
    with zipfile.ZipFile(data / "imagenette64" / "unlabelled_8000.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))[:count]
        archive.extractall(folder, names)
    return folder


def bare(teacher: Teacher, pixels: NDArray[np.uint8], batch: int, workers: int) -> float:
    """Images a second of the teacher on images that are decoded and resized already."""
    starts = range(0, len(pixels), batch)
    began = time.perf_counter()
    for _ in map_ahead(
        lambda start: teacher.probabilities(pixels[start : start + batch]), starts, workers=workers, ahead=2 * workers
    ):
        pass
    return len(pixels) / (time.perf_counter() - began)


def throughput(count: int, turns: int, workers: int) -> dict[str, Any]:
    """Both in turns, so that a slow moment of the machine falls on both; medians of the turns."""
    teacher = Teacher(Path(os.environ["PULLBACK_DATA"]) / "teacher" / "efficientnet_lite0_224.onnx")
    rates: dict[str, list[float]] = {"labelling": [], **{f"bare, batches of {batch}": [] for batch in BATCHES}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = photographs(Path(temporary) / "photographs", count)
        label_folder(photographs(Path(temporary) / "few", 40), teacher, Path(temporary) / "first", classes=IMAGENETTE)
        source = open_source(folder)
        read = source.images(source.listing().paths[: count // 2], teacher.size)
        pixels = np.array([found.image for found in read if found.image is not None])
        for _ in range(turns):
            for batch in BATCHES:
                rates[f"bare, batches of {batch}"].append(bare(teacher, pixels, batch, workers))
            out = Path(temporary) / "labels"
            result = label_folder(folder, teacher, out, classes=IMAGENETTE, workers=workers)
            rates["labelling"].append(result.labelled / result.seconds)
            shutil.rmtree(out)
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(medians[f"bare, batches of {batch}"] for batch in BATCHES)
    return {"images": count, "turns": turns, "threads": workers, **medians, "ratio": medians["labelling"] / best}


# -- Many small files ---------------------------------------------------------------------------------------


def brightness(batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """A teacher that costs nothing: four classes by mean colour."""
    mean = batch.mean(axis=(1, 2))
    return np.concatenate([mean, 1 - mean.mean(axis=1, keepdims=True)], axis=1)


def make_files(folder: Path, count: int) -> None:
    """So many PNG files of 8x8 pixels in a thousand folders, each of another content: they end in their number."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(256):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(buffer, "png")
        pictures.append(buffer.getvalue())
    for index in range(count):
        path = folder / f"n{index % 1000:08}" / f"image_{index:08}.png"
        if index < 1000:
            path.parent.mkdir(parents=True)
        path.write_bytes(pictures[index % 256] + index.to_bytes(4, "big"))


def label_many(folder: Path, out: Path, stop_at: int | None) -> dict[str, Any]:
    """Label, and say when the first progress came, and the peak of memory; killed when so many are done."""
    spec = TeacherSpec(size=(8, 8), layout="NHWC", mean=(0.0,), std=(255.0,), output="logits")
    teacher = Teacher("benchmarks.labelling:brightness", spec)
    began = time.perf_counter()
    first: list[float] = []

    def progress(done: int, total: int) -> None:
        first.append(time.perf_counter() - began) if len(first) < 2 else None
        if stop_at is not None and done >= stop_at:
            print(json.dumps({"to the first labels": first[-1]}), flush=True)
            os.kill(os.getpid(), 9)

    result = label_folder(folder, teacher, out, batch_size=64, on_progress=progress)
    return {
        "to the first labels": first[-1],
        "labelled": result.labelled,
        "images/s": result.labelled / result.seconds,
        "peak memory, MiB": memory.peak(),
    }


def many(count: int) -> dict[str, Any]:
    """Label half of the files, be killed, continue, and call it once more when nothing is left to do."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, out = Path(temporary) / "images", Path(temporary) / "labels"
        make_files(folder, count)
        rows: dict[str, Any] = {"files": count}
        for name, stop in (("killed halfway", count // 2), ("continued", None), ("nothing left", None)):
            words = [sys.executable, "-m", "benchmarks.labelling", "--child", str(folder), str(out), str(stop or 0)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if not done.stdout:
                raise RuntimeError(done.stderr)
            rows |= {f"{name}: {key}": value for key, value in json.loads(done.stdout).items()}
        table = LabelTable(out)
        if len(table) != count or len(set(table.paths)) != count:
            raise AssertionError(f"{len(table)} labels of {count} files")
        return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=1600)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--many", type=int, default=0, help="generate so many small files in place of photographs")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        folder, out, stop = options.child
        print(json.dumps(label_many(Path(folder), Path(out), int(stop) or None)))
        return
    result = many(options.many) if options.many else throughput(options.images, options.turns, options.threads)
    if options.json:
        print(json.dumps(result))
        return
    table = Table("what", "value", title="labelling")
    for name, value in result.items():
        table.add_row(name, f"{value:,.3g}" if isinstance(value, float) else f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
