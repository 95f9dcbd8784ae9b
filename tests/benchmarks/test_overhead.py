"""The overhead benchmark runs and reports what it promises; its figures are for people, not asserted here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_overhead_reports_both_libraries(tmp_path: Path) -> None:
    pytest.importorskip("autograd")
    file = tmp_path / "overhead.json"
    command = [sys.executable, "-m", "benchmarks.overhead", "--runs", "3", "--json", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert set(result["short_chain"]) == {"pullback", "autograd"}
    assert result["long_chain"]["found_by_gc"] == 0
    assert result["long_chain"]["left_bytes"] < 0.001 * result["long_chain"]["peak_bytes"]
    assert f"{result['ratio']['min_ms']:.2f}" in done.stdout
