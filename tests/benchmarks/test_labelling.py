"""The benchmarks of labelling run, and check what they measure; the large one keeps its limits."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import label_table, labelling


def test_table(tmp_path: Path) -> None:
    result = label_table.measure(rows=5000, files=20, folder=tmp_path)
    assert result["shards"] == 2
    assert 0 < result["selected"] < 5000


def test_throughput(data_folder: Path) -> None:
    result = labelling.throughput(count=24, turns=1, workers=2)
    assert result["images"] == 24
    assert result["ratio"] > 0


@pytest.mark.slow
def test_many_files() -> None:
    """200,000 files: labelled halfway, killed, continued, in seconds and in less than a gigabyte."""
    result = labelling.many(200_000)
    for name in ("killed halfway", "continued", "nothing left"):
        assert result[f"{name}: to the first labels"] < 10
    assert 100_000 <= result["continued: labelled"] < 130_000
    assert result["nothing left: labelled"] == 0
    assert result["continued: peak memory, MiB"] < 953  # a gigabyte
