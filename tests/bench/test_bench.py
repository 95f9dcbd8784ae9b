"""The benchmarks: contenders in turns, figures and their page, wrong names, contenders that differ or are missing."""

from __future__ import annotations

import functools
import json
import subprocess
import sys

import numpy as np
import pytest

from pullback.bench import command, page, runner, workloads
from pullback.bench.networks import MLP_SMALL, mlp, train, with_batch
from pullback.bench.networks import Network as Trained
from pullback.bench.runner import Effort, measure
from pullback.bench.workload import Workload
from pullback.errors import ConfigError, PullbackError

TINY = Effort(rounds=1, seconds=0.01, samples=1)


def quiet(line):
    pass


def test_the_command_measures_and_writes(tmp_path):
    figures, written = tmp_path / "figures.json", tmp_path / "page.md"
    words = ["--only", "scalar-chain-eager", "--rounds", "1", "--seconds", "0.01", "--json", str(figures)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words, "--md", str(written)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(figures.read_text())
    assert set(found) == {"machine", "versions", "command", "results"}
    (result,) = found["results"]
    assert (result["workload"], result["unit"]) == ("scalar-chain-eager", "ms")
    assert {"autograd"} <= {*result["peers"], *result["missing"]}
    assert 0 < result["pullback"]["min"] <= result["pullback"]["median"]
    assert result["pullback"]["n"] >= 1
    best = min(each["min"] for each in result["peers"].values())
    assert result["ratio"] == pytest.approx(best / result["pullback"]["min"])
    assert "scalar-chain-eager" in done.stdout
    assert "scalar-chain-eager" in written.read_text()
    assert (tmp_path / "page-ratios.svg").read_bytes().startswith(b"<?xml")


def test_a_page_of_curves_from_figures(tmp_path):
    def result(size, time):
        each = {"min": time, "median": 2 * time, "n": 3}
        return {
            "workload": f"batch/{size}", "summary": "a step", "precision": "float32", "unit": "ms",
            "pullback": each, "peers": {"torch-eager": each}, "missing": {"jax": "No module named 'jax'"}, "ratio": 1.0,
        }  # fmt: skip

    found = {
        "machine": {"processor": "one", "cpus": 2, "memory_mib": 3, "system": "four"},
        "versions": {"python": "3"}, "command": "these words", "results": [result(8, 1.0), result(16, 1.5)],
    }  # fmt: skip
    page.write(found, tmp_path / "performance.md")
    text = (tmp_path / "performance.md").read_text()
    assert "| batch/16 | float32 | ms | 1.5 (3) | 1.00 | torch-eager 1.5 (3) |" in text
    assert "No module named 'jax'" in text
    assert "these words" in text
    assert (tmp_path / "performance-batch.svg").exists()
    assert json.loads((tmp_path / "performance.json").read_text()) == found


def test_names():
    assert [each.name for each in workloads.select(["threads"])] == ["threads/1", "threads/2"]
    assert [each.name for each in workloads.select(["mlp-inference"])] == ["mlp-inference-1", "mlp-inference-256"]
    assert len(workloads.select([])) == len(workloads.WORKLOADS)
    with pytest.raises(ConfigError, match="Did you mean cnn64"):
        workloads.select(["cn64"])


def test_samples_and_what_is_missing():
    def absent():
        raise ImportError("no such library")

    samples = iter([3.0, 2.0, 4.0])
    ours = Workload("w", "", {"float32": lambda: lambda: next(samples)}, {"peer": absent}, unit="s", fresh=True)
    result = measure(ours, "float32", Effort(samples=3), quiet)
    assert result["pullback"] == {"min": 2.0, "median": 3.0, "n": 3}
    assert result["missing"] == {"peer": "no such library"}
    assert result["ratio"] is None


def test_contenders_that_differ_are_not_measured():
    same = Workload("w", "", {}, {})
    runner._compare(same, "float32", {"pullback": 1.0, "peer": 1.0005})
    with pytest.raises(PullbackError, match="not the same work"):
        runner._compare(same, "float32", {"pullback": 1.0, "peer": 1.1})


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_peers_do_the_same_steps(optimiser):
    network = Trained(mlp(16), (3072,), 10, 8, optimiser, 0.01)
    from pullback.bench import in_numpy

    steps = [train(network, "float32"), in_numpy.training(network), in_numpy.training_by_autograd(network)]
    for _ in range(3):
        values = [float(step()) for step in steps]
        np.testing.assert_allclose(values, values[0], rtol=1e-4)


@pytest.mark.peers
@pytest.mark.parametrize("name", ["cifar-cnn", "mlp-small"])
def test_torch_and_jax_do_the_same_steps(name):
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    workload = workloads.WORKLOADS[name]
    names = [peer for peer in workload.peers if peer != "torch-compile"]
    steps = [workload.contender(peer, "float32")() for peer in ("pullback", *names)]
    for _ in range(2):
        values = [float(step()) for step in steps]
        np.testing.assert_allclose(values, values[0], rtol=2e-3)


def test_predictions_agree():
    workload = workloads.WORKLOADS["mlp-inference-1"]
    ours, theirs = workload.contender("pullback", "float32")(), workload.contender("numpy", "float32")()
    np.testing.assert_allclose(ours(), theirs(), rtol=1e-4, atol=1e-5)


def test_an_unknown_workload_is_an_error_of_the_command():
    with pytest.raises(SystemExit, match="no workload"):
        command.main(["--only", "nothing"])


def test_networks_keep_their_sizes():
    assert with_batch(MLP_SMALL, 3).data()[0].shape == (3, 3072)
    assert functools.reduce(lambda product, size: product * size, MLP_SMALL.input_shape) == 3072
