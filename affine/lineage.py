"""What made an output: from dvc.lock and git alone, without any data.

DVC's lock names, for every stage, the hashes of its code and inputs and the parameters it ran with. Followed upstream
from one output, that is its whole history: data, code, parameters, library versions, the base's revision, seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from affine.errors import AffineError
from affine.report.changes import Change, ask_git, differences, reader

LOCK = "dvc.lock"
CODE = ("affine/", "stages/")


class LineageError(AffineError):
    """The output is not in dvc.lock; the message names those that are."""


@dataclass(frozen=True, slots=True)
class Step:
    """One stage upstream of the output. `code` and `inputs` are path -> hash, `params` dotted key -> value, `makers`
    the stages that made its inputs."""

    stage: str
    command: str
    code: Mapping[str, str]
    inputs: Mapping[str, str]
    params: Mapping[str, Any]
    outputs: Mapping[str, str]
    makers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lineage:
    """`steps` from the first stage to the one that made `output`; `strange` are code files and folders whose content at
    `commit` is not what the lock says was run."""

    output: str
    commit: str
    digest: str
    steps: tuple[Step, ...]
    strange: tuple[str, ...]

    def params(self) -> dict[str, Any]:
        """Every parameter that had a say, by its dotted name."""
        return {key: value for step in self.steps for key, value in step.params.items()}

    def code(self) -> dict[str, str]:
        """Every code file or folder that had a say -> hash."""
        return {path: digest for step in self.steps for path, digest in step.code.items()}

    def outputs(self) -> dict[str, str]:
        """Everything that was made on the way -> hash."""
        return {path: digest for step in self.steps for path, digest in step.outputs.items()}


def lineage(root: Path, output: str, commit: str | None = None) -> Lineage:
    """What made `output` (a path that dvc.lock names, or a file in it), as `commit` has it; None for the files here.

    Raises LineageError, ChangesError for an unknown commit.
    """
    read, name = reader(root, commit)
    text = read(LOCK)
    if text is None:
        raise LineageError(
            f"{LOCK}: no such file {'here' if commit is None else f'in {commit}'}; run `dvc repro` first"
        )
    stages: dict[str, Any] = yaml.safe_load(text)["stages"]
    makers = {out["path"]: stage for stage, entry in stages.items() for out in entry.get("outs", ())}
    wanted = PurePosixPath(output.rstrip("/")).as_posix()
    maker = _maker(wanted, makers)
    if maker is None:
        known = ", ".join(path for path in makers if not path.startswith("metrics/"))
        raise LineageError(f"{LOCK} has no output {wanted} (outputs: {known})")
    steps: dict[str, Step] = {}
    _follow(maker, stages, makers, steps)
    path, stage = max(
        ((path, stage) for path, stage in makers.items() if _holds(path, wanted)), key=lambda item: len(item[0])
    )
    strange = [
        path for path, digest in sorted({p: d for s in steps.values() for p, d in s.code.items()}.items())
        if _digest(_contents(root, commit, path)) != digest
    ]  # fmt: skip
    return Lineage(wanted, name, steps[stage].outputs[path], tuple(steps.values()), tuple(strange))


def compare(one: Lineage, other: Lineage) -> dict[str, list[Change]]:
    """What `one` was made with that `other` was not, by kind: parameters, code, data."""
    return {
        "parameters": differences(other.params(), one.params()),
        "code": differences(other.code(), one.code()),
        "data": differences(other.outputs(), one.outputs()),
    }


def _follow(name: str, stages: Mapping[str, Any], makers: Mapping[str, str], steps: dict[str, Step]) -> None:
    """Add `name` to `steps`, after all stages that it depends on."""
    if name in steps:
        return
    entry = stages[name]
    deps = {dep["path"]: str(dep.get("md5", "")) for dep in entry.get("deps", ())}
    upstream = sorted({maker for path in deps if (maker := _maker(path, makers)) and maker != name})
    for maker in upstream:
        _follow(maker, stages, makers, steps)
    values = [(key, value) for file in entry.get("params", {}).values() for key, value in file.items()]
    steps[name] = Step(
        name,
        entry.get("cmd", ""),
        {path: digest for path, digest in deps.items() if path.startswith(CODE)},
        {path: digest for path, digest in deps.items() if not path.startswith(CODE)},
        {leaf: v for key, value in values for leaf, v in _leaves(key, value)},
        {out["path"]: str(out.get("md5", "")) for out in entry.get("outs", ())},
        tuple(upstream),
    )


def _leaves(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [leaf for name, part in value.items() for leaf in _leaves(f"{key}.{name}", part)]
    return [(key, value)]


def _holds(output: str, path: str) -> bool:
    return path == output or PurePosixPath(output) in PurePosixPath(path).parents


def _maker(path: str, makers: Mapping[str, str]) -> str | None:
    return next((stage for output, stage in makers.items() if _holds(output, path)), None)


def _contents(root: Path, commit: str | None, path: str) -> dict[str, bytes]:
    """The file at `path` as ".", or the files of the folder there by their paths in it; empty where nothing is. Here,
    compiled code is left out, as .dvcignore says."""
    if commit is not None:
        names = ask_git(root, "ls-tree", "-r", "-z", "--name-only", commit, "--", path).decode().split("\0")
        return {
            PurePosixPath(name).relative_to(path).as_posix(): ask_git(root, "show", f"{commit}:{name}")
            for name in filter(None, names)
        }
    at = root / path
    files = [at] if at.is_file() else [file for file in at.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    return {file.relative_to(at).as_posix(): file.read_bytes() for file in files}


def _digest(contents: Mapping[str, bytes]) -> str:
    """DVC's hash: MD5 of a file, or of a folder's list of files."""
    md5 = {name: hashlib.md5(content, usedforsecurity=False).hexdigest() for name, content in contents.items()}
    if "." in md5:
        return md5["."]
    listed = json.dumps([{"md5": md5[name], "relpath": name} for name in sorted(md5)])
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"
