"""Where unfinished work lies, and how finished work appears: at once and whole.

A run that is killed and started again must end in the bytes of an uninterrupted one, so its checkpoints
lie in a folder named by everything that determines them: parameters, inputs, the code and the libraries.
DVC removes a stage's outputs before it runs, so this folder is no output; git ignores it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "trl")
"""Their versions decide what a checkpoint means."""


def work_root(root: Path) -> Path:
    """$AFFINE_WORK (for runs in temporary copies of the repository), else `root`/work."""
    return Path(os.environ.get("AFFINE_WORK") or root / "work").absolute()


def file_digest(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def work_folder(root: Path, stage: str, settings: Mapping[str, Any], inputs: Iterable[Path]) -> Path:
    """The folder `work/<stage>-<key>`, made if it isn't there. `key` hashes `settings` (JSON-able), the
    names and contents of the files `inputs`, the modules of this project that are loaded now, and the
    versions of `LIBRARIES`: anything else than the same run gets another folder."""
    modules = {name: module for name, module in sorted(sys.modules.items()) if name.split(".")[0] == "affine"}
    code = {name: file_digest(Path(module.__file__)) for name, module in modules.items() if module.__file__}
    identity = {
        "settings": settings,
        "inputs": [[path.name, file_digest(path)] for path in inputs],
        "code": code,
        "libraries": {library: version(library) for library in LIBRARIES},
    }
    key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = work_root(root) / f"{stage}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """An empty folder to fill; it becomes `target`, replacing what was there, when the block ends without
    an exception. A killed process leaves `target` absent or whole, never half-written."""
    partial = target.parent / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def write_json(path: Path, data: Any) -> None:
    """Write JSON for people and diffs: sorted keys, two spaces, no NaN (ValueError), whole or not at all."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n")
