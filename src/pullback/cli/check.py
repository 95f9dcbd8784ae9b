"""`pullback check`: the backwards by hand in Python files, each with a verdict and a diagnosis."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from pullback import files
from pullback.cli.options import Options
from pullback.cli.progress import Progress
from pullback.errors import ConfigError
from pullback.show.grading import Grade, grade

FOUND_WRONG = 3  # exit code: everything was checked, and something is wrong


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """Check the backwards written by hand in Python files: functions made by pb.custom, classes with forward and
    backward, and functions NAME with NAME_backward, at the inputs NAME_example (a tuple, or a function returning one).

    Each file runs in a process of its own. Exit code 3 where a gradient is wrong or a file could not be checked.

    Example: pullback check layers.py handed-in/*.py --time-limit 20
    """

    targets: Annotated[list[str], tyro.conf.arg(metavar="FILE.py[:NAME]...")]
    """Python files; with a name, the function of that name alone, which may be without a backward: its own derivatives
    are checked then."""
    time_limit: float = 60.0
    """Seconds for each file."""
    memory_limit: int = 4096
    """Memory for each file, MB of address space."""
    html: str | None = None
    """HTML page to write with all reports."""
    quiet: bool = False
    """Show the table alone, without the explanations."""

    def run(self) -> int:
        """Exit code 3 where something is wrong."""
        if not self.targets:
            raise ConfigError("no file given: expected `pullback check FILE.py`.")
        if self.time_limit <= 0 or self.memory_limit < 256:
            raise ConfigError(
                f"expected --time-limit above 0 and --memory-limit of at least 256, "
                f"got {self.time_limit:g} and {self.memory_limit}"
            )
        grades: list[Grade] = []
        with Progress("checking", "files", quiet=self.json) as progress:
            for number, target in enumerate(self.targets):
                progress(number, len(self.targets))
                path, _, name = target.partition(":")
                grades += grade(path, name or None, self.time_limit, self.memory_limit)
            progress(len(self.targets), len(self.targets))
        if self.html is not None:
            files.replace(Path(self.html), _page(grades).encode())
        self.show([_record(each) for each in grades], _text(grades, self.quiet))
        return 0 if all(each.ok for each in grades) else FOUND_WRONG


def _record(each: Grade) -> dict[str, Any]:
    return {"file": each.file, "name": each.name, "ok": each.ok, "error": each.error, "report": each.report}


def _text(grades: list[Grade], quiet: bool) -> str:
    rows = [row for each in grades for row in _rows(each)]
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    wrong = sum(not each.ok for each in grades)
    lines += ["", f"{len(grades)} checked, {wrong} wrong"]
    if not quiet:
        for each in grades:
            if not each.ok:
                lines += ["", each.text or f"{_place(each)}: {each.error}"]
    return "\n".join(lines)


def _rows(each: Grade) -> list[tuple[str, str, str, str]]:
    """A line for each input of a pair: the function, the input, the verdict, the cause."""
    place = _place(each)
    if each.report is None:
        return [(place, "", "ERROR", _shortened(each.error or ""))]
    verdicts = each.report["verdicts"]
    if not verdicts:
        worst = each.report["worst_rule"]
        return [(place, "", "right" if each.ok else "WRONG", "" if worst is None else f"rule of {worst['primitive']}")]
    return [(place, name, _status(v["status"]), v["cause"] or "") for name, v in verdicts.items()]


def _place(each: Grade) -> str:
    return f"{each.file}:{each.name}" if each.name else each.file


def _status(status: str) -> str:
    return {"right": "right", "right_other_layout": "other layout", "wrong": "WRONG"}[status]


def _shortened(text: str) -> str:
    first = text.splitlines()[0] if text else ""
    return first if len(first) <= 80 else f"{first[:77]}..."


def _page(grades: list[Grade]) -> str:
    """All reports as one page that needs no network."""
    parts = []
    for each in grades:
        title = html.escape(_place(each))
        body = each.html or f"<p class='wrong'>{html.escape(each.error or '')}</p>"
        parts.append(f"<h2>{title}</h2>{body}")
    wrong = sum(not each.ok for each in grades)
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>pullback check</title>"
        "<meta name='viewport' content='width=device-width'>"
        "<style>:root{color-scheme:light dark}body{font-family:system-ui,sans-serif;margin:2em;max-width:64em}</style>"
        f"<h1>pullback check</h1><p>{len(grades)} checked, {wrong} wrong</p>{''.join(parts)}</html>"
    )
