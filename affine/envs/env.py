"""The protocol every environment follows, and how they are found by name (`affine.types.REGISTRY`).

An environment plays one task at a time, in the process that made it:

    env = make("textcraft", EnvSettings())
    opening = env.reset(task)          # list[Message], ends with a user message
    result = env.step(reply)           # StepResult(observation, reward, done, valid)
    env.score(), env.solved()          # [0, 1], bool; valid at any time after reset
    env.close()                        # ends engines; safe to call twice

`step` takes the agent's raw reply (without the end-of-turn token) and never raises for what an agent
wrote. The episode loop, not the environment, counts turns against `env.turn_limit`.

Modules are found lazily by name, so that a stage that plays one environment imports no other.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import yaml

from affine.errors import AffineError
from affine.types import REGISTRY as REGISTRY  # noqa: PLC0414 - found here too
from affine.types import Message, Split, Task

Mode = Literal["upstream", "fixed"]
Style = Literal["action", "thought"]


class EnvError(AffineError):
    """An environment could not start or go on; the message names it and what to do."""


@dataclass(frozen=True, slots=True)
class EnvSettings:
    """What the user sets for an environment, beyond the task itself.

    `mode` "upstream" keeps the known defects of the original, "fixed" mends them. `prompts` is
    "brief" (one line, for small contexts), "full" (worded like the originals' instructions), or the
    path of a YAML file `{env: {instruction: ..., acknowledgement: ...}}`. `unsafe` lets programs run where no
    level of the sandbox is safe (`sandbox.unsafe`); it changes no score.
    """

    mode: Mode = "fixed"
    prompts: str = "brief"
    unsafe: bool = False


@dataclass(frozen=True, slots=True)
class Level:
    """One step of an environment's difficulty scale; `settings` are the generator's own parameters."""

    summary: str
    turn_limit: int
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class IdRange:
    """Ids `first` to `last` of `level`, as upstream used them: to play exactly what was played there."""

    level: int
    first: int
    last: int
    summary: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """The wording that opens an episode.

    With an `acknowledgement` the opening is user (instruction), assistant (acknowledgement), user
    (first observation), as AgentGym has it; without one it is a single user message, the instruction
    followed by the observation. `{name}` fields are the environment's own and documented there; all other braces
    are text.
    """

    instruction: str
    acknowledgement: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a reply led to.

    `reward` is upstream's own per-step reward (see each environment), `done` says that the environment
    ended the episode, `valid` that the reply held an action the environment understood and could do.
    """

    observation: str
    reward: float
    done: bool
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Content:
    """What a task consists of: `key` hashes all of it, `group` what may not be shared between splits."""

    key: str
    group: str


def digest(*parts: object) -> str:
    """A short, stable hash (16 hex digits) of the parts' text."""
    return hashlib.sha256("\x1f".join(str(p) for p in parts).encode()).hexdigest()[:16]


def task_rng(env: str, level: int, id: int, seed: int, purpose: str = "task") -> random.Random:
    """The random stream of one task; the same in any process (string seeds do not use `hash`)."""
    return random.Random(f"{env}/{level}/{id}/{seed}/{purpose}")


class Env(ABC):
    """Base class of the eight environments. Subclasses document themselves under fixed headings:
    Description, Task, Observation, Actions, Reward, Episode end, Expert, Upstream."""

    name: ClassVar[str]
    version: ClassVar[str]
    """Raise it whenever a change alters an observation, a parse or a score: it is in the fingerprint."""
    levels: ClassVar[Mapping[int, Level]]
    prompts: ClassVar[Mapping[str, Prompt]]
    """Must hold "brief" and "full"."""
    id_ranges: ClassVar[Mapping[str, IdRange]] = {}
    """Upstream's id ranges by name, where its ids mean the same tasks here (`tasks.ENV.test_ids`, `play --ids`)."""

    task: Task

    def __init__(self, settings: EnvSettings | None = None) -> None:
        self.settings = settings or EnvSettings()
        self.prompt = load_prompt(self.name, self.prompts, self.settings.prompts)

    @abstractmethod
    def content(self, level: int, id: int, seed: int) -> Content | None:
        """Hashes of the task's content, without playing it; None where no such task exists (the id is
        past the end of a finite set, or the generator refused it)."""

    def size(self, level: int) -> int | None:
        """How many ids the level has (0 … size-1); None where the generator has no end."""
        return None

    def official_split(self, level: int, id: int, seed: int) -> Split | None:
        """The split that upstream itself gives this task; None where it gives none."""
        return None

    def task_type(self, level: int, id: int, seed: int) -> str:
        """The environment's own name for the type of task that an existing id is; "" where a level has one type."""
        return ""

    def id_range(self, name: str) -> IdRange:
        """The range called `name`. Raises EnvError, listing those there are."""
        if name not in self.id_ranges:
            known = ", ".join(self.id_ranges) or "there are none"
            raise EnvError(f"{self.name}: no range of upstream's ids is called {name!r} (known: {known})")
        return self.id_ranges[name]

    @abstractmethod
    def reset(self, task: Task) -> list[Message]:
        """Start `task`. Raises EnvError for a task that does not exist or an engine that will not start."""

    @abstractmethod
    def step(self, reply: str) -> StepResult:
        """Play one reply. Never raises for what an agent wrote."""

    @abstractmethod
    def score(self) -> float:
        """The score so far, normalised to [0, 1] as the validators did."""

    @abstractmethod
    def solved(self) -> bool:
        """Whether the task's goal is reached (what a demonstration must be)."""

    @property
    def turn_limit(self) -> int:
        """How many replies an episode of the current task may have."""
        return self.levels[self.task.level].turn_limit

    def engine(self) -> Mapping[str, str]:
        """Names and versions of the engines that decide the score (for the fingerprint)."""
        return {}

    def conditions(self) -> Mapping[str, str]:
        """What holds on this machine without changing a score, for the records (how programs are confined)."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Everything about this environment that changes a score but is not the model."""
        return {
            "env": self.name,
            "version": self.version,
            "mode": self.settings.mode,
            "instruction": self.prompt.instruction,
            "acknowledgement": self.prompt.acknowledgement,
            "engine": dict(sorted(self.engine().items())),
        }

    def format(self, thought: str, action: str, style: Style) -> str:
        """An expert's move as a reply in this environment's format."""
        if style == "thought" and thought:
            return f"Thought: {thought}\nAction: {action}"
        return f"Action: {action}"

    def close(self) -> None:  # noqa: B027 - most environments hold nothing
        """End engines and free what they hold. Safe to call twice."""

    def opening(self, observation: str, **fields: object) -> list[Message]:
        """The first messages, from the prompt's wording: `fields` fill its `{name}` places, other braces are text."""
        instruction = re.sub(r"\{(\w+)\}", lambda place: str(fields.get(place[1], place[0])), self.prompt.instruction)
        if self.prompt.acknowledgement:
            return [
                Message("user", instruction),
                Message("assistant", self.prompt.acknowledgement),
                Message("user", observation),
            ]
        text = "\n".join(part for part in (instruction, observation) if part)
        return [Message("user", text)]

    def check_task(self, task: Task) -> None:
        """Raise EnvError where `task` is another environment's, or its level or id does not exist."""
        if task.env != self.name:
            raise EnvError(f"{self.name}: got a task of {task.env!r}")
        if task.level not in self.levels:
            known = ", ".join(str(level) for level in sorted(self.levels))
            raise EnvError(f"{self.name}: no level {task.level} (levels: {known})")
        size = self.size(task.level)
        if task.id < 0 or (size is not None and task.id >= size):
            last = "without end" if size is None else str(size - 1)
            raise EnvError(f"{self.name}: no task {task.id} at level {task.level} (ids 0 to {last})")


@dataclass(frozen=True, slots=True)
class Move:
    """An expert's next move: an action in the environment's own grammar and the reason for it."""

    thought: str
    action: str


class Expert(ABC):
    """Plays one episode from its first observation on, and can be interrupted.

    `act` gives the next move from where the episode stands now, also after moves that were not its own
    (noisy play, recovery). `observe` tells it every move that was played and what came of it. Thoughts
    must follow from what the agent has seen, even where `privileged` is True and the expert looked into
    the engine to choose the action.
    """

    privileged: ClassVar[bool] = False

    @abstractmethod
    def act(self) -> Move:
        """The next move. Raises GaveUp where it has none."""

    @abstractmethod
    def wander(self, rng: random.Random) -> Move:
        """A well-formed move made without insight (random admissible action, random answer)."""

    def observe(self, action: str, result: StepResult) -> None:  # noqa: B027 - most experts read the engine
        """Told after each step, own or not."""


class GaveUp(Exception):  # noqa: N818 - an outcome, not a fault
    """An expert has no further move; the message says why. The demonstration counts as failed."""


def load_prompt(env: str, built_in: Mapping[str, Prompt], name: str) -> Prompt:
    """The prompt called `name`: built in, or read from the YAML file of that path.

    Raises EnvError where the file is missing, is not such a mapping, or lacks the environment.
    """
    if name in built_in:
        return built_in[name]
    path = Path(name)
    if not path.is_file():
        raise EnvError(f"envs.prompts: {name!r} is neither one of {', '.join(sorted(built_in))} nor a file")
    data = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(data, dict) or not isinstance(data.get(env), dict) or "instruction" not in data[env]:
        raise EnvError(f"{path}: expected a mapping '{env}: {{instruction: ..., acknowledgement: ...}}'")
    entry = data[env]
    return Prompt(str(entry["instruction"]), str(entry.get("acknowledgement", "")))


def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(importlib.import_module(module), attribute)


def env_class(name: str) -> type[Env]:
    """The class of the environment called `name`. Raises EnvError for an unknown name."""
    if name not in REGISTRY:
        raise EnvError(f"no environment {name!r} (known: {', '.join(REGISTRY)})")
    cls: type[Env] = _load(REGISTRY[name])
    return cls


def make(name: str, settings: EnvSettings | None = None) -> Env:
    """A new environment by name."""
    return env_class(name)(settings)


def make_expert(env: Env, rng: random.Random) -> Expert:
    """The expert of `env` for the task it was last reset to; call it right after `reset`."""
    made: Expert = expert_module(env.name).expert(env, rng)
    return made


def expert_module(name: str) -> Any:
    """The module with the environment's `expert` and `SUCCESS` (level -> documented share of tasks solved):
    `<module>_expert`, or the environment's own where there is no such file."""
    module = REGISTRY[name].partition(":")[0]
    beside = f"{module}_expert"
    return importlib.import_module(beside if importlib.util.find_spec(beside) else module)
