"""Files that appear whole or not at all, and records one a line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from affine.errors import AffineError
from affine.types import to_json

Record = TypeVar("Record")


class FileError(AffineError):
    """A file is missing or does not hold what it should; the message names it, the line and the remedy."""


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target`, replacing what was there, when the block ends without
    an exception. A killed process leaves `target` absent or whole, never half-written."""
    partial, old = (target.parent / f".{target.name}.{state}" for state in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    # Deleting takes time, in which a kill would leave half of what was there: it goes out of the way at once instead.
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people and diffs: sorted keys, two spaces, no NaN (ValueError), whole or not at all."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises FileError naming the file where it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: not JSON: {error}; delete it and run `dvc repro`") from None


def write_records(path: Path, records: Iterable[Any]) -> None:
    """Write frozen records of `affine.types`, one JSON object a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(to_json(record) + "\n")
    partial.replace(path)


def read_records(path: Path, parse: Callable[[Mapping[str, Any]], Record]) -> Iterator[Record]:
    """Stream records with one of the `*_from_json` functions of `affine.types`.

    Raises FileError naming the file and the line where something else stands there.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileError(f"{path}: no such file; run the stage that makes it (`dvc repro`)") from None
    with file:
        for number, line in enumerate(file, 1):
            try:
                yield parse(json.loads(line))
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                reason = f"no field {error}" if isinstance(error, KeyError) else error
                raise FileError(f"{path}, line {number}: not a record: {reason}; run `dvc repro` again") from None
