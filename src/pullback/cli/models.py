"""`pullback models`: the networks by name, as tables of layers, shapes and parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pullback.cli.options import Options
from pullback.errors import ConfigError
from pullback.nn import count_parameters
from pullback.nn.models import MODELS


@dataclass(frozen=True, kw_only=True)
class Command(Options):
    """The networks by name, with their default options, as tables of layers, shapes and parameters."""

    image_shape: tuple[int, ...] = (32, 32, 3)
    """Height, width and channels of an image, pixels."""
    classes: int = 10
    """Number of classes."""

    def run(self) -> int:
        if len(self.image_shape) != 3 or min(*self.image_shape, self.classes) < 1:
            raise ConfigError(
                f"expected --image-shape HEIGHT,WIDTH,CHANNELS and --classes above 0, "
                f"got {','.join(map(str, self.image_shape))} and {self.classes}."
            )
        records: list[dict[str, Any]] = []
        texts: list[str] = []
        for name, build in MODELS.items():
            model = build(self.image_shape, self.classes)
            layers = [row._asdict() for row in model.rows()]
            records.append({"name": name, "parameters": count_parameters(model), "layers": layers})
            texts.append(f"{name}\n\n{model.summary()}")
        self.show(records, "\n\n\n".join(texts))
        return 0
