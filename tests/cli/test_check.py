"""`pullback check`: pairs in files, the table, limits, exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYERS = """
import numpy as np
import pullback as pb

def softmax(x):
    e = np.exp(x - np.max(x))
    return e / np.sum(e)

def softmax_backward(g, x):
    p = softmax(x)
    return g * p * (1 - p)

softmax_example = (np.arange(5.0),)

def _tanh(x):
    y = np.tanh(x)
    return y, y

squash = pb.custom(_tanh, lambda y, g: g * (1 - y * y))

def squash_example():
    return np.arange(3.0)

def cube(x):
    return x**3

cube_example = np.arange(3.0)
"""


def write(folder: Path, text: str, name: str = "layers.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_a_table_and_the_diagnoses(call: Any, tmp_path: Path) -> None:
    done = call("check", write(tmp_path, LAYERS))
    assert done.code == 3
    assert "softmax  x  WRONG  diagonal_only" in done.out
    assert "squash   x  right" in done.out
    assert "2 checked, 1 wrong" in done.out
    assert "-p_i p_j" in done.out


def test_one_function_by_name(call: Any, tmp_path: Path) -> None:
    path = write(tmp_path, LAYERS)
    assert call("check", f"{path}:squash").code == 0
    alone = call("check", f"{path}:cube", "--json")
    assert alone.code == 0
    [record] = json.loads(alone.out)
    assert record["report"]["rules"]
    missing = call("check", f"{path}:nothing")
    assert missing.code == 3
    assert "there is no function nothing; there are softmax, squash" in missing.out


def test_json_and_html(call: Any, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    done = call("check", write(tmp_path, LAYERS), "--json", "--html", page)
    by_name = {record["name"]: record for record in json.loads(done.out)}
    assert by_name["softmax"]["report"]["verdicts"]["x"]["cause"] == "diagonal_only"
    assert by_name["squash"]["ok"]
    text = page.read_text()
    assert "diagonal_only" in text
    assert "http" not in text


def test_an_infinite_loop_meets_the_time_limit_and_what_was_found_before_it_counts(call: Any, tmp_path: Path) -> None:
    text = LAYERS + "\ndef loop(x):\n    while True:\n        pass\n\nloop_backward = loop\nloop_example = np.ones(2)\n"
    done = call("check", write(tmp_path, text), "--time-limit", 4)
    assert done.code == 3
    assert "did not end within the time limit of 4 s" in done.out
    assert "squash   x  right" in done.out


def test_files_that_cannot_be_checked_are_reported(call: Any, tmp_path: Path) -> None:
    broken = write(tmp_path, "def f(:\n", "broken.py")
    empty = write(tmp_path, "x = 1\n", "empty.py")
    leaves = write(tmp_path, "import os\nos._exit(7)\n", "leaves.py")
    without = write(tmp_path, "def f(x):\n    return x\n\n\ndef f_backward(g, x):\n    return g\n", "without.py")
    done = call("check", broken, empty, leaves, without)
    assert done.code == 3
    assert "SyntaxError" in done.out
    assert "nothing to check" in done.out
    assert "ended the process with code 7" in done.out
    assert "define f_example" in done.out
    gone = call("check", tmp_path / "gone.py")
    assert gone.code == 2
    assert "no such file" in gone.err


def test_the_memory_limit(call: Any, tmp_path: Path) -> None:
    text = "import numpy as np\n\n\ndef f(x):\n    return x\n\n\ndef f_backward(g, x):\n"
    text += "    return g + 0 * np.ones((60_000, 10_000)).sum()\n\n\nf_example = np.ones(2)\n"
    done = call("check", write(tmp_path, text), "--memory-limit", 2000)
    assert done.code == 3
    assert "MemoryError" in done.out


LISTS = """
import numpy as np

def f(x, y):
    return x * y

def f_backward(g, x, y):
    return g * y, g * x

def h(pair):
    return pair[0] * pair[1]

f_example = h_example = [np.ones(2), np.ones(2)]
"""


def test_a_list_of_several_arguments_is_taken_apart(call: Any, tmp_path: Path) -> None:
    path = write(tmp_path, LISTS)
    assert "f  y  right" in call("check", path).out
    assert call("check", f"{path}:h").code == 0
