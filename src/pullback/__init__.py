"""pullback differentiates NumPy programs, trains networks with them, and shows its working."""

import importlib
from typing import Any

import pullback.rules  # noqa: F401  (fills the registry)
from pullback.core import tree
from pullback.core.context import no_grad, trace_nans
from pullback.core.tape import tensor
from pullback.core.tensor import Tensor
from pullback.core.trace import stop_gradient
from pullback.errors import (
    AliasError,
    CheckError,
    ConfigError,
    DataError,
    DtypeError,
    FreedError,
    IndependentWarning,
    LeavesTapeError,
    MutationError,
    NonFiniteError,
    NonScalarError,
    NoRuleError,
    PullbackError,
    RunError,
    ShapeError,
    SkippedFileWarning,
    TeacherError,
    TreeError,
)
from pullback.program import compile
from pullback.rules.indexing import array
from pullback.transforms import checkpoint, custom, grad, hessian, hvp, jacobian, jvp, record, value_and_grad, vjp

__version__ = "0.1.0"

__all__ = [
    "AliasError", "CheckError", "ConfigError", "DataError", "DtypeError", "FreedError", "IndependentWarning",
    "LeavesTapeError", "MutationError", "NoRuleError", "NonFiniteError", "NonScalarError", "PullbackError",
    "RunError", "ShapeError", "SkippedFileWarning", "TeacherError", "Tensor", "TreeError", "activation", "array",
    "check", "check_claim", "checkpoint", "compile", "custom", "data", "derive", "explore", "flow", "grad", "graph",
    "hessian", "hvp", "jacobian", "jvp", "memory", "nn", "no_grad", "optim", "record", "show", "stop_gradient",
    "teach", "tensor", "testing", "trace_nans", "train", "tree", "value_and_grad", "vjp",
]  # fmt: skip

_ROOMS = ("data", "nn", "optim", "show", "teach", "testing", "train")
_ELSEWHERE: dict[str, str] = {
    "activation": "pullback.show.activation",
    "check": "pullback.show.check",
    "check_claim": "pullback.show.claims",
    "derive": "pullback.show.derivation",
    "explore": "pullback.show.explore",
    "flow": "pullback.show.flow",
    "graph": "pullback.show.graph",
    "memory": "pullback.show.memory",
}
"""Public names whose module is imported when they are first used, such as `"derive": "pullback.show.derivation"`."""


def __getattr__(name: str) -> Any:
    """Rooms, and the names of `_ELSEWHERE`, are imported when they are first used: `import pullback` stays fast."""
    if name in _ROOMS:
        return importlib.import_module(f"pullback.{name}")
    if name in _ELSEWHERE:
        return getattr(importlib.import_module(_ELSEWHERE[name]), name)
    raise AttributeError(f"module 'pullback' has no attribute {name!r}")
