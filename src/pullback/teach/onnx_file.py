"""Opening an ONNX file from anywhere without trusting it: what it may read, what it may run, and its hash.

It may read weights in its own folder and run onnxruntime's own operators, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pullback.errors import TeacherError
from pullback.teach.network import Network
from pullback.teach.spec import KNOWN, KNOWN_SHA256, TeacherSpec, shown


def open_onnx(path: Path, threads: int, device: str) -> Network:
    """The network in an ONNX file, to be run by onnxruntime with so many threads a call, on `device`.

    Its hash is of the file and of the weights beside it.

    Raises TeacherError where the file is missing, is no ONNX model, names weights outside its folder, or cannot be run.
    """
    content = _read(path)
    weights = _weight_files(path, content)
    sha256 = _digest(content, weights)
    # The bytes that were checked, not the file as it is now; with weights beside it onnxruntime must know the folder.
    model = str(path) if weights else content
    network = run_onnx(model, str(path), sha256, threads, device)
    spec = KNOWN.get(KNOWN_SHA256.get(sha256, path.stem), TeacherSpec()).filled_from(TeacherSpec(name=path.stem))
    return replace(network, spec=spec, file=path)


def run_onnx(model: bytes | str, source: str, sha256: str, threads: int, device: str) -> Network:
    """The network of a model, given as its bytes or as the path of its file."""
    session, used = _session(model, source, threads, device)
    inputs = session.get_inputs()
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs)
        raise TeacherError(f"teacher '{source}': expected one input, the images; it has {len(inputs)}: {names}")
    name, kind, shape = inputs[0].name, inputs[0].type, list(inputs[0].shape)
    if kind != "tensor(float)" or len(shape) != 4:
        raise TeacherError(
            f"teacher '{source}': expected a float32 input of four axes, a batch of images; "
            f"its input '{name}' is {kind} {shown(shape)}"
        )
    output = session.get_outputs()[0].name

    def run(batch: NDArray[np.float32]) -> NDArray[Any]:
        try:
            (answer,) = session.run([output], {name: batch})
        except Exception as error:  # onnxruntime's errors have no base of their own
            raise TeacherError(
                f"teacher '{source}': it fails on an input {shown(batch.shape)}: {first_line(error)}"
            ) from None
        return np.asarray(answer)

    return Network(source, sha256, run, shape, parallel=used == "cpu", device=used)


def first_line(error: BaseException) -> str:
    """What onnxruntime says, without the paragraphs that follow."""
    return str(error).strip().split("\n")[0]


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise TeacherError(f"teacher '{path}': expected an ONNX file, got a folder")
    try:
        return path.read_bytes()
    except OSError as error:
        raise TeacherError(f"teacher '{path}': expected an ONNX file, cannot read it ({error.strerror})") from None


def _weight_files(path: Path, content: bytes) -> list[Path]:
    """The files that hold the model's weights, if it does not hold them itself.

    A model can name any file of the machine here; those outside its folder are refused.
    """
    import onnx

    try:
        model = onnx.load_model_from_string(content)
    except Exception:  # protobuf's error, whose home differs between its versions
        raise TeacherError(f"teacher '{path}': it is not an ONNX model") from None
    if not model.graph.node:
        raise TeacherError(f"teacher '{path}': it is not an ONNX model, or one that computes nothing")
    folder = path.resolve().parent
    files = set()
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        location = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        file = (folder / location).resolve()
        if not file.is_relative_to(folder):
            raise TeacherError(
                f"teacher '{path}': refused, its weights '{tensor.name}' lie outside its folder: {location}"
            )
        if not file.is_file():
            raise TeacherError(f"teacher '{path}': its weights '{location}' are missing; they belong beside the model")
        files.add(file)
    return sorted(files)


def _tensors(message: Any) -> Iterator[Any]:
    """Every tensor below a protobuf message: initializers, constants, attributes, subgraphs, functions."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for child in [value] if hasattr(value, "ListFields") else value:
            if child.DESCRIPTOR.name == "TensorProto":
                yield child
            else:
                yield from _tensors(child)


def _digest(content: bytes, weights: Sequence[Path]) -> str:
    digest = hashlib.sha256(content)
    for file in weights:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _session(model: bytes | str, source: str, threads: int, device: str) -> tuple[Any, str]:
    """A session, and the device it runs on."""
    import onnxruntime

    cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not cuda:
        raise TeacherError(
            f"teacher '{source}': this onnxruntime cannot use a GPU: install onnxruntime-gpu in its place"
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is told by the exception
    # Threads that spin while they wait would take the processor from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = ["CUDAExecutionProvider"] * (cuda and device != "cpu") + ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(model, options, providers=providers)
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise TeacherError(f"teacher '{source}': onnxruntime cannot run it: {first_line(error)}") from None
    # It falls back to the CPU where a driver is missing.
    used = "cuda" if "CUDAExecutionProvider" in session.get_providers() else "cpu"
    if device == "cuda" and used != "cuda":
        raise TeacherError(f"teacher '{source}': onnxruntime finds no GPU that it can use")
    return session, used
