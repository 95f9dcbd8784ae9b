"""Folders and archives alike: the same images come out, whatever they are kept in, and bad ones with a reason."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pullback.data import open_source, read_image
from pullback.errors import DataError

Names = list[str]
NAMES = ["a/one two.png", "a/zwei\nlines.png", "b/ünï.PNG", "c.png"]


@pytest.fixture
def folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A folder of four images, and things that are none."""
    root = tmp_path / "images"
    for name in NAMES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (5, 7, 3), np.uint8)).save(root / name, format="png")
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.png").write_text("hidden")
    return root


def zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder).as_posix())
    return path


def tarred(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder.parent / f"images{suffix}"
        with tarfile.open(path, f"w:{suffix.rpartition('.')[2].replace('tar', '')}") as archive:
            archive.add(folder, ".")
        return path

    return make


@pytest.mark.parametrize(
    "pack", [lambda folder: folder, zipped, tarred(".tar"), tarred(".tar.gz"), tarred(".tar.xz")],
    ids=["folder", "zip", "tar", "tar.gz", "tar.xz"],
)  # fmt: skip
def test_the_same_images_from_everything(folder: Path, pack: Callable[[Path], Path]) -> None:
    source = open_source(pack(folder))
    listing = source.listing()
    assert sorted(listing.paths) == NAMES
    assert listing.refused == {}
    assert dict(zip(listing.paths, listing.bytes, strict=True)) == {n: (folder / n).stat().st_size for n in NAMES}
    chosen = [path for path in listing.paths if path != "c.png"]  # a resumed job needs only some of them
    for found in source.images(chosen, (6, 6), workers=2, resample="box"):
        assert found.sha256 == hashlib.sha256((folder / found.path).read_bytes()).hexdigest()
        np.testing.assert_array_equal(found.image, read_image(folder / found.path, (6, 6), resample="box"))
    [skipped] = source.images(["c.png"], wanted=lambda sha256: False)
    assert (skipped.image, skipped.problem) == (None, None)


@pytest.mark.parametrize("layout", ["planes", "pixels"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(tmp_path: Path, rng: np.random.Generator, layout: str, save: Callable[..., None]) -> None:
    """Downsampled ImageNet keeps the planes of red, green and blue one after another."""
    images = rng.integers(0, 256, (9, 4, 4, 3), np.uint8)
    data = images if layout == "pixels" else images.transpose(0, 3, 1, 2).reshape(9, 48)
    root = tmp_path / "downsampled"
    root.mkdir()
    save(root / "train_1.npz", data=data, labels=np.arange(9))
    for place, prefix in ((root / "train_1.npz", ""), (root, "train_1.npz/")):
        source = open_source(place)
        listing = source.listing()
        assert listing.paths == [f"{prefix}{row:07}" for row in range(9)]
        found = list(source.images(listing.paths[2:8:2]))
        np.testing.assert_array_equal([f.image for f in found], images[2:8:2])
        backwards = list(source.images(listing.paths[::-4]))
        np.testing.assert_array_equal([f.image for f in backwards], images[::-4])
        assert len({f.sha256 for f in found}) == 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"other": np.zeros(3, np.uint8)}, "expected an .npz file with an array 'data'"),
        ({"data": np.zeros((2, 12), np.float32)}, "expected uint8 images.*got float32"),
        ({"data": np.zeros((2, 13), np.uint8)}, r"expected uint8 images .*got \(2, 13\)"),
        ({"data": np.array([{}, {}], dtype=object)}, "expected uint8 images.*got object"),
    ],
)
def test_npz_of_other_things(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        open_source(tmp_path / "a.npz").listing()
    assert list(open_source(tmp_path).listing().refused) == ["a.npz"]


def test_a_damaged_npz_gives_what_is_before_the_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, data=np.zeros((400, 3 * 64), np.uint8))
    content = bytearray(path.read_bytes())
    content[-3000] ^= 1  # the checksum at the end of the member will not fit
    path.write_bytes(content)
    source = open_source(path)
    found = list(source.images(source.listing().paths))
    assert found[0].problem is None
    assert "damaged" in str(found[-1].problem)


def test_what_a_folder_cannot_read_is_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "lost.png").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.png")  # reading it would wait for ever
    (folder / "closed").mkdir()
    scandir = os.scandir

    def refusing(path: Path) -> object:
        if Path(path).name == "closed":  # as for a user without the right; the super user has it always
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listing = open_source(folder).listing()
    assert listing.paths == NAMES
    assert set(listing.refused) == {"lost.png", "pipe.png", "closed/"}
    assert "Permission denied" in listing.refused["closed/"]


def test_archives_that_lie(tmp_path: Path) -> None:
    for name, content in {"a.zip": b"PK no archive", "a.tar": b"no archive", "a.npz": b"none", "a.rar": b"?"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            open_source(tmp_path / name).listing()
    with pytest.raises(DataError, match="does not exist"):
        open_source(tmp_path / "none.zip")


def test_a_damaged_and_an_encrypted_member(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(buffer, "png")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.png", buffer.getvalue())
        archive.writestr("torn.png", buffer.getvalue())
        archive.writestr("secret.png", buffer.getvalue())
        archive.getinfo("secret.png").flag_bits |= 1
        torn = archive.getinfo("torn.png").header_offset + 60
    content = bytearray(path.read_bytes())
    content[torn] ^= 0xFF
    path.write_bytes(content)
    source = open_source(path)
    listing = source.listing()
    assert listing.refused == {"secret.png": "it is encrypted"}
    good, bad = source.images(listing.paths)
    assert good.problem is None
    assert "CRC" in str(bad.problem)


def test_a_tar_with_links_and_twins(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in (("a.png", b"1"), ("a.png", b"2")):
            info = tarfile.TarInfo(name)
            info.size = 1
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    listing = open_source(path).listing()
    assert listing.paths == ["a.png"]
    assert set(listing.refused) == {"a.png", "link.png"}
