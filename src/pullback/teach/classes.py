"""The classes a teacher knows: reading its class list, and finding in it the classes that a user names.

ImageNet's names are lists of synonyms, some of them names of two classes, hence the care in finding.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pullback.errors import ConfigError, TeacherError


@dataclass(frozen=True)
class ClassName:
    """A class of a teacher: its number, its name or synonyms separated by commas, and its WordNet id if it has one."""

    index: int
    name: str
    wnid: str | None = None

    @property
    def short(self) -> str:
        """The first synonym, such as `tench` for `tench, Tinca tinca`."""
        return self.name.split(",")[0].strip()

    def spellings(self) -> set[str]:
        """Every normalised spelling by which a user may ask for this class."""
        return {_normal(self.name), *(_normal(synonym) for synonym in self.name.split(","))}


def read_classes(path: str | Path) -> list[ClassName]:
    """Read a class list, in the order of the teacher's outputs: text with one name a line, or JSON.

    The JSON may be `[{"index": 0, "wnid": "n01440764", "name": "tench"}, ...]`, `["tench", ...]` or Keras'
    `{"0": ["n01440764", "tench"], ...}`.

    Raises TeacherError where the file is missing, of an unknown form, or does not number its classes 0, 1, 2, ...
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(f"class list '{path}': cannot be read ({error})") from None
    if path.suffix.lower() != ".json":
        names = [line.strip() for line in text.splitlines() if line.strip()]
        classes = [ClassName(index, name) for index, name in enumerate(names)]
    else:
        try:
            classes = sorted(_from_json(json.loads(text)), key=lambda c: c.index)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise TeacherError(
                f"class list '{path}': expected JSON such as "
                '[{"index": 0, "wnid": "n01440764", "name": "tench"}], ["tench"] or {"0": ["n01440764", "tench"]}'
            ) from None
    if not classes:
        raise TeacherError(f"class list '{path}': it is empty; expected one class for each output of the teacher")
    if [c.index for c in classes] != list(range(len(classes))):
        raise TeacherError(f"class list '{path}': expected the indices 0 to {len(classes) - 1}, each once")
    return classes


def _from_json(content: Any) -> list[ClassName]:
    if isinstance(content, dict):
        return [
            ClassName(int(index), *((entry,) if isinstance(entry, str) else (str(entry[1]), str(entry[0]))))
            for index, entry in content.items()
        ]
    classes = []
    for index, entry in enumerate(content):
        if isinstance(entry, str):
            classes.append(ClassName(index, entry))
        else:
            wnid = entry.get("wnid")
            classes.append(
                ClassName(int(entry.get("index", index)), str(entry["name"]), None if wnid is None else str(wnid))
            )
    return classes


def select_classes(known: Sequence[ClassName], wanted: str | Path | Iterable[str | int] | None) -> list[ClassName]:
    """The classes that `wanted` names, in the order given; every class for None and for `all`.

    A class is named by its name or a synonym, by its WordNet id or by its number. An entry may also be several of these
    with commas between, or the path of a file with one a line (or of a JSON class list).

    Raises ConfigError, with a suggestion, where a class is unknown, or a name fits several classes.
    """
    if wanted is None:
        return list(known)
    entries = [str(entry).strip() for entry in ([wanted] if isinstance(wanted, (str, Path)) else wanted)]
    if entries == ["all"]:
        return list(known)
    finder = _Finder(known)
    # A dict keeps the order and drops repetitions, such as two synonyms of one class.
    chosen = list(dict.fromkeys(finder.find(name) for entry in entries for name in _expand(entry, finder)))
    if not chosen:
        raise ConfigError("no class was named; give at least two, or 'all'")
    if len(chosen) < 2:
        raise ConfigError(
            f"a single class, '{chosen[0].short}', leaves nothing to tell apart; give at least two, or 'all'"
        )
    return chosen


def _expand(entry: str, finder: _Finder) -> list[str]:
    """The names in an entry. It is taken for one class first, because ImageNet's full names have commas themselves."""
    if finder.candidates(entry):
        return [entry]
    if os.path.isfile(entry):  # Path.is_file would raise on a list too long for a file name
        path = Path(entry)
        if path.suffix.lower() == ".json":
            return [c.wnid or c.name for c in read_classes(path)]
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    return [part.strip() for part in entry.split(",") if part.strip()]


class _Finder:
    """Finds classes by any of their spellings."""

    def __init__(self, known: Sequence[ClassName]) -> None:
        self.known = known
        self.by_wnid = {c.wnid: c for c in known if c.wnid}
        self.by_spelling: dict[str, list[ClassName]] = {}
        for c in known:
            for spelling in c.spellings():
                self.by_spelling.setdefault(spelling, []).append(c)

    def candidates(self, name: str) -> list[ClassName]:
        named = self.by_spelling.get(_normal(name), [])
        # A name wins over an index, for teachers whose names are digits; an index always numbers the teacher's outputs.
        if named:
            return named
        if name in self.by_wnid:
            return [self.by_wnid[name]]
        if name.isdecimal() and int(name) < len(self.known):
            return [self.known[int(name)]]
        return []

    def find(self, name: str) -> ClassName:
        candidates = self.candidates(name)
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            listed = "; ".join(f"{c.index} {c.wnid or ''} '{c.name}'" for c in candidates)
            raise ConfigError(f"class '{name}' fits {len(candidates)} classes: {listed}. Give its index or WordNet id")
        if name.isdecimal():
            raise ConfigError(f"class {name}: the teacher's classes are numbered 0 to {len(self.known) - 1}")
        near = difflib.get_close_matches(_normal(name), self.by_spelling, n=3, cutoff=0.6)
        suggestion = (
            f"did you mean {' or '.join(repr(n) for n in near)}?"
            if near
            else "give a name, WordNet id or index of its class list"
        )
        raise ConfigError(f"class '{name}' is not among the teacher's {len(self.known)} classes; {suggestion}")


class ClassIndex:
    """The place of a class in a list of some of a teacher's classes, by any of its spellings."""

    def __init__(self, classes: Sequence[ClassName]) -> None:
        self._positions: dict[str, int] = {}
        spelled = [(str(c.index), k) for k, c in enumerate(classes)]
        spelled += [(c.wnid, k) for k, c in enumerate(classes) if c.wnid]
        spelled += [(spelling, k) for k, c in enumerate(classes) for spelling in sorted(c.spellings())]
        for spelling, k in spelled:
            # A name wins over a number, as in `select_classes`; one that two classes share names neither.
            taken = self._positions.get(spelling, k)
            self._positions[spelling] = k if taken == k or spelling.isdecimal() else -1

    def position(self, name: str) -> int:
        """Where the class is in the list, counted from 0; -1 where it is not in it."""
        return self._positions.get(name.strip(), self._positions.get(_normal(name), -1))


def _normal(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
