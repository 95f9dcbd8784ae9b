"""Networks of other libraries as teachers: Keras Applications, timm, torchvision, TensorFlow Hub, and any function.

A library is imported only when one of its networks is asked for.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.teach.classes import ClassName
from pullback.teach.known_teachers import imagenet_classes
from pullback.teach.network import Network
from pullback.teach.spec import TeacherSpec

INSTALL = {
    "keras": "pip install keras tensorflow",
    "timm": "pip install timm",
    "torchvision": "pip install torchvision",
    "tfhub": "pip install tensorflow tensorflow-hub",
}
"""How each library is installed."""


def open_keras(name: str, device: str) -> Network:
    """A network of Keras Applications with its ImageNet weights, such as `MobileNetV2`."""
    source = f"keras:{name}"
    keras = _library("keras", source, "keras")
    build = _member(keras.applications, name, source)
    with _failing(source):
        model = build(weights="imagenet")
        preprocess = sys.modules[build.__module__].preprocess_input
    height, width = model.input_shape[1:3]
    # The library's own preprocessing may be any function; a description must be (pixel * scale - mean) / std.
    spec = TeacherSpec(name=source, size=(height, width), layout="NHWC", output="probabilities")
    spec = spec.filled_from(_affine(preprocess, source))
    swap = _swaps_channels(preprocess)

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(model.predict_on_batch(batch[..., ::-1] if swap else batch))

    sha256 = _digest((str(i), weight) for i, weight in enumerate(model.get_weights()))
    return Network(source, sha256, run, ("n", height, width, 3), spec, imagenet_classes(), parallel=False)


def _affine(preprocess: Callable[[Any], Any], source: str) -> TeacherSpec:
    """A preprocessing function as a description, read off what it does to black and to white pixels."""
    black, white, grey = (
        np.asarray(preprocess(np.full((1, 2, 2, 3), value, np.float32))).reshape(-1, 3)[0] for value in (0, 255, 102)
    )
    factor = (white - black) / 255
    if not np.allclose(black + 102 * factor, grey, atol=1e-4) or not (factor > 0).all():
        raise TeacherError(f"teacher '{source}': its preprocessing is not (pixel * scale - mean) / std")
    if _swaps_channels(preprocess):
        black, factor = black[::-1], factor[::-1]
    std = tuple(float(1 / f) for f in factor)
    return TeacherSpec(scale=1.0, mean=tuple(float(-b * s) for b, s in zip(black, std, strict=True)), std=std)


def _swaps_channels(preprocess: Callable[[Any], Any]) -> bool:
    """Whether it turns RGB into BGR, as for networks that came from Caffe."""
    red, blue = (np.zeros((1, 1, 1, 3), np.float32) for _ in range(2))
    red[..., 0] = blue[..., 2] = 255
    of_red, of_blue = (np.asarray(preprocess(pixel.copy())).ravel() for pixel in (red, blue))
    return bool(of_red[0] < of_blue[0])


def open_timm(name: str, device: str) -> Network:
    """A network of timm with its pretrained weights, such as `mobilenetv3_large_100`."""
    source = f"timm:{name}"
    timm = _library("timm", source, "timm")
    with _failing(source):
        model = timm.create_model(name, pretrained=True)
        config = timm.data.resolve_data_config({}, model=model)
    spec = TeacherSpec(
        name=source,
        size=tuple(config["input_size"][1:]),
        layout="NCHW",
        scale=1 / 255,
        mean=tuple(map(float, config["mean"])),
        std=tuple(map(float, config["std"])),
        output="logits",
    )
    return _torch_network(model, source, spec, _imagenet_if(getattr(model, "num_classes", 0)), device)


def open_torchvision(name: str, device: str) -> Network:
    """A network of torchvision with its default weights, such as `mobilenet_v3_small`."""
    source = f"torchvision:{name}"
    torchvision = _library("torchvision", source, "torchvision")
    with _failing(source):
        weights = torchvision.models.get_model_weights(name).DEFAULT
        model = torchvision.models.get_model(name, weights=weights)
        transform = weights.transforms()
    (side,) = {*transform.crop_size}
    spec = TeacherSpec(
        name=source,
        size=(side, side),
        layout="NCHW",
        scale=1 / 255,
        mean=tuple(map(float, transform.mean)),
        std=tuple(map(float, transform.std)),
        output="logits",
    )
    categories = weights.meta.get("categories", [])
    classes = _imagenet_if(len(categories)) or [ClassName(i, category) for i, category in enumerate(categories)]
    return _torch_network(model, source, spec, classes, device)


def _torch_network(model: Any, source: str, spec: TeacherSpec, classes: list[ClassName] | None, device: str) -> Network:
    torch = importlib.import_module("torch")
    if device == "cuda" and not torch.cuda.is_available():
        raise TeacherError(f"teacher '{source}': this PyTorch finds no GPU that it can use")
    used = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    sha256 = _digest((name, tensor.numpy()) for name, tensor in model.state_dict().items())
    model = model.eval().to(used)

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        with torch.inference_mode():
            return np.asarray(model(torch.from_numpy(batch).to(used)).float().cpu().numpy())

    shape = ("n", 3, *(spec.size or ("height", "width")))
    return Network(source, sha256, run, shape, spec, classes, parallel=False, device=used)


def open_tfhub(url: str, device: str) -> Network:
    """An image classifier of TensorFlow Hub; its images are RGB from 0 to 1, as the Hub's common signature says."""
    source = f"tfhub:{url}"
    hub = _library("tensorflow_hub", source, "tfhub")
    tensorflow = _library("tensorflow", source, "tfhub")
    with _failing(source):
        module = hub.load(url)
        _, inputs = module.signatures["serving_default"].structured_input_signature
    (images,) = inputs.values()
    shape = tuple("n" if axis is None else int(axis) for axis in images.shape)

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(module(tensorflow.constant(batch)))

    spec = TeacherSpec(name=source, layout="NHWC", scale=1 / 255, mean=(0.0,), std=(1.0,))
    with _failing(source):
        side = next((axis for axis in shape[1:3] if isinstance(axis, int)), 224)
        outputs = run(np.zeros((1, side, side, 3), np.float32)).shape[1]
    if outputs == 1001:  # ImageNet's classes after a background class, as TensorFlow's older networks have them
        spec = TeacherSpec(background=True).filled_from(spec)
        outputs -= 1
    sha256 = _digest((str(i), variable.numpy()) for i, variable in enumerate(module.variables))
    return Network(source, sha256, run, shape, spec, _imagenet_if(outputs), parallel=False)


LIBRARIES: Mapping[str, Callable[[str, str], Network]] = {
    "keras": open_keras,
    "timm": open_timm,
    "torchvision": open_torchvision,
    "tfhub": open_tfhub,
}


def open_callable(name: str) -> Network:
    """The function `PACKAGE:CALLABLE`, of a batch of prepared images to logits or probabilities (n, classes).

    Importing it runs its package's code, as naming it on the command line says. An attribute `teacher`, a mapping with
    the keys of a teacher.toml, describes it; its `classes` may be a list of names.
    """
    package, _, attribute = name.partition(":")
    try:
        function: Any = importlib.import_module(package)
        for part in attribute.split("."):
            function = getattr(function, part)
    except (ImportError, AttributeError) as error:
        raise TeacherError(f"teacher '{name}': {error}; expected PACKAGE:CALLABLE, importable from here") from None
    if not callable(function):
        raise TeacherError(f"teacher '{name}': expected a function, got a {type(function).__name__}")
    described = dict(getattr(function, "teacher", {}))
    listed = described.get("classes")
    classes = None
    if isinstance(listed, list | tuple):
        classes = [ClassName(i, str(entry)) for i, entry in enumerate(described.pop("classes"))]
    spec = TeacherSpec.from_mapping(described, f"teacher '{name}'").filled_from(TeacherSpec(name=name))

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        return np.asarray(function(batch), np.float32)

    file = getattr(sys.modules[package], "__file__", None)
    sha256 = hashlib.sha256(Path(file).read_bytes() if file else name.encode()).hexdigest()
    height, width = spec.size or ("height", "width")
    shape = ("n", 3, height, width) if spec.layout == "NCHW" else ("n", height, width, 3)
    return Network(name, sha256, run, shape, spec, classes, parallel=False)


def _library(module: str, source: str, library: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TeacherError(f"teacher '{source}': it needs {module} ({error}): {INSTALL[library]}") from None


def _member(module: Any, name: str, source: str) -> Any:
    try:
        return getattr(module, name)
    except AttributeError:
        raise TeacherError(f"teacher '{source}': {module.__name__} has no network {name!r}") from None


@contextmanager
def _failing(source: str) -> Iterator[None]:
    """Turns whatever a library raises while it loads a network into a TeacherError."""
    try:
        yield
    except Exception as error:
        first = str(error).strip().split("\n")[0] or type(error).__name__
        raise TeacherError(f"teacher '{source}': it cannot be loaded: {first}") from error


def _digest(arrays: Iterable[tuple[str, Any]]) -> str:
    """The SHA-256 of named arrays."""
    digest = hashlib.sha256()
    for name, array in arrays:
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _imagenet_if(outputs: int) -> list[ClassName] | None:
    return imagenet_classes() if outputs == 1000 else None
