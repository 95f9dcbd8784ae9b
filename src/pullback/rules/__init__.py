"""The declarations: every function pullback knows, with its derivative, one family a file. Importing them fills the
registry."""

from pullback.rules import convolution, elementwise, indexing, linalg, linear, nn, optim, pooling, selection

__all__ = ["convolution", "elementwise", "indexing", "linalg", "linear", "nn", "optim", "pooling", "selection"]
