from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

from pullback.data import Batches, CutMix, Dataset, Normalise, RandomCrop, RandomFlip, in_order
from pullback.errors import ConfigError, DataError

AUGMENT = (RandomCrop(2), RandomFlip())


@pytest.fixture
def dataset(rng) -> Dataset:
    """103 images whose first pixel is their number."""
    images = rng.integers(0, 256, (103, 6, 6, 3), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(103)
    return Dataset(images, np.arange(103) % 7, tuple("abcdefg"), "toy")


def numbers(batch: Any) -> np.ndarray:
    return np.round(batch.images[:, 0, 0, 0] * 255).astype(int)


def same(first: Any, second: Any) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def data_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pullback-data")]


def test_an_epoch_draws_every_sample_once(dataset) -> None:
    batches = Batches(dataset, 10, seed=0, drop_last=False)
    assert len(batches) == 11
    for epoch in (0, 1):
        drawn = [batches.at(epoch * 11 + position) for position in range(11)]
        assert [len(batch.targets) for batch in drawn] == [10] * 10 + [3]
        order = np.concatenate([numbers(batch) for batch in drawn])
        np.testing.assert_array_equal(np.sort(order), np.arange(103))
        np.testing.assert_array_equal(np.concatenate([batch.targets for batch in drawn]), order % 7)
        assert (order != np.arange(103)).sum() > 90


def test_drop_last_leaves_out_other_samples_each_epoch(dataset) -> None:
    batches = Batches(dataset, 10, seed=0)
    assert len(batches) == 10
    left_out = [
        set(range(103)) - {n for p in range(10) for n in numbers(batches.at(10 * epoch + p))} for epoch in (0, 1)
    ]
    assert len(left_out[0]) == len(left_out[1]) == 3
    assert left_out[0] != left_out[1]


def test_a_batch_depends_on_seed_and_step_alone(dataset) -> None:
    """Asked for in any order, from any object, the batch of a step is the same to the last bit."""
    in_sequence = Batches(dataset, 20, seed=5, augment=AUGMENT)
    expected = [in_sequence.at(step) for step in range(17)]
    for step in (16, 3, 9, 0, 3):
        assert same(Batches(dataset, 20, seed=5, augment=AUGMENT).at(step), expected[step])
        assert same(in_sequence.at(step), expected[step])
    resumed = list(Batches(dataset, 20, seed=5, augment=AUGMENT).iterate(7, 17))
    assert len(resumed) == 10
    assert all(same(a, b) for a, b in zip(resumed, expected[7:], strict=True))


def test_seeds_epochs_and_steps_differ(dataset) -> None:
    first = Batches(dataset, 20, seed=5)
    assert not same(first.at(0), Batches(dataset, 20, seed=6).at(0))
    assert not same(first.at(0), first.at(len(first)))
    whole = Batches(dataset, 103, seed=1, augment=[RandomFlip()])
    by_number = [batch.images[np.argsort(batch.targets, kind="stable")] for batch in (whole.at(0), whole.at(1))]
    assert not np.array_equal(*by_number)
    Batches(dataset, 20, seed=2**64 - 1).at(10**9)


def test_the_batches_are_pinned() -> None:
    """These values may never change: runs that were begun with an earlier version must resume the same."""
    images = np.arange(16, dtype=np.uint8).reshape(16, 1, 1, 1)
    batches = Batches(Dataset(images, np.arange(16), tuple("abcdefghijklmnop"), "toy"), 8, seed=1)
    assert [batches.at(step).targets.tolist() for step in (0, 1, 2)] == [
        [0, 10, 14, 1, 8, 4, 13, 6],
        [7, 9, 12, 5, 2, 3, 11, 15],
        [11, 2, 3, 12, 15, 6, 0, 14],
    ]
    stripes = np.tile(np.arange(5, dtype=np.uint8)[:, None], (4, 5, 1, 1))
    augmented = Batches(
        Dataset(stripes, np.zeros(4, int), ("a",), "toy"), 4, seed=1, augment=[RandomCrop(1), RandomFlip()]
    )
    assert np.round(augmented.at(3).images[:, 0, :, 0] * 255).astype(int).tolist() == [
        [3, 4, 3, 2, 1],
        [4, 3, 2, 1, 0],
        [1, 2, 3, 4, 3],
        [4, 3, 2, 1, 0],
    ]


def test_arrays_are_read_only_contiguous_and_float32(dataset) -> None:
    soft = Dataset(dataset.images, np.full((103, 2), 0.5, np.float32), ("a", "b"), "soft")
    for data, kind in ((dataset, np.int64), (soft, np.float32)):
        for batch in (Batches(data, 4, seed=0, augment=AUGMENT).at(0), next(in_order(data, 4))):
            assert batch.images.dtype == np.float32
            assert batch.images.shape == (4, 6, 6, 3)
            assert batch.targets.dtype == kind
            for array in batch:
                assert not array.flags.writeable
                assert array.flags.c_contiguous
                assert not np.shares_memory(array, data.images)
                assert not np.shares_memory(array, data.labels)
    np.testing.assert_array_equal(Batches(soft, 4, seed=0).at(0).targets, np.full((4, 2), 0.5))


def test_normalise_and_augment_are_applied_in_order(dataset) -> None:
    normalise = Normalise.fit(dataset.images)
    plain = Batches(dataset, 103, seed=0, normalise=normalise).at(0)
    np.testing.assert_allclose(plain.images.mean(axis=(0, 1, 2)), 0, atol=1e-5)
    steps: list[str] = []

    def note(name: str):
        def change(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            assert images.dtype == np.uint8
            steps.append(name)
            return images // 2

        return change

    changed = Batches(dataset, 103, seed=0, augment=[note("first"), note("second")]).at(0)
    assert steps == ["first", "second"]
    np.testing.assert_array_equal(np.sort(numbers(changed)), np.arange(103) // 4)


def test_memory_mapped_images_give_the_same_batches(dataset, tmp_path) -> None:
    np.save(tmp_path / "images.npy", dataset.images)
    mapped = Dataset(np.load(tmp_path / "images.npy", mmap_mode="r"), dataset.labels, dataset.classes, "toy")
    first, second = (Batches(data, 20, seed=5, augment=AUGMENT).at(3) for data in (dataset, mapped))
    assert same(first, second)
    assert type(second.images) is np.ndarray


@pytest.mark.parametrize("side", [1, 6])
def test_the_layout_of_the_images_makes_no_difference(side, rng) -> None:
    planes = rng.integers(0, 256, (3, side, side, 40), dtype=np.uint8)
    soft = np.asfortranarray(np.full((40, 2), 0.5, np.float32))
    turned, straight = (
        Dataset(images, soft, ("a", "b"), "toy") for images in (planes.T, np.ascontiguousarray(planes.T))
    )
    augment = AUGMENT if side == 6 else ()
    for make in (lambda data: Batches(data, 20, seed=5, augment=augment).at(1), lambda data: next(in_order(data, 20))):
        batch = make(turned)
        assert same(batch, make(straight))
        assert all(array.flags.c_contiguous for array in batch)


def test_errors_of_the_background_thread_reach_the_consumer(dataset) -> None:
    def fail_late(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        fail_late.calls += 1
        if fail_late.calls == 3:
            raise DataError("the third batch")
        return images

    fail_late.calls = 0
    stream = Batches(dataset, 10, seed=0, augment=[fail_late]).iterate(0, 10)
    next(stream)
    next(stream)
    with pytest.raises(DataError, match="the third batch"):
        next(stream)
    assert data_threads() == []


def test_the_background_thread_ends_with_its_consumer(dataset) -> None:
    for step, _ in enumerate(Batches(dataset, 10, seed=0).iterate(0, 10**9)):
        assert len(data_threads()) == 1
        if step == 5:
            break
    gc.collect()
    assert data_threads() == []
    stream = in_order(dataset, 10)
    next(stream)
    del stream
    gc.collect()
    assert data_threads() == []


@pytest.mark.parametrize("batch_size", [1, 10, 103, 500])
def test_in_order_covers_every_sample_once(dataset, batch_size) -> None:
    batches = list(in_order(dataset, batch_size))
    np.testing.assert_array_equal(np.concatenate([numbers(batch) for batch in batches]), np.arange(103))
    np.testing.assert_array_equal(np.concatenate([batch.targets for batch in batches]), dataset.labels)
    assert {len(batch.images) for batch in batches[:-1]} <= {batch_size}


def test_wrong_settings_are_refused(dataset) -> None:
    with pytest.raises(DataError, match=r"toy: 103 samples do not fill one batch of 104; .*drop_last=False"):
        Batches(dataset, 104, seed=0)
    assert len(Batches(dataset, 104, seed=0, drop_last=False)) == 1
    for seed in (-1, 2**64):
        with pytest.raises(ConfigError, match="seed"):
            Batches(dataset, 4, seed=seed)
    with pytest.raises(ConfigError, match="batch size"):
        Batches(dataset, 0, seed=0)
    with pytest.raises(ConfigError, match="batch size"):
        in_order(dataset, 0)
    with pytest.raises(ConfigError, match="step"):
        Batches(dataset, 4, seed=0).at(-1)


@pytest.mark.parametrize("soft", [False, True])
def test_mixed_batches_have_probabilities_for_targets(soft) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), rng.integers(0, 3, 40)
    targets = np.eye(3, dtype=np.float32)[labels] if soft else labels
    data = Dataset(images, targets, ("a", "b", "c"), "photographs")
    batches = Batches(data, 20, seed=5, augment=[RandomFlip()], mix=CutMix())
    batch = batches.at(1)
    assert batch.targets.shape == (20, 3)
    assert batch.targets.dtype == np.float32
    np.testing.assert_allclose(batch.targets.sum(axis=1), 1.0, rtol=1e-6)
    assert not set(np.unique(batch.targets)) <= {0.0, 1.0}
    again = Batches(data, 20, seed=5, augment=[RandomFlip()], mix=CutMix()).at(1)
    np.testing.assert_array_equal(batch.images, again.images)
    np.testing.assert_array_equal(batch.targets, again.targets)
