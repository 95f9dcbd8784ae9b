"""Functions in Python files, and the arguments given beside them."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from pullback.errors import ConfigError

EXAMPLE = "_example"


def function_in(path: str, name: str) -> tuple[ModuleType, Callable[..., Any]]:
    """The module of a file, run, and its function of that name."""
    if not Path(path).is_file():
        raise ConfigError(f"there is no file {path!r}; expected FILE.py:NAME")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    functions = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
    if name not in functions:
        near = difflib.get_close_matches(name, functions, n=1)
        hint = f" Did you mean {path}:{near[0]}?" if near and name else ""
        raise ConfigError(f"{path} has no function {name!r}; it has {', '.join(functions)}.{hint}")
    return module, getattr(module, name)


def example_of(module: ModuleType, name: str) -> tuple[Any, ...]:
    """The arguments of a function: `NAME_example` beside it, a tuple or a function that returns one.

    A list stands for the arguments too where the function cannot take it as the only one.
    """
    example = getattr(module, name + EXAMPLE, None)
    if example is None:
        raise ConfigError(
            f"{module.__name__}.py has no {name}{EXAMPLE}: write its arguments there, as a tuple, or give --shapes"
        )
    return as_arguments(example() if callable(example) else example, getattr(module, name))


def as_arguments(example: Any, function: Any) -> tuple[Any, ...]:
    """The arguments that an example stands for."""
    several = isinstance(example, tuple) or (isinstance(example, list) and not _takes_one(function))
    return tuple(example) if several else (example,)


def _takes_one(function: Any) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # no signature is known
        return True
    return True
