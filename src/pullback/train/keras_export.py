"""A network as a Keras 3 model, layer by layer. Keras is imported only here, with whichever backend it has."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback import files, nn
from pullback.errors import ConfigError
from pullback.nn.models import ResidualBlock
from pullback.train.run import Run


def save_keras(run: Run, model: nn.Module, path: Path) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Write the network, from pixels to logits; returns what the file, read again, makes of images.

    Raises ConfigError where Keras is missing, or for a layer that has no counterpart here.
    """
    keras = _keras()
    facts = run.config.facts
    pixels = keras.Input(facts.image_shape, name="pixels")
    x = keras.layers.Rescaling(
        [1 / (255 * std) for std in facts.std], [-mean / std for mean, std in zip(facts.mean, facts.std, strict=True)]
    )(pixels)
    built = keras.Model(pixels, _Layers(keras).add(model, x))
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / "network.keras"
        built.save(part)
        files.replace(path, part.read_bytes())
        again = keras.models.load_model(part)
    return lambda images: np.asarray(again(images.astype(np.float32), training=False))


def _keras() -> Any:
    if importlib.util.find_spec("keras") is None:
        raise ConfigError("export to Keras needs Keras 3 and one of its backends: pip install keras jax")
    for backend in ("tensorflow", "jax", "torch"):
        if importlib.util.find_spec(backend) is not None:
            os.environ.setdefault("KERAS_BACKEND", backend)
            import keras

            return keras
    raise ConfigError("export to Keras needs a backend of Keras: pip install jax")


class _Layers:
    """Counterparts of layers. Images are channels-last in both."""

    def __init__(self, keras: Any) -> None:
        self.keras, self.layers = keras, keras.layers

    def add(self, layer: Any, x: Any) -> Any:
        """The output of `layer` for the Keras tensor x."""
        match layer:
            case nn.Sequential():
                for name in layer.names:
                    x = self.add(layer[name], x)
                return x
            case ResidualBlock():
                y = self._relu(self.add(layer.norm0, self.add(layer.conv0, x)))
                y = self.add(layer.norm1, self.add(layer.conv1, y))
                return self._relu(self.layers.Add()([y, self.add(layer.shortcut, x)]))
            case nn.Conv2d():
                return self._convolution(layer, x)
            case nn.Linear():
                arrays = [layer.weight] if layer.bias is None else [layer.weight, layer.bias]
                dense = self.layers.Dense(layer.weight.shape[1], use_bias=layer.bias is not None)
                return self._with(dense, arrays, x)
            case nn.BatchNorm():
                arrays = [layer.gamma, layer.beta, layer.running_mean.value, layer.running_variance.value]
                return self._with(self.layers.BatchNormalization(epsilon=layer.eps), arrays, x)
            case nn.ReLU():
                return self._relu(x)
            case nn.MaxPool2d():
                return self._max_pool(layer, x)
            case nn.GlobalAvgPool2d():
                return self.layers.GlobalAveragePooling2D()(x)
            case nn.Flatten():
                return self.layers.Flatten()(x)
            case nn.Dropout():
                return x
        raise ConfigError(f"export to Keras knows no counterpart of {type(layer).__name__}: export to ONNX instead")

    def _with(self, made: Any, arrays: list[Any], x: Any) -> Any:
        y = made(x)
        made.set_weights([np.asarray(array) for array in arrays])
        return y

    def _relu(self, x: Any) -> Any:
        return self.layers.ReLU()(x)

    def _convolution(self, layer: Any, x: Any) -> Any:
        padding = layer.padding_of((x.shape[1], x.shape[2]))
        if np.any(padding):
            x = self.layers.ZeroPadding2D(padding)(x)
        made = self.layers.Conv2D(
            layer.outputs, layer.kernel, layer.stride, groups=layer.groups, use_bias=layer.bias is not None
        )
        return self._with(made, [layer.weight] if layer.bias is None else [layer.weight, layer.bias], x)

    def _max_pool(self, layer: Any, x: Any) -> Any:
        if np.any(layer.padding):
            # Padding never wins; Keras pads with zeros, which might.
            x = self.keras.ops.pad(x, ((0, 0), *layer.padding, (0, 0)), constant_values=float(np.finfo(np.float32).min))
        return self.layers.MaxPooling2D(layer.window, layer.stride)(x)
