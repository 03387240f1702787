"""How a stage's script runs its one function: errors that a person can mend become one or two lines."""

from __future__ import annotations

import errno
import inspect
import sys
from collections.abc import Callable
from pathlib import Path

from affine.errors import AffineError


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
        run(*arguments)
    except AffineError as error:
        sys.exit(f"{name}: {error}")
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        where = f" ({error.filename})" if error.filename else ""
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        sys.exit(f"{name}: {error.strerror}{where}" + ("; free some space and run it again" if full else ""))
    except KeyboardInterrupt:
        print(f"{name}: interrupted; run it again to go on", file=sys.stderr)
        sys.exit(130)
