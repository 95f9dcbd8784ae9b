"""The reader of pickles is judged by what `pickle.dumps` writes, and by pickles that would harm one who loaded them."""

from __future__ import annotations

import builtins
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pullback.data.pickles import read_pickle
from pullback.errors import DataError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.tuples(inner)
        | st.lists(inner, min_size=4, max_size=5).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
    ),
    max_leaves=15,
)


@given(plain, st.sampled_from([3, 4]))
def test_plain_values_come_back(value: Any, protocol: int) -> None:
    read = read_pickle(pickle.dumps(value, protocol), "test")
    assert read == value
    assert repr(read) == repr(value)


@pytest.mark.parametrize("protocol", [0, 1, 2])
def test_the_old_text_protocols_come_back(protocol: int) -> None:
    value = {"labels": [1, -2, 2**70, True, None, 1.5], "names": ("a", "\N{BULLET}", "line\nline"), "empty": [(), {}]}
    assert read_pickle(pickle.dumps(value, protocol), "test") == value


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("order", ["C", "F"])
def test_uint8_arrays_come_back(protocol: int, order: Any) -> None:
    array = np.asarray(np.arange(24, dtype=np.uint8).reshape(2, 3, 4), order=order)
    read = read_pickle(pickle.dumps({"data": array, "again": array}, protocol), "test")
    assert read["data"].dtype == np.uint8
    np.testing.assert_array_equal(read["data"], array)
    assert read["again"] is read["data"]


def python2_pickle(pixels: bytes, count: int) -> bytes:
    """A batch as Python 2's cPickle wrote it: strings of bytes, and no memo of the array."""
    shape = bytes([count]) + b"M\x00\x0c\x86"
    return (
        b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(" + b"".join(b"K" + bytes([n % 10]) for n in range(count)) + b"e"
        b"U\x04dataq\x04cnumpy.core.multiarray\n_reconstruct\nq\x05cnumpy\nndarray\nq\x06K\x00\x85U\x01b\x87R"
        b"(K\x01K"
        + shape
        + b"cnumpy\ndtype\nq\x07U\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tbu."
    )


def test_a_batch_of_python_2_comes_back(rng: np.random.Generator) -> None:
    pixels = rng.integers(0, 256, (5, 3072), dtype=np.uint8)
    data = python2_pickle(pixels.tobytes(), 5)
    np.testing.assert_array_equal(pickle.loads(data, encoding="bytes")[b"data"], pixels)  # the example itself is right
    read = read_pickle(data, "test")
    assert read["labels"] == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(read["data"], pixels)


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


class Stateful:
    pass


MARK = Path("harm.txt")
HARMFUL = {
    "os.system": (Calls(os.system, f"touch {MARK}"), "'(posix|nt).system'"),
    "eval": (Calls(builtins.eval, f"open('{MARK}', 'w')"), "'(builtins|__builtin__).eval'"),
    "exec": (Calls(builtins.exec, f"open('{MARK}', 'w')"), "'(builtins|__builtin__).exec'"),
    "open": (Calls(open, str(MARK), "w"), r"'_?io.open'"),
    "getattr": (Calls(getattr, "a", "upper"), "getattr"),
    "subprocess": (Calls(subprocess.Popen, ["touch", str(MARK)]), "'subprocess.Popen'"),
    "an object": (Stateful(), ""),
    "a class": (OrderedDict, "'collections.OrderedDict'"),
    "an ordered dict": (OrderedDict(a=1), "'collections.OrderedDict'"),
    "a set": ({1, 2}, ""),
    "a complex number": (1j, "complex'"),
    "an array of objects": (np.array([None, "a"], object), "dtype 'O8'"),
    "an array of floats": (np.ones(3), "dtype 'f8'"),
    "an array of records": (np.zeros(2, [("a", "u1")]), "dtype 'V1'"),
    "a NumPy number": (np.float64(1), "scalar'"),
    "nested": ({"data": [Calls(os.system, f"touch {MARK}")]}, "system'"),
}


@pytest.mark.parametrize("protocol", range(5))
@pytest.mark.parametrize("case", HARMFUL)
def test_anything_else_is_refused_by_name(case: str, protocol: int, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    value, named = HARMFUL[case]
    # The older protocols spell some of these through helpers of their own, which are refused under their names.
    with pytest.raises(DataError, match=f"batch: refused .*{named if protocol > 2 else ''}"):
        read_pickle(pickle.dumps(value, protocol), "batch")
    assert not MARK.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
BLANK = RECONSTRUCT + b"(cnumpy\nndarray\n(K\x00tU\x01btR"
U1 = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"


@pytest.mark.parametrize(
    ("pickled", "message"),
    [
        (b"cposix\nsystem\n(S'touch harm.txt'\ntR.", "'posix.system'"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "'posix.system'"),
        (b"(S'true'\niposix\nsystem\n.", "INST"),
        (b"(cposix\nsystem\nS'true'\no.", "'posix.system'"),
        (b"(cnumpy\nndarray\nS'true'\no.", "OBJ"),
        (b"cnumpy\nndarray\n(K\x02tR.", "a call of 'numpy.ndarray'"),
        (b"cnumpy\nndarray\n)\x81.", "NEWOBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"Pname\n.", "PERSID"),
        (b"K\x01Q.", "BINPERSID"),
        (b"\x97.", "NEXT_BUFFER"),
        (RECONSTRUCT + b"(cnumpy\ndtype\n(K\x00tU\x01btR.", "a call of"),
        (RECONSTRUCT + b"}b.", "set the state of a Name"),
        (b"]}b.", "set the state of a list"),
        (BLANK + b"(K\x01K\x02\x85U\x02f8\x89U\x02xxtb.", "not uint8"),
        (BLANK + b"(K\x01K\x02\x85" + U1 + b"\x89U\x03xxxtb.", r"damaged: .*shape \(2,\) has 3 bytes"),
        (BLANK + b"(K\x01K\x02J\xff\xff\xff\xff\x86" + U1 + b"\x89U\x03xxxtb.", "whole numbers"),
        (b"c" + b"A" * 10**6 + b"\nx\n.", "refused 'A{70,80},"),
        (b")" + b"\x85" * 200_000 + b"q\x000}h\x00K\x01s.", "key that is no string"),
        (b"}(" + b")" + b"\x85" * 200_000 + b"K\x01u.", "key that is no string"),
        (b"R.", "damaged"),
        (b"h\x05.", "damaged"),
        (b"e.", "damaged"),
        (b"K\x01K\x02a.", "damaged: .*met a int where it needs a list"),
        (b"K\x01", "damaged"),
        (b"", "damaged"),
        (b"\xff\xff", "damaged"),
        (b"<html>not found</html>", "damaged"),
        (b"T\xff\xff\xff\x7fabc.", "damaged"),
        (b"](K\x01K\x02K\x03d.", "damaged"),
    ],
)
def test_pickles_written_by_hand_are_refused(pickled: bytes, message: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"(?s)^batch: .*({message})"):
        read_pickle(pickled, "batch")
    assert not MARK.exists()


def test_a_small_file_cannot_ask_for_much_memory() -> None:
    """The same bytes again and again, from the memo: 1 MB of file for each GB of arrays."""
    one = BLANK + b"(K\x01J\x40\x42\x0f\x00\x85" + U1 + b"\x89h\x00tb0"
    bomb = b"T\x40\x42\x0f\x00" + bytes(10**6) + b"q\x000" + one * 1000 + b"N."
    with pytest.raises(DataError, match="damaged"):
        read_pickle(bomb, "batch")


@pytest.mark.filterwarnings("ignore:invalid (octal )?escape:DeprecationWarning")
def test_damage_anywhere_is_an_error_or_a_plain_value() -> None:
    data = python2_pickle(bytes(20 * 3), 3).replace(b"M\x00\x0c\x86", b"K\x14\x86")
    assert read_pickle(data, "batch")["data"].shape == (3, 20)
    random.seed(0)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(data)
        for _ in range(random.randint(1, 3)):
            damaged[random.randrange(len(data))] = random.randrange(256)
        try:
            value = read_pickle(bytes(damaged), "batch")
        except DataError:
            refused += 1
        else:
            assert isinstance(value, dict | list | tuple | str | bytes | int | float | np.ndarray | None)
    assert refused > 500


def test_reading_imports_nothing() -> None:
    code = (
        "import sys, numpy; from pullback.data.pickles import read_pickle; from pullback.errors import DataError\n"
        "before = set(sys.modules)\n"
        "try: read_pickle(b'cantigravity\\nfly\\n.', 'x')\n"
        "except DataError: print(sorted(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
