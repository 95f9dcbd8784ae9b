"""Labelling a folder: the labels against NumPy, and nothing lost, doubled or changed whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pullback.errors import ConfigError, DataError, RunError
from pullback.teach import LabelTable, Teacher, label_folder
from pullback.teach.shards import shard_paths


class Counting(Teacher):
    """A teacher that counts the images it is shown."""

    shown = 0

    def probabilities(self, images: Any, classes: Any = None) -> Any:
        self.shown += len(images)
        return super().probabilities(images, classes)


@pytest.fixture
def teacher(colours: Any) -> Counting:
    return Counting(colours.model(), colours.SPEC)


def snapshot(folder: Path) -> dict[str, tuple[int, str]]:
    """Time and hash of each file."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files}


def columns(table: LabelTable, *names: str) -> list[tuple[Any, ...]]:
    """Rows of a few columns, sorted."""
    return sorted(zip(*(table.rows[name].to_pylist() for name in names), strict=True))


def test_labels_are_the_teachers_answers(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images()
    before = snapshot(folder)
    seen: list[tuple[int, int]] = []
    result = label_folder(
        folder, teacher, tmp_path / "labels", batch_size=4, on_progress=lambda done, total: seen.append((done, total))
    )
    table = result.labels
    assert (result.labelled, result.skipped, len(table)) == (30, {}, 30)
    assert table.paths == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    answers = colours.probabilities(colours.pixels(folder, table.paths))
    np.testing.assert_allclose(table.probabilities(), answers, rtol=1e-4)
    np.testing.assert_array_equal(table.labels, answers.argmax(axis=1))
    np.testing.assert_allclose(table.rows["confidence"].to_numpy(), answers.max(axis=1), rtol=1e-4)
    np.testing.assert_allclose(
        table.rows["entropy"].to_numpy(), -(answers * np.log(answers)).sum(axis=1), rtol=1e-3, atol=1e-6
    )
    row = table.rows.slice(0, 1).to_pylist()[0]
    first = folder / row["path"]
    assert row["sha256"] == hashlib.sha256(first.read_bytes()).hexdigest()
    assert row["class"] == ("red", "green", "blue", "grey stone")[row["label"]]
    assert (row["teacher"], row["teacher_sha256"], row["interpolation"]) == ("colours", teacher.sha256, "bicubic")
    assert snapshot(folder) == before
    assert seen == [(done, 30) for done in (0, 4, 8, 12, 16, 20, 24, 28, 30)]


def test_images_of_any_size_and_mode(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    height, width = colours.SIZE
    pixels = np.linspace(0, 255, 40 * 30 * 3).reshape(40, 30, 3).astype(np.uint8)
    image = Image.fromarray(pixels)
    image.save(folder / "large.png")
    image.convert("L").save(folder / "grey.jpg")
    image.convert("P").save(folder / "palette.gif")
    image.save(folder / "ünïcode\n.webp", lossless=True)
    table = label_folder(folder, teacher, tmp_path / "out", interpolation="lanczos").labels
    assert len(table) == 4
    resized = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))[None]
    expected = dict(zip(table.paths, table.probabilities(), strict=True))
    np.testing.assert_allclose(expected["large.png"], colours.probabilities(resized)[0], rtol=1e-4)
    np.testing.assert_array_equal(expected["ünïcode\n.webp"], expected["large.png"])


def test_restricted_classes(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    table = label_folder(colours.images(), teacher, tmp_path / "out", classes="blue,n00000001").labels
    answers = colours.probabilities(colours.pixels(tmp_path / "images", table.paths), (2, 0))
    np.testing.assert_allclose(table.probabilities(), answers, rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(table.labels, answers.argmax(axis=1))
    assert set(table.rows["class"].to_pylist()) == {"red", "blue"}


def test_top_k(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    table = label_folder(colours.images(), teacher, tmp_path / "out", top_k=2).labels
    answers = colours.probabilities(colours.pixels(tmp_path / "images", table.paths))
    kept = table.probabilities()
    np.testing.assert_allclose(kept.sum(axis=1), 1, rtol=1e-5)
    order = np.argsort(-answers, axis=1)
    best = np.take_along_axis(kept, order, axis=1)
    np.testing.assert_allclose(best[:, :2], np.take_along_axis(answers, order, axis=1)[:, :2], rtol=1e-4)
    np.testing.assert_allclose(best[:, 2], best[:, 3])


def test_a_second_call_labels_nothing(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images()
    label_folder(folder, teacher, tmp_path / "out")
    shards = snapshot(tmp_path / "out")
    again = label_folder(folder, teacher, tmp_path / "out")
    assert (again.labelled, teacher.shown, len(again.labels)) == (0, 30, 30)
    assert {path: shards[path] for path in shards if path.endswith("parquet")} == {
        path: state for path, state in snapshot(tmp_path / "out").items() if path.endswith("parquet")
    }


def test_added_changed_touched_and_removed_images(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images()
    label_folder(folder, teacher, tmp_path / "out")
    added, changed, touched, removed = (folder / "a" / f"image {n:03}.png" for n in (100, 2, 4, 6))
    Image.new("RGB", (5, 5), "red").save(added)
    Image.new("RGB", colours.SIZE[::-1], "blue").save(changed)
    os.utime(touched, (0, 0))
    removed.unlink()
    result = label_folder(folder, teacher, tmp_path / "out")
    assert (result.labelled, teacher.shown, len(result.labels)) == (2, 32, 30)
    assert (result.changed, result.recognised, result.removed) == (1, 1, 1)
    hashes = dict(columns(result.labels, "path", "sha256"))
    for path in (added, changed):
        assert hashes[path.relative_to(folder).as_posix()] == hashlib.sha256(path.read_bytes()).hexdigest()
    labels = dict(columns(result.labels, "path", "class"))
    assert labels["a/image 002.png"] == "blue"


def test_interrupted_and_continued(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images()

    def interrupt(done: int, total: int) -> None:
        if done >= 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label_folder(folder, teacher, tmp_path / "out", batch_size=4, on_progress=interrupt)
    assert len(LabelTable(tmp_path / "out")) == 12  # what was labelled is kept, although no shard was full
    result = label_folder(folder, teacher, tmp_path / "out", batch_size=4)
    whole = label_folder(folder, Teacher(teacher.source, colours.SPEC), tmp_path / "whole").labels
    assert result.labelled == 18
    assert columns(result.labels, "path", "sha256", "label") == columns(whole, "path", "sha256", "label")
    assert sum(map(len, map(read_paths, shard_paths(tmp_path / "out")))) == 30


def read_paths(shard: Path) -> list[str]:
    import pyarrow.parquet as pq

    return list(pq.read_table(shard, columns=["path"])["path"].to_pylist())


KILLED = """
import os, signal, sys
from pullback.teach import Teacher, TeacherSpec, label_folder
folder, model, out, last = sys.argv[1:]
def kill(done, total):
    if done >= int(last):
        os.kill(os.getpid(), signal.SIGKILL)
teacher = Teacher(model, TeacherSpec(mean=(100, 110, 120), std=(50, 60, 70)))
label_folder(folder, teacher, out, batch_size=2, shard_rows=6, on_progress=kill)
"""


def test_killed_and_continued(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    """SIGKILL, twice: whole shards stay, what is missing is made up for, and no image has two labels."""
    folder, out = colours.images(), tmp_path / "out"
    for last in (10, 22):
        killed = subprocess.run([sys.executable, "-c", KILLED, folder, teacher.source, out, str(last)], check=False)
        assert killed.returncode == -signal.SIGKILL
    (out / "part-00099.parquet.part").write_bytes(b"half a shard")
    assert len(LabelTable(out)) == 18
    assert label_folder(folder, teacher, out).labelled == teacher.shown == 12
    paths = [path for shard in shard_paths(out) for path in read_paths(shard)]
    assert sorted(paths) == sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    answers = colours.probabilities(colours.pixels(folder, LabelTable(out).paths))
    np.testing.assert_allclose(LabelTable(out).probabilities(), answers, rtol=1e-4)


STORM = """
import sys
from pullback.teach import Teacher, TeacherSpec, label_folder
folder, model, out = sys.argv[1:]
teacher = Teacher(model, TeacherSpec(mean=(100, 110, 120), std=(50, 60, 70)))
print("ready", flush=True)
label_folder(folder, teacher, out, batch_size=4, shard_rows=16, on_progress=lambda done, total: print(done, flush=True))
"""


@pytest.mark.slow
def test_twenty_kills_at_any_instant(colours: Any, tmp_path: Path) -> None:
    """SIGKILL twenty times while labels are made, written and merged: none is lost, doubled or wrong at the end."""
    folder, out = colours.images(3000), tmp_path / "out"
    rng = np.random.default_rng(0)
    kills, labelled = 0, 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-c", STORM, folder, colours.model(), out], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        if kills < 20:
            seen = process.stdout.readline()
            # A different way into the work each time: after so many lines of progress, and a moment more.
            for _ in range(int(rng.integers(0, 30))):
                seen = process.stdout.readline() or seen
            time.sleep(float(rng.uniform(0, 0.01)))
            process.kill()
        process.stdout.read()
        process.stdout.close()
        code = process.wait()
        if code == 0:
            break
        assert code == -signal.SIGKILL
        kills += 1
        written = [path for shard in shard_paths(out) for path in read_paths(shard)] if out.exists() else []
        assert len(written) == len(set(written)) >= labelled  # what was once written stays, and only once
        labelled = len(written)
    assert kills == 20
    table = LabelTable(out)
    paths = [path for shard in shard_paths(out) for path in read_paths(shard)]
    assert (
        sorted(paths) == sorted(table.paths) == sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))
    )
    hashes = dict(columns(table, "path", "sha256"))
    assert all(hashlib.sha256((folder / path).read_bytes()).hexdigest() == hashes[path] for path in paths)
    answers = colours.probabilities(colours.pixels(folder, table.paths))
    np.testing.assert_allclose(table.probabilities(), answers, rtol=1e-4)
    assert len(shard_paths(out)) < 40  # 3,000 rows in shards of 16 have been merged


def test_unreadable_images_are_set_aside(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images()
    good = folder / "a" / "image 000.png"
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes(good.read_bytes()[:60])
    (folder / "empty.jpg").touch()
    (folder / "notes.txt").write_text("not even called an image")
    (folder / "lost.png").symlink_to(folder / "nowhere")
    result = label_folder(folder, teacher, tmp_path / "out", batch_size=4)
    assert (result.labelled, len(result.labels)) == (30, 30)
    assert set(result.skipped) == {"text.png", "cut.png", "empty.jpg", "lost.png"}
    listed = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert {entry["path"]: entry["reason"] for entry in listed} == result.skipped
    assert "not an image" in result.skipped["text.png"]
    shutil.copy(good, folder / "text.png")  # mended
    again = label_folder(folder, teacher, tmp_path / "out")
    assert (again.labelled, again.recognised, set(again.skipped)) == (0, 1, {"cut.png", "empty.jpg", "lost.png"})


def test_every_sort_of_image(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    """Modes and names of all sorts get the label of what they show; each broken one is told of; none ends the job."""
    folder = tmp_path / "sorts"
    (folder / "sp ace\nünï").mkdir(parents=True)
    (folder / "loop").symlink_to(folder)
    blue = Image.new("RGB", (30, 20), (20, 40, 220))
    exif = Image.Exif()
    exif[0x0112] = 6
    blue.save(folder / "sp ace\nünï" / "turned.jpg", exif=exif)
    blue.convert("CMYK").save(folder / "cmyk.jpg")
    blue.convert("P").save(folder / "palette.png")
    blue.convert("RGBA").save(folder / "alpha.webp", lossless=True)
    blue.save(folder / "moving.gif", save_all=True, append_images=[Image.new("RGB", (30, 20), "red")])
    Image.fromarray(np.full((9, 9), 40000, np.uint16)).save(folder / "deep.png")
    Image.new("1", (9, 9)).save(folder / "bits.bmp")
    (folder / "zero.png").touch()
    whole = (folder / "palette.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:-30])
    header = bytearray(whole)
    header[16:24] = (60000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(bytes(header[12:29])).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(header)
    result = label_folder(folder, teacher, tmp_path / "out")
    classes = dict(columns(result.labels, "path", "class"))
    blues = {"sp ace\nünï/turned.jpg", "cmyk.jpg", "palette.png", "alpha.webp", "moving.gif"}
    assert set(classes) == blues | {"deep.png", "bits.bmp"}
    assert {classes[path] for path in blues} == {"blue"}
    assert set(result.skipped) == {"zero.png", "cut.png", "bomb.png"}
    assert "empty" in result.skipped["zero.png"]
    assert "truncated" in result.skipped["cut.png"]
    assert "more than 64 Mpixel" in result.skipped["bomb.png"]


@pytest.mark.parametrize("pack", ["zip", "tar", "npz"])
def test_straight_from_an_archive(colours: Any, teacher: Counting, tmp_path: Path, pack: str) -> None:
    """The same labels as from the folder, without unpacking; an archive that was rewritten is only read again."""
    folder = colours.images()
    unpacked = label_folder(folder, teacher, tmp_path / "unpacked").labels
    archive = tmp_path / f"images.{pack}"
    if pack == "npz":
        np.savez(archive, data=colours.pixels(folder, unpacked.paths))
    else:
        shutil.make_archive(str(archive.with_suffix("")), pack, folder)
    result = label_folder(archive, teacher, tmp_path / "packed")
    np.testing.assert_array_equal(result.labels.probabilities(), unpacked.probabilities())
    os.utime(archive, (0, 0))
    again = label_folder(archive, teacher, tmp_path / "packed")
    assert (again.labelled, again.recognised, len(again.labels), teacher.shown) == (0, 30, 30, 60)
    assert label_folder(archive, teacher, tmp_path / "packed").recognised == 0


def test_mirror_images(colours: Any, tmp_path: Path) -> None:
    """The mean of the answers to an image and to its mirror image; a table with them is of another kind."""

    class Left(Teacher):
        """Sees the left half alone."""

        def probabilities(self, images: Any, classes: Any = None) -> Any:
            seen = images.copy()
            seen[:, :, images.shape[2] // 2 :] = 110
            return super().probabilities(seen, classes)

    folder, teacher = colours.images(6), Left(colours.model(), colours.SPEC)
    table = label_folder(folder, teacher, tmp_path / "flip", tta="flip", batch_size=4).labels
    pixels = colours.pixels(folder, table.paths)
    expected = (teacher.probabilities(pixels) + teacher.probabilities(pixels[:, :, ::-1])) / 2
    np.testing.assert_allclose(table.probabilities(), expected, rtol=1e-5)
    with pytest.raises(ConfigError, match="tta flip instead of none"):
        label_folder(folder, teacher, tmp_path / "flip")
    with pytest.raises(ConfigError, match="expected none or flip"):
        label_folder(folder, teacher, tmp_path / "x", tta="crop")


def test_moved_and_changed_back(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    """A content keeps its label wherever it goes, and when it comes back."""
    folder = colours.images()
    before = dict(columns(label_folder(folder, teacher, tmp_path / "out").labels, "sha256", "confidence"))
    (folder / "a").rename(folder / "elsewhere")
    moved = label_folder(folder, teacher, tmp_path / "out")
    assert (moved.labelled, moved.recognised, moved.removed, len(moved.labels)) == (0, 15, 15, 30)
    shutil.rmtree(folder / "elsewhere")
    assert label_folder(folder, teacher, tmp_path / "out").removed == 15
    colours.images()
    back = label_folder(folder, teacher, tmp_path / "out")
    assert (back.labelled, back.recognised, teacher.shown) == (0, 30, 30)
    assert dict(columns(back.labels, "sha256", "confidence")) == before


def test_labels_of_other_images_are_not_replaced(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    """Only a folder that moved may take the place of the one that was labelled."""
    first, second = colours.images(4), colours.images(4, seed=1, name="others")
    label_folder(first, teacher, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"holds the labels of .*images, not of .*others"):
        label_folder(second, teacher, tmp_path / "out")
    first.rename(tmp_path / "moved")
    assert label_folder(tmp_path / "moved", teacher, tmp_path / "out").labelled == 0


def test_an_image_that_breaks_loses_its_label(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images(4)
    label_folder(folder, teacher, tmp_path / "out")
    (folder / "a" / "image 002.png").write_text("broken since")
    result = label_folder(folder, teacher, tmp_path / "out")
    assert len(LabelTable(tmp_path / "out")) == 3
    assert list(result.skipped) == ["a/image 002.png"]


def test_two_runs_at_once(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images(4)

    def second(done: int, total: int) -> None:
        with pytest.raises(RunError, match="is being labelled by another process"):
            label_folder(folder, teacher, tmp_path / "out")

    label_folder(folder, teacher, tmp_path / "out", on_progress=second)


def test_a_name_that_is_not_unicode(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images(2)
    name = os.fsencode(folder) + b"/\xff.png"
    try:
        shutil.copy(folder / "a" / "image 000.png", os.fsdecode(name))
    except OSError:
        pytest.skip("this file system knows no such names")
    result = label_folder(folder, teacher, tmp_path / "out")
    assert result.labelled == 2
    assert list(result.skipped.values()) == ["its name is not valid Unicode"]


def test_answers_that_are_not_finite_are_set_aside(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    folder = colours.images(6)

    class Failing(Teacher):
        def probabilities(self, images: Any, classes: Any = None) -> Any:
            answers = super().probabilities(images, classes)
            answers[images[:, 0, 0, 0] == marked] = np.nan
            return answers

    marked = colours.pixels(folder, ["a/image 002.png"])[0, 0, 0, 0]
    result = label_folder(folder, Failing(teacher.source, colours.SPEC), tmp_path / "out")
    assert result.skipped == {"a/image 002.png": "the teacher's answer to it is not finite"}
    assert "a/image 002.png" not in result.labels.paths
    answers = colours.probabilities(colours.pixels(folder, result.labels.paths))
    np.testing.assert_allclose(result.labels.probabilities(), answers, rtol=1e-4)


def test_folders_without_images(teacher: Counting, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        label_folder(tmp_path / "missing", teacher, tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images"):
        label_folder(tmp_path / "empty", teacher, tmp_path / "out")
    (tmp_path / "empty" / "bad.png").write_text("no image")
    with pytest.raises(DataError, match=r"none of its 1 images could be labelled; the first, bad\.png"):
        label_folder(tmp_path / "empty", teacher, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interpolation": "box"}, "interpolation bicubic instead of box"),
        ({"classes": "red,blue"}, r"4 classes \(red, green, blue, \.\.\.\) instead of 2 classes \(red, blue\)"),
        ({"top_k": 2}, "top_k None instead of 2"),
    ],
)
def test_labels_of_two_kinds_are_not_mixed(
    colours: Any, teacher: Counting, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    folder = colours.images(4)
    label_folder(folder, teacher, tmp_path / "out")
    with pytest.raises(ConfigError, match=message):
        label_folder(folder, teacher, tmp_path / "out", **settings)
    other = Teacher(teacher.source, replace(colours.SPEC, mean=(99.0,)))
    with pytest.raises(ConfigError, match="preprocessing"):
        label_folder(folder, other, tmp_path / "out")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch size"),
        ({"top_k": 5}, "top k: expected 1 to 4"),
        ({"interpolation": "cubic"}, "'cubic'"),
        ({"classes": "red,grren"}, "did you mean 'green'"),
        ({"workers": 0}, "workers"),
    ],
)
def test_wrong_settings(
    colours: Any, teacher: Counting, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        label_folder(colours.images(2), teacher, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_folder_of_images_is_not_written_to(colours: Any, teacher: Counting) -> None:
    folder = colours.images(2)
    with pytest.raises(ConfigError, match="lies inside the folder of images"):
        label_folder(folder, teacher, folder / "labels")


def test_a_full_disk(colours: Any, teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says so, the shards from before stay, and the next call goes on."""
    folder = colours.images()
    replace_file = os.replace

    def full(source: Any, target: Any) -> None:
        if str(target).endswith("part-00001.parquet"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunError, match=r"disk is full.*run the same command again"):
        label_folder(folder, teacher, tmp_path / "out", batch_size=4, shard_rows=8)
    assert len(LabelTable(tmp_path / "out")) == 8
    monkeypatch.undo()
    assert label_folder(folder, teacher, tmp_path / "out").labelled == 22


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def foreign(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"path": ["a"]}), path)


@pytest.mark.parametrize("damage", [cut, foreign])
def test_a_damaged_shard(colours: Any, teacher: Counting, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    folder = colours.images()
    label_folder(folder, teacher, tmp_path / "out", batch_size=4, shard_rows=8)
    shard = shard_paths(tmp_path / "out")[1]
    damage(shard)
    with pytest.raises(DataError, match=r"part-00001\.parquet is damaged.*delete it"):
        label_folder(folder, teacher, tmp_path / "out")
    shard.unlink()
    assert label_folder(folder, teacher, tmp_path / "out").labelled == 8


def test_held_out_by_content(colours: Any, teacher: Counting, tmp_path: Path) -> None:
    """Copies fall on one side, the fraction is kept to, and a growing folder moves no image to the other side."""
    folder = colours.images(200)
    for index in range(0, 200, 4):
        shutil.copy(folder / "a" / f"image {index:03}.png", folder / f"copy {index}.png")
    small = label_folder(folder, teacher, tmp_path / "small").labels
    sides: dict[str, set[bool]] = {}
    for digest, side in zip(small.rows["sha256"].to_pylist(), small.held_out(0.3), strict=True):
        sides.setdefault(digest, set()).add(bool(side))
    assert all(len(found) == 1 for found in sides.values())
    assert len(sides) == 200
    assert 0.2 < np.mean([True in found for found in sides.values()]) < 0.4
    colours.images(230, name="images")
    grown = label_folder(folder, teacher, tmp_path / "small").labels
    before = dict(zip(small.paths, small.held_out(0.3), strict=True))
    after = dict(zip(grown.paths, grown.held_out(0.3), strict=True))
    assert len(after) == 280
    assert {path: after[path] for path in before} == before
    assert not grown.held_out(0).any()
    assert grown.held_out(1).all()
    with pytest.raises(ConfigError, match="held-out fraction"):
        grown.held_out(1.5)


def test_no_labels_yet(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no labels"):
        LabelTable(tmp_path)


def test_real_teacher_on_photographs(data_folder: Path, tmp_path: Path) -> None:
    """The labels equal those of onnxruntime on inputs made by hand, and most photographs are told with confidence."""
    from zipfile import ZipFile

    import onnxruntime

    folder = tmp_path / "photographs"
    with ZipFile(data_folder / "imagenette64" / "unlabelled_8000.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".png")][:16]
        archive.extractall(folder, names)
    model = data_folder / "teacher" / "efficientnet_lite0_224.onnx"
    wanted = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]
    table = label_folder(folder, Teacher(model), tmp_path / "out", classes=wanted).labels
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rows = []
    for path in table.paths:
        image = Image.open(folder / path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        inputs = (np.asarray(image, np.float32).transpose(2, 0, 1) - 127) / 128
        logits = session.run(["logits"], {"input": inputs[None]})[0][0, wanted].astype(np.float64)
        rows.append(np.exp(logits) / np.exp(logits).sum())
    np.testing.assert_allclose(table.probabilities(), rows, atol=1e-4)
    assert np.median(table.rows["confidence"].to_numpy()) > 0.7
    assert len(set(table.labels)) >= 5
