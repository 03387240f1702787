"""Other models' results as files: `incumbents/<model>.json`, one model each, checked against a schema.

A file gives an environment either as per-task scores, which can be paired with our own episodes, or as a score
sum and a number of episodes, which is all the validators' interval rules look at. `incumbents/schema.json` is
the JSON Schema of these models (for editors and other tools); a test holds the two together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field, model_validator

from affine.files import write_text
from affine.pareto.summary import MODELS, EnvResult, EvaluationError, Evaluations, TaskId, TaskResult
from affine.types import ENVS

SCHEMA = "schema.json"
FOLDER = "incumbents"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TaskScores(_Part):
    """One task's scores, one per episode, each in [0, 1]. `key`, `group` and `type` are as in data/tasks and the
    episode records."""

    level: int = Field(ge=0)
    id: int = Field(ge=0)
    seed: int = Field(default=0, ge=0)
    key: str = ""
    group: str = ""
    type: str = ""
    scores: list[float] = Field(min_length=1)

    @model_validator(mode="after")
    def _in_range(self) -> TaskScores:
        for score in self.scores:
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"task {self.id} of level {self.level}: score {score} outside [0, 1]")
        return self


class EnvScores(_Part):
    """One environment: either `total` (sum of scores in [0, 1]) and `episodes`, or `tasks`.

    `fingerprint` is the evaluator's and needed with `tasks`, because only what the same evaluator scored can be
    paired; `evaluator` is what it is made of.
    """

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["total", "episodes"]}, {"required": ["tasks", "fingerprint"]}]}
    )

    total: float | None = Field(default=None, ge=0)
    episodes: int | None = Field(default=None, gt=0)
    tasks: list[TaskScores] | None = Field(default=None, min_length=1)
    fingerprint: str = ""
    evaluator: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one_of_two(self) -> EnvScores:
        if self.tasks is not None:
            if self.total is not None or self.episodes is not None:
                raise ValueError("either tasks, or total and episodes, not both")
            if not self.fingerprint:
                raise ValueError("tasks need the evaluator's fingerprint, or they cannot be paired")
            if len({(t.level, t.id, t.seed) for t in self.tasks}) < len(self.tasks):
                raise ValueError("a task stands in tasks twice")
        elif self.total is None or self.episodes is None:
            raise ValueError("needs total and episodes, or tasks")
        elif self.total > self.episodes:
            raise ValueError(f"total {self.total} above episodes {self.episodes} (scores lie in [0, 1])")
        return self


class Incumbent(_Part):
    """A model that came before ours. `first_block` orders incumbents among themselves, smaller is earlier; all of
    them are earlier than the models of this repository."""

    schema_: Literal["schema.json"] = Field(default="schema.json", alias="$schema")
    model: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
    source: str = Field(min_length=1, description="where the numbers are from")
    first_block: int = Field(default=0, ge=0)
    environments: dict[Literal[ENVS], EnvScores] = Field(min_length=1)  # type: ignore[valid-type]


def schema() -> str:
    """The text of incumbents/schema.json."""
    found = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Incumbent.model_json_schema(by_alias=True)}
    return json.dumps(found, indent=2) + "\n"


def read_incumbent(path: Path) -> Incumbent:
    """The checked contents of one file. Raises EvaluationError naming the file and the key."""
    return _checked(path, lambda: Incumbent.model_validate_json(path.read_bytes()))


def _checked(path: Path, parse: Callable[[], Incumbent]) -> Incumbent:
    try:
        incumbent = parse()
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "(file)"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise EvaluationError(f"{path}: {key}: {first['msg']}{more}\nthe format: {FOLDER}/README.md") from None
    if incumbent.model != path.stem:
        raise EvaluationError(f"{path}: holds model {incumbent.model!r}; rename it to {incumbent.model}.json")
    if incumbent.model in MODELS or "_vs_" in incumbent.model:
        raise EvaluationError(f"{path}: a file cannot be named {', '.join(MODELS)} or hold _vs_; choose another name")
    return incumbent


def results(incumbent: Incumbent) -> dict[str, EnvResult]:
    """The incumbent's results, environments in the usual order."""
    found = {}
    for env in ENVS:
        scores = incumbent.environments.get(env)
        if scores is None:
            continue
        result = EnvResult(incumbent.model, env, scores.fingerprint, known="totals", evaluator=scores.evaluator)
        if scores.tasks is None:
            assert scores.total is not None
            assert scores.episodes is not None
            result.total, result.episodes = scores.total, scores.episodes
        else:
            tasks = {TaskId(t.level, t.id, t.seed): _task(t) for t in scores.tasks}
            result = replace(result, tasks=tasks, known="tasks").settle()
        found[env] = result
    return found


def _task(task: TaskScores) -> TaskResult:
    return TaskResult(task.key, task.group, task.type, list(task.scores), tried=(1 << len(task.scores)) - 1)


def read_incumbents(folder: Path) -> Evaluations:
    """All incumbents in `folder`, the earliest first; none where there is no such folder. Raises EvaluationError."""
    paths = sorted(path for path in folder.glob("*.json") if path.name != SCHEMA)
    read = sorted((read_incumbent(path) for path in paths), key=lambda i: (i.first_block, i.model))
    return {incumbent.model: results(incumbent) for incumbent in read}


def write_incumbent(path: Path, evaluation: Mapping[str, EnvResult], source: str, first_block: int = 0) -> None:
    """Write an evaluation as an incumbent's file, named by the file's stem, scores per task. Raises EvaluationError
    where the file is there already or the name is taken."""
    environments = {
        env: EnvScores(
            fingerprint=result.fingerprint,
            evaluator=dict(result.evaluator),
            tasks=[
                TaskScores(**identity._asdict(), key=t.key, group=t.group, type=t.type, scores=t.scores)
                for identity, t in result.tasks.items()
            ],
        )
        for env, result in evaluation.items()
    }
    if path.exists():
        raise EvaluationError(f"{path}: there already; remove it first or choose another name")
    data = {"model": path.stem, "source": source, "first_block": first_block, "environments": environments}
    incumbent = _checked(path, lambda: Incumbent.model_validate(data))
    write_text(path, incumbent.model_dump_json(by_alias=True, indent=1, exclude_none=True) + "\n")
