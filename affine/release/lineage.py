"""What a release was made from, named as `dvc.lock` names it, so that a reader can compare or `dvc pull` it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from affine.release.choose import ReleaseError

OUTPUTS = (
    "data/dataset",
    "models/base",
    "models/sft",
    "models/ppo",
    "evaluations/base",
    "evaluations/sft",
    "evaluations/ppo",
)
"""Outputs of the stages before `release`, each one of its dependencies."""


def folder_hash(folder: Path) -> str:
    """The hash under which DVC keeps a folder: MD5 of the list of its files with their MD5, ".dir" behind it.

    Computed from the files and not read from `dvc.lock`, which a stage that runs outside of DVC would find stale.
    Raises ReleaseError where there is no such folder.
    """
    if not folder.is_dir():
        raise ReleaseError(f"{folder}: no such folder; run `dvc repro` for the stage that makes it")
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    entries = [{"md5": _md5(files[name]), "relpath": name} for name in sorted(files)]
    text = json.dumps(entries, sort_keys=True)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
