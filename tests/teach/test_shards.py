"""The files of a table: merging, what a kill in the midst of it leaves, replaced and removed rows, a million names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pullback.data import Listing
from pullback.errors import DataError
from pullback.teach import ClassName, LabelKind, LabelTable
from pullback.teach.known import Known
from pullback.teach.shards import LabelledImage, LabelWriter, merge_shards, shard_paths, shard_places

KIND = LabelKind("t", "0" * 64, {}, (ClassName(0, "a"), ClassName(1, "b"), ClassName(2, "c")), "box", 2)


def image(path: str, content: int = 0) -> LabelledImage:
    return LabelledImage(path, f"{content:064x}", 10 + content, 1000 + content, content)


def answers(*certain: int) -> np.ndarray:
    """One row for each, certain of this class."""
    return np.stack([np.where(np.arange(3) == i, 0.8, 0.1) for i in certain]).astype(np.float32)


def write(folder: Path, shards: int, start: int = 0) -> None:
    """Shards of one row each."""
    with LabelWriter(folder, KIND, 1, 1e9) as writer:
        for index in range(start, start + shards):
            writer.append([image(f"{index}.png", index)], answers(index % 3))


def test_shards_merge_by_sixteens(tmp_path: Path) -> None:
    write(tmp_path, 16 * 16 + 16 + 3)
    assert [path.name for path in shard_paths(tmp_path)] == [
        "part-00000-00255.parquet",
        "part-00256-00271.parquet",
        "part-00272.parquet",
        "part-00273.parquet",
        "part-00274.parquet",
    ]
    table = LabelTable(tmp_path)
    assert table.paths == [f"{index}.png" for index in range(275)]
    np.testing.assert_array_equal(table.labels, np.arange(275) % 3)
    np.testing.assert_allclose(table.probabilities()[4], [0.1, 0.8, 0.1], rtol=1e-6)
    write(tmp_path, 1, start=275)
    assert shard_paths(tmp_path)[-1].name == "part-00275.parquet"


def test_a_merge_that_was_killed(tmp_path: Path) -> None:
    """The merged shard is there, and so are some of those that went into it: each row counts once."""
    write(tmp_path, 5)
    for path in shard_paths(tmp_path):
        shutil.copy(path, path.with_suffix(".kept"))
    merge_shards(tmp_path, shard_places(tmp_path)[0][1:4])
    for number in (2, 3):
        kept = tmp_path / f"part-{number:05}.kept"
        shutil.copy(kept, kept.with_suffix(".parquet"))
    assert LabelTable(tmp_path).paths == [f"{index}.png" for index in range(5)]
    write(tmp_path, 1, start=5)
    assert LabelTable(tmp_path).paths == [f"{index}.png" for index in range(6)]
    assert not (tmp_path / "part-00002.parquet").exists()


def test_large_shards_are_not_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pullback.teach.shards.MERGED_BYTES", 100)
    write(tmp_path, 20)
    assert len(shard_paths(tmp_path)) == 20


def test_later_rows_count(tmp_path: Path) -> None:
    with LabelWriter(tmp_path, KIND, 2, 1e9) as writer:
        writer.append([image("a"), image("b"), image("c")], answers(0, 0, 0))
        writer.append([image("b", 7)], answers(2))
        writer.remove(["a", "never seen"])
        writer.append([image("d")], answers(1))
    table = LabelTable(tmp_path)
    assert dict(zip(table.paths, table.labels.tolist(), strict=True)) == {"c": 0, "b": 2, "d": 1}
    assert len(table) == len(table.rows) == 3
    assert table.column("sha256").to_pylist()[table.paths.index("b")] == f"{7:064x}"
    with LabelWriter(tmp_path, KIND, 2, 1e9) as writer:
        writer.append([image("a", 3)], answers(1))  # back again
    assert sorted(LabelTable(tmp_path).paths) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("top_k", [None, 2])
def test_answers_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int | None) -> None:
    """Whatever was replaced or removed between, each row comes once, with the answer of its path."""
    monkeypatch.setattr("pullback.teach.table._BLOCK", 3)
    with LabelWriter(tmp_path, replace(KIND, top_k=top_k), 8, 1e9) as writer:
        writer.append([image(f"{k}") for k in range(20)], answers(*(k % 3 for k in range(20))))
        writer.append([image("4", 9), image("11", 9)], answers(0, 0))
        writer.remove(["0", "7"])
    table = LabelTable(tmp_path)
    blocks = list(table.answers())
    assert max(len(rows) for rows, _ in blocks) == 3
    assert np.concatenate([rows for rows, _ in blocks]).tolist() == list(range(18))
    found = np.concatenate([probabilities for _, probabilities in blocks])
    np.testing.assert_array_equal(found, table.probabilities())
    np.testing.assert_array_equal(found.argmax(axis=1), table.labels)
    labels = {f"{k}": k % 3 for k in range(20) if k not in (0, 7)} | {"4": 0, "11": 0}
    assert dict(zip(table.paths, found.argmax(axis=1).tolist(), strict=True)) == labels


def test_a_table_of_nothing_left(tmp_path: Path) -> None:
    with LabelWriter(tmp_path, KIND, 9, 1e9) as writer:
        writer.append([image("a")], answers(0))
        writer.remove(["a"])
    table = LabelTable(tmp_path)
    assert (len(table), table.paths, table.probabilities().shape) == (0, [], (0, 3))
    assert len(table.selected()) == 0


def test_known(tmp_path: Path) -> None:
    """What is new, changed or gone, and which contents have a label wherever they were."""
    with LabelWriter(tmp_path, KIND, 2, 1e9) as writer:
        writer.append([image("a", 1), image("b", 2), image("in/c", 3), image("d", 4)], answers(0, 1, 2, 0))
        writer.append([image("b", 5)], answers(2))
    known = Known(tmp_path, KIND)
    listing = Listing(["a", "b", "new", "touched"], [11, 15, 10, 10], [1001, 1005, 1, 1], {"in/": "closed"})
    assert known.compare(listing) == ([2, 3], ["d"])  # what lies in a folder that cannot be listed is not gone
    assert "b" in known
    assert "new" not in known
    for content, label in ((1, 0), (2, 1), (3, 2), (5, 2)):  # 2 was replaced, and is known still
        assert known.answer(f"{content:064x}")["label"].to_pylist() == [label]
    assert known.row(f"{9:064x}") is None
    assert known.row("0" * 16 + "1" * 48) is None  # the first bits alone are no proof
    nothing = Known(tmp_path / "empty", KIND)
    assert nothing.compare(listing) == ([0, 1, 2, 3], [])


def test_foreign_names(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "part-final.parquet").touch()
    with pytest.raises(DataError, match="is not a shard of a label table"):
        LabelTable(tmp_path)


def test_columns_after_a_merge_by_another_process(tmp_path: Path) -> None:
    write(tmp_path, 3)
    table = LabelTable(tmp_path)
    merge_shards(tmp_path, shard_places(tmp_path)[0])
    with pytest.raises(DataError, match="added to meanwhile; open it again"):
        table.column("entropy")
    assert len(LabelTable(tmp_path)) == 3
