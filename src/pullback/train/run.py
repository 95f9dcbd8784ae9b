"""The run folder: what lies where in it, and how one is begun and opened.

RUN/config.toml                     the settings, and the facts found in the data
RUN/metrics.jsonl                   one row for each few training steps, and for each evaluation
RUN/timing.jsonl                    the time each evaluation was reached; apart, because it differs from run to run
RUN/checkpoints/last.safetensors    the newest state, from which `resume` goes on
RUN/checkpoints/best.safetensors    the state with the highest validation accuracy
RUN/curves.png                      loss and accuracy over the steps
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pullback.errors import RunError
from pullback.files import cannot_write, locked, read_json_lines
from pullback.train.checkpoint import Arrays, Position, load
from pullback.train.config import Config, choose, read_config, write_config

CHECKPOINTS = ("last", "best")


class Run:
    """A run folder that exists."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """The run in `folder`. Raises RunError where there is none, ConfigError where its configuration is wrong."""
        folder = Path(folder)
        if not folder.is_dir():
            raise RunError(f"there is no run folder {folder}. `pullback train` makes one.")
        return cls(folder, read_config(folder / "config.toml"))

    @staticmethod
    def check_free(folder: Path) -> None:
        """Raises RunError where `folder` already holds a run."""
        if (folder / "config.toml").exists():
            raise RunError(
                f"{folder} already holds a run. Continue it with `pullback resume {folder}`, or choose another folder."
            )

    @classmethod
    @contextmanager
    def begin(cls, folder: Path, config: Config) -> Iterator[Run]:
        """A new run in `folder`, locked while the block runs. Raises RunError where it holds one or cannot be made."""
        try:
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(folder, error) from error
        with locked(folder / ".lock"):
            cls.check_free(folder)
            run = cls(folder, config)
            write_config(run.config_path, config)  # from here on it is a run, and can be resumed
            yield run

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder while the block runs. Raises RunError where one does."""
        with locked(self.folder / ".lock"):
            yield

    @property
    def config_path(self) -> Path:
        """Where the configuration is."""
        return self.folder / "config.toml"

    @property
    def metrics_path(self) -> Path:
        """Where the metrics are; the same bytes however often the run was interrupted."""
        return self.folder / "metrics.jsonl"

    @property
    def timing_path(self) -> Path:
        """Where the times are."""
        return self.folder / "timing.jsonl"

    @property
    def curves_path(self) -> Path:
        """Where the picture of the curves is."""
        return self.folder / "curves.png"

    def checkpoint_path(self, name: str) -> Path:
        """Where the checkpoint `name` is: `last` or `best`. Raises ConfigError where it is neither."""
        return self.folder / "checkpoints" / f"{choose('checkpoint', name, CHECKPOINTS)}.safetensors"

    def began(self) -> bool:
        """Whether training has begun. The first checkpoint is written before the first row of metrics."""
        return any(self.checkpoint_path(name).exists() for name in CHECKPOINTS) or (
            self.metrics_path.exists() and self.metrics_path.stat().st_size > 0
        )

    def checkpoint(self, name: str) -> tuple[Position, Arrays, Arrays]:
        """The position, and the arrays of model and optimiser. Raises RunError where they cannot be had."""
        return load(self.checkpoint_path(name))

    def metrics(self) -> list[dict[str, Any]]:
        """The rows so far: step, split (training or validation), loss, accuracy, and in training learning_rate."""
        return read_json_lines(self.metrics_path)
