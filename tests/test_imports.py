"""Keeps the house in order: which room may import which (docs/design.md), a quick `import pullback`, a small core."""

from __future__ import annotations

import ast
import graphlib
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCE = REPOSITORY / "src"
PACKAGE = SOURCE / "pullback"
DESIGN = REPOSITORY / "docs" / "design.md"

SLOW_IMPORTS = ["PIL", "pyarrow", "matplotlib", "rich", "tyro", "pooch", "onnxruntime", "onnx", "numba"]
FRONT_DOOR = ""  # `pullback` itself, which gathers the public names
CORE_BUDGET = 1290  # about 1,250 logical lines, which one can read in an hour


def module_name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """`pullback.core.tape` is in the room `core`."""
    return module.split(".")[1] if "." in module else FRONT_DOOR


def read_rooms(text: str) -> dict[str, set[str]]:
    """The table under the heading "Rooms": each room and the rooms it may import."""
    table = text.split("## Rooms", 1)[1].split("\n## ", 1)[0]
    allowed: dict[str, set[str]] = {}
    for row in re.findall(r"^\|(.*)\|$", table, flags=re.MULTILINE)[2:]:
        names, imports = (cell.strip() for cell in row.split("|")[:2])
        rooms = [name.removesuffix("/").removesuffix(".py") for name in re.findall(r"`([\w./]+)`", names)]
        if imports == "nothing":
            permitted = set()
        elif imports == "all of the above":
            permitted = {*allowed, FRONT_DOOR}
        else:
            permitted = {name.strip() for name in imports.split(",")}
        for room in rooms:
            allowed[room] = permitted | {room, "errors", "files"}
    return allowed


ROOMS = read_rooms(DESIGN.read_text())


def imported_modules(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """The line and the name of every module of ours that these statements import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a thing comes from"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else str(node.module) for name in dotted]
        else:
            continue
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "pullback")


def statements_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when the module is imported: not the bodies of functions, nor what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from statements_at_import(child)


def code_lines(source: str) -> int:
    """Logical lines: a statement counts once, however the formatter wraps it; comments and docstrings do not count."""
    statements = sum(t.type == tokenize.NEWLINE for t in tokenize.generate_tokens(io.StringIO(source).readline))
    texts = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Expr)]
    return statements - sum(isinstance(text, ast.Constant) and isinstance(text.value, str) for text in texts)


def test_the_table_is_read() -> None:
    assert ROOMS["core"] == {"core", "errors", "files"}
    assert ROOMS["optim"] == {"core", "rules", "transforms", "optim", "errors", "files"}
    assert ROOMS["cli"] >= {"train", "nn", "data"}


def test_code_lines_are_counted() -> None:
    source = '"""Docstring\nof two lines."""\n\nx = 1  # a comment\n# another\n'
    source += 'def f():\n    """Doc."""\n    return (\n        x\n    )\n'
    assert code_lines(source) == 3


@pytest.mark.parametrize("module", [name for name in MODULES if room_of(name)])
def test_imports_run_one_way(module: str) -> None:
    room = room_of(module)
    assert room in ROOMS, f"{module} is in a room that the table in docs/design.md does not list"
    for line, imported in imported_modules(ast.walk(ast.parse(MODULES[module].read_text()))):
        assert room_of(imported) in ROOMS[room], f"{MODULES[module]}:{line}: {room} may not import {imported}"


def test_no_circular_imports() -> None:
    graph = {
        module: {name for _, name in imported_modules(statements_at_import(ast.parse(path.read_text())))} - {module}
        for module, path in MODULES.items()
    }
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, which prints the circle


def test_import_brings_no_tools() -> None:
    """The command line's dependencies are imported by the functions that use them, so `import pullback` stays quick."""
    program = f"import sys, pullback; print(*[name for name in {SLOW_IMPORTS!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.split() == []


def test_the_core_is_small() -> None:
    sizes = {
        name: code_lines(path.read_text()) for name, path in MODULES.items() if room_of(name) in ("core", "transforms")
    }
    assert sum(sizes.values()) <= CORE_BUDGET, f"core and transforms have {sum(sizes.values())} lines of code: {sizes}"
