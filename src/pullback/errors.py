"""Every error and warning that pullback raises. Imports nothing, so that every package may import it.

All are subclasses of `PullbackError`, and of the builtin that a user would catch without knowing pullback.
"""

from __future__ import annotations


class PullbackError(Exception):
    """The base of every error that pullback raises on purpose."""


class ShapeError(PullbackError, ValueError):
    """A shape does not fit. Modules put their names in front as the error travels outwards."""

    def __init__(self, layer: str, problem: str) -> None:
        super().__init__(layer, problem)
        self.layer = layer
        self.problem = problem
        self.path: list[str] = []
        self.raiser: object = None  # the part the error last travelled out of, which its owner knows the name of

    def __str__(self) -> str:
        name = f" '{'.'.join(self.path)}'" if self.path else ""
        return f"{self.layer}{name}: {self.problem}"


class DtypeError(PullbackError, TypeError):
    """A data type that cannot be differentiated, such as an integer input to `grad`."""


class NonScalarError(PullbackError, ValueError):
    """A gradient was asked of a value that is not a scalar."""


class NoRuleError(PullbackError, TypeError):
    """A function, or one of its options, has no derivative rule."""


class LeavesTapeError(PullbackError, TypeError):
    """A tracked value would silently become a plain number or array."""


class AliasError(PullbackError, ValueError):
    """An in-place write that NumPy would make visible through another name."""


class MutationError(PullbackError, RuntimeError):
    """An array was changed after a rule had saved it for the backward pass."""


class FreedError(PullbackError, RuntimeError):
    """The tape that is needed has been freed, or the transform that made a value has ended."""


class NonFiniteError(PullbackError, FloatingPointError):
    """The first operation that made a NaN or an infinity, found by `trace_nans`."""


class TreeError(PullbackError, ValueError):
    """Two nested structures do not match, or a leaf is of an unsuitable kind."""


class CheckError(PullbackError, ValueError):
    """What was given to a check cannot be checked, such as a function that gives other values each time.

    Or a claim in no known form, or a file without anything to check."""


class ConfigError(PullbackError, ValueError):
    """A setting, an option or a configuration file is wrong."""


class DataError(PullbackError, ValueError):
    """Data cannot be used: missing, unreadable, out of range or not what it says it is."""


class RunError(PullbackError, RuntimeError):
    """A run folder or a checkpoint cannot be read, written or continued."""


class TeacherError(PullbackError, ValueError):
    """A pretrained network cannot be loaded, or does not fit its description."""


class IndependentWarning(UserWarning):
    """The result does not depend on the input, so that its gradient is zero.

    Make it an error with `warnings.simplefilter("error", pb.IndependentWarning)`.
    """


class SkippedFileWarning(UserWarning):
    """A file was set aside; the run goes on without it."""
