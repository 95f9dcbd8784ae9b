from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pullback.data import DATASETS, load
from pullback.data.sources import locate
from pullback.errors import DataError

MD5 = {"a.gz": "0" * 32, "b.gz": "1" * 32}


def test_load_by_name() -> None:
    assert set(DATASETS) == {"digits", "mnist", "fashion-mnist", "cifar10"}
    assert load("digits").train.name == "digits"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digit", "Did you mean 'digits'"),
        ("CIFAR-10", "Did you mean 'cifar10'"),
        ("fashion_mnist", "Did you mean 'fashion-mnist'"),
        ("pictures/of/pets", "neither a known data set nor a folder. Known: digits, mnist, fashion-mnist, cifar10"),
    ],
)
def test_an_unknown_name_gets_a_suggestion(name, message) -> None:
    with pytest.raises(DataError, match=message):
        load(name)


def test_load_by_path(tmp_path, save_image) -> None:
    for name in ("red", "blue"):
        for n in range(5):
            save_image(f"{name}/{n}.png", np.full((4, 4, 3), n, np.uint8))
    splits = load(tmp_path, size=(2, 2), channels=1, test_fraction=0.5, seed=1)
    assert splits.train.image_shape == (2, 2, 1)
    assert len(splits.test) == 5
    assert load(str(tmp_path)).train.classes == ("blue", "red")


def test_load_recognises_what_a_folder_holds(data_folder) -> None:
    debian = Path("/usr/share/datasets/fashion-mnist")
    if not debian.is_dir():
        pytest.skip("needs Fashion-MNIST: apt install dataset-fashion-mnist")
    assert load(debian).test.images.shape == (10000, 28, 28, 1)


def test_load_recognises_cifar10(tmp_path) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="expected 10000 records"):
        load(tmp_path)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    return tmp_path / "cache" / "pullback" / "toy"


def test_locate_prefers_the_shared_folder_then_the_system(tmp_path, monkeypatch) -> None:
    shared, system = tmp_path / "shared", tmp_path / "system"
    (shared / "toy").mkdir(parents=True)
    system.mkdir()
    monkeypatch.setenv("PULLBACK_DATA", str(shared))
    assert locate("toy", "http://invalid", MD5, system) == shared / "toy"
    assert locate("other", "http://invalid", MD5, system) == system
    monkeypatch.delenv("PULLBACK_DATA")
    assert locate("toy", "http://invalid", MD5, system) == system


def test_locate_downloads_once_and_checks(tmp_path, monkeypatch, cache) -> None:
    """From a server of this machine: a `file:` address serves as well, but pooch has no downloader for it."""
    import functools
    import hashlib
    import http.server
    import threading

    monkeypatch.delenv("PULLBACK_DATA", raising=False)
    served = tmp_path / "served"
    served.mkdir()
    (served / "a.gz").write_bytes(b"content")
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            requests.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=served)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            good = {"a.gz": hashlib.md5(b"content").hexdigest()}
            assert locate("toy", url, good) == cache
            assert (cache / "a.gz").read_bytes() == b"content"
            locate("toy", url, good)
            assert len(requests) == 1
            with pytest.raises(DataError, match=f"(?s)toy: no copy at .*download from {url} failed: .*hash.*put a.gz"):
                locate("toy", url, {"a.gz": "0" * 32})
            with pytest.raises(DataError, match=r"failed: .*404"):
                locate("toy", url, {"missing.gz": "0" * 32})
        finally:
            server.shutdown()
            thread.join()


def test_locate_without_a_network_says_where_to_put_a_copy(tmp_path, monkeypatch, cache) -> None:
    monkeypatch.setenv("PULLBACK_DATA", str(tmp_path / "shared"))
    with pytest.raises(DataError) as caught:
        locate("toy", "http://127.0.0.1:9", MD5)
    message = str(caught.value)
    assert f"no copy at {tmp_path / 'shared' / 'toy'}" in message
    assert f"put a.gz, b.gz into {cache}" in message


def test_importing_data_imports_none_of_the_tools() -> None:
    code = "import sys, pullback.data; print([n for n in ('PIL', 'pooch', 'requests', 'pyarrow') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
