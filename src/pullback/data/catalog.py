"""`load`: any data set by one word, the name of a known one or the path of a folder or archive."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from pullback.data.cifar10 import is_cifar10, load_cifar10
from pullback.data.dataset import Splits
from pullback.data.digits import load_digits
from pullback.data.folder import load_folder
from pullback.data.idx import is_idx_folder, load_fashion_mnist, load_idx, load_mnist
from pullback.errors import DataError

DATASETS: dict[str, Callable[[], Splits]] = {
    "digits": load_digits,
    "mnist": load_mnist,
    "fashion-mnist": load_fashion_mnist,
    "cifar10": load_cifar10,
}


def load(
    name_or_path: str | os.PathLike[str],
    size: tuple[int, int] | None = None,
    channels: int = 3,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Splits:
    """Loads a known data set by name, or what a path holds: idx files, CIFAR-10 in any form, images by class folder.

    A name wins over a folder of the same name; write `./digits` for the folder. The options are those of `load_folder`,
    and used for it alone. Raises `DataError` for an unknown name, with the nearest known one.
    """
    name = os.fspath(name_or_path)
    if name in DATASETS:
        return DATASETS[name]()
    path = Path(name).expanduser()
    if is_cifar10(path):
        return load_cifar10(path)
    if is_idx_folder(path):
        return load_idx(path)
    if path.exists():
        return load_folder(path, size, channels, test_fraction, seed)
    near = difflib.get_close_matches(name.lower(), DATASETS, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{name!r} is neither a known data set nor a folder.{hint} Known: {', '.join(DATASETS)}")
