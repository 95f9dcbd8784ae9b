"""Executes the documentation, so that nothing a reader copies fails.

The blocks of README.md and of each page in docs/ run from top to bottom, one page in one temporary folder:

- ```python runs in one namespace per page; an ```output block right after it must equal what it printed.
- ```bash runs line by line: `pullback ...` through the command's entry point; any other must be in `NOT_RUN`.
- ```text, ```toml, ```json, ```mermaid and ```math are read, not run.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [page for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))] if page.exists()]

READ_ONLY = {"text", "toml", "json", "mermaid", "math"}
# Commands that need a checkout, a network or minutes; `make test` and `make quickstart` are themselves tested.
NOT_RUN = [
    "make quickstart",
    "make test",
    "make test-peers",
    "make slow",
    "make lint",
    "pip install ",
    "git clone ",
    "cd ",
]
NOT_RUN += ["python -m benchmarks.", "python -m pytest"]

# What the console script of an installed package does.
ENTRY_POINT = "import sys; from pullback.cli.main import main; sys.exit(main())"


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of the first line inside the fence, counted from 1
    text: str


def read_blocks(text: str) -> list[Block]:
    """The fenced code blocks of a Markdown page, in order."""
    fences = re.finditer(r"^( *)```([^\n`]*)\n(.*?)^\1```[ ]*$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(m[2].strip(), text.count("\n", 0, m.start(3)) + 1, m[3]) for m in fences]


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> str:
    """Run the block as if its page were a program, so that errors name the line of the page; return what it printed."""
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec", dont_inherit=True)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, namespace)
    return printed.getvalue()


def run_bash(block: Block, page: Path, folder: Path) -> None:
    for command in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(command, comments=True)
        if words and words[0] == "pullback":
            done = subprocess.run(
                [sys.executable, "-c", ENTRY_POINT, *words[1:]], cwd=folder, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{page}:{block.line}: {command}\n{done.stdout}\n{done.stderr}"
        elif words:
            assert command.strip().startswith(tuple(NOT_RUN)), (
                f"{page}:{block.line}: nobody tests the command {command!r}"
            )


def run_page(page: Path, folder: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = ""
    for block in read_blocks(page.read_text()):
        if block.language == "python":
            printed = run_python(block, page, namespace)
        elif block.language == "output":
            assert printed.strip() == block.text.strip(), f"{page}:{block.line}: the block above prints\n{printed}"
        elif block.language == "bash":
            run_bash(block, page, folder)
        else:
            assert block.language in READ_ONLY, (
                f"{page}:{block.line}: a block of an unknown language {block.language!r}"
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_page(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert 1 + 1 == 3\n```\n",
        "```python\nprint(2)\n```\n```output\n3\n```\n",
        "```bash\nrm -rf everything\n```\n",
        "```bash\npullback no-such-command\n```\n",
        "```ruby\nputs 1\n```\n",
        "```\nno language\n```\n",
    ],
)
def test_a_wrong_page_fails(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(AssertionError):
        run_page(page, tmp_path)
