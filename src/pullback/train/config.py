"""The configuration of a run: the settings that a user chooses, and what was found in the data when the run began.
It is kept as `config.toml` in the run folder, and is all that it takes to repeat the run.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import types
from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import tomli_w

from pullback import files
from pullback.errors import ConfigError, RunError
from pullback.program.lowering import Precision

Change = Literal["flip", "crop", "zoom", "cutmix"]
"""Random changes to the training images."""


@dataclass(frozen=True)
class Settings:
    """The network, the data, and how the one is trained on the other."""  # the heading of the options in `--help`

    model: Literal["mlp", "cnn", "cifar-cnn", "levels-cnn", "residual"]
    """Network; cnn is another name of levels-cnn. `pullback models` shows the layers of each."""
    build: str | None = None
    """FILE.py:FUNCTION to use a network of your own in place of the model: the function takes (input_shape, classes,
    seed) and returns a pullback.nn.Module."""
    data: str = "digits"
    """Data: digits, mnist, fashion-mnist, cifar10, or a folder that has one folder of images for each class."""
    image_size: int | None = None
    """Folders of images: side of the square that each image is resized to, pixels; where not given, all must be of one
    size already."""
    hidden: tuple[int, ...] = (100,)
    """mlp: widths of the hidden layers, units."""
    levels: tuple[int, ...] = (32, 64, 128)
    """levels-cnn, residual: channels of each level, at half the size of the level before."""
    repeats: int = 3
    """levels-cnn: convolutions in each level. residual: blocks of two."""
    extra: tuple[int, ...] = ()
    """levels-cnn: channels of further levels that are not pooled, such as 512,1024."""
    optimizer: Literal["sgd", "rmsprop", "adam", "adamw"] = "adam"
    """Optimiser. Weight decay is decoupled in adamw, and an L2 penalty in the others."""
    lr: float = 1e-3
    """Learning rate; with a schedule, its highest value."""
    momentum: float = 0.0
    """sgd and rmsprop: momentum, between 0 and 1."""
    weight_decay: float = 0.0
    """Weight decay."""
    schedule: Literal["constant", "cosine", "one-cycle", "exponential", "staircase"] = "constant"
    """Learning rate over the run; cosine begins with a linear warm-up."""
    warmup: float = 0.05
    """cosine and one-cycle: part of the run in which the learning rate rises, between 0 and 1."""
    warmup_steps: int | None = None
    """cosine: steps in which the learning rate rises, in place of --warmup."""
    warmup_epochs: float | None = None
    """cosine: passes over the training images in which the learning rate rises, in place of --warmup."""
    decay: float = 0.1
    """exponential: learning rate at the end over that at the start. staircase: factor after each third of the run."""
    batch_size: int = 64
    """Images in a step."""
    steps: int | None = None
    """Length of the run, steps."""
    epochs: float | None = None
    """Length of the run, passes over the training images; 10 where neither this nor --steps is given."""
    patience: int | None = None
    """End the run after so many evaluations in a row without a higher validation accuracy."""
    time_budget: str | None = None
    """End the run in good order after so much time in training, such as 30m, 1h30m or 90s. Where neither --steps nor
    --epochs is given, the length of the run is chosen to fit, so that the schedule comes to its end."""
    average: float = 0.0
    """Evaluate and keep an exponential moving average of the weights: the part of the old average that stays at each
    step, such as 0.999."""
    augment: tuple[Change, ...] = ()
    """Random changes to the training images: flip (left to right), crop (shift by up to an eighth of the side),
    zoom (a window of a third of the area or more, enlarged to the whole), cutmix (every other image, on average, gets
    a random window of another, and a share of its label by area)."""
    eval_every: int | None = None
    """Steps between two evaluations on the validation images; one epoch where not given."""
    log_every: int = 10
    """Steps between two rows of training metrics, each the mean since the row before."""
    checkpoint_every: float = 60.0
    """Longest time between two checkpoints, seconds; each evaluation makes one besides."""
    seed: int = 0
    """Seed of the initial weights, the order of the images, augmentation and dropout."""
    precision: Precision = "float32"
    """Least accurate arithmetic of products in a training step: float32-fast allows three products of 16-bit numbers
    where they are faster than one of 32 bits (on CPUs with AMX), bfloat16 allows one. All else is float32."""
    eager: bool = False
    """Run every training step in Python, rather than as one compiled program: several times slower for small steps."""

    def __post_init__(self) -> None:
        """Raises ConfigError where a setting makes no sense whatever the data."""
        hints = get_type_hints(Settings)
        for name in ("model", "optimizer", "schedule", "precision"):
            choose(name, getattr(self, name), get_args(hints[name]))
        for change in self.augment:
            choose("augmentation", change, get_args(Change))
        if self.time_budget is not None:
            seconds_of(self.time_budget)
        if self.build is not None and not re.fullmatch(r".+\.py:\w+", self.build):
            raise ConfigError(f"build: expected FILE.py:FUNCTION, got {self.build!r}.")
        if self.steps is not None and self.epochs is not None:
            raise ConfigError("steps and epochs both set the length of the run: give one of them.")
        if self.eager and self.precision != "float32":
            raise ConfigError(f"precision {self.precision!r} is one of compiled steps, and eager asks for others.")
        if self.warmup_steps is not None and self.warmup_epochs is not None:
            raise ConfigError("warmup_steps and warmup_epochs both set the length of the warm-up: give one of them.")
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, int | float) and not isinstance(number, bool):
                    _check_range(field.name, number)
            owner, owners = _BELONGS_TO.get(field.name, ("", ()))
            if owner and value != field.default and getattr(self, owner) not in owners:
                given = getattr(self, owner)
                raise ConfigError(f"{field.name} has no effect with {owner} {given!r}, only with {', '.join(owners)}.")


def resolved(settings: Settings) -> Settings:
    """The settings with files named from the root of the file system, so that a run goes on from anywhere."""
    if settings.build is not None:
        path, _, function = settings.build.rpartition(":")
        settings = replace(settings, build=f"{Path(path).resolve()}:{function}")
    return settings


def words(options: Any, default: Any, leave_out: Collection[str] = ()) -> list[str]:
    """The fields of a dataclass that are not as in `default`, as options of a command line."""
    found: list[str] = []
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name in leave_out or value == getattr(default, field.name, None):
            continue
        found.append(f"--{field.name.replace('_', '-')}")
        if value is not True:
            found.append(",".join(map(str, value)) if isinstance(value, tuple) else str(value))
    return found


_BELONGS_TO = {
    "hidden": ("model", ("mlp",)),
    "levels": ("model", ("levels-cnn", "cnn", "residual")),
    "repeats": ("model", ("levels-cnn", "cnn", "residual")),
    "extra": ("model", ("levels-cnn", "cnn")),
    "momentum": ("optimizer", ("sgd", "rmsprop")),
    "warmup": ("schedule", ("cosine", "one-cycle")),
    "warmup_steps": ("schedule", ("cosine",)),
    "warmup_epochs": ("schedule", ("cosine",)),
    "decay": ("schedule", ("exponential", "staircase")),
}
_MAY_BE_ZERO = (
    "weight_decay",
    "checkpoint_every",
    "seed",
    "momentum",
    "warmup",
    "warmup_steps",
    "warmup_epochs",
    "average",
)
_BELOW_ONE = ("momentum", "warmup", "average")
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_of(duration: str) -> float:
    """The seconds in a text such as 1h30m, 30m or 90s. Raises ConfigError where it is none."""
    found = _DURATION.fullmatch(duration.replace(" ", ""))
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ConfigError(f"time_budget: expected a time such as 30m, 1h30m or 90s, got {duration!r}.")
    return total


def _check_range(name: str, value: float) -> None:
    low = "at least 0" if name in _MAY_BE_ZERO else "above 0"
    high = " and below 1" if name in _BELOW_ONE else ""
    if value < 0 or (value == 0 and name not in _MAY_BE_ZERO) or not value < (1 if name in _BELOW_ONE else math.inf):
        raise ConfigError(f"{name}: expected a number {low}{high}, got {value}.")


@dataclass(frozen=True)
class Facts:
    """What was found in the data when the run began. A run is continued only with data of the same fingerprint."""

    fingerprint: str
    """SHA-256 over the images and labels, training and validation."""
    image_shape: tuple[int, ...]
    """Height, width and channels of an image."""
    classes: tuple[str, ...]
    """Names of the classes, in the order of the network's outputs."""
    mean: tuple[float, ...]
    """Mean of each channel over the training images, in units of 0 to 1."""
    std: tuple[float, ...]
    """Standard deviation of each channel over the training images, in units of 0 to 1."""


@dataclass(frozen=True)
class Config:
    """Everything that determines the metrics of a run."""

    pullback: str
    """The version of pullback that began the run."""
    settings: Settings
    facts: Facts


def write_config(path: Path, config: Config) -> None:
    """Write `config` as TOML, atomically. Settings that are None are left out."""
    tables: dict[str, Any] = asdict(config)
    tables["settings"] = {key: value for key, value in tables["settings"].items() if value is not None}
    text = "# Everything that determines the metrics of this run. `pullback resume` goes by it.\n" + tomli_w.dumps(
        tables
    )
    files.replace(path, text.encode())


def read_config(path: Path) -> Config:
    """Read `config.toml`.

    Raises RunError where it is missing, ConfigError where it is no TOML, or a key is unknown, missing or ill-typed.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path.parent} is not a run folder: {path.name} cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise ConfigError(f"{path} is not a TOML file: {error}.") from error
    config: Config = _build(Config, tables, f"{path}: ")
    return config


def choose(kind: str, name: str, choices: Iterable[str]) -> str:
    """`name` itself where it is one of `choices`; else raises ConfigError, with the nearest as a suggestion."""
    names = sorted(choices)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")


def _build(kind: type[Any], table: dict[str, Any], where: str) -> Any:
    """A dataclass from a TOML table, each value checked against the annotation of its field."""
    hints = get_type_hints(kind)
    for key in table:
        try:
            choose("key", key, hints)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None
    for field in fields(kind):
        if field.name not in table and field.default is not None:  # defaults may differ in another version
            raise ConfigError(f"{where}the key {field.name!r} is missing.")
    try:
        return kind(**{key: _convert(hints[key], value, key, where) for key, value in table.items()})
    except ConfigError as error:
        raise error if str(error).startswith(where) else ConfigError(f"{where}{error}") from None


def _convert(hint: Any, value: Any, key: str, where: str) -> Any:
    if isinstance(hint, type) and hint not in (str, int, float, bool):
        if isinstance(value, dict):
            return _build(hint, value, f"{where}[{key}] ")
    elif get_origin(hint) is tuple:
        if isinstance(value, list):
            return tuple(_convert(get_args(hint)[0], item, key, where) for item in value)
    elif get_origin(hint) in (Union, types.UnionType):
        return _convert(get_args(hint)[0], value, key, where)  # TOML has no None
    elif get_origin(hint) is Literal and isinstance(value, str):
        return value  # the dataclass itself checks it
    elif hint is float and type(value) is int:
        return float(value)
    elif type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint)).replace("tuple", "list")
    raise ConfigError(f"{where}{key}: expected {name}, got {value!r}.")
