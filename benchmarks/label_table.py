"""A table of a million labels, and a folder of 200,000 files: how long it takes to open, filter, list and compare.

Run `python -m benchmarks.label_table`. The labels are made up; what is measured is how they are kept and read.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from pullback.data import Listing
from pullback.data.source import open_source
from pullback.teach import ClassName, LabelKind, LabelTable, Selection
from pullback.teach.known import Known
from pullback.teach.shards import LabelledImage, LabelWriter

CLASSES = 10
TOP_K = 5
SHARD = 4096


def kind() -> LabelKind:
    """Labels over ten classes, of which five are kept."""
    classes = tuple(ClassName(i, f"class {i}", f"n{i:08}") for i in range(CLASSES))
    return LabelKind("benchmark", "0" * 64, {"size": [224, 224]}, classes, "bicubic", TOP_K)


def path_of(index: int) -> str:
    return f"train/n{index % 1000:08}/image_{index:08}.png"


def write_table(folder: Path, rows: int) -> None:
    """A table of so many rows, written as labelling writes it, in shards that merge."""
    rng = np.random.default_rng(0)
    with LabelWriter(folder, kind(), SHARD, 1e9) as writer:
        for start in range(0, rows, SHARD):
            count = min(SHARD, rows - start)
            digests = rng.integers(0, 256, (count, 32), np.uint8)
            images = [
                LabelledImage(path_of(start + i), digests[i].tobytes().hex(), 9000 + i, start + i, i)
                for i in range(count)
            ]
            powers = np.exp(3 * rng.standard_normal((count, CLASSES), np.float32))
            writer.append(images, powers / powers.sum(axis=1, keepdims=True))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def measure(rows: int, files: int, folder: Path) -> dict[str, Any]:
    """Everything in seconds, and the peak of memory in bytes."""
    result: dict[str, Any] = {"rows": rows, "files": files}
    result["write"], _ = seconds(lambda: write_table(folder / "labels", rows))
    result["shards"] = len(list((folder / "labels").glob("*.parquet")))
    result["bytes"] = sum(path.stat().st_size for path in (folder / "labels").glob("*.parquet"))
    result["open"], table = seconds(lambda: _opened(folder / "labels"))
    result["filter"], chosen = seconds(lambda: table.selected(Selection(min_confidence=0.9, max_per_class=5000)))
    result["selected"] = len(chosen)
    result["paths of the selected"], _ = seconds(lambda: table.column("path").take(chosen).to_pylist())
    result["soft labels"], _ = seconds(table.probabilities)
    listing = Listing([path_of(i) for i in range(rows)], [9000 + i % SHARD for i in range(rows)], list(range(rows)))
    result["compare with a listing"], (to_do, gone) = seconds(lambda: Known(folder / "labels", kind()).compare(listing))
    if to_do or gone:
        raise AssertionError(f"{len(to_do)} images to label, {len(gone)} removed: expected none")
    if files:
        _write_files(folder / "images", files)
        result["list files"], listed = seconds(open_source(folder / "images").listing)
        if len(listed) != files:
            raise AssertionError(f"{len(listed)} files were listed, of {files}")
    result["peak memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return result


def _opened(folder: Path) -> LabelTable:
    table = LabelTable(folder)
    len(table)  # which finds the last row of each path
    return table


def _write_files(folder: Path, files: int) -> None:
    for index in range(files):
        path = folder / path_of(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--files", type=int, default=200_000)
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options.rows, options.files, Path(folder))
    if options.json:
        print(json.dumps(result))
        return
    table = Table(title=f"{result['rows']:,} rows, {result['files']:,} files")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in result.items():
        if isinstance(value, float):
            table.add_row(name, f"{value:.2f} s")
        elif name in ("bytes", "peak memory"):
            table.add_row(name, f"{value / 1e6:,.0f} MB")
        else:
            table.add_row(name, f"{value:,}")
    Console().print(table)


if __name__ == "__main__":
    main()
