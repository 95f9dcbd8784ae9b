"""No false alarm: right backwards, in forms that differ from the tape's, are found right."""

from __future__ import annotations

import backwards
import pytest

import pullback as pb


@pytest.mark.parametrize("tens", range(20))
def test_right_backwards_in_other_forms_are_right(tens: int) -> None:
    for seed in range(10 * tens, 10 * tens + 10):
        pair = backwards.draw(seed)
        report = pb.check(pair.forward, *pair.args, backward=pair.backward)
        wrong = {name: verdict.explanation for name, verdict in report.verdicts.items() if verdict.status != "right"}
        assert wrong == {}, f"seed {seed}: {pair.name}"
        assert report
