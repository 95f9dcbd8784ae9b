from __future__ import annotations

import hashlib
import json
import lzma
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pullback.data import load_cifar10
from pullback.data.cifar10 import is_cifar10
from pullback.errors import DataError

COUNT = 6
NAMES = ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]


@pytest.fixture
def batches(monkeypatch, rng) -> tuple[np.ndarray, np.ndarray]:
    """Images (6, COUNT, 32, 32, 3) and labels (6, COUNT), and a loader that expects batches of that size."""
    monkeypatch.setattr("pullback.data.cifar10.IMAGES_PER_BATCH", COUNT)
    return rng.integers(0, 256, (6, COUNT, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, (6, COUNT), dtype=np.uint8)


def planes(images: np.ndarray) -> np.ndarray:
    return images.transpose(0, 3, 1, 2).reshape(len(images), 3072)


def write_binary(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for name, pixels, numbers in zip(NAMES, images, labels, strict=True):
        (folder / f"{name}.bin").write_bytes(np.concatenate([numbers[:, None], planes(pixels)], axis=1).tobytes())


def write_python(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for name, pixels, numbers in zip(NAMES, images, labels, strict=True):
        content = {
            "batch_label": name,
            "labels": numbers.tolist(),
            "data": planes(pixels),
            "filenames": ["x.png"] * COUNT,
        }
        (folder / name).write_bytes(pickle.dumps(content, protocol=4))


def write_sheets(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(images, 1):
        sheet = pixels.reshape(2, 3, 32, 32, 3).swapaxes(1, 2).reshape(64, 96, 3)
        Image.fromarray(sheet).save(folder / f"sheet_{number}.webp", lossless=True)
    content = [{"labels": numbers.tolist(), "filenames": []} for numbers in labels]
    (folder / "labels_and_filenames.json.xz").write_bytes(lzma.compress(json.dumps(content).encode()))


def pack(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=folder.name)


FORMS = {"binary": write_binary, "python": write_python, "sheets": write_sheets}


def expect(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    assert is_cifar10(path)
    train, test = load_cifar10(path)
    np.testing.assert_array_equal(train.images, images[:5].reshape(-1, 32, 32, 3))
    np.testing.assert_array_equal(train.labels, labels[:5].ravel())
    np.testing.assert_array_equal(test.images, images[5])
    np.testing.assert_array_equal(test.labels, labels[5])
    assert train.classes == test.classes
    assert train.classes[9] == "truck"


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_same(form, tmp_path, batches) -> None:
    FORMS[form](tmp_path / "here", *batches)
    expect(tmp_path / "here", *batches)


@pytest.mark.parametrize(("form", "short"), [("binary", "bin"), ("python", "py")])
def test_archives_and_the_folders_around_them(form, short, tmp_path, batches) -> None:
    folder = tmp_path / f"cifar-10-batches-{short}"
    archive = tmp_path / f"cifar-10-{form}.tar.gz"
    FORMS[form](folder, *batches)
    expect(tmp_path, *batches)
    pack(folder, archive)
    expect(archive, *batches)
    for file in folder.iterdir():
        file.unlink()
    expect(tmp_path, *batches)


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_batch_is_named(form, tmp_path, batches) -> None:
    FORMS[form](tmp_path / "here", *batches)
    next(path for path in (tmp_path / "here").iterdir() if "_3" in path.name).unlink()
    with pytest.raises(DataError, match=r"incomplete: it lacks data_batch_3$"):
        load_cifar10(tmp_path / "here")


def test_what_is_not_there(tmp_path) -> None:
    with pytest.raises(DataError, match="gone does not exist: expected a folder or archive"):
        load_cifar10(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds none of data_batch_1\.bin, data_batch_1, sheet_1\.webp"):
        load_cifar10(tmp_path)
    assert not is_cifar10(tmp_path)
    (tmp_path / "note.txt").write_text("text")
    assert not is_cifar10(tmp_path / "note.txt")


def test_damaged_binary(tmp_path, batches) -> None:
    write_binary(tmp_path / "here", *batches)
    path = tmp_path / "here" / "data_batch_2.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3073])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: expected 6 records of 3073 bytes, got 15365"):
        load_cifar10(tmp_path / "here")
    path.write_bytes(b"\x0b" + whole[1:])
    with pytest.raises(DataError, match=r"cifar10: expected labels from 0 to 9 .* got 11 at index 6"):
        load_cifar10(tmp_path / "here")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], "a pickled dict"),
        ({"data": np.zeros((COUNT, 3072), np.uint8)}, "'data' and 'labels'"),
        ({"data": np.zeros((COUNT, 10), np.uint8), "labels": [0] * COUNT}, r"uint8 \(6, 3072\), got \(6, 10\)"),
        ({"data": b"bytes", "labels": [0] * COUNT}, "got bytes"),
        ({"data": np.zeros((COUNT, 3072), np.uint8), "labels": [0] * 5}, "list of 6 class numbers"),
        ({"data": np.zeros((COUNT, 3072), np.uint8), "labels": [0, 1, 2, 3, 4, 10]}, "from 0 to 9"),
        ({"data": np.zeros((COUNT, 3072), np.uint8), "labels": [0, 1, 2, 3, 4, "x"]}, "from 0 to 9"),
        ({"data": np.zeros((COUNT, 3072)), "labels": [0] * COUNT}, "refused an array of dtype 'f8'"),
        (os.system, "refused 'posix.system'"),
    ],
)
def test_foreign_pickles(content, message, tmp_path, batches) -> None:
    write_python(tmp_path / "here", *batches)
    (tmp_path / "here" / "data_batch_1").write_bytes(pickle.dumps(content, protocol=4))
    with pytest.raises(DataError, match=f"data_batch_1: .*{message}"):
        load_cifar10(tmp_path / "here")


def test_damaged_archives(tmp_path, batches, monkeypatch) -> None:
    archive = tmp_path / "cifar-10-binary.tar.gz"
    write_binary(tmp_path / "cifar-10-batches-bin", *batches)
    pack(tmp_path / "cifar-10-batches-bin", archive)
    whole = archive.read_bytes()
    for damaged in (b"", b"no archive", whole[: len(whole) // 2], whole[:20000] + bytes(100) + whole[20100:]):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match=r"cifar-10-binary\.tar\.gz: the archive is damaged: .*fetch it again"):
            load_cifar10(archive)
    archive.write_bytes(whole)
    monkeypatch.setattr("pullback.data.cifar10._MAX_BATCH_BYTES", 1000)
    with pytest.raises(DataError, match=r"data_batch_1\.bin has 0 MB; expected 31"):
        load_cifar10(archive)


def test_an_archive_is_not_unpacked_anywhere(tmp_path, batches) -> None:
    write_binary(tmp_path / "source", *batches)
    with tarfile.open(tmp_path / "evil.tar.gz", "w:gz") as tar:
        for name in NAMES:
            tar.add(tmp_path / "source" / f"{name}.bin", arcname=f"../../outside/{name}.bin")
        link = tarfile.TarInfo("data_batch_9.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    before = sorted(tmp_path.parent.rglob("*"))
    expect(tmp_path / "evil.tar.gz", *batches)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_damaged_sheets(tmp_path, batches) -> None:
    folder = tmp_path / "here"
    write_sheets(folder, *batches)
    labels = folder / "labels_and_filenames.json.xz"
    whole = labels.read_bytes()
    short = lzma.compress(json.dumps([{"labels": [0] * COUNT}] * 5).encode())
    wrong = lzma.compress(json.dumps([{"labels": [0] * 5}] * 6).encode())
    for damaged in (
        b"",
        b"text",
        whole[:-10],
        short,
        lzma.compress(b"{}"),
        lzma.compress(b"{"),
        lzma.compress(b"[1,2]"),
    ):
        labels.write_bytes(damaged)
        with pytest.raises(DataError, match=r"json\.xz: expected an xz-compressed JSON list of six"):
            load_cifar10(folder)
    labels.write_bytes(wrong)
    with pytest.raises(DataError, match="list of 6 class numbers"):
        load_cifar10(folder)
    labels.unlink()
    with pytest.raises(DataError, match="has sheets, but no labels_and_filenames"):
        load_cifar10(folder)
    labels.write_bytes(whole)
    Image.new("RGB", (96, 60)).save(folder / "sheet_4.webp")
    with pytest.raises(DataError, match=r"sheet_4\.webp: expected a grid of 6 images of 32x32, got 60x96"):
        load_cifar10(folder)
    (folder / "sheet_4.webp").write_text("text")
    with pytest.raises(DataError, match=r"sheet_4\.webp: not an image"):
        load_cifar10(folder)


@pytest.fixture(scope="module")
def sheets(data_folder) -> Path:
    if not (data_folder / "cifar10" / "sheet_1.webp").is_file():
        pytest.skip("needs the CIFAR-10 sheets in PULLBACK_DATA/cifar10")
    return data_folder / "cifar10"


def test_the_real_sheets_hold_cifar10(sheets) -> None:
    train, test = load_cifar10()
    assert train.images.shape == (50000, 32, 32, 3)
    assert test.images.shape == (10000, 32, 32, 3)
    assert (np.bincount(train.labels) == 5000).all()
    assert (np.bincount(test.labels) == 1000).all()
    # Of the pixels and labels in the original python files, whose own MD5s are published; the slow test makes the link.
    digest = hashlib.md5(usedforsecurity=False)
    for part in (train, test):
        digest.update(part.images.tobytes())
        digest.update(part.labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == "b6210169ef9681aaf316a55b4c99253a"


@pytest.mark.slow
def test_the_original_python_files_and_the_sheets_agree(sheets, tmp_path) -> None:
    script = sheets / "rebuild_cifar10.py"
    rebuilt = subprocess.run([sys.executable, script, tmp_path / "py"], capture_output=True, text=True, check=True)
    assert rebuilt.stdout.count("md5 ok") == 7
    for original, sheet in zip(load_cifar10(tmp_path / "py"), load_cifar10(sheets), strict=True):
        np.testing.assert_array_equal(original.images, sheet.images)
        np.testing.assert_array_equal(original.labels, sheet.labels)
