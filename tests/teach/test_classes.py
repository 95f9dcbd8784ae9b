"""Class lists in every form, and the ways in which a user may name a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pullback.errors import ConfigError, TeacherError
from pullback.teach import ClassName, read_classes, select_classes

KNOWN = [
    ClassName(0, "tench, Tinca tinca", "n01440764"),
    ClassName(1, "English springer, English springer spaniel", "n02102040"),
    ClassName(2, "crane", "n02012849"),
    ClassName(3, "crane", "n03126707"),
    ClassName(4, "jack-o'-lantern", "n03590841"),
]


@pytest.mark.parametrize(
    "content",
    [
        [{"index": 1, "wnid": "n2", "name": "dog"}, {"index": 0, "wnid": "n1", "name": "cat"}],
        {"1": ["n2", "dog"], "0": ["n1", "cat"]},
    ],
)
def test_json_forms(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "classes.json"
    path.write_text(json.dumps(content))
    assert read_classes(path) == [ClassName(0, "cat", "n1"), ClassName(1, "dog", "n2")]


@pytest.mark.parametrize(
    ("name", "text"), [("c.json", '["cat", "dog"]'), ("c.txt", "cat\r\ndog\n\n"), ("c.names", "cat\ndog")]
)
def test_lists_of_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_classes(tmp_path / name) == [ClassName(0, "cat"), ClassName(1, "dog")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected JSON such as"),
        ("3", "expected JSON such as"),
        ('[{"index": 0}]', "expected JSON such as"),
        ("[]", "it is empty"),
        ('[{"index": 0, "name": "a"}, {"index": 2, "name": "b"}]', "indices 0 to 1, each once"),
    ],
)
def test_damaged_lists(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(TeacherError, match=message) as error:
        read_classes(path)
    assert str(path) in str(error.value)


def test_missing_list(tmp_path: Path) -> None:
    with pytest.raises(TeacherError, match="cannot be read"):
        read_classes(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("wanted", "indices"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("all", [0, 1, 2, 3, 4]),
        (["English springer", "TENCH"], [1, 0]),
        (["tench, Tinca tinca", "english_springer_spaniel"], [0, 1]),
        ("tench,English springer", [0, 1]),
        ("n03126707,0", [3, 0]),
        ([4, 2], [4, 2]),
        (["jack o'-lantern", "Tinca tinca", "tench"], [4, 0]),
    ],
)
def test_select(wanted: Any, indices: list[int]) -> None:
    assert [c.index for c in select_classes(KNOWN, wanted)] == indices


def test_select_by_file(tmp_path: Path) -> None:
    path = tmp_path / "wanted.txt"
    path.write_text("n02102040\n\ntench, Tinca tinca\n")
    assert [c.index for c in select_classes(KNOWN, path)] == [1, 0]
    path = tmp_path / "wanted.json"
    path.write_text('[{"index": 0, "wnid": "n03126707", "name": "crane"}, {"index": 1, "name": "tench"}]')
    assert [c.index for c in select_classes(KNOWN, str(path))] == [3, 0]


def test_a_list_longer_than_a_file_name() -> None:
    assert len(select_classes(KNOWN, ",".join(["tench", "English springer"] * 200))) == 2


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("tenhc,crane", "class 'tenhc' is not among the teacher's 5 classes; did you mean 'tench'"),
        ("crane,tench", "fits 2 classes: 2 n02012849 'crane'; 3 n03126707 'crane'. Give its index or WordNet id"),
        ("0,5", "class 5: the teacher's classes are numbered 0 to 4"),
        ("zebra,tench", "'zebra' is not among"),
        ("", "no class was named"),
        ("tench", "a single class"),
    ],
)
def test_unknown_classes(wanted: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        select_classes(KNOWN, wanted)
    assert message in str(error.value)


def test_names_that_are_digits_win_over_indices() -> None:
    digits = [ClassName(0, "9"), ClassName(1, "8"), ClassName(2, "0")]
    assert [c.index for c in select_classes(digits, "9,0")] == [0, 2]
