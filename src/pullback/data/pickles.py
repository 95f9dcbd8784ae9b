"""Reads pickles of plain values and arrays without being able to run anything a pickle may ask for.

A pickle is a program. `pickle.load` executes it, importing and calling whatever it names; this is another machine for
the same instructions, which can build numbers, strings, bytes, tuples, lists, dicts and arrays, because it has no means
to do anything else: a name is only compared with a few that it knows, and nothing is ever imported or called. What it
builds is never larger than a small multiple of the file.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from typing import IO, Any

import numpy as np

from pullback.errors import DataError

_RECONSTRUCT = {"numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"}
_KNOWN_NAMES = frozenset(_RECONSTRUCT | {"numpy.ndarray", "numpy.dtype"})

_LITERALS = {
    "INT", "LONG", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Name:
    """A name that the pickle mentions: a mark on the stack, without the thing it names."""

    def __init__(self, name: str) -> None:
        self.name = name


class _Uint8:
    """The stand-in for `numpy.dtype('u1')`."""


def read_pickle(data: bytes, source: str) -> Any:
    """The value that the pickle `data` describes (protocols 0 to 4).

    Strings of Python 2 come as str, decoded as Latin-1, byte for byte. Raises `DataError`, with `source` in front,
    naming what was refused, or saying that the pickle is damaged.
    """
    with damage_named(source):
        return _Arrays(data).run()


@contextmanager
def damage_named(source: str) -> Iterator[None]:
    """Turns what instructions that do not fit each other, or an early end, come to into a DataError with a name."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        raise DataError(f"{source}: the pickle is damaged: {type(error).__name__}: {error}") from error


class PickleMachine:
    """The pickle machine's stack, marks and memo; each instruction is a method or an entry of a table above.

    A subclass says which names it knows, and what a call of one of them means.
    """

    known_names: frozenset[str] = frozenset()
    holds = "numbers, strings, lists and dicts"
    """What it can build, for errors."""

    def __init__(self, data: bytes | IO[bytes]) -> None:
        """A stream is read to the end of its first pickle, and no further."""
        self.data = data
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        argument: Any
        for instruction, argument, _ in pickletools.genops(self.data):
            name = instruction.name
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name in _TUPLES:
                self.stack[-_TUPLES[name] :] = [tuple(self.stack[-_TUPLES[name] :])]
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name not in ("PROTO", "FRAME", "STOP"):
                method = getattr(self, f"op_{name.lower()}", None)
                if method is None:
                    raise DataError(f"refused the pickle instruction {name}: it may hold only {self.holds}")
                method(*(() if argument is None else (argument,)))
        return self.stack.pop()

    def to_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def op_mark(self) -> None:
        self.outer.append(self.stack)
        self.stack = []

    def op_memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_pop(self) -> None:
        self.stack.pop()

    def op_tuple(self) -> None:
        items = self.to_mark()
        self.stack.append(tuple(items))

    def op_list(self) -> None:
        items = self.to_mark()
        self.stack.append(items)

    def op_dict(self) -> None:
        items = self.to_mark()
        self.stack.append(_pairs(items))

    def op_append(self) -> None:
        item = self.stack.pop()
        expect(self.stack[-1], list).append(item)

    def op_appends(self) -> None:
        items = self.to_mark()
        expect(self.stack[-1], list).extend(items)

    def op_setitem(self) -> None:
        items = [self.stack.pop(-2), self.stack.pop()]
        expect(self.stack[-1], dict).update(_pairs(items))

    def op_setitems(self) -> None:
        items = self.to_mark()
        expect(self.stack[-1], dict).update(_pairs(items))

    def op_global(self, words: str) -> None:
        self.mention(".".join(words.split(" ", 1)))

    def op_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.mention(f"{module}.{name}")

    def mention(self, name: str) -> None:
        if name not in self.known_names:
            raise DataError(f"refused {name!r:.80}, which this pickle asks for: it may hold only {self.holds}")
        self.stack.append(Name(name))

    def op_reduce(self) -> None:
        arguments, called = self.stack.pop(), expect(self.stack.pop(), Name).name
        self.stack.append(self.call(called, arguments))

    def op_build(self) -> None:
        state = self.stack.pop()
        self.set_state(self.stack[-1], state)

    def call(self, name: str, arguments: Any) -> Any:
        """What a call of a known name gives. Raises DataError for one that has no meaning."""
        raise DataError(f"refused a call of {name!r}")

    def set_state(self, target: Any, state: Any) -> None:
        """Gives what a call made its contents. Raises DataError where that has no meaning."""
        raise DataError(f"refused to set the state of a {type(target).__name__}")


class _Arrays(PickleMachine):
    """Plain values and NumPy arrays of uint8."""

    known_names = _KNOWN_NAMES
    holds = "numbers, strings, lists, dicts and uint8 arrays"

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.bytes_left = len(data)  # for arrays; their contents are in the data, so more would be the same bytes again

    def call(self, name: str, arguments: Any) -> Any:
        if name in _RECONSTRUCT and arguments[0].name == "numpy.ndarray":
            return np.empty(0, np.uint8)
        if name == "numpy.dtype":
            if arguments[0] != "u1":
                raise DataError(f"refused an array of dtype {arguments[0]!r:.80}: only uint8 ('u1') is read")
            return _Uint8()
        return super().call(name, arguments)

    def set_state(self, target: Any, state: Any) -> None:
        if isinstance(target, np.ndarray):
            self.fill(target, *state)
        elif not isinstance(target, _Uint8):  # a dtype's state is its byte order and alignment: nothing for one byte
            super().set_state(target, state)

    def fill(
        self, array: np.ndarray[Any, Any], version: Any, shape: Any, dtype: Any, fortran: Any, contents: Any
    ) -> None:
        """Gives the empty array its contents in place, because the memo may already refer to it."""
        if not isinstance(dtype, _Uint8):
            raise DataError("refused an array whose elements are not uint8")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("the shape of an array is not made of whole numbers")
        raw = contents.encode("latin-1") if isinstance(contents, str) else expect(contents, bytes)
        self.bytes_left -= len(raw)
        if len(raw) != prod(shape) or self.bytes_left < 0:
            raise ValueError(f"an array of shape {shape} has {len(raw)} bytes")
        array.resize(shape, refcheck=False)
        array[...] = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")


def _pairs(items: list[Any]) -> dict[Any, Any]:
    # Only flat keys: a tuple nested a million deep overflows the C stack when it is hashed.
    if not all(isinstance(key, str | bytes | int | float) for key in items[::2]):
        raise ValueError("a dict has a key that is no string or number")
    return dict(zip(items[::2], items[1::2], strict=True))


def expect(value: Any, kind: type) -> Any:
    """The value, if it is of this kind; ValueError otherwise."""
    if not isinstance(value, kind):
        raise ValueError(f"an instruction met a {type(value).__name__} where it needs a {kind.__name__}")
    return value
