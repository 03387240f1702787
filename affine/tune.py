"""Search for parameters: Optuna proposes, `dvc exp run` tries, and every trial is an experiment like any other.

The study lies in the work folder; the same command again goes on with it. A trial that was stopped is tried again
first, with the same values, so that training goes on from its checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML

from affine.errors import AffineError
from affine.params import is_text
from affine.report.changes import reader
from affine.training.work import work_root

if TYPE_CHECKING:
    import optuna

PATIENCE = 3
"""Trials that may fail one after the other before the search gives up."""


class TuneError(AffineError):
    """The search space or the metric is not as expected, or trials keep failing."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A parameter and what it may be: `choices`, or the range `low` to `high` (whole numbers where both are)."""

    key: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value for `trial`."""
        if self.choices:
            # Optuna keeps plain values only; a list or mapping is proposed by its place.
            return self.choices[trial.suggest_categorical(self.key, list(range(len(self.choices))))]
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.key, self.low, self.high, log=self.log)
        return float(f"{trial.suggest_float(self.key, self.low, self.high, log=self.log):.4g}")


@dataclass(frozen=True, slots=True)
class Metric:
    """A number in a metrics file, such as metrics/evaluate.json:ppo.overall."""

    file: str
    key: str
    maximize: bool = True

    def read(self, text: str) -> float:
        """The number in the file's text. Raises TuneError."""
        value = _at(json.loads(text), self.key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TuneError(f"{self.file} has no number {self.key}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Trial:
    """A finished trial: its experiment's name, what was set, and what came of it."""

    name: str
    values: Mapping[str, Any]
    score: float


def parse_dimension(text: str) -> Dimension:
    """`key=low..high`, `key=low..high:log` or `key=a,b,c` (each YAML, or text where the parameter is). Raises
    TuneError."""
    key, equals, what = text.partition("=")
    if not equals or not key or not what:
        raise TuneError(f"{text}: expected KEY=LOW..HIGH, KEY=LOW..HIGH:log or KEY=A,B,C")
    if ".." not in what:
        kind = "base" if is_text(key) else "safe"
        return Dimension(key, tuple(_yaml(part, text, kind) for part in what.split(",")))
    bounds, _, scale = what.partition(":")
    low, high = (_yaml(part, text) for part in bounds.split("..", 1))
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in (low, high))
    if not numbers or not low < high or scale not in ("", "log") or (scale and low <= 0):
        raise TuneError(f"{text}: expected LOW..HIGH with LOW < HIGH, both numbers (above 0 for :log)")
    return Dimension(key, (), low, high, scale == "log")


def _yaml(text: str, whole: str, kind: str = "safe") -> Any:
    try:
        return YAML(typ=kind, pure=True).load(text)
    except Exception:
        raise TuneError(f"{whole}: {text!r} is not a YAML value") from None


def _at(values: Any, key: str) -> Any:
    """What stands at the dotted `key`; None where nothing does."""
    for part in key.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def study_name(space: Sequence[Dimension], metric: Metric, commit: str) -> str:
    """A name that is the same for the same question, asked of the same commit."""
    identity = json.dumps([[repr(dimension) for dimension in space], repr(metric), commit])
    return f"tune-{hashlib.sha256(identity.encode()).hexdigest()[:6]}"


class Search:
    """A study under way. `run` tries a set of values under a name and returns the metrics file's text, or None where
    the experiment failed."""

    def __init__(
        self, root: Path, name: str, space: Sequence[Dimension], metric: Metric, *, seed: int,
        run: Callable[[str, Mapping[str, Any]], str | None],
    ) -> None:  # fmt: skip
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        folder = work_root(root) / "tune"
        folder.mkdir(parents=True, exist_ok=True)
        self.name, self.space, self.metric, self._run = name, space, metric, run
        self._states = optuna.trial.TrialState
        self.study = optuna.create_study(
            study_name=name,
            storage=JournalStorage(JournalFileBackend(str(folder / f"{name}.journal"))),
            direction="maximize" if metric.maximize else "minimize",
            load_if_exists=True,
        )
        # Proposals are a function of the seed and of what was tried before.
        self.study.sampler = optuna.samplers.TPESampler(seed=seed + len(self.study.trials))
        for trial in self.study.get_trials(deepcopy=False, states=(self._states.RUNNING,)):
            self.study.tell(trial.number, state=self._states.FAIL)
            self.study.enqueue_trial(trial.params, user_attrs={"experiment": trial.user_attrs.get("experiment", "")})

    def finished(self) -> list[Trial]:
        """Complete trials in their order."""
        return [
            Trial(t.user_attrs["experiment"], t.user_attrs["values"], t.value)
            for t in self.study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
            if t.value is not None
        ]

    def best(self) -> Trial | None:
        """The best one so far, the earliest of equals."""
        sign = 1 if self.metric.maximize else -1
        return max(self.finished(), key=lambda trial: sign * trial.score, default=None)

    def step(self) -> Trial | None:
        """One more trial; None where it failed. Raises TuneError where the metric isn't there."""
        trial = self.study.ask()
        values = {dimension.key: dimension.suggest(trial) for dimension in self.space}
        name = trial.user_attrs.get("experiment") or f"{self.name}-{trial.number}"
        trial.set_user_attr("experiment", name)
        trial.set_user_attr("values", values)
        known = next((t for t in self.finished() if dict(t.values) == values), None)
        if known:
            score, name = known.score, known.name
            trial.set_user_attr("experiment", name)
        else:
            text = self._run(name, values)
            if text is None:
                self.study.tell(trial, state=self._states.FAIL)
                return None
            score = self.metric.read(text)
        self.study.tell(trial, score)
        return Trial(name, values, score)


def run_experiment(root: Path, metric: Metric, name: str, values: Mapping[str, Any]) -> str | None:
    """`dvc exp run --temp` in a copy of the workspace, which stays as it is; the metrics file's text, or None.

    An experiment that is there already (the search was stopped after DVC had saved it) is read and not run again.
    Raises TuneError where it was made with other values."""
    from affine.cli.preset import Change, override

    if found := find_experiment(root, name):
        _check_values(root, name, found, values)
        return read_experiment(root, name, metric.file)
    overrides = [part for k, v in values.items() for part in ("-S", override(Change(k, None, v, known=True)))]
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "run", "--temp", "--quiet", "--name", name, *overrides],
        cwd=root,
        env={**os.environ, "AFFINE_WORK": str(work_root(root))},
        check=False,
    )
    return None if done.returncode else read_experiment(root, name, metric.file)


def find_experiment(root: Path, name: str) -> str | None:
    """The commit of the experiment `name`; None where DVC has none."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        found = [rev for group in repo.experiments.ls(all_commits=True).values() for n, rev in group if n == name]
    return found[0] if found else None


def read_experiment(root: Path, name: str, file: str) -> str:
    """The text of `file` in the experiment `name`. Raises TuneError."""
    found = find_experiment(root, name)
    if not found:
        raise TuneError(f"DVC has no experiment {name}; `dvc exp list` shows what there is")
    text = reader(root, found)[0](file)
    if text is None:
        raise TuneError(f"experiment {name} has no {file} in git")
    return text


def _check_values(root: Path, name: str, commit: str, values: Mapping[str, Any]) -> None:
    """Raises TuneError unless the experiment's params.yaml holds `values`."""
    params = YAML(typ="safe", pure=True).load(reader(root, commit)[0]("params.yaml") or "{}")
    for key, value in values.items():
        if (there := _at(params, key)) != value:
            raise TuneError(
                f"experiment {name} exists with {key}={there}, and the search wants {value}:"
                f" `dvc exp rename {name} OTHER` keeps it, `dvc exp remove {name}` gives the name back"
            )
