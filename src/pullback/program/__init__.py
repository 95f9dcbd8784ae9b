"""Compiled programs: `compile` records a function as a list of primitives, improves it, and replays it."""

from pullback.program.compiled import Compiled, Explanation, compile

__all__ = ["Compiled", "Explanation", "compile"]
