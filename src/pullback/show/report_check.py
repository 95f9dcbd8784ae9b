"""The report of a check as text, as JSON and as HTML."""

from __future__ import annotations

import html as markup
import textwrap
from typing import Any

from pullback.show.verdicts import CheckReport, RuleResult, Verdict

WIDTH = 100
STATUS = {"right": "right", "right_other_layout": "right, in the other layout", "wrong": "WRONG"}


def text(report: CheckReport) -> str:
    """The report for a terminal."""
    lines = [headline(report), ""]
    width = max([len(name) for name in report.verdicts] or [0])
    lines += [verdict_text(verdict, width) for verdict in report.verdicts.values()]
    if report.verdicts:
        lines.append("")
    lines += [f"  {line}" for line in _rules(report)]
    for comparison in report.comparisons:
        state = {True: "right", False: "WRONG", None: "not compared"}[comparison.ok]
        error = f", error {comparison.error:.1e}" if comparison.ok is not None else ""
        lines.append(f"  {comparison.name}: {state}{error}" + (f"; {comparison.note}" if comparison.note else ""))
    for note in report.notes:
        lines += _wrapped(f"note: {note}", 2)
    return "\n".join(lines).rstrip()


def verdict_text(verdict: Verdict, width: int) -> str:
    """A verdict for a terminal, with its name in a column of this width."""
    lines = [f"  {verdict.name:{width}}  {_summary(verdict)}"]
    lines += _wrapped(verdict.explanation, width + 4) if verdict.explanation else []
    if verdict.status == "wrong":
        lines += _evidence(verdict, width + 4)
    return "\n".join(lines)


def headline(report: CheckReport) -> str:
    """What was found, in one line."""
    wrong = [name for name, verdict in report.verdicts.items() if not verdict]
    if wrong:
        return f"{report.function}: {len(wrong)} of {len(report.verdicts)} gradients wrong ({', '.join(wrong)})"
    if report.worst_rule is not None:
        return f"{report.function}: the rule of {report.worst_rule.primitive} is wrong"
    if not report:
        return f"{report.function}: its derivatives do not agree"
    return f"{report.function}: right"


def _summary(verdict: Verdict) -> str:
    if verdict.status == "right":
        return f"right                      error {verdict.error:.1e}"
    cause = f"  {verdict.cause}, {verdict.confidence:.0%} sure" if verdict.cause else ""
    return f"{STATUS[verdict.status]}{cause}"


def _evidence(verdict: Verdict, indent: int) -> list[str]:
    lines = []
    if verdict.formula:
        lines += _wrapped(f"right: {verdict.formula}", indent)
    if verdict.others:
        lines += _wrapped(f"would explain it as well: {', '.join(verdict.others)}", indent)
    for entry in verdict.entries[:3]:
        place = f"[{', '.join(map(str, entry.index))}]" if entry.index else "value"
        lines.append(f"{' ' * indent}at {place}: claimed {entry.claimed:.6g}, true {entry.true:.6g}")
    return lines


def _rules(report: CheckReport) -> list[str]:
    if not report.rules:
        return []
    wrong = [rule for rule in report.rules if not rule.ok]
    lines = [f"rules: {len(report.rules)} comparisons of {len({rule.primitive for rule in report.rules})} primitives, "
             f"{len(wrong)} wrong; largest error of the others {_largest_right(report.rules):.1e}"]  # fmt: skip
    return lines + [f"  {rule}" for rule in wrong[:5]]


def _largest_right(rules: Any) -> float:
    return max((rule.error for rule in rules if rule.ok), default=0.0)


def _wrapped(words: str, indent: int) -> list[str]:
    space = " " * indent
    return textwrap.wrap(words, WIDTH, initial_indent=space, subsequent_indent=space, break_long_words=False)


def record(report: CheckReport) -> dict[str, Any]:
    """The report as plain numbers, texts and lists."""
    return {
        "function": report.function,
        "ok": bool(report),
        "verdicts": {
            name: {
                "status": verdict.status,
                "cause": verdict.cause,
                "explanation": verdict.explanation,
                "confidence": verdict.confidence,
                "error": _finite(verdict.error),
                "worst": [
                    {"index": list(e.index), "claimed": _finite(e.claimed), "true": _finite(e.true)}
                    for e in verdict.entries
                ],
                "formula": verdict.formula,
                "others": list(verdict.others),
            }
            for name, verdict in report.verdicts.items()
        },
        "worst_rule": None if report.worst_rule is None else _rule(report.worst_rule),
        "rules": [_rule(rule) for rule in report.rules],
        "comparisons": [
            {"name": c.name, "ok": c.ok, "error": _finite(c.error), "note": c.note} for c in report.comparisons
        ],
        "notes": list(report.notes),
    }


def _rule(rule: RuleResult) -> dict[str, Any]:
    return {
        "primitive": rule.primitive,
        "argument": rule.argument,
        "mode": rule.mode,
        "ok": rule.ok,
        "error": _finite(rule.error),
        "source": rule.source,
        "kinks": rule.kinks,
        "note": rule.note,
    }


def _finite(x: float) -> float | None:
    """JSON has no infinity and no NaN."""
    return float(x) if x - x == 0 else None


def html(report: CheckReport) -> str:
    """The report as an HTML fragment, with its style within."""
    rows = "".join(_row(verdict) for verdict in report.verdicts.values())
    table = f"<table><tr><th>input</th><th>verdict</th><th>why</th></tr>{rows}</table>" if rows else ""
    lines = [*_rules(report), *(f"{c.name}: {c.note or ('right' if c.ok else 'wrong')}" for c in report.comparisons)]
    lines += [f"note: {note}" for note in report.notes]
    items = "".join(f"<li>{markup.escape(line.strip())}</li>" for line in lines)
    return (
        f'<div class="pullback-check">{STYLE}<p><strong>{markup.escape(headline(report))}</strong></p>'
        f"{table}{f'<ul>{items}</ul>' if items else ''}</div>"
    )


STYLE = (
    "<style>.pullback-check{font-family:system-ui,sans-serif;max-width:60em}"
    ".pullback-check td,.pullback-check th{text-align:left;vertical-align:top;padding:.3em .8em;"
    "border-bottom:1px solid #8884}.pullback-check .wrong{color:#c22;font-weight:600}"
    ".pullback-check code{font-size:95%}</style>"
)


def _row(verdict: Verdict) -> str:
    cause = f"<br>{verdict.cause}, {verdict.confidence:.0%} sure" if verdict.cause else ""
    why = markup.escape(verdict.explanation)
    if verdict.formula and verdict.status == "wrong":
        why += f"<br>right: <code>{markup.escape(verdict.formula)}</code>"
    if verdict.status == "wrong":
        why += "".join(
            f"<br>at {list(e.index)}: claimed {e.claimed:.6g}, true {e.true:.6g}" for e in verdict.entries[:3]
        )
    return (
        f"<tr><td><code>{markup.escape(verdict.name)}</code></td>"
        f'<td class="{verdict.status}">{STATUS[verdict.status]}{cause}</td><td>{why}</td></tr>'
    )
