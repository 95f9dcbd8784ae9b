"""docs/numpy-coverage.md is what scripts/coverage_table.py writes, and what it says happens."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pullback as pb

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "coverage_table.py"


def _load_script() -> Any:
    spec = importlib.util.spec_from_file_location("coverage_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


table = _load_script()
ROWS = {row.name: row for row in table.rows()}


def test_the_page_is_up_to_date() -> None:
    written = table.PAGE.read_text()
    version = re.search(r"functions of NumPy\s+(\d+\.\d+)", written)
    assert version is not None
    if version[1] != table.minor_version():
        pytest.skip(f"the page lists NumPy {version[1]}, here is {np.__version__}")
    assert written == table.page(), "run: python scripts/coverage_table.py"


def test_every_public_function_has_one_row() -> None:
    """Whatever the version of NumPy."""
    public = {f"np.{name}" for name in np.__all__ if callable(f := getattr(np, name)) and not isinstance(f, type)}
    assert public - set(ROWS) == {"np.test"}  # which runs NumPy's own tests
    assert len(ROWS) == len(table.rows())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("np.exp", "elementwise"), ("np.floor", table.ZERO), ("np.sum", table.COMPOSITION), ("np.argmax", table.PLAIN),
        ("np.shape", table.PLAIN), ("np.less", table.PLAIN), ("np.linalg.inv", table.NO_RULE),
        ("np.gcd", table.NO_RULE),
        ("np.arange", table.NOT_DISPATCHED), ("np.array", table.NOT_DISPATCHED), ("np.zeros_like", table.COMPOSITION),
    ],
)  # fmt: skip
def test_kinds(name: str, kind: str) -> None:
    assert ROWS[name].kind == kind


def test_compositions_say_what_they_are_made_of() -> None:
    assert ROWS["np.sum"].uses == ("`sum` (linear)",)
    assert ROWS["np.clip"].uses == ("`np.maximum`", "`np.minimum`")
    assert ROWS["np.max"].uses == ("`max` (selection)",)


def _outcome(name: str) -> str:
    """What a function of one array in fact does with a tensor."""
    function: Any = np
    for part in name.split(".")[1:]:
        function = getattr(function, part)
    try:
        result = function(pb.tensor(np.full((2, 2), 0.5) + np.eye(2)))
    except pb.NoRuleError:
        return table.NO_RULE
    except pb.LeavesTapeError:
        return table.NOT_DISPATCHED
    first = result[0] if isinstance(result, tuple | list) else result
    return "tensor" if isinstance(first, pb.Tensor) else table.PLAIN


EXAMPLES = [
    "np.exp", "np.floor", "np.sum", "np.sort", "np.modf", "np.atleast_3d", "np.argmax", "np.ndim", "np.isnan",
    "np.median", "np.unique", "np.linalg.inv", "np.linalg.norm", "np.linalg.svd", "np.array", "np.asarray",
    "np.ascontiguousarray",
]  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_the_table_says_is_what_happens(name: str) -> None:
    kind = ROWS[name].kind
    tracked = kind in ("elementwise", table.ZERO, table.COMPOSITION)
    assert _outcome(name) == ("tensor" if tracked else kind)
