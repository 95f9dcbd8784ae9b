"""The forms that a derivation is written in, and the command."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import pullback as pb
from pullback.cli.main import main

REPOSITORY = Path(__file__).resolve().parents[2]
WORKED = str(REPOSITORY / "docs" / "gallery" / "worked.py")


@pytest.fixture(scope="module")
def derivation() -> Any:
    def f(W: Any, x: Any) -> Any:
        return np.sum(np.tanh(W @ x))

    rng = np.random.default_rng(0)
    return pb.derive(f, rng.normal(size=(3, 4)), rng.normal(size=4))


def test_markdown(derivation: Any) -> None:
    text = derivation.markdown()
    assert r"| $\frac{\partial f}{\partial W} = \frac{\partial f}{\partial a_{1}}\, {x}^\top$ |" in text
    assert "### Backward" in text
    assert text.count("✓") == len(derivation.lines)


def test_latex_has_as_many_opening_braces_as_closing(derivation: Any) -> None:
    text = derivation.latex()
    assert text.startswith(r"\documentclass")
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert r"\frac{\partial f}{\partial x} = {W}^\top" in text


def test_html_is_a_page_of_its_own(derivation: Any) -> None:
    page = derivation.html()
    assert "http" not in page.replace("http://www.w3.org/1998/Math/MathML", "")
    assert page.count("<math") == len(derivation.lines)
    for formula in re.findall(r"<math.*?</math>", page, flags=re.DOTALL):
        ElementTree.fromstring(formula)
    assert derivation._repr_html_().startswith("<div")


def test_a_terminal_gets_colours(derivation: Any) -> None:
    plain = re.sub(r"\x1b\[\d+m", "", derivation.text(colour=True))
    assert plain == str(derivation)
    assert "\x1b[" in derivation.text(colour=True)


def test_the_command(capsys: Any, tmp_path: Path) -> None:
    assert main(["derive", f"{WORKED}:cross_entropy"]) == 0
    assert "p − onehot(k)" in capsys.readouterr().out
    assert main(["derive", f"{WORKED}:cross_entropy", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["closed_form"]["x"]["text"] == "p − onehot(k)"
    page = tmp_path / "page.html"
    assert main(["derive", f"{WORKED}:batch_norm", "--sizes", "x=m,C", "--format", "html", "--out", str(page)]) == 0
    assert "<math" in page.read_text()
    assert main(["derive", f"{WORKED}:matrix_vector", "--shapes", "3x4,4", "--wrt", "x"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["derive", "nowhere.py:f"], "there is no file"),
        (["derive", f"{WORKED}:residul"], "Did you mean"),
        (["derive", f"{WORKED}:residual", "--wrt", "q"], "the inputs are x, H, v"),
        (["derive", f"{WORKED}:residual", "--shapes", "a"], "expected --shapes"),
        (["derive", f"{WORKED}:residual", "--sizes", "x"], "expected --sizes"),
    ],
)
def test_what_cannot_be_derived_is_said(arguments: list[str], message: str, capsys: Any) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_the_gallery_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("gallery", REPOSITORY / "scripts" / "derivations_gallery.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def without_errors(text: str) -> str:
        return re.sub(r"\d(\.\d)?e-\d\d|0e\+00", "ERROR", text)

    assert without_errors(script.PAGE.read_text()) == without_errors(script.gallery()), "run the script again"
