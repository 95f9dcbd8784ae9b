"""From the words of a command line to a command: dataclasses whose fields are options, read by tyro."""

from __future__ import annotations

import dataclasses
import json
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from pullback.errors import ConfigError
from pullback.train.config import choose

RunFolder = Annotated[str, tyro.conf.arg(metavar="RUN")]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What every command takes."""

    json: bool = False
    """Print one JSON object, for machines, in place of text."""
    debug: bool = False
    """Show the Python traceback of an error."""

    @abstractmethod
    def run(self) -> int:
        """Do what the command is for, and return the exit code."""

    def show(self, result: Any, text: str) -> None:
        """Print `text`, or `result` as JSON where that was asked for. Results may contain dataclasses."""
        print(json.dumps(result, default=dataclasses.asdict) if self.json else text)


_WORDS = {int: "a whole number", float: "a number", str: "text"}

Command = TypeVar("Command", bound=Options)


def parse(command: type[Command], program: str, arguments: Sequence[str]) -> Command:
    """The command with its options from `arguments`; SystemExit where help was asked for or an option is wrong."""
    return tyro.cli(
        command,
        prog=program,
        args=list(arguments),
        registry=_registry(),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalRequiredArgs),
    )


def _registry() -> ConstructorRegistry:
    """How words become values: lists as `600,200`, choices with suggestions, numbers with plain messages."""
    registry = ConstructorRegistry()

    @registry.primitive_rule
    def comma_list(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if get_origin(info.type) is not tuple or get_args(info.type)[1:] != (...,):
            return None
        item = get_args(info.type)[0]
        name = _metavar(item)
        return _spec(
            f"{name},{name},...",
            lambda word: tuple(_read(item, part.strip()) for part in word.split(",") if part.strip()),
            lambda values: ",".join(map(str, values)) or "none",
            tuple,
        )

    @registry.primitive_rule
    def plain(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        """A number or text, which may also be left out."""
        members = get_args(info.type) if get_origin(info.type) in (Union, UnionType) else (info.type,)
        kinds = [member for member in members if member is not NoneType]
        if len(kinds) != 1 or kinds[0] not in _WORDS:
            return None
        kind = kinds[0]
        return _spec(
            _metavar(kind),
            lambda word: _read(kind, word),
            lambda value: "none" if value is None else str(value),
            kind | None,
        )

    @registry.primitive_rule
    def choice(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
        if get_origin(info.type) is not Literal:
            return None
        names = get_args(info.type)
        return _spec("{" + ",".join(names) + "}", lambda word: _read(info.type, word), str, str)

    return registry


def _spec(
    metavar: str, read: Callable[[str], Any], show: Callable[[Any], str], kind: Any
) -> PrimitiveConstructorSpec[Any]:
    """How one word is read, and how a default of type `kind` is shown."""
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: isinstance(value, kind),
        str_from_instance=lambda value: [show(value)],
    )


def _metavar(kind: Any) -> str:
    return "|".join(get_args(kind)) if get_origin(kind) is Literal else kind.__name__.upper()


def _read(kind: Any, word: str) -> Any:
    """A value from a word; tyro shows the ValueError beside the option's help."""
    if get_origin(kind) is Literal:
        try:
            return choose("value", word, get_args(kind))
        except ConfigError as error:
            raise ValueError(str(error)) from None
    try:
        return kind(word)
    except ValueError:
        raise ValueError(f"expected {_WORDS[kind]}, got {word!r}") from None
