"""The entry point of `pullback`: finds the command, and turns errors into messages and exit codes.
Each command is imported when it is called for, so that `pullback --help` is quick.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO

from pullback.cli.terminal import visible
from pullback.errors import PullbackError, SkippedFileWarning

COMMANDS = {
    "train": "train a network on labelled images, into a new run folder",
    "resume": "go on with a run that was interrupted",
    "evaluate": "loss and accuracy of a run's network",
    "predict": "the class of images, according to a run's network",
    "report": "a run as one HTML page: figures, curves, images, the network, settings",
    "digits": "handwritten digits as image files, to try things on",
    "export": "a run's network as ONNX, safetensors or Keras",
    "encode": "features of images: what a layer of a run's network makes of them",
    "models": "the networks: their layers, shapes and parameters",
    "label": "label a folder of images with a pretrained network, into a table of labels",
    "resize-preview": "which way of resizing images suits a pretrained network",
    "labels": "what a table of labels holds; a page with pictures; exports",
    "teachers": "the pretrained networks that can be used by name",
    "derive": "the gradient of a function, derived in mathematics and checked line by line",
    "check": "backwards written by hand in Python files: right, or what is wrong with them",
    "explore": "a page that steps through a run of a function, forward and backward",
    "flow": "how activations and gradients run through a run's network",
    "distill": "label a folder of images with a pretrained network, and train a small one on the labels",
    "bench": "measure pullback beside PyTorch, JAX, autograd and NumPy on this machine",
}
"""Each command is the class `Command` of the module of its name in `pullback.cli`, with `_` for `-`."""

OK, UNEXPECTED, WRONG = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` (by default the process's own) and return the exit code.

    0: done. 1: an unexpected error, which is a mistake in pullback. 2: something that the message says how to mend.
    128 + n: ended by signal n, with everything saved.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return OK
    if name == "--version":
        print(f"pullback {importlib.import_module('pullback').__version__}")
        return OK
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean `pullback {near[0]}`?" if near else ""
        return _fail(f"unknown command {name!r}.{hint} Known: {', '.join(COMMANDS)}.", WRONG)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", SkippedFileWarning)
            warnings.showwarning = _show_warning
            return _run(name, arguments[1:])
    except SystemExit as end:  # tyro has printed its help, or what is wrong with the options
        return end.code if isinstance(end.code, int) else WRONG
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit is quiet too
        return OK
    except PullbackError as error:
        if "--debug" in arguments:
            raise
        return _fail(str(error), WRONG)
    except Exception as error:
        if "--debug" in arguments:
            raise
        return _fail(
            f"unexpected {type(error).__name__}: {error}\nThis is a mistake in pullback. Please report it, with what "
            f"`pullback {' '.join(arguments)} --debug` prints.",
            UNEXPECTED,
        )


def _run(name: str, arguments: list[str]) -> int:
    from pullback.cli.options import Options, parse

    command: type[Options] = importlib.import_module(f"pullback.cli.{name.replace('-', '_')}").Command
    return parse(command, f"pullback {name}", arguments).run()


def _overview() -> str:
    lines = ["usage: pullback COMMAND ...", "", "Differentiate NumPy programs, and train networks with them.", ""]
    lines += [f"  {name:16}{text}" for name, text in COMMANDS.items()]
    lines += ["", "`pullback COMMAND --help` tells of the options of each; `pullback --version` of the version."]
    return "\n".join(lines)


def _fail(message: str, code: int) -> int:
    print(f"error: {visible(message)}", file=sys.stderr)
    return code


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"warning: {visible(str(message))}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
