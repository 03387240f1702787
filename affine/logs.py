"""What a stage says, kept in logs/<stage>.log for the morning after: as on the terminal, without its progress bars,
and without secrets: those this machine holds (in the environment, the Hub's token file, .dvc/config.local) and what
looks like one.

Temporary and queued experiments run in copies of the repository that DVC deletes afterwards; their logs lie in the
repository itself, in logs/<experiment>/.
"""

from __future__ import annotations

import configparser
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

SECONDS = "seconds.tsv"
"""In an experiment's folder: a line for every stage that ran, with its seconds."""
SHORTEST = 6
"""Shorter values are no secrets, and would blot out ordinary text."""

_SECRET = re.compile(
    r"TOKEN(?!IZ)|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|ACCESS_?KEY|CONNECTION_STRING"
    r"|(?<![A-Z])(KEY|PASS|PAT)(?![A-Z])",
    re.IGNORECASE,
)
"""In the name of a variable or an option."""
_SHAPES = re.compile(
    r"(?<![A-Za-z0-9])(?:"
    r"(?P<hf_token>hf_[A-Za-z0-9]{16,})"
    r"|(?P<aws_key>(?:AKIA|ASIA)[A-Z0-9]{16})"
    r"|(?P<github_token>gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,})"
    r"|(?P<api_key>sk-[A-Za-z0-9_-]{20,})"
    r")"
    r"|(?<=://)(?P<user_and_password>[^\s/:@]+:[^\s/@]+)(?=@)"
)
"""What services' secrets look like, and user:password@ in an address."""
_REDRAWN = re.compile(r".*(\r|\x1b\[2K)")
"""What a terminal has overwritten by the end of a line: the earlier states of a progress bar."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def secrets(root: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Value -> its name, for each line of every variable that is named like a secret, of the Hub's token file, and of
    the options of that kind in .dvc/config.local; the longest values first."""
    given = [(name, value) for name, value in sorted(environment.items()) if _SECRET.search(name)]
    token = _token_file(environment)
    if token.is_file():
        given.append((token.name, token.read_text(encoding="utf-8")))
    local = configparser.ConfigParser(interpolation=None, strict=False)
    local.read(root / ".dvc" / "config.local", encoding="utf-8")
    for section in local.values():
        given += [(name, value) for name, value in section.items() if _SECRET.search(name)]
    lines = {line.strip(): name for name, value in given for line in value.splitlines()}
    return {line: lines[line] for line in sorted(lines, key=len, reverse=True) if len(line) >= SHORTEST}


def _token_file(environment: Mapping[str, str]) -> Path:
    """Where huggingface_hub looks for its token."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = environment.get("HF_HOME") or Path(cache) / "huggingface"
    return Path(environment.get("HF_TOKEN_PATH") or Path(home) / "token").expanduser()


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
        line = _SHAPES.sub(lambda found: f"[{found.lastgroup}]", line)
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


def _experiment() -> Path | None:
    """Inside `dvc exp run` logs/<experiment> of the repository that started it, which DVC puts into the environment."""
    started_in, name = os.environ.get("DVC_ROOT"), os.environ.get("DVC_EXP_NAME")
    return Path(started_in) / FOLDER / name if started_in and name else None


def log_root(root: Path) -> Path:
    """`root`/logs; for a temporary or queued experiment, which runs in a copy of the repository below its .dvc/tmp,
    logs/<experiment> there."""
    kept = _experiment()
    return kept if kept and (kept.parents[1] / ".dvc" / "tmp").resolve() in root.resolve().parents else root / FOLDER


def experiment_seconds(root: Path, experiment: str) -> float | None:
    """Seconds that stages of `experiment` ran on this machine, every attempt counted; None where none did."""
    path = root / FOLDER / experiment / SECONDS
    return sum(float(line.split("\t")[1]) for line in path.read_text().splitlines()) if path.is_file() else None


def _note_seconds(name: str, seconds: float) -> None:
    """Add to what `experiment_seconds` reads."""
    if (folder := _experiment()) and os.environ.get("RANK", "0") == "0":
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / SECONDS).open("a", encoding="utf-8") as file:
            file.write(f"{name}\t{seconds:.1f}\n")


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
    how long that took (an experiment's is added to its `SECONDS`). Our modules' log records of level INFO and above are
    printed too."""
    with log_file(root, name).open("a", encoding="utf-8") as file:
        log = Redacted(file, secrets(root, os.environ))
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
            seconds = time.monotonic() - start
            log.write(f"=== {outcome} after {seconds:.1f} s\n")
            _note_seconds(name, seconds)
