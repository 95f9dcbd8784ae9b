from __future__ import annotations

import warnings

import numpy as np
import pytest

from pullback.data import load_folder
from pullback.errors import DataError, SkippedFileWarning


def grey(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


@pytest.fixture
def pets(save_image, tmp_path):
    """Ten dogs of value 100 to 109 and ten cats of value 0 to 9, one of them in a folder further down."""
    for n in range(10):
        save_image(f"pets/dog/{n}.png", grey(100 + n))
        save_image(f"pets/cat/{'deep/' * (n == 3)}{n}.png", grey(n))
    return tmp_path / "pets"


def test_classes_are_the_sorted_folders_and_every_image_is_read_once(pets) -> None:
    splits = load_folder(pets, test_fraction=0.25)
    assert splits.train.classes == splits.test.classes == ("cat", "dog")
    assert (len(splits.train), len(splits.test)) == (15, 5)
    assert splits.train.image_shape == (4, 6, 3)
    assert splits.train.name == "pets"
    assert splits.skipped == ()
    values = np.concatenate([part.images[:, 0, 0, 0] for part in splits])
    labels = np.concatenate([part.labels for part in splits])
    np.testing.assert_array_equal(labels, values >= 100)
    np.testing.assert_array_equal(np.sort(values), [*range(10), *range(100, 110)])


def test_the_split_depends_on_the_seed_alone(pets) -> None:
    first, again, other = (load_folder(pets, seed=seed).test.images for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_size_and_channels(pets) -> None:
    assert load_folder(pets, size=(3, 2), channels=1).test.image_shape == (3, 2, 1)


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_train_and_test_folders(pets, save_image, test_name) -> None:
    root = pets.parent / "sorted"
    root.mkdir()
    pets.rename(root / "train")
    save_image(f"sorted/{test_name}/dog/x.png", grey(200))
    train, test = load_folder(root)
    assert (len(train), len(test)) == (20, 1)
    assert test.classes == ("cat", "dog")
    assert test.labels.tolist() == [1]


def test_a_train_folder_alone_is_split(pets) -> None:
    root = pets.parent / "sorted"
    root.mkdir()
    pets.rename(root / "train")
    train, test = load_folder(root)
    assert train.classes == ("cat", "dog")
    assert (len(train), len(test)) == (16, 4)


def test_a_class_may_be_called_train(save_image, tmp_path) -> None:
    for name in ("train", "bus"):
        for n in range(3):
            save_image(f"{name}/{n}.png", grey(n))
    assert load_folder(tmp_path).train.classes == ("bus", "train")


def test_the_test_folder_must_fit_the_training_folder(pets, save_image) -> None:
    root = pets.parent / "sorted"
    root.mkdir()
    pets.rename(root / "train")
    save_image("sorted/test/horse/x.png", grey(200))
    with pytest.raises(DataError, match=r"\['horse'\] are not among the training classes \['cat', 'dog'\]"):
        load_folder(root)
    (root / "test" / "horse").rename(root / "test" / "dog")
    save_image("sorted/test/dog/x.png", grey(200, 8, 8))
    with pytest.raises(DataError, match="are 8x8 but those to train on are 4x6; give a size"):
        load_folder(root)
    assert len(load_folder(root, size=(4, 4)).test) == 1


def test_what_cannot_be_read_is_set_aside_and_reported(pets, save_image) -> None:
    (pets / "cat" / "text.png").write_text("no picture")
    (pets / "cat" / "empty.jpg").write_bytes(b"")
    cut = save_image("pets/dog/cut.png", np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8))
    cut.write_bytes(cut.read_bytes()[:-40])
    (pets / "dog" / "notes.txt").write_text("notes")
    (pets / "fish").mkdir()
    save_image("pets/loose.png")
    (pets / "README.md").write_text("about")
    with pytest.warns(SkippedFileWarning, match=r"set aside 6 of its files: .*; and 1 more") as caught:
        splits = load_folder(pets)
    assert len(caught) == 1
    assert len(splits.train) + len(splits.test) == 20
    assert splits.train.classes == ("cat", "dog")
    reasons = {path.relative_to(pets).as_posix(): reason for path, reason in splits.skipped}
    assert reasons.keys() == {"cat/text.png", "cat/empty.jpg", "dog/cut.png", "dog/notes.txt", "fish", "loose.png"}
    assert reasons["cat/empty.jpg"] == "the file is empty"
    assert reasons["cat/text.png"].startswith("not an image")
    assert "truncated" in reasons["dog/cut.png"]
    assert "suffix" in reasons["dog/notes.txt"]
    assert "no class" in reasons["fish"]
    assert "outside" in reasons["loose.png"]


def test_different_sizes_name_two_files(pets, save_image) -> None:
    save_image("pets/dog/tall.png", grey(1, 9, 6))
    with pytest.raises(DataError, match=r"cat/0\.png is 4x6 but .*dog/tall\.png is 9x6; give a size"):
        load_folder(pets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_folder(pets, size=(4, 6)).train) == 17


def test_folders_that_cannot_be_used_say_why(tmp_path, save_image) -> None:
    with pytest.raises(DataError, match="gone does not exist: expected a folder of images"):
        load_folder(tmp_path / "gone")
    with pytest.raises(DataError, match=r"holds no images: expected .*one folder per class"):
        load_folder(tmp_path)
    save_image("a.png")
    with pytest.raises(DataError, match=r"holds 1 images, but outside of any class folder.*pullback distill"):
        load_folder(tmp_path)
    save_image("only/a.png")
    with pytest.raises(DataError, match="one class only, 'only'"):
        load_folder(tmp_path)
    (tmp_path / "only" / "a.png").write_text("text")
    with pytest.raises(DataError, match=r"none of 1 image files can be read; the last one: .*a\.png: not an image"):
        load_folder(tmp_path)
