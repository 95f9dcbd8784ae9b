"""For the tests of those who write functions and derivatives: `pb.testing.assert_gradients`."""

from __future__ import annotations

from typing import Any

from pullback.show.check import check

__all__ = ["assert_gradients"]


def assert_gradients(f: Any, *args: Any, backward: Any = None, seed: int = 0) -> None:
    """Fails with the report of `pb.check(f, *args, backward=backward)` where it finds something wrong.

    Raises:
        AssertionError: a derivative is wrong.
    """
    report = check(f, *args, backward=backward, seed=seed)
    if not report:
        raise AssertionError(f"gradients are wrong\n{report}")
