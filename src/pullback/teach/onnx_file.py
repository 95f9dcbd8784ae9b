"""Opening an ONNX file from anywhere without trusting it: what it may read, what it may run, and its hash.

It may read weights in its own folder and run onnxruntime's own operators, and nothing else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pullback.errors import TeacherError


def open_model(path: Path, threads: int) -> tuple[Any, str]:
    """An onnxruntime session on the CPU with so many threads, and the SHA-256 of the file and of the weights beside it.

    Raises TeacherError where the file is missing, is no ONNX model, names weights outside its folder, or cannot be run.
    """
    content = _read(path)
    weights = _weight_files(path, content)
    return _session(path, content, bool(weights), threads), _digest(content, weights)


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


def _session(path: Path, content: bytes, weights_outside: bool, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what is wrong is told by the exception
    # Threads that spin while they wait would take the processor from those that decode images.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The bytes that were checked, not the file as it is now; with weights beside it onnxruntime must know the folder.
    model = str(path) if weights_outside else content
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no base of their own
        raise TeacherError(f"teacher '{path}': onnxruntime cannot run it: {first_line(error)}") from None
