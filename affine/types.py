"""The project's nouns: frozen, JSON-able, and the only vocabulary the stages share.

Every record that a stage writes is one of these, one JSON object a line. `to_json` and
the `*_from_json` functions are exact inverses; keys are sorted so that equal records are equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal

REGISTRY: dict[str, str] = {
    "sat": "affine.envs.sat:Sat",
    "abd": "affine.envs.abd:Abd",
    "ded": "affine.envs.ded:Ded",
    "webshop": "affine.envs.webshop:WebShop",
    "alfworld": "affine.envs.alfworld:AlfWorld",
    "babyai": "affine.envs.babyai:BabyAi",
    "sciworld": "affine.envs.sciworld:SciWorld",
    "textcraft": "affine.envs.textcraft:TextCraft",
}
"""Environment -> "module:class", imported when first asked for. A ninth one is a file and a line here; parameters,
commands and tables follow. Its expert is the function `expert` (and the table `SUCCESS`, the floor of the tests) of
`<module>_expert`, or of the module itself."""

ENVS: tuple[str, ...] = tuple(REGISTRY)
"""The environments' names, in the order in which every table lists them."""

Role = Literal["system", "user", "assistant"]


class Split(StrEnum):
    """Which part of an environment's tasks a task belongs to."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


class StopReason(StrEnum):
    """Why an episode ended."""

    SOLVED = "solved"
    """The environment ended the episode and counts it as solved."""
    FAILED = "failed"
    """The environment ended the episode and does not count it as solved."""
    TURN_LIMIT = "turn_limit"
    """The level's turn limit was reached before the environment ended the episode."""
    CONTEXT_LIMIT = "context_limit"
    """The next reply would not have fitted into the model's context."""
    NO_REPLY = "no_reply"
    """A served policy gave no usable reply in time; the episode counts 0, as it did for the validators."""


@dataclass(frozen=True, slots=True)
class Task:
    """One problem: a pure function of (env, level, id, seed).

    `key` is the structural hash of the task's content (formula, program, layout, goal) and `group`
    the hash of the part of it that must not be shared between splits; tasks of one group always lie
    in the same split, and statistics cluster by it.
    """

    env: str
    level: int
    id: int
    seed: int
    split: Split
    key: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Turn:
    """The agent's reply and what the environment made of it.

    `token_ids` are the sampled tokens, the end-of-turn token included when it was sampled, and
    `logprobs` their log-probabilities in nats under the sampling distribution; both are empty for
    replies that no language model wrote. `observation` is empty after the last turn. `expert` is False
    for a turn that was played without insight on purpose (noise): imitation must not learn it. `progress`
    is how much the turn changed the environment's own score.
    """

    text: str
    observation: str
    reward: float
    valid: bool = True
    expert: bool = True
    progress: float = 0.0
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One played task. `score` is the environment's own score, normalised to [0, 1]."""

    task: Task
    opening: tuple[Message, ...]
    turns: tuple[Turn, ...]
    score: float
    solved: bool
    stop: StopReason


@dataclass(frozen=True, slots=True)
class Episode:
    """A trajectory with who played it and under which evaluator.

    `policy` names the model, `fingerprint` is the evaluator's, `sample` counts repeated tries of one
    task, `task_type` is the environment's own kind of task ("" where it has none).
    """

    trajectory: Trajectory
    policy: str
    fingerprint: str
    sample: int = 0
    task_type: str = ""


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval `[low, high]` at `level` (0.8 means 80 %) around `mean`."""

    mean: float
    low: float
    high: float
    level: float


class Verdict(StrEnum):
    """The outcome of a comparison of two models in one environment, seen from the first."""

    WIN = "win"
    LOSS = "loss"
    TIE = "tie"


def to_json(record: Any) -> str:
    """One record as one line of JSON with sorted keys (no newline at the end)."""
    return json.dumps(asdict(record), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _checked(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    known = {f.name for f in fields(cls)}
    unknown = sorted(set(data) - known)
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)} (known: {', '.join(sorted(known))})")
    return dict(data)


def task_from_json(data: Mapping[str, Any]) -> Task:
    """A `Task` from its JSON object. Raises ValueError or TypeError where it is not one."""
    values = _checked(Task, data)
    values["split"] = Split(values["split"])
    return Task(**values)


def trajectory_from_json(data: Mapping[str, Any]) -> Trajectory:
    """A `Trajectory` from its JSON object. Raises ValueError, KeyError or TypeError where it is not one."""
    values = _checked(Trajectory, data)
    values["task"] = task_from_json(values["task"])
    values["opening"] = tuple(Message(**m) for m in values["opening"])
    turns = []
    for data_turn in values["turns"]:
        turn = _checked(Turn, data_turn)
        turn["token_ids"] = tuple(turn["token_ids"])
        turn["logprobs"] = tuple(turn["logprobs"])
        turns.append(Turn(**turn))
    values["turns"] = tuple(turns)
    values["stop"] = StopReason(values["stop"])
    return Trajectory(**values)


def episode_from_json(data: Mapping[str, Any]) -> Episode:
    """An `Episode` from its JSON object. Raises ValueError, KeyError or TypeError where it is not one."""
    values = _checked(Episode, data)
    values["trajectory"] = trajectory_from_json(values["trajectory"])
    return Episode(**values)
