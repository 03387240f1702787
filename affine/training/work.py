"""Where unfinished work lies.

A run that is killed and started again must end in the bytes of an uninterrupted one, so its checkpoints
lie in a folder named by everything that determines them: parameters, inputs, the code and the libraries.
DVC removes a stage's outputs before it runs, so this folder is no output; git ignores it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
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


def environment_files(prompts: str) -> list[Path]:
    """What the environments are made of, for a process that imports none of it itself; with `prompts` if that is a
    file (`envs.prompts`)."""
    folder = Path(__file__).parents[1] / "envs"
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".py", ".json"})
    return [*files, Path(prompts)] if Path(prompts).is_file() else files


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
