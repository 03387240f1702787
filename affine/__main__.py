"""`python -m affine COMMAND ...`; see `affine.cli` for the commands."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Sequence

from affine import __version__
from affine.cli import COMMANDS
from affine.errors import AffineError

INTERRUPTED = 130
"""What shells report for a program ended by Ctrl-C."""


def usage() -> str:
    """The help text: every command with its one line."""
    width = max(len(name) for name in COMMANDS)
    lines = [f"  {name:<{width}}  {summary}" for name, (_, summary) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m affine COMMAND [options]",
            "",
            *lines,
            "",
            "COMMAND --help says more. The pipeline itself is run by DVC: make all, or dvc repro.",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Run one command; the exit code. What a person can put right becomes a line or two on stderr and 1;
    anything else is a defect of ours and keeps its traceback."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage(), file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        print(f"affine {__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"commands: {', '.join(COMMANDS)}"
        print(f"affine: no command {name!r} ({hint})", file=sys.stderr)
        return 2
    return _run(name, rest)


def _run(name: str, arguments: list[str]) -> int:
    module, _, function = COMMANDS[name][0].partition(":")
    try:
        code: int = getattr(importlib.import_module(module), function)(arguments)
        sys.stdout.flush()  # so that a reader who has left is noticed here
    except AffineError as error:
        return _failed(name, str(error))
    except BrokenPipeError:  # the reader (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.strerror is None:
            raise
        return _failed(name, error.strerror + (f" ({error.filename})" if error.filename else ""))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "affine":
            raise
        return _failed(name, f"the package {error.name} is missing here; `make all` installs everything into .venv")
    except KeyboardInterrupt:
        print(f"affine {name}: interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


def _failed(name: str, message: str) -> int:
    print(f"affine {name}: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
