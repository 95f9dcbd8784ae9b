from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator

import pytest

from pullback.data.parallel import map_ahead


def data_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pullback-data")]


@pytest.fixture(autouse=True)
def no_thread_outlives_its_iterator() -> Iterator[None]:
    yield
    gc.collect()
    assert data_threads() == []


@pytest.mark.parametrize("workers", [1, 4])
def test_keeps_the_order_whatever_the_times(workers: int) -> None:
    def slow_for_even(n: int) -> int:
        time.sleep(0.002 * (n % 2 == 0))
        return n * n

    assert list(map_ahead(slow_for_even, range(40), workers=workers, ahead=8)) == [n * n for n in range(40)]


def test_runs_ahead_but_no_further_than_asked() -> None:
    """Both bounds at once: four calls are made for the first result, and not a fifth however long one waits."""
    begun: list[int] = []
    four = threading.Semaphore(0)

    def begin(n: int) -> int:
        begun.append(n)
        four.release()
        return n

    results = map_ahead(begin, range(100), workers=1, ahead=3)
    assert begun == []
    assert data_threads() == []
    next(results)
    for _ in range(4):
        assert four.acquire(timeout=10)
    assert not four.acquire(timeout=0.05)
    assert begun == [0, 1, 2, 3]
    results.close()  # type: ignore[attr-defined]


def test_an_error_comes_in_its_place() -> None:
    def fail_at_three(n: int) -> int:
        if n == 3:
            raise KeyError("three")
        return n

    results = map_ahead(fail_at_three, range(10), workers=2, ahead=6)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError, match="three"):
        next(results)
    assert data_threads() == []
    assert list(results) == []


def test_an_error_of_the_source_comes_too() -> None:
    def source() -> Iterator[int]:
        yield 1
        raise RuntimeError("source")

    with pytest.raises(RuntimeError, match="source"):
        list(map_ahead(lambda n: n, source(), workers=1, ahead=2))


@pytest.mark.parametrize("how", ["close", "drop", "break"])
def test_threads_end_when_the_consumer_stops_early(how: str) -> None:
    calls: list[int] = []

    def note(n: int) -> int:
        calls.append(n)
        return n

    results = map_ahead(note, range(10**9), workers=2, ahead=5)
    for _ in results:
        assert data_threads()
        if how == "break":
            break
        if len(calls) >= 3:
            break
    if how == "close":
        results.close()  # type: ignore[attr-defined]
    else:
        del results
        gc.collect()
    assert data_threads() == []
    assert len(calls) <= 30
