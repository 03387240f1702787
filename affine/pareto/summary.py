"""Episode records -> what the statistics need, read line by line: memory grows with the number of tasks, and
hardly with that of episodes, of whose tries only scores are kept.

Of every record only the score, the outcome, the task's identity, group and type, and counts of turns, invalid
turns and reply tokens are kept; neither a model nor an engine is needed.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from math import fsum
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from affine.errors import AffineError
from affine.files import read_json
from affine.fingerprint import fingerprint
from affine.types import ENVS, StopReason

MODELS = ("base", "sft", "ppo")
"""The models of the default run, earliest first: the order of seniority."""


STOPS = "stops.json"
"""Beside the records of an evaluation that could stop early: where it did, and on what evidence."""


class EvaluationError(AffineError):
    """Episode records are missing, corrupt or cannot be compared; the message names them and the remedy."""


class TaskId(NamedTuple):
    """A task's identity within its environment."""

    level: int
    id: int
    seed: int


@dataclass(slots=True)
class TaskResult:
    """One task's episodes: their scores, and how many were solved. `tried` has a bit per sample number."""

    key: str
    group: str
    type: str = ""
    scores: list[float] = field(default_factory=list)
    solved: int = 0
    tried: int = 0

    @property
    def tries(self) -> int:
        """Number of episodes."""
        return len(self.scores)

    @property
    def total(self) -> float:
        """Sum of the scores, whatever their order."""
        return fsum(self.scores)

    @property
    def mean(self) -> float:
        """Mean score over the tries."""
        return self.total / self.tries


Known = Literal["episodes", "tasks", "totals"]


@dataclass(slots=True)
class EnvResult:
    """One model's episodes in one environment. `turns`, `invalid` and `tokens` are sums over episodes.

    `known` says what the result rests on: whole episode records; scores per task only (no conduct: `turns`,
    `stops` and the like say nothing); or just a score sum and a number of episodes (no `tasks` either).
    `fingerprint` is the evaluator's ("" where it is not known) and `evaluator` what that is made of (empty where
    it was not kept). `stopped`: play ended early because the comparison was settled (`evaluate.stop`).
    """

    model: str
    env: str
    fingerprint: str
    tasks: dict[TaskId, TaskResult] = field(default_factory=dict)
    total: float = 0.0
    episodes: int = 0
    turns: int = 0
    invalid: int = 0
    tokens: int = 0
    stops: dict[StopReason, int] = field(default_factory=lambda: dict.fromkeys(StopReason, 0))
    known: Known = "episodes"
    evaluator: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False

    @property
    def mean(self) -> float:
        """Mean score over all episodes; 0 without any."""
        return self.total / max(1, self.episodes)

    @property
    def solved(self) -> float:
        """Share of episodes the environment counts as solved."""
        return sum(task.solved for task in self.tasks.values()) / max(1, self.episodes)

    @property
    def groups(self) -> int:
        """Number of groups: distinct ones, a task without one counting as its own."""
        named = {task.group for task in self.tasks.values() if task.group}
        return len(named) + sum(not task.group for task in self.tasks.values())

    def settle(self) -> EnvResult:
        """Put the tasks in order and add their scores up, so that the order of records cannot matter."""
        self.tasks = dict(sorted(self.tasks.items(), key=itemgetter(0)))
        self.total = fsum(task.total for task in self.tasks.values())
        self.episodes = sum(len(task.scores) for task in self.tasks.values())
        return self


Evaluations = Mapping[str, Mapping[str, EnvResult]]
"""Model -> environment -> result, models in order of seniority."""


def summarise(lines: Iterable[str | bytes], source: str, model: str, env: str) -> EnvResult:
    """The summary of one file of `Episode` lines; `source` names it in errors.

    Raises EvaluationError for a line that is no such record, a score outside [0, 1], another environment,
    a second fingerprint or policy within the file, a task that changes its content, a repeated sample, or
    a file without episodes.
    """
    result: EnvResult | None = None
    policy = ""
    for number, line in enumerate(lines, start=1):
        try:
            record = orjson.loads(line)
            if result is None:
                result, policy = EnvResult(model, env, record["fingerprint"]), record["policy"]
            if record["fingerprint"] != result.fingerprint or record["policy"] != policy:
                raise ValueError(f"a second evaluator or policy ({record['fingerprint']}, {record['policy']})")
            _add(result, record["trajectory"], record["sample"], record.get("task_type", ""))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            why = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise EvaluationError(
                f"{source}, line {number}: not a usable episode record: {why}\nmake it again: dvc repro -f evaluate"
            ) from None
    if result is None:
        raise EvaluationError(f"{source}: no episodes\nmake it again: dvc repro -f evaluate")
    return result.settle()


def _add(result: EnvResult, trajectory: Mapping[str, Any], sample: int, task_type: str) -> None:
    """Count one trajectory into `result`. Raises ValueError, KeyError or TypeError where it does not fit."""
    task = trajectory["task"]
    score, turns = trajectory["score"] + 0.0, trajectory["turns"]
    if task["env"] != result.env:
        raise ValueError(f"an episode of {task['env']!r} among those of {result.env!r}")
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"score {score} outside [0, 1]")
    stop = StopReason(trajectory["stop"])
    identity = TaskId(int(task["level"]), int(task["id"]), int(task["seed"]))
    known = result.tasks.get(identity)
    if known is None:
        known = result.tasks[identity] = TaskResult(task["key"] + "", task["group"] + "", task_type)
    if known.key != task["key"] or known.group != task["group"]:
        raise ValueError(f"task {identity.id} of level {identity.level} has two contents")
    if known.tried >> sample & 1:
        raise ValueError(f"task {identity.id} of level {identity.level}: sample {sample} twice")
    known.tried |= 1 << sample
    known.scores.append(score)
    known.solved += bool(trajectory["solved"])
    result.stops[stop] += 1
    result.turns += len(turns)
    for turn in turns:
        result.invalid += not turn["valid"]
        result.tokens += len(turn["token_ids"])


def read_evaluation(path: Path, model: str, env: str) -> EnvResult:
    """`summarise` of the file `path`. Raises EvaluationError, also where it is missing."""
    try:
        with path.open("rb") as lines:
            return summarise(lines, str(path), model, env)
    except FileNotFoundError:
        raise EvaluationError(f"{path}: no such file\nmake it: dvc repro evaluate (or: dvc pull evaluate)") from None


def read_evaluator(path: Path, results: Mapping[str, EnvResult]) -> None:
    """Give `results` what their fingerprints are made of, from evaluator.json beside the records; without that
    file, refusals name fingerprints only. Raises EvaluationError where it belongs to other records."""
    if not path.is_file():
        return
    evaluators = read_json(path)
    for env, result in results.items():
        parts = evaluators.get(env) if isinstance(evaluators, dict) else None
        if not isinstance(parts, dict) or fingerprint(parts) != result.fingerprint:
            raise EvaluationError(
                f"{path}: not the evaluator of {path.parent.name}/{env}.jsonl ({result.fingerprint})\n"
                "make both again: dvc repro -f evaluate"
            )
        result.evaluator = parts


def read_model(folder: Path) -> dict[str, EnvResult]:
    """The results of the model whose records lie in `folder`, in every environment. Raises EvaluationError."""
    return _described(folder, {env: read_evaluation(folder / f"{env}.jsonl", folder.name, env) for env in ENVS})


def _described(folder: Path, results: dict[str, EnvResult]) -> dict[str, EnvResult]:
    """The results with what lies beside the records: their evaluators, and where play stopped early."""
    read_evaluator(folder / "evaluator.json", results)
    if (folder / STOPS).is_file():
        stops = read_json(folder / STOPS)
        for env, result in results.items():
            result.stopped = bool(stops["env"][env]["stopped"])
    return results


PARALLEL = 1 << 28
"""From this many bytes of records on, files are read by several processes."""


def read_evaluations(folder: Path, models: Iterable[str] = MODELS) -> Evaluations:
    """All of `folder`/<model>/<env>.jsonl, in the order of `models`. Raises EvaluationError."""
    names = list(models)
    files = [(folder / model / f"{env}.jsonl", model, env) for model in names for env in ENVS]
    if sum(path.stat().st_size for path, _, _ in files if path.is_file()) < PARALLEL:
        return {model: read_model(folder / model) for model in names}
    # Spawned, so that nothing of this process (threads, models) is copied; largest first, so that none comes last.
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as workers:
        waiting = {file: workers.submit(read_evaluation, *file) for file in sorted(files, key=_size, reverse=True)}
        read = {file: waiting[file].result() for file in files}
    by_model = {model: {env: read[folder / model / f"{env}.jsonl", model, env] for env in ENVS} for model in names}
    return {model: _described(folder / model, results) for model, results in by_model.items()}


def _size(file: tuple[Path, str, str]) -> int:
    return file[0].stat().st_size if file[0].is_file() else 0


def models_in(folder: Path) -> tuple[str, ...]:
    """Names of the models evaluated in `folder`: the default run's in order of seniority, then the others by
    name. Raises EvaluationError where there are none."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = sorted(path.name for path in folders if not path.name.startswith("."))
    if not found:
        raise EvaluationError(f"{folder}: no evaluations (expected {folder}/<model>/<env>.jsonl)\nmake them: dvc repro")
    return tuple(m for m in MODELS if m in found) + tuple(m for m in found if m not in MODELS)
