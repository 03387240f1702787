"""What a stage says, kept in logs/<stage>.log for the morning after: as on the terminal, without its progress bars,
and without the values of secrets in the environment.

Temporary and queued experiments run in copies of the repository that DVC deletes afterwards; their logs lie in the
repository itself, in logs/<experiment>/.
"""

from __future__ import annotations

import io
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

FOLDER = "logs"
KEEP = 1_000_000
"""Bytes of a log after which the next run starts a new one; the last is kept as <stage>.log.1."""

_SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
_REDRAWN = re.compile(r".*(\r|\x1b\[2K)")
"""What a terminal has overwritten by the end of a line: the earlier states of a progress bar."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Value -> the variable's name, for every variable that is named like a secret; the longest values first. Values
    under six characters are no secrets, and would blot out ordinary text."""
    found = {value: name for name, value in sorted(environment.items()) if _SECRET.search(name) and len(value) >= 6}
    return dict(sorted(found.items(), key=lambda item: -len(item[0])))


class Redacted(io.TextIOBase):
    """Lines for `file`, with the name of a secret's variable in the place of its value, and without what a terminal
    would overwrite. Secrets are looked for in whole lines, so that none slips through between two writes."""

    def __init__(self, file: TextIO, hidden: Mapping[str, str]) -> None:
        self._file = file
        self._hidden = hidden
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, rest = (self._rest + text.replace("\r\n", "\n")).split("\n")
        for line in lines:
            self._line(line)
        self._rest = _REDRAWN.sub("", rest)
        return len(text)

    def finish(self) -> None:
        """Write what stands in a last line without an end."""
        if self._rest:
            self._line(self._rest)
            self._rest = ""

    def _line(self, line: str) -> None:
        line = _ESCAPE.sub("", _REDRAWN.sub("", line))
        for value, name in self._hidden.items():
            line = line.replace(value, f"[{name}]")
        self._file.write(line.rstrip() + "\n")
        self._file.flush()


class Tee(io.TextIOBase):
    """A stream of the terminal that is copied to a log."""

    def __init__(self, stream: TextIO, log: Redacted) -> None:
        self._stream = stream
        self._log = log

    def write(self, text: str) -> int:
        self._log.write(text)
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        return self._stream.encoding


def log_root(root: Path) -> Path:
    """`root`/logs; for a temporary or queued experiment logs/<experiment> of the repository that started it (DVC puts
    both into a stage's environment)."""
    started_in, experiment = os.environ.get("DVC_ROOT"), os.environ.get("DVC_EXP_NAME")
    if started_in and experiment and (Path(started_in) / ".dvc" / "tmp").resolve() in root.resolve().parents:
        return Path(started_in) / FOLDER / experiment
    return root / FOLDER


def log_file(root: Path, name: str) -> Path:
    """<name>.log in `log_root`; the other processes of a distributed run have one each. A large one is moved aside
    first."""
    rank = os.environ.get("RANK", "0")
    path = log_root(root) / f"{name}{'' if rank == '0' else f'.rank{rank}'}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and path.stat().st_size > KEEP:
        path.replace(path.with_name(f"{path.name}.1"))
    return path


@contextmanager
def logged(root: Path, name: str) -> Iterator[None]:
    """Copy what this process prints inside the block to logs/<name>.log, after a line with the date, and end it with
    how long that took. Our modules' log records of level INFO and above are printed too."""
    with log_file(root, name).open("a", encoding="utf-8") as file:
        log = Redacted(file, secrets(os.environ))
        start = time.monotonic()
        log.write(f"=== {time.strftime('%Y-%m-%d %H:%M:%S%z')} {name}, process {os.getpid()}\n")
        streams = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = Tee(streams[0], log), Tee(streams[1], log)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        ours = logging.getLogger("affine")
        level = ours.level
        ours.addHandler(handler)
        ours.setLevel(logging.INFO)
        ours.propagate = False
        outcome = "failed"
        try:
            yield
            outcome = "done"
        except Exception:
            log.write(traceback.format_exc())  # the interpreter prints it only after the log is closed
            raise
        finally:
            ours.removeHandler(handler)
            ours.setLevel(level)
            ours.propagate = True
            sys.stdout, sys.stderr = streams
            log.finish()
            log.write(f"=== {outcome} after {time.monotonic() - start:.1f} s\n")
