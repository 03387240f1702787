"""How a stage's script runs its one function: errors that a person can mend become one or two lines, and what it says
is kept in logs/."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from affine.errors import AffineError
from affine.logs import logged


def main(run: Callable[..., None], *arguments: str) -> None:
    """Call `run(*arguments)`; exit 1 with a short message on an AffineError, a failing disk or arguments that
    do not fit, 130 when interrupted. Anything else is a defect of ours and keeps its traceback."""
    name = Path(sys.argv[0]).stem
    try:
        inspect.signature(run).bind(*arguments)
    except TypeError as error:
        wanted = " ".join(inspect.signature(run).parameters).upper()
        sys.exit(f"{name}: {error}; usage: {name} {wanted}")
    try:
        what = [argument.replace("/", "_") for argument in arguments if not argument.startswith("--")]
        with _log(Path.cwd(), ".".join([name, *what])):
            code = _run(run, name, *arguments)
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"{name}: {error.strerror} ({error.filename})")
    if code:
        sys.exit(code)


def _log(root: Path, name: str) -> AbstractContextManager[None]:
    """A log where there is a pipeline; a script that was started somewhere else by mistake leaves nothing behind."""
    return logged(root, name) if (root / "dvc.yaml").is_file() else nullcontext()


def _run(run: Callable[..., None], name: str, *arguments: str) -> int:
    """The exit code, errors printed."""
    try:
        run(*arguments)
    except AffineError as error:
        print(f"{name}: {error}", file=sys.stderr)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        more = "; free some space and run it again" if full else ""
        print(f"{name}: {error.strerror}{where}{more}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again to go on", file=sys.stderr)
        return 130
    else:
        return 0
    return 1
