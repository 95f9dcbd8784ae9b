"""The metrics of a run in the forms of other tools: a CSV table, and TensorBoard's event file."""

from __future__ import annotations

import csv
import io
import struct
from collections.abc import Iterator
from pathlib import Path

from pullback import files
from pullback.train.run import Run

_COLUMNS = ("step", "split", "loss", "accuracy", "learning_rate")


def write_csv(run: str | Path, path: str | Path) -> Path:
    """The rows of metrics, with the columns step, split, loss, accuracy and learning_rate (of training)."""
    buffer = io.StringIO()
    table = csv.DictWriter(buffer, _COLUMNS, restval="")
    table.writeheader()
    table.writerows(Run.open(run).metrics())
    files.replace(Path(path), buffer.getvalue().encode())
    return Path(path)


def write_tensorboard(run: str | Path, folder: str | Path) -> Path:
    """Every number of the metrics as a scalar such as `training/loss`, in an event file in `folder`.

    The file is a sequence of records (length, its CRC, data, its CRC), each of which holds one `Event` of TensorBoard's
    protocol buffers: step is field 2, summary field 5 (github.com/tensorflow/tensorboard, compat/proto/event.proto).
    """
    path = Path(folder) / "events.out.tfevents.0.pullback"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise files.cannot_write(path.parent, error) from error
    events = [_double(1, 0.0) + _bytes(3, b"brain.Event:2")]
    for row in Run.open(run).metrics():
        for name in ("loss", "accuracy", "learning_rate"):
            if name in row:
                scalar = _bytes(1, f"{row['split']}/{name}".encode()) + b"\x15" + struct.pack("<f", row[name])
                events.append(_double(1, 0.0) + _integer(2, row["step"]) + _bytes(5, _bytes(1, scalar)))
    files.replace(path, b"".join(_record(event) for event in events))
    return path


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", _masked(_crc32c(length))) + data + struct.pack("<I", _masked(_crc32c(data)))


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), which the standard library does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _table() -> Iterator[int]:
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        yield value


_TABLE = tuple(_table())


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value
