"""What a branch changes, from git alone: scores, metrics, parameters and data of two commits, and stale stages.

Nothing here needs the data, a model, a GPU or a remote, so that it works for a pull request from a fork.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from affine.errors import AffineError
from affine.report.stale import Fit, fit
from affine.types import ENVS

Reader = Callable[[str], str | None]
"""Path -> text of a file in a commit or a folder; None where it isn't there."""


class ChangesError(AffineError):
    """The two commits cannot be compared; the message says why."""


class Decision(StrEnum):
    """What the intervals of two scores say about their difference."""

    BETTER = "better"
    WORSE = "worse"
    NOISE = "noise"
    OTHER = "not comparable"
    """The evaluator itself changed (tasks, prompts, limits, sampling): its fingerprint differs."""


@dataclass(frozen=True, slots=True)
class Score:
    """A mean score with its interval, and the fingerprint of the evaluator; "" for the overall score."""

    mean: float
    low: float
    high: float
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Effect:
    """One environment (or "overall") before and after; `low` to `high` is the interval of the difference."""

    env: str
    before: Score
    after: Score
    difference: float
    low: float
    high: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class Change:
    """A value before and after; None where there was none."""

    key: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Changes:
    """`effects` is empty where one of the commits has no scores. `data` are outputs with (bytes, files) each;
    `curves` by name, before and after."""

    base: str
    head: str
    model: str
    effects: tuple[Effect, ...]
    verdicts: tuple[str, ...]
    metrics: tuple[Change, ...]
    params: tuple[Change, ...]
    data: tuple[Change, ...]
    fit: Fit
    curves: Mapping[str, tuple[list[tuple[float, float]], list[tuple[float, float]]]]
    scores: tuple[Mapping[tuple[str, str], Score], Mapping[tuple[str, str], Score]]

    @property
    def envs(self) -> list[str]:
        """Environments that both commits scored."""
        return [effect.env for effect in self.effects if effect.env != "overall"]


def changes(root: Path, base: str) -> Changes:
    """What the files in `root` change against the commit where its branch left `base`. Raises ChangesError and
    StaleError."""
    commit = _git(root, "merge-base", base, "HEAD").strip()
    if not commit:
        raise ChangesError(f"{base} and HEAD have no common commit; fetch its whole history (fetch-depth: 0)")
    old, new = _at_commit(root, commit), _in_folder(root)
    before, after = _scores(old), _scores(new)
    model = next(reversed(list(after)), ("", ""))[0]
    numbers = {"metrics": ("evaluate.json", "pareto.json", "sft.json", "ppo.json", "dataset.json", "release.json")}
    files = [f"{folder}/{name}" for folder, names in numbers.items() for name in names]
    files += [f"metrics/{kind}/{env}.json" for kind in ("tasks", "collect") for env in ENVS]
    curves = {}
    for path in _curve_files(root, commit):
        was, now = _points(old(path)), _points(new(path))
        if now:
            curves[path.removeprefix("metrics/curves/").removesuffix(".tsv")] = (was, now)
    verdicts = json.loads(new("metrics/pareto.json") or "{}")
    return Changes(
        base=_git(root, "rev-parse", "--short=10", commit).strip(),
        head=_git(root, "rev-parse", "--short=10", "HEAD").strip(),
        model=model,
        effects=tuple(_effects(before, after, model)),
        verdicts=tuple(pair["verdict"] for name, pair in verdicts.items() if "_vs_" in name),
        metrics=tuple(
            change
            for path in files
            for change in differences(_json(old(path)), _json(new(path)), f"{path.removeprefix('metrics/')}: ")
        ),
        params=tuple(differences(_yaml(old("params.yaml")), _yaml(new("params.yaml")))),
        data=tuple(differences(_outputs(old("dvc.lock")), _outputs(new("dvc.lock")))),
        fit=fit(root),
        curves=curves,
        scores=(before, after),
    )


def difference(before: Score, after: Score) -> tuple[float, float, float]:
    """after - before with an interval at the level of theirs, by MOVER (Newcombe 1998, Statistics in Medicine 17,
    p. 873, method 10; Donner and Zou 2012): the distances to the limits add as squares. Pairing by task is left out,
    so that it errs on the side of noise."""
    mean = after.mean - before.mean
    return (
        mean,
        mean - math.hypot(after.mean - after.low, before.high - before.mean),
        mean + math.hypot(after.high - after.mean, before.mean - before.low),
    )


def _effects(
    before: Mapping[tuple[str, str], Score], after: Mapping[tuple[str, str], Score], model: str
) -> list[Effect]:
    rows = []
    envs = [env for env in (*ENVS, "overall") if (model, env) in before and (model, env) in after]
    same = all(before[model, env].fingerprint == after[model, env].fingerprint for env in envs)
    same = same and {env for _, env in before} == {env for _, env in after}
    for env in envs:
        was, now = before[model, env], after[model, env]
        mean, low, high = difference(was, now)
        if not same if env == "overall" else was.fingerprint != now.fingerprint:
            decision = Decision.OTHER
        else:
            decision = Decision.BETTER if low > 0 else Decision.WORSE if high < 0 else Decision.NOISE
        rows.append(Effect(env, was, now, mean, low, high, decision))
    return rows


def _scores(read: Reader) -> dict[tuple[str, str], Score]:
    """(model, env or "overall") -> score; models in order of seniority."""
    rows = csv.DictReader((read("metrics/plots/scores.csv") or "").splitlines())
    return {
        (row["model"], row["env"]): Score(
            float(row["score"]), float(row["low"]), float(row["high"]), row.get("fingerprint", "")
        )
        for row in rows
    }


def differences(before: Any, after: Any, prefix: str = "") -> list[Change]:
    """Leaves that differ, sorted by key."""
    was, now = dict(_leaves(before)), dict(_leaves(after))
    return [
        Change(f"{prefix}{key}", was.get(key), now.get(key))
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    ]


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping):
        return [
            leaf for key, part in value.items() for leaf in _leaves(part, f"{prefix}.{key}" if prefix else str(key))
        ]
    return [(prefix, value)] if prefix else []


def _outputs(lock: str | None) -> dict[str, tuple[str, int, int]]:
    """Output -> (hash, bytes, files), of what DVC keeps."""
    stages = (yaml.safe_load(lock) if lock else {}).get("stages", {})
    return {
        out["path"]: (str(out.get("md5", "")), out.get("size", 0), out.get("nfiles", 1))
        for stage in stages.values()
        for out in stage.get("outs", ())
        if not out["path"].startswith("metrics/")
    }


def _points(text: str | None) -> list[tuple[float, float]]:
    rows = [line.split("\t") for line in (text or "").splitlines()[1:]]
    return [(float(row[0]), float(row[-1])) for row in rows]


def _json(text: str | None) -> Any:
    return json.loads(text) if text else {}


def _yaml(text: str | None) -> Any:
    return YAML(typ="safe", pure=True).load(text) if text else {}


def _curve_files(root: Path, commit: str) -> list[str]:
    tracked = _git(root, "ls-tree", "-r", "--name-only", commit, "metrics/curves").splitlines()
    here = [path.relative_to(root).as_posix() for path in (root / "metrics" / "curves").rglob("*.tsv")]
    return sorted({path for path in [*tracked, *here] if path.endswith(".tsv")})


def reader(root: Path, commit: str | None) -> tuple[Reader, str]:
    """What reads files of `commit` (None: the files in `root`), and the commit's short name. Raises ChangesError."""
    if commit is None:
        return _in_folder(root), "the files here"
    full = _git(root, "rev-parse", "--verify", f"{commit}^{{commit}}").strip()
    return _at_commit(root, full), full[:10]


def _in_folder(root: Path) -> Reader:
    def read(path: str) -> str | None:
        return (root / path).read_text(encoding="utf-8") if (root / path).is_file() else None

    return read


def _at_commit(root: Path, commit: str) -> Reader:
    known = set(_git(root, "ls-tree", "-r", "--name-only", commit).splitlines())
    return lambda path: _git(root, "show", f"{commit}:{path}") if path in known else None


def _git(root: Path, *arguments: str) -> str:
    return ask_git(root, *arguments).decode()


def ask_git(root: Path, *arguments: str) -> bytes:
    """What git says. Raises ChangesError; without common history, `merge-base` says nothing."""
    git = shutil.which("git")
    if git is None:
        raise ChangesError("git is not installed")
    done = subprocess.run([git, *arguments], cwd=root, capture_output=True, check=False)
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode and arguments[0] == "merge-base" and not said:
        return b""
    if done.returncode:
        reason = (said.splitlines() or [""])[0].removeprefix("fatal: ")
        raise ChangesError(f"git {arguments[0]}: {reason}; on CI, fetch the base and its history (fetch-depth: 0)")
    return done.stdout
