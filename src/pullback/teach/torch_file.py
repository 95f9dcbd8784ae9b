"""Reads the tensors of a PyTorch .pth file, the old form and the .zip one, without PyTorch and without unpickling.

The pickle in it is followed by a machine that knows tensors and their storages, and has no means to do anything else.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from pullback.data.pickles import Name, PickleMachine, damage_named, expect
from pullback.errors import DataError, TeacherError

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES: dict[str, np.dtype[Any]] = {
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
}
_TENSOR, _PARAMETER = "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter"
_ORDERED = "collections.OrderedDict"


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a state dict by name.

    Raises TeacherError where the file is missing, damaged, holds anything but tensors, or asks for anything else.
    """
    try:
        content = path.read_bytes()
        with damage_named(str(path)):
            root = _read_zip(content) if zipfile.is_zipfile(io.BytesIO(content)) else _read_stream(content)
            if not isinstance(root, dict) or not all(isinstance(value, _Tensor) for value in root.values()):
                raise DataError("expected a state dict, tensors by name")
            return {str(name): tensor.array() for name, tensor in root.items()}
    except OSError as error:
        raise TeacherError(f"{path}: cannot be read ({error.strerror})") from None
    except (DataError, zipfile.BadZipFile) as error:
        raise TeacherError(f"{error}") from None


@dataclass
class _Storage:
    """Numbers that tensors are views of; in the old form they come after the pickle."""

    dtype: np.dtype[Any]
    length: int
    numbers: NDArray[Any] | None = None


@dataclass(frozen=True)
class _Tensor:
    """A view of a storage."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        numbers = self.storage.numbers
        whole = [self.offset, *self.shape, *self.strides]
        if numbers is None or len(self.shape) != len(self.strides) or not all(type(n) is int and n >= 0 for n in whole):
            raise ValueError("a tensor does not fit its storage")
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.empty(self.shape, numbers.dtype)
        if last >= len(numbers) or math.prod(self.shape) > len(numbers):
            raise ValueError("a tensor reaches beyond its storage")
        steps = [stride * numbers.itemsize for stride in self.strides]
        return as_strided(numbers[self.offset :], self.shape, steps, writeable=False).copy()


class _Tensors(PickleMachine):
    """Plain values and tensors; `storage(key, dtype, length)` gives the storage of that key."""

    known_names = frozenset({_TENSOR, _PARAMETER, _ORDERED, *_DTYPES})
    holds = "plain values and tensors"

    def __init__(self, data: Any, storage: Callable[[str, np.dtype[Any], int], _Storage]) -> None:
        super().__init__(data)
        self.storage = storage

    def op_binpersid(self) -> None:
        """What lies outside of the pickle: `("storage", class, key, device, length, ...)`."""
        kind, name, key, _, length, *view = expect(self.stack.pop(), tuple)
        if kind != "storage" or any(part is not None for part in view):
            raise DataError("refused a reference to something other than a whole storage")
        self.stack.append(self.storage(expect(key, str), _DTYPES[expect(name, Name).name], expect(length, int)))

    def call(self, name: str, arguments: Any) -> Any:
        if name == _ORDERED and arguments == ():
            return {}
        if name == _TENSOR:
            storage, offset, shape, strides, *_ = arguments
            return _Tensor(expect(storage, _Storage), offset, expect(shape, tuple), expect(strides, tuple))
        if name == _PARAMETER:
            return expect(arguments[0], _Tensor)
        return super().call(name, arguments)

    def set_state(self, target: Any, state: Any) -> None:
        if not isinstance(target, dict):  # an OrderedDict's attributes say which version of which module wrote it
            super().set_state(target, state)


def _read_stream(content: bytes) -> Any:
    """The old form: four pickles one after another, the state dict the fourth, then the keys, then the numbers."""
    stream = io.BytesIO(content)
    storages: dict[str, _Storage] = {}

    def storage(key: str, dtype: np.dtype[Any], length: int) -> _Storage:
        return storages.setdefault(key, _Storage(dtype, length))

    def pickle() -> Any:
        return _Tensors(stream, storage).run()

    if pickle() != _MAGIC:
        raise DataError("it is no file of tensors that PyTorch saved")
    pickle(), pickle()  # versions, and the byte order, which is always little-endian
    root = pickle()
    for key in expect(pickle(), list):
        (length,) = struct.unpack("<q", stream.read(8))
        own = storages[key]
        if length != own.length:
            raise ValueError(f"a storage has {length} numbers instead of {own.length}")
        own.numbers = _numbers(stream.read(length * own.dtype.itemsize), own)
    return root


def _read_zip(content: bytes) -> Any:
    """The form since PyTorch 1.6: an archive with the pickle, and each storage as a member."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next((name for name in archive.namelist() if name.endswith("/data.pkl")), None)
        if name is None:
            raise DataError("it is no file of tensors that PyTorch saved")
        folder = name.removesuffix("data.pkl")
        storages: dict[str, _Storage] = {}

        def storage(key: str, dtype: np.dtype[Any], length: int) -> _Storage:
            if key not in storages:
                storages[key] = _Storage(dtype, length)
                storages[key].numbers = _numbers(archive.read(f"{folder}data/{key}"), storages[key])
            return storages[key]

        return _Tensors(archive.read(name), storage).run()


def _numbers(raw: bytes, storage: _Storage) -> NDArray[Any]:
    if len(raw) != storage.length * storage.dtype.itemsize:
        raise ValueError(f"a storage of {storage.length} numbers has {len(raw)} bytes")
    return np.frombuffer(raw, storage.dtype)
