"""The declarations: every function pullback knows, with its derivative, one family a file. Importing them fills the registry."""

from pullback.rules import elementwise, indexing, linalg, linear, selection

__all__ = ["elementwise", "indexing", "linalg", "linear", "selection"]
