"""Work done ahead of its consumer, in order and in bounded memory.

The one pattern behind decoding files in parallel and prefetching batches.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, ahead: int
) -> Iterator[Result]:
    """Yields `function(item)` in order, computed by `workers` threads at most `ahead` items before they are asked for.

    What `function` raises, the consumer gets in its place. The threads start with the first result asked for, and end
    when the iterator is exhausted, closed or dropped: calls that have not begun are cancelled, one that has is waited
    for.
    """
    remaining = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="pullback-data")
    try:
        pending: deque[Future[Result]] = deque(pool.submit(function, item) for item in islice(remaining, ahead))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(function, item) for item in islice(remaining, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
