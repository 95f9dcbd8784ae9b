"""What a check finds: a verdict for each input, a result for each rule, and the report that holds them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

Status = Literal["right", "right_other_layout", "wrong"]
Cause = Literal[
    "constant_factor", "sign", "transposed", "missing_incoming", "missing_term", "extra_term", "wrong_axis",
    "sum_for_mean", "wrong_saved", "wrong_mask", "flipped_filter", "border", "constant_statistic", "diagonal_only",
    "wrong_shape", "unknown",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of a gradient: what was claimed, and what is true."""

    index: tuple[int, ...]
    claimed: float
    true: float


@dataclasses.dataclass(frozen=True)
class Verdict:
    """The judgement of one claimed gradient."""

    name: str
    """Of the input."""
    status: Status
    cause: Cause | None
    """What is wrong; None where nothing is."""
    explanation: str
    """In a sentence or two, with what would mend it."""
    confidence: float
    """From 0 to 1: how exactly the cause explains the gradient, and whether other causes do as well."""
    error: float
    """The largest difference from the true gradient, relative to its size."""
    entries: tuple[Entry, ...] = ()
    """The entries that are furthest off, worst first."""
    formula: str | None = None
    """The right one, where it could be derived."""
    others: tuple[str, ...] = ()
    """Causes that would explain it as well."""

    @property
    def worst(self) -> list[tuple[int, ...]]:
        """The indices of the entries that are furthest off."""
        return [entry.index for entry in self.entries]

    def __bool__(self) -> bool:
        return self.status != "wrong"

    def __str__(self) -> str:
        from pullback.show.report_check import verdict_text

        return verdict_text(self, len(self.name))


@dataclasses.dataclass(frozen=True)
class RuleResult:
    """The check of one primitive's rule, in one of its inputs, at the values of one application."""

    primitive: str
    argument: str
    mode: Literal["reverse", "forward", "second order"]
    ok: bool
    error: float
    """Relative to the size of the derivative."""
    source: str
    """The line of the program that applied it."""
    kinks: int = 0
    """Entries where the primitive is not differentiable, left out of the comparison."""
    note: str = ""
    truncation: float = 0.0
    """Of the differences that it was compared with, relative."""
    rounding: float = 0.0

    def __str__(self) -> str:
        state = "right" if self.ok else "WRONG"
        kinks = f", {self.kinks} kinks left out" if self.kinks else ""
        note = f": {self.note}" if self.note else ""
        return (
            f"{self.primitive}, {self.mode} rule of {self.argument}: {state}, "
            f"error {self.error:.1e}{kinks}{note} ({self.source})"
        )


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two ways to the same number, for the function as a whole."""

    name: str
    ok: bool | None
    """None where it could not be compared."""
    error: float
    note: str = ""


@dataclasses.dataclass(frozen=True)
class CheckReport:
    """What a check found. True in a condition where nothing is wrong."""

    function: str
    verdicts: dict[str, Verdict] = dataclasses.field(default_factory=dict)
    """By the input's name; empty where there was no backward to judge."""
    rules: Sequence[RuleResult] = ()
    comparisons: Sequence[Comparison] = ()
    notes: Sequence[str] = ()
    """What was held constant, left out, sampled or restored."""

    @property
    def worst_rule(self) -> RuleResult | None:
        """The first rule, in the order of the program, that is wrong by itself; None where all are right.

        The second order of a rule rests on the first order of others, and so is looked at last."""
        wrong = [rule for rule in self.rules if not rule.ok]
        return min(wrong, key=lambda rule: rule.mode == "second order", default=None)

    def __bool__(self) -> bool:
        return (
            all(self.verdicts.values())
            and self.worst_rule is None
            and all(comparison.ok is not False for comparison in self.comparisons)
        )

    def __str__(self) -> str:
        from pullback.show.report_check import text

        return text(self)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain numbers, texts and lists, for JSON."""
        from pullback.show.report_check import record

        return record(self)

    def html(self) -> str:
        """A self-contained HTML fragment."""
        from pullback.show.report_check import html

        return html(self)

    def _repr_html_(self) -> str:
        return self.html()
