"""Episode records -> what the statistics need, read line by line with memory bounded by the number of tasks.

Of every record only the score, the outcome, the task's identity and group, and counts of turns, invalid
turns and reply tokens are kept; neither a model nor an engine is needed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from affine.errors import AffineError
from affine.types import ENVS, StopReason

MODELS = ("base", "sft", "ppo")
"""The models of the default run, earliest first: the order of seniority."""


class EvaluationError(AffineError):
    """Episode records are missing, corrupt or cannot be compared; the message names them and the remedy."""


class TaskId(NamedTuple):
    """A task's identity within its environment."""

    level: int
    id: int
    seed: int


@dataclass(slots=True)
class TaskResult:
    """One task's episodes: `tries` of them, their score sum, how many were solved. `tried` has a bit per
    sample number."""

    key: str
    group: str
    total: float = 0.0
    tries: int = 0
    solved: int = 0
    tried: int = 0

    @property
    def mean(self) -> float:
        """Mean score over the tries."""
        return self.total / self.tries


@dataclass(slots=True)
class EnvResult:
    """One model's episodes in one environment. `turns`, `invalid` and `tokens` are sums over episodes."""

    model: str
    env: str
    fingerprint: str
    tasks: dict[TaskId, TaskResult] = field(default_factory=dict)
    turns: int = 0
    invalid: int = 0
    tokens: int = 0
    stops: dict[StopReason, int] = field(default_factory=lambda: dict.fromkeys(StopReason, 0))

    @property
    def episodes(self) -> int:
        """Number of episodes."""
        return sum(task.tries for task in self.tasks.values())

    @property
    def total(self) -> float:
        """Score sum over all episodes, each in [0, 1]."""
        return sum(task.total for task in self.tasks.values())

    @property
    def mean(self) -> float:
        """Mean score over all episodes."""
        return self.total / self.episodes

    @property
    def solved(self) -> float:
        """Share of episodes the environment counts as solved."""
        return sum(task.solved for task in self.tasks.values()) / self.episodes

    @property
    def groups(self) -> int:
        """Number of clusters: distinct groups, a task without one counting as its own."""
        named = {task.group for task in self.tasks.values() if task.group}
        return len(named) + sum(not task.group for task in self.tasks.values())


Evaluations = Mapping[str, Mapping[str, EnvResult]]
"""Model -> environment -> result, models in order of seniority."""


def summarise(lines: Iterable[str], source: str, model: str, env: str) -> EnvResult:
    """The summary of one file of `Episode` lines; `source` names it in errors.

    Raises EvaluationError for a line that is no such record, a score outside [0, 1], another environment,
    a second fingerprint or policy within the file, a task that changes its content, a repeated sample, or
    a file without episodes.
    """
    result: EnvResult | None = None
    policy = ""
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if result is None:
                result, policy = EnvResult(model, env, record["fingerprint"]), record["policy"]
            if (record["fingerprint"], record["policy"]) != (result.fingerprint, policy):
                raise ValueError(f"a second evaluator or policy ({record['fingerprint']}, {record['policy']})")
            _add(result, record["trajectory"], int(record["sample"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(
                f"{source}, line {number}: not a usable episode record: {why}\nmake it again: dvc repro -f evaluate"
            ) from None
    if result is None:
        raise EvaluationError(f"{source}: no episodes\nmake it again: dvc repro -f evaluate")
    return result


def _add(result: EnvResult, trajectory: Mapping[str, Any], sample: int) -> None:
    """Count one trajectory into `result`. Raises ValueError, KeyError or TypeError where it does not fit."""
    task = trajectory["task"]
    score, turns = float(trajectory["score"]), trajectory["turns"]
    if task["env"] != result.env:
        raise ValueError(f"an episode of {task['env']!r} among those of {result.env!r}")
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} outside [0, 1]")
    stop = StopReason(trajectory["stop"])
    identity = TaskId(int(task["level"]), int(task["id"]), int(task["seed"]))
    known = result.tasks.setdefault(identity, TaskResult(str(task["key"]), str(task["group"])))
    if (known.key, known.group) != (task["key"], task["group"]):
        raise ValueError(f"task {identity.id} of level {identity.level} has two contents")
    if known.tried >> sample & 1:
        raise ValueError(f"task {identity.id} of level {identity.level}: sample {sample} twice")
    known.tried |= 1 << sample
    known.tries += 1
    known.total += score
    known.solved += bool(trajectory["solved"])
    result.stops[stop] += 1
    result.turns += len(turns)
    result.invalid += sum(not turn["valid"] for turn in turns)
    result.tokens += sum(len(turn["token_ids"]) for turn in turns)


def read_evaluation(path: Path, model: str, env: str) -> EnvResult:
    """`summarise` of the file `path`. Raises EvaluationError, also where it is missing or not text."""
    try:
        with path.open(encoding="utf-8") as lines:
            return summarise(lines, str(path), model, env)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file\nmake it: dvc repro evaluate (or: dvc pull evaluate)") from None
    except UnicodeDecodeError as error:
        raise EvaluationError(
            f"{path}: not UTF-8 text ({error.reason})\nmake it again: dvc repro -f evaluate"
        ) from None


def read_evaluations(folder: Path, models: Iterable[str] = MODELS) -> Evaluations:
    """All of `folder`/<model>/<env>.jsonl, in the order of `models`. Raises EvaluationError."""
    return {
        model: {env: read_evaluation(folder / model / f"{env}.jsonl", model, env) for env in ENVS} for model in models
    }


def models_in(folder: Path) -> tuple[str, ...]:
    """Names of the models evaluated in `folder`: the default run's in order of seniority, then the others by
    name. Raises EvaluationError where there are none."""
    found = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not found:
        raise EvaluationError(f"{folder}: no evaluations (expected {folder}/<model>/<env>.jsonl)\nmake them: dvc repro")
    return tuple(m for m in MODELS if m in found) + tuple(m for m in found if m not in MODELS)
