"""The mistakes people make in a backward by hand are found, each with its cause, and nothing else is flagged."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

import pullback as pb

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "mistakes_gallery.py"


def _load_script() -> Any:
    spec = importlib.util.spec_from_file_location("mistakes_gallery", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


gallery = _load_script()
MISTAKES = [mistake for group in gallery.MISTAKES.values() for mistake in group]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m.backward.__name__)
def test_each_mistake_is_diagnosed(mistake: Any) -> None:
    report = pb.check(mistake.forward, *mistake.args, backward=mistake.backward)
    found = {name: verdict.cause for name, verdict in report.verdicts.items() if not verdict}
    assert found == mistake.causes
    for name in mistake.causes:
        verdict = report.verdicts[name]
        assert verdict.confidence > 0.5
        assert verdict.explanation
    assert bool(report) == (not mistake.causes)


def test_right_backwards_are_right() -> None:
    pairs = [
        (gallery.mean_loss, gallery.right_linear, gallery.LINEAR),
        (gallery.batch_norm, gallery.right_batch_norm, gallery.BATCH_NORM),
        (gallery.convolution, gallery.right_convolution, gallery.CONVOLUTION),
        (gallery.softmax, gallery.right_softmax, gallery.SOFTMAX),
        (gallery.rnn, gallery.right_rnn, gallery.RNN),
    ]
    for forward, backward, args in pairs:
        report = pb.check(forward, *args, backward=backward)
        assert {verdict.status for verdict in report.verdicts.values()} == {"right"}, forward.__name__


def test_what_the_explanations_say() -> None:
    def explain(mistake: str, name: str) -> str:
        [found] = [m for m in MISTAKES if m.backward.__name__ == mistake]
        return str(pb.check(found.forward, *found.args, backward=found.backward).verdicts[name].explanation)

    assert "The factor is x^T, not H" in explain("a_wrong_factor", "H")
    assert "must carry the gradient that arrives" in explain("b_lost_incoming", "x")
    assert "32 = x.shape[0], the batch size" in explain("f_mean_missing", "W")
    assert "The mean in `mean = np.mean(x, axis=0)` is treated as a constant" in explain("g_mean_constant", "x")
    assert "1 at the start of axis 1, 1 at the end of axis 1" in explain("h_border", "X")
    assert "-p_i p_j" in explain("i_diagonal", "x")
    assert "it uses x where the output belongs" in explain("j_x_for_y", "x")
    assert "it is taken from x > 0, not from h" in explain("j_wrong_mask", "x")


def test_the_page_is_up_to_date() -> None:
    assert gallery.PAGE.read_text() == gallery.page(), "run: python scripts/mistakes_gallery.py"
