"""Writing matplotlib's figures to files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from pullback import files
from pullback.errors import ConfigError


def save(figure: Any, path: str | Path) -> Path:
    """Writes a figure, atomically. Raises ConfigError for an ending that matplotlib does not know."""
    path = Path(path)
    kinds = figure.canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".") not in kinds:
        raise ConfigError(f"{path}: expected a file that ends in {', '.join(f'.{kind}' for kind in sorted(kinds))}")
    files.replace(path, as_bytes(figure, path.suffix.removeprefix(".")))
    return path


def as_bytes(figure: Any, kind: str) -> bytes:
    """A figure as a file of this kind."""
    picture = io.BytesIO()
    figure.savefig(picture, format=kind)
    return picture.getvalue()
