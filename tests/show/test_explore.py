"""The explorer: what the page holds, and how it behaves in a browser (headless Chromium, where there is one)."""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pullback as pb
from pullback import nn
from pullback.cli.main import main
from pullback.show.heat import LEVELS, heat, local_jacobians
from pullback.show.layers import sheets
from pullback.show.placement import place
from pullback.show.svg import sizes
from pullback.show.traced import traced
from pullback.train.config import Settings
from pullback.train.loop import fit

X = np.linspace(-1.0, 1.0, 12).reshape(3, 4)


def residual(x: Any, w: Any) -> Any:
    h = np.tanh(x @ w)
    return np.sum((x + h) ** 2)


def loss(model: Any, images: Any, labels: Any) -> Any:
    return nn.softmax_cross_entropy(model(images), labels)


def network() -> tuple[Any, ...]:
    model = nn.models.levels_cnn((8, 8, 3), 4, (4, 8), 2)
    return model, np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype(np.float32), np.arange(2)


def content(page: Any) -> dict[str, Any]:
    found = re.search(r'<script id="data" type="application/json">(.*?)</script>', page.html, re.DOTALL)
    assert found is not None
    result: dict[str, Any] = json.loads(found[1])
    return result


def test_the_page_holds_the_run_and_needs_nothing_else() -> None:
    page = pb.explore(loss, *network())
    data = content(page)
    assert [each["name"] for each in data["operations"]].count("conv2d") == 4
    assert len(data["backward"]) == len(data["operations"])
    conv = next(each for each in data["operations"] if each["name"] == "conv2d")
    assert conv["source"]["function"] == "loss"
    assert [name for name, _, _ in conv["saved"]] == ["w", "x"]
    assert {i for i, _ in conv["jacobians"]} == {0, 1}
    assert not re.search(r"https?://(?!www\.w3\.org)|@import|url\(", page.html)


def test_the_rules_are_mathematics() -> None:
    data = content(pb.explore(residual, X, np.eye(4)))
    rules = {each["name"]: [text for _, text in each["rules"]] for each in data["operations"]}
    assert rules["tanh"] == ["x̄ = (1 − y²) ⊙ ȳ"]
    assert rules["matmul"] == ["ā = ȳ bᵀ", "b̄ = aᵀ ȳ"]


def test_everything_is_escaped() -> None:
    nasty = "</script><script>alert(1)</script><!--{{data}}"

    def f(parts: Any) -> Any:
        return np.sum(parts[nasty])

    page = pb.explore(f, {nasty: X}, title=nasty)
    assert "<script>alert" not in page.html
    assert page.html.count("</script>") == 2
    assert nasty in content(page)["values"]["0"]["name"]


def test_heat_maps() -> None:
    found = heat(np.array([[0.0, -2.0], [1.0, np.nan]]))
    assert list(base64.b64decode(found["pixels"])) == [LEVELS, 0, LEVELS + 64, 255]
    assert found["exact"] == ["0", "-2", "1", "nan"]
    assert "1 not finite" in found["stats"]
    assert heat(np.float64(3.5))["stats"] == "3.5"
    for shape in [(0,), (3, 0), (500,), (200, 300), (2, 3, 4), (2, 9, 9, 40), (1, 2, 3, 4, 5)]:
        found = heat(np.ones(shape))
        assert len(base64.b64decode(found["pixels"])) == found["width"] * found["height"]
        assert found["width"] <= 60
        assert found["height"] <= 60


def test_local_jacobians_are_those_of_the_operation() -> None:
    run = traced(residual, (X, np.eye(4)))
    tanh = run.operations[1]
    block = local_jacobians(tanh, 1.0)[0]
    jacobian = pb.jacobian(np.tanh)(X).reshape(12, 12)
    np.testing.assert_allclose(np.array(block["exact"], float).reshape(12, 12), jacobian, rtol=1e-5)
    conv = traced(loss, network()).operations[0]
    block = local_jacobians(conv, 1.0)[0]
    assert block["type"] == "512×384"
    assert "inputs that they depend on" in block["note"]


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("layers.py").write_text(
        "import numpy as np\ndef f(x):\n    return np.sum(np.exp(x))\ndef f_example():\n    return np.ones(3)\n"
        "def lonely(x):\n    return x\n"
    )
    assert main(["explore", "layers.py:f", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "f.html"
    assert "np.exp(x)" in Path("f.html").read_text()
    for wrong in ["layers.py", "layers.py:g", "layers.py:lonely", "nothing.py:f"]:
        assert main(["explore", wrong]) == 2
    fit(Settings(model="mlp", hidden=(8,), steps=2, eager=True), "run", quiet=True)
    for checkpoint in ["last", "initial"]:
        assert main(["explore", "run", "--json", "--checkpoint", checkpoint]) == 0
    assert "model.hidden0.weight" in Path("run/explore.html").read_text()
    assert main(["explore", "run", "--checkpoint", "middle"]) == 2


# -- in a browser ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium: apt install chromium")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    """Opens a page; its errors, and any request for something else than the file, fail the test."""
    pages: list[Any] = []
    problems: list[str] = []

    def open_page(page: Any, **options: Any) -> Any:
        path = page.save(tmp_path / "page.html")
        tab = browser.new_page(**options)
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        tab.on("request", lambda request: None if request.url == path.as_uri() else problems.append(request.url))
        tab.goto(path.as_uri())
        pages.append(tab)
        return tab

    yield open_page
    for tab in pages:
        tab.close()
    assert problems == []


def test_stepping(opened: Any) -> None:
    tab = opened(pb.explore(residual, X, np.eye(4)))
    tab.keyboard.press("Home")
    assert tab.inner_text("#where") == "before the run"
    assert tab.locator(".card.op.later").count() == 5
    tab.keyboard.press("ArrowRight")
    tab.keyboard.press("ArrowRight")
    assert tab.inner_text("#where") == "forward 2/10 tanh"
    assert tab.locator(".card.op.later").count() == 3
    assert "h = np.tanh(x @ w)" in tab.inner_text("#detail mark")
    assert "its adjoint is not there yet" in tab.inner_text("#detail")
    tab.fill("#slider", "9")
    assert tab.inner_text("#where") == "backward 9/10 tanh"
    assert "(1 − y²) ⊙ ȳ" in tab.inner_text("#detail")
    assert "its adjoint is not there yet" not in tab.inner_text("#detail h3:has-text('Output') + .pair")
    assert tab.locator(".now.backwards").count() == 1
    tab.click("#back")
    assert tab.inner_text("#where") == "backward 8/10 add"
    tab.keyboard.press("End")
    assert tab.locator(".later").count() == 0


def test_selecting_searching_and_folding(opened: Any) -> None:
    tab = opened(pb.explore(loss, *network()))
    tab.keyboard.press("f")
    assert tab.locator(".card.op").count() == 1
    tab.click(".card.box >> nth=0")
    inside = tab.locator(".card.box").count()
    assert inside == 5
    tab.keyboard.press("/")
    tab.keyboard.type("level1.conv0")
    assert tab.locator("#matches li").count() >= 2
    tab.click("#matches li:has-text('conv2d(')")
    assert tab.locator(".card.op.chosen text >> nth=0").text_content() == "conv2d"
    assert tab.inner_text("#detail h2").startswith("conv2d(")
    assert tab.locator("#detail canvas").count() >= 5
    tab.hover("#detail canvas >> nth=0")
    assert "row" in tab.inner_text("#detail figcaption >> nth=0")
    tab.keyboard.press("Enter")  # folds the box around it
    assert tab.locator(".card.box.chosen text >> nth=0").text_content() == "▸ conv0 Conv2d"
    tab.keyboard.press("e")
    assert tab.locator(".card.op").count() == len(traced(loss, network()).operations)
    tab.click(".heading >> nth=0")
    assert tab.locator(".card.op").count() == 1


def test_light_dark_and_narrow(opened: Any) -> None:
    page = pb.explore(residual, X, np.eye(4))
    tab = opened(page, color_scheme="dark", viewport={"width": 360, "height": 740})
    background = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(background) == "rgb(13, 17, 23)"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    assert tab.evaluate("document.getElementById('graph').clientHeight") > 300
    tab.keyboard.press("t")
    assert tab.evaluate(background) == "rgb(255, 255, 255)"


def test_the_browser_places_things_as_the_svg_file_does(opened: Any) -> None:
    tab = opened(pb.explore(loss, *network()))
    run = traced(loss, network())
    for chosen in [set(), {box.number for box in run.boxes}, {run.boxes[0].number}]:
        placed = place(sheets(run), chosen, sizes(run, "both"))
        script = "(open) => { const p = place(data, new Set(open), sizes); return [p.width, p.height, p.shapes]; }"
        width, height, shapes = tab.evaluate(script, list(chosen))
        assert (width, height) == pytest.approx((placed.width, placed.height))
        assert shapes.keys() == {f"{kind}{number}" for kind, number in placed.shapes}
        for (kind, number), spot in placed.shapes.items():
            other = shapes[f"{kind}{number}"]
            assert (other["x"], other["y"], other["width"], other["height"]) == pytest.approx(tuple(spot))


def test_a_network_of_500_operations_steps_in_under_100_ms(opened: Any) -> None:
    def deep(x: Any, w: Any) -> Any:
        for _ in range(166):
            x = np.tanh(x @ w) * 0.9
        return np.sum(x * x)

    rng = np.random.default_rng(0)
    tab = opened(pb.explore(deep, rng.normal(size=(16, 32)), rng.normal(size=(32, 32)) / 5))
    script = """() => {
        const times = [];
        for (let k = 0; k < steps; k += 7) {
            const began = performance.now();
            go(k);
            document.body.offsetHeight;
            times.push(performance.now() - began);
        }
        return times.sort((a, b) => a - b);
    }"""
    times = tab.evaluate(script)
    assert tab.evaluate("steps") == 1000
    assert times[int(0.95 * len(times))] < 100
