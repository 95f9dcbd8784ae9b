"""config.toml: what is written reads back, and whatever is wrong with it is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pullback.errors import ConfigError, RunError
from pullback.train.config import Config, Facts, Settings, read_config, write_config

CONFIG = Config(
    pullback="0.1.0",
    settings=Settings(model="mlp", hidden=(600, 200), epochs=2.5, augment=("flip", "crop"), lr=0.1 + 0.2),
    facts=Facts("f00d", (8, 8, 1), ("null", 'a "b" \\ ü'), (1 / 3,), (0.1,)),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    write_config(path, CONFIG)
    return path


def test_what_is_written_reads_back(path: Path) -> None:
    assert read_config(path) == CONFIG


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size", "bath_size", r"\[settings\] unknown key 'bath_size'. Did you mean 'batch_size'\?"),
        ("seed = 0", "", r"\[settings\] the key 'seed' is missing"),
        ("batch_size = 64", "batch_size = 64.5", r"batch_size: expected int, got 64.5"),
        ("batch_size = 64", "batch_size = true", r"batch_size: expected int, got True"),
        ("600,", '"600",', r"hidden: expected int, got '600'"),
        ("batch_size = 64", "batch_size = 0", r"batch_size: expected a number above 0, got 0"),
        ('"mlp"', '"mpl"', r"unknown model 'mpl'. Did you mean 'mlp'\?"),
        ("[settings]", "[setings]", r"unknown key 'setings'. Did you mean 'settings'\?"),
        ("seed = 0", "seed = ", r"is not a TOML file"),
    ],
)
def test_what_is_wrong_is_named(path: Path, old: str, new: str, message: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert str(error.value).count(str(path)) == 1


def test_whole_numbers_are_fine_where_any_are(path: Path) -> None:
    path.write_text(path.read_text().replace("weight_decay = 0.0", "weight_decay = 0"))
    assert read_config(path) == CONFIG


def test_a_missing_file_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is not a run folder"):
        read_config(tmp_path / "config.toml")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 1, "epochs": 1.0}, "give one of them"),
        ({"warmup_steps": 1, "warmup_epochs": 1.0, "schedule": "cosine"}, "give one of them"),
        ({"warmup_steps": 9}, "warmup_steps has no effect with schedule 'constant', only with cosine"),
        ({"lr": 0.0}, "lr: expected a number above 0"),
        ({"lr": float("nan")}, "lr: expected a number above 0"),
        ({"momentum": 1.0, "optimizer": "sgd"}, "momentum: expected a number at least 0 and below 1"),
        ({"hidden": (100, 0)}, "hidden: expected a number above 0"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm'. Did you mean 'adam'"),
        ({"augment": ("flop",)}, "unknown augmentation 'flop'. Did you mean 'flip'"),
        ({"levels": (8,)}, "levels has no effect with model 'mlp', only with levels-cnn"),
        ({"momentum": 0.9}, "momentum has no effect with optimizer 'adam'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings(**{"model": "mlp", **settings})
