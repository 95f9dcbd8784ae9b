"""Where a known data set lies: a folder the user names, $PULLBACK_DATA, the system, or a checked download.

Downloads are kept in the user's cache folder, so that each happens once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pullback.errors import DataError


def locate(name: str, base_url: str, md5: Mapping[str, str], system: Path | None = None) -> Path:
    """The folder that holds data set `name`.

    Looks in `$PULLBACK_DATA/name`, then in `system` (where an operating system's package puts it), then in the user's
    cache, to which missing files are downloaded: `md5` maps each file name below `base_url` to its published MD5.
    Raises `DataError` where that fails, saying where a copy may be put.
    """
    shared = os.environ.get("PULLBACK_DATA")
    local = Path(shared).expanduser() / name if shared else None
    for folder in (local, system):
        if folder is not None and folder.is_dir():
            return folder
    return _download(name, base_url, md5, local)


def _download(name: str, base_url: str, md5: Mapping[str, str], local: Path | None) -> Path:
    import pooch

    cache = Path(pooch.os_cache("pullback")) / name
    try:
        for file, checksum in md5.items():
            pooch.retrieve(f"{base_url}/{file}", known_hash=f"md5:{checksum}", fname=file, path=cache)
    # Connection errors are OSError; a wrong checksum is ValueError.
    except (OSError, ValueError) as error:
        raise DataError(
            f"{name}: no copy at {local or f'$PULLBACK_DATA/{name} (not set)'}, "
            f"and the download from {base_url} failed: {error}. "
            f"Give the path of a copy, or put {', '.join(md5)} into {cache}"
        ) from error
    return cache
