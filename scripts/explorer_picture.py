"""Draws docs/images/explorer.png and docs/images/explorer-pooling.png: `pb.explore` in a browser, for the network of
docs/gallery/explored.md, whose first block of code it runs.

    python scripts/explorer_picture.py

Needs Chromium, and Playwright (the extra `dev`).
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pullback as pb

DOCS = Path(__file__).resolve().parent.parent / "docs"
GALLERY = DOCS / "gallery" / "explored.md"
SIZE = {"width": 1160, "height": 780}
SHOTS = {"explorer.png": "conv2d", "explorer-pooling.png": "max_pool2d"}
"""By file: the operation, of which the last is chosen on the way back."""
STEP_TO = """(name) => {
    openAll();
    go(backAt.get(data.operations.filter((each) => each.name === name).at(-1).number));
}"""


def network() -> dict[str, Any]:
    """What the first block of the page defines: `loss`, `model`, `images`, `labels`."""
    text = GALLERY.read_text()
    block = re.search(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert block is not None
    lines_before = "\n" * text.count("\n", 0, block.start(1))  # so that the explorer shows the lines of the page
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(lines_before + block[1], str(GALLERY), "exec", dont_inherit=True), defined)
    return defined


def main() -> None:
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    found = network()
    loss, *arguments = (found[name] for name in ("loss", "model", "images", "labels"))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = pb.explore(loss, *arguments, title="digits").save(Path(folder) / "page.html")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, operation in SHOTS.items():
            tab = browser.new_page(viewport=SIZE, device_scale_factor=1.5)  # type: ignore[arg-type]
            tab.goto(page.as_uri())
            tab.evaluate(STEP_TO, operation)
            tab.screenshot(path=DOCS / "images" / name)
        browser.close()


if __name__ == "__main__":
    main()
