"""What is read off a table: selections, copies, look-alikes, figures, exports; against plain loops."""

from __future__ import annotations

import csv
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pullback.errors import ConfigError, DataError
from pullback.show.labels_page import labels_page
from pullback.teach import LabelTable, Selection, Teacher, label_folder
from pullback.teach.duplicates import equal_groups, similar_groups
from pullback.teach.export import export_csv, export_folders
from pullback.teach.summary import summarise


@pytest.fixture
def table(colours: Any, tmp_path: Path) -> LabelTable:
    """Labels of thirty images, one of them twice, and one with a name that is HTML."""
    folder = colours.images()
    shutil.copy(folder / "a" / "image 000.png", folder / "copy.png")
    shutil.copy(folder / "a" / "image 002.png", folder / "<script>alert('&')<\nscript>.png")
    return label_folder(folder, Teacher(colours.model(), colours.SPEC), tmp_path / "labels").labels


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([0.1, 0.25, 0.5, 0.75, 1.0])), max_size=30),
    st.sampled_from([0.0, 0.3, 0.75]),
    st.sampled_from([None, 1, 3]),
    st.booleans(),
)
def test_selection(images: list[tuple[int, float]], least: float, most: int | None, balance: bool) -> None:
    chosen = Selection(least, most, balance).rows(
        np.array([label for label, _ in images], np.int64), np.array([c for _, c in images], np.float32)
    )
    by_class: dict[int, list[int]] = {}
    for row, (label, confidence) in enumerate(images):
        if confidence >= least:
            by_class.setdefault(label, []).append(row)
    limits = [most] * (most is not None) + [min(map(len, by_class.values()), default=0)] * balance
    expected = []
    for rows in by_class.values():
        rows.sort(key=lambda row: (-images[row][1], row))
        expected += rows[: min(limits)] if limits else rows
    assert chosen.tolist() == sorted(expected)


def test_selection_is_kept(table: LabelTable) -> None:
    assert len(table.selected()) == 32
    Selection(max_per_class=2).write(table.folder)
    assert set(np.bincount(table.labels[table.selected()])) <= {0, 1, 2}
    (table.folder / "selection.toml").write_text("max_per_class = 'all'")
    with pytest.raises(DataError, match="is not a selection"):
        table.selected()
    for wrong in ({"min_confidence": 1.5}, {"max_per_class": 0}):
        with pytest.raises(ConfigError):
            Selection(**wrong)


def brute(hashes: list[int], distance: int) -> set[frozenset[int]]:
    """Groups by following every pair."""
    groups = [{i} for i in range(len(hashes))]
    for i in range(len(hashes)):
        for j in range(i):
            if hashes[i] and hashes[j] and (hashes[i] ^ hashes[j]).bit_count() <= distance:
                joined = next(g for g in groups if i in g) | next(g for g in groups if j in g)
                groups = [g for g in groups if not g & joined] + [joined]
    return {frozenset(g) for g in groups if len(g) > 1}


@given(st.data())
def test_look_alikes(data: st.DataObject) -> None:
    distance = data.draw(st.integers(0, 6))
    hashes = data.draw(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**63, 2**64 - 1]), max_size=6))
    for original in list(hashes):
        for bit in data.draw(st.lists(st.integers(0, 63), max_size=distance + 1)):
            original ^= 1 << bit
            hashes.append(original)
    found = similar_groups(np.array(hashes, np.uint64), distance)
    assert {frozenset(group.tolist()) for group in found} == brute(hashes, distance)


@given(st.lists(st.sampled_from([0, 1, 5, 2**64 - 1]), max_size=12))
def test_copies(digests: list[int]) -> None:
    found = equal_groups(np.array(digests, np.uint64))
    expected = {frozenset(i for i, d in enumerate(digests) if d == e) for e in digests if digests.count(e) > 1}
    assert {frozenset(group.tolist()) for group in found} == expected


def test_summary(table: LabelTable) -> None:
    summary = summarise(table, Selection(min_confidence=0.5), shown=3)
    assert summary.images == 32
    assert summary.used == int((table.confidences >= 0.5).sum())
    assert sum(c.images for c in summary.classes) == summary.confidence_histogram.sum() == 32
    for c in summary.classes:
        mine = [row for row in range(32) if table.class_names[table.labels[row]] == c.name]
        assert len(mine) == c.images
        ranked = sorted(mine, key=lambda row: -table.confidences[row])
        assert table.confidences[c.most_certain].tolist() == table.confidences[ranked[:3]].tolist()
        assert not {*c.most_certain} & {*c.least_certain}
    copies = [{table.paths[row] for row in group} for group in summary.copies]
    assert {"a/image 000.png", "copy.png"} in copies


def test_a_resized_copy_looks_alike(colours: Any, tmp_path: Path, rng: np.random.Generator) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
        coarse.resize((90, 90), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    Image.open(folder / "3.png").resize((45, 70)).save(folder / "three.jpg", quality=80)
    table = label_folder(folder, Teacher(colours.model(), colours.SPEC), tmp_path / "labels").labels
    assert [{table.paths[row] for row in group} for group in summarise(table).alike] == [{"3.png", "three.jpg"}]


def test_names_on_the_page_are_escaped(table: LabelTable) -> None:
    page = labels_page(table, summarise(table), table.images)
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;␊script&gt;.png" in page
    assert page.count("data:image/png;base64,") > 20
    without = labels_page(table, summarise(table), None)
    assert "no picture" in without
    gone = labels_page(table, summarise(table), Path("nowhere"))
    assert "does not exist" in gone


def test_export_folders(table: LabelTable, tmp_path: Path) -> None:
    out = tmp_path / "sorted"
    images = table.images
    assert images is not None
    rows = np.arange(len(table))
    assert export_folders(table, rows, images, out) == export_folders(table, rows, images, out) == 32
    for path, label in zip(table.paths, table.labels, strict=True):
        link = out / f"n{label + 1:08}" / path
        assert link.is_symlink()
        assert link.read_bytes() == (images / path).read_bytes()
    assert json.loads((out / "classes.json").read_text())["n00000001"] == "red"
    export_folders(table, rows[:4], images, tmp_path / "copies", "copies")
    copies = [path for path in (tmp_path / "copies").rglob("*.png") if not path.is_symlink()]
    assert len(copies) == 4
    with pytest.raises(ConfigError, match="only read"):
        export_folders(table, rows, images, images / "sorted")


def test_export_from_an_archive_that_leads_out(colours: Any, tmp_path: Path) -> None:
    content = (colours.images(1) / "a" / "image 000.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("/abs.png", content)
        archive.writestr("in/up.png", content)
    table = label_folder(tmp_path / "a.zip", Teacher(colours.model(), colours.SPEC), tmp_path / "labels").labels
    with pytest.raises(ConfigError, match=r"is an archive.*export copies"):
        export_folders(table, np.arange(2), tmp_path / "a.zip", tmp_path / "out")
    export_folders(table, np.arange(2), tmp_path / "a.zip", tmp_path / "out", "copies")
    files = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png"))
    assert [name.split("/", 1)[1] for name in files] == ["abs.png", "in/up.png"]
    assert not os.path.exists("/abs.png")


def test_export_csv(table: LabelTable, tmp_path: Path) -> None:
    assert export_csv(table, np.arange(len(table)), tmp_path / "labels.csv", probabilities=True) == 32
    with (tmp_path / "labels.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == table.paths
    assert [row["class"] for row in rows] == table.column("class").to_pylist()
    written = [[float(row[name]) for name in table.class_names] for row in rows]
    np.testing.assert_allclose(written, table.probabilities(), atol=1e-5)
