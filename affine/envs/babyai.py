"""BabyAI: instructions in a grid world of rooms, doors and things, played in words on minigrid's own engine."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from affine.envs.engines.babyai.text import View, describe, list_moves, look, moves
from affine.envs.env import Content, Env, EnvError, EnvSettings, IdRange, Level, Prompt, StepResult, digest, task_rng
from affine.envs.react import single_action
from affine.types import Message, Task

AGENTGYM_WORLDS = (
    "GoToRedBallGrey",
    "GoToRedBall",
    "GoToRedBallNoDists",
    "GoToObjS6",
    "GoToLocalS8N7",
    "GoToObjMazeS7",
    "GoToImpUnlock",
    "GoToSeqS5R2",
    "GoToRedBlueBall",
    "GoToDoor",
    "GoToObjDoor",
    "Open",
    "OpenRedDoor",
    "OpenDoorLoc",
    "OpenRedBlueDoorsDebug",
    "OpenDoorsOrderN4Debug",
    "Pickup",
    "UnblockPickup",
    "PickupLoc",
    "PickupDistDebug",
    "PickupAbove",
    "PutNextLocalS6N4",
    "PutNextS7N4Carrying",
    "Unlock",
    "UnlockLocalDist",
    "KeyInBox",
    "UnlockPickupDist",
    "BlockedUnlockPickup",
    "UnlockToUnlock",
    "ActionObjDoor",
    "FindObjS7",
    "KeyCorridorS6R3",
    "OneRoomS20",
    "MoveTwoAcrossS8N9",
    "SynthS5R2",
    "SynthLoc",
    "SynthSeq",
    "MiniBossLevel",
    "BossLevel",
    "BossLevelNoUnlock",
)
"""AgentGym's forty levels in its order; its task id i is level i % 40 with the engine's seed i // 40."""

AGENTGYM_TASKS = 4000
"""Ids 0 to 3999 were sampled by the validators in October 2025."""

_LEVELGEN = "minigrid.envs.babyai.core.levelgen:LevelGen"
_ONE_ROOM: dict[str, Any] = {
    "num_rows": 1,
    "num_cols": 1,
    "locked_room_prob": 0,
    "unblocking": False,
    "instr_kinds": ("action",),
}
SMALL_WORLDS: dict[str, tuple[str, dict[str, Any]]] = {
    "GoPickupS6N4": (
        _LEVELGEN,
        {**_ONE_ROOM, "room_size": 6, "num_dists": 4, "locations": False, "action_kinds": ("goto", "pickup")},
    ),
    "OpenDoorS5": ("minigrid.envs.babyai.open:OpenDoor", {"room_size": 5, "select_by": "color"}),
    "GoPickupLocS6N5": (
        _LEVELGEN,
        {**_ONE_ROOM, "room_size": 6, "num_dists": 5, "locations": True, "action_kinds": ("goto", "pickup")},
    ),
    "OneRoomS7N5": (
        _LEVELGEN,
        {**_ONE_ROOM, "room_size": 7, "num_dists": 5, "locations": False, "action_kinds": ("pickup", "putnext")},
    ),
}
"""Worlds smaller than minigrid registers: its own level classes with other numbers."""


_FEW_ROOMS = (
    "GoToObjMazeS4R2-v0",
    "FindObjS5-v0",
    "UnlockLocal-v0",
    "PickupAbove-v0",
    "PutNextLocalS6N4-v0",
    "GoToSeqS5R2-v0",
    "OpenTwoDoors-v0",
)
_AGENTGYM_ONE_ROOM = (
    "GoToRedBallGrey-v0",
    "GoToRedBall-v0",
    "GoToRedBallNoDists-v0",
    "GoToObjS6-v1",
    "GoToLocalS8N7-v0",
    "GoToRedBlueBall-v0",
    "GoToDoor-v0",
    "GoToObjDoor-v0",
    "OpenRedDoor-v0",
    "OpenDoorLoc-v0",
    "PickupLoc-v0",
    "PickupDistDebug-v0",
    "PutNextLocalS6N4-v0",
    "UnlockLocalDist-v0",
    "ActionObjDoor-v0",
    "OneRoomS20-v0",
)


@dataclass(frozen=True, slots=True)
class Rules:
    """Where the two modes differ; all True is the mended game."""

    stop_at_end: bool
    """A macro action stops when the engine ends the episode (upstream plays on and loses the win's reward)."""
    mended_moves: bool
    """Boxes can be opened, and going to what is directly ahead counts (see `babyai_text.moves`)."""
    keep_order: bool
    """The goal keeps its "then" and "after you" (upstream writes "and" for both)."""
    every_end: bool
    """Any end of the engine's episode ends ours (upstream only a win worth more than 0.5; later wins add up)."""


RULES = {"upstream": Rules(False, False, False, False), "fixed": Rules(True, True, True, True)}

_FULL = """You are an agent in a grid world of rooms, and you are given a goal. You see what lies in front of you: \
doors, keys, balls and boxes, each with a colour and, where several are alike, a number. Each turn you are told \
what you see and which actions are available; choose one of them.
- turn left, turn right, move forward: a quarter turn, or one step.
- go to <thing> <number>: walk until you face a thing in view.
- pickup <thing> <number>: go to a key, ball or box and take it; you can carry one thing.
- drop: put what you carry on the cell before you.
- go through <colour> open door <number>: go to an open door and step into it.
- toggle and go through <colour> closed door <number>: the same for a closed door; a locked door needs the key of its \
colour in your hands (toggle and go through <colour> locked door <number>).
- toggle: open the door or the box directly before you.
- check available actions: list the actions again.
Answer in two lines and nothing else:
Thought: your reasoning
Action: one available action"""


class BabyAi(Env):
    """Instructions in a grid world.

    Description
        An agent walks through rooms, sees a 7 x 7 field before it and follows an instruction such as "pick up a
        blue box" or "open the red door, then go to the ball on your left". The engine is minigrid itself.
    Task
        Levels 0 to 3 draw one of the level's worlds and an engine seed from (level, id, seed). Levels 4 and 5 have
        AgentGym's ids: world id % 40, engine seed id // 40; the task's own seed is not used there. Key: the grid,
        the agent's place and the mission. Group: the mission and the things in the grid, wherever they stand.
    Observation
        The goal first. Full: AgentGym's sentences about each visible thing with its steps ahead and aside, what
        stands ahead, what is carried. Brief: the things' names (level 1: with places). Then the available actions.
    Actions
        One line after the only "Action:", reduced to letters, digits, commas and spaces: one of the listed macro
        actions ("pick up" is read as "pickup") or "check available actions". Anything else costs a turn and no
        step of the engine, and is answered with an error line and the list.
    Reward
        minigrid's: 1 - 0.9 * steps / max_steps on success, else 0. The score is the sum, clamped to [0, 1].
    Episode end
        The engine's success, failure (strict worlds) or step limit, or the turn limit: 20 in AgentGym's evaluation,
        10 at the validators in October 2025 (level 5). They went to 30 at a date that is not known, so the range of
        November 2025 is played with AgentGym's 20. Which ids AgentGym trained on is not known: no range has its name.
    Expert
        Level 0: an honest rule (go for a visible match, else turn). Above: minigrid's bot, its moves folded into
        macro actions; it plans in a copy of the engine.
    Upstream
        AgentGym's BabyAI server (levels, text, macros). Mode "upstream" keeps its defects: a macro plays on after
        the end and loses the win ("toggle and go through" in Open worlds); boxes cannot be opened (KeyInBox has no
        solution); "then" and "after you" become "and"; wins worth 0.5 or less do not end the episode and add up;
        failures and the step limit do not end it either. Differences: minigrid 3.2.0 with GoToObjS6-v1 for the
        withdrawn v0 (its layouts' equality with AgentGym's older version is unproven); a thing that cannot be
        reached within the field is seen but offers no action.
    """

    name = "babyai"
    version = "1"
    levels: ClassVar[Mapping[int, Level]] = {
        0: Level(
            "one small room: go to, pick up or open what may be behind you",
            4,
            {
                "worlds": ("GoPickupS6N4", "GoPickupS6N4", "GoPickupS6N4", "OpenDoorS5"),
                "wording": "brief",
                "expert": "look",
            },
        ),
        1: Level(
            "one room with five things: places in the goal, one thing next to another",
            12,
            {"worlds": ("GoPickupLocS6N5", "OneRoomS7N5"), "wording": "brief", "positions": True},
        ),
        2: Level(
            "small rooms and doors: search, keys, two goals in order",
            20,
            {
                "worlds": _FEW_ROOMS,
                "wording": "full",
            },
        ),
        3: Level(
            "AgentGym's worlds of a single room",
            20,
            {
                "worlds": _AGENTGYM_ONE_ROOM,
                "wording": "full",
            },
        ),
        4: Level("AgentGym's forty levels under its own task ids", 20, {"worlds": (), "wording": "full"}),
        5: Level(
            "the same in ten turns, as the validators played in October 2025", 10, {"worlds": (), "wording": "full"}
        ),
    }
    id_ranges: ClassVar[Mapping[str, IdRange]] = {
        "affine-2025-10-27": IdRange(5, 0, 3999, "the validators' ids from 27 October 2025, ten turns"),
        "affine-2025-11-17": IdRange(4, 0, 499, "the validators' ids from 17 November 2025"),
    }
    prompts: ClassVar[Mapping[str, Prompt]] = {
        "brief": Prompt("Reach the goal. Answer with one of the actions; turn to see more."),
        "full": Prompt(_FULL, "OK. I will reach the goal with the available actions."),
    }

    def __init__(self, settings: EnvSettings | None = None) -> None:
        super().__init__(settings)
        self.rules = RULES[self.settings.mode]

    def engine(self) -> Mapping[str, str]:
        return {"minigrid": importlib.metadata.version("minigrid")}

    def size(self, level: int) -> int | None:
        return None if self.levels[level].settings["worlds"] else AGENTGYM_TASKS

    def task_type(self, level: int, id: int, seed: int) -> str:
        return self._world(level, id, seed)[0]

    def content(self, level: int, id: int, seed: int) -> Content | None:
        size = self.size(level)
        if size is not None and not 0 <= id < size:
            return None
        world = self._start(level, id, seed)
        carried = (world.carrying.color, world.carrying.type) if world.carrying else ""
        grid = world.grid.encode()
        things = sorted(
            (cell.color, cell.type) for cell in world.grid.grid if cell is not None and cell.type not in ("wall",)
        )
        place = (*(int(x) for x in world.agent_pos), int(world.agent_dir))
        shape = (world.width, world.height)
        return Content(
            key=digest(world.mission, shape, grid.tobytes().hex(), place, carried),
            group=digest(world.mission, shape, things, carried),
        )

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        self.task = task
        settings = self.levels[task.level].settings
        self.wording = settings["wording"]
        self._positions = bool(settings.get("positions", False))
        self.world = self._start(task.level, task.id, task.seed)
        self._total = 0.0
        self._won = self._over = False
        self._see()
        goal = "Goal" if self.wording == "brief" else "Your goal"
        return self.opening(f"{goal}: {self.mission()}.\n{self._state()}")

    def step(self, reply: str) -> StepResult:
        if self._over:
            return StepResult("The episode is over.", 0.0, True, False)
        action = single_action(reply)
        action = " ".join(action.split()).lower() if action else ""
        if action == "check available actions":
            return StepResult(list_moves(self.listed, self.wording), 0.0, False)
        if action.startswith("pick up "):
            action = action.replace("pick up ", "pickup ", 1)
        if action not in self.listed:
            error = "Not available." if self.wording == "brief" else "This action is not available now."
            return StepResult(f"{error}\n{list_moves(self.listed, self.wording)}", 0.0, False, False)
        reward, ended = run_macro(self.world, self.listed[action], self.rules)
        self._total += reward
        self._won = self._won or reward > 0
        self._over = ended
        self._see()
        return StepResult(self._state(), reward, ended)

    def score(self) -> float:
        return min(max(self._total, 0.0), 1.0)

    def solved(self) -> bool:
        return self._won

    def mission(self) -> str:
        """The goal as the agent is told it."""
        text = str(self.world.mission)
        if self.rules.keep_order:
            return text
        return text.replace(", then ", " and ").replace("after you", "and")

    def _see(self) -> None:
        self.view: View = look(self.world, self.wording)
        self.listed = moves(self.view, mended=self.rules.mended_moves)

    def _state(self) -> str:
        seen = describe(self.view, self.wording, positions=self._positions)
        return f"{seen}\n{list_moves(self.listed, self.wording)}"

    def _world(self, level: int, id: int, seed: int) -> tuple[str, int]:
        """The name of a task's world and the engine's seed."""
        worlds = self.levels[level].settings["worlds"]
        if worlds:
            rng = task_rng(self.name, level, id, seed)
            return rng.choice(worlds), rng.getrandbits(31)
        base = AGENTGYM_WORLDS[id % len(AGENTGYM_WORLDS)]
        return f"{base}-v{1 if base == 'GoToObjS6' else 0}", id // len(AGENTGYM_WORLDS)

    def _start(self, level: int, id: int, seed: int) -> Any:
        """The world of a task, built for it and reset: no trace of another task."""
        name, engine_seed = self._world(level, id, seed)
        world = build_world(name)
        with contextlib.redirect_stdout(io.StringIO()):  # the engine prints each layout it rejects
            world.reset(seed=engine_seed)
        return world


def build_world(name: str) -> Any:
    """The minigrid environment of a small world, or of a registered level ("GoToDoor-v0"), without gymnasium's
    wrappers. Raises EnvError where minigrid does not have it."""
    import gymnasium
    import minigrid  # noqa: F401 - registers its levels

    if name in SMALL_WORLDS:
        entry, options = SMALL_WORLDS[name]
    else:
        try:
            spec = gymnasium.spec(f"BabyAI-{name}")
        except gymnasium.error.Error as error:
            raise EnvError(f"babyai: minigrid has no level BabyAI-{name}; install minigrid>=3.2,<4") from error
        entry, options = str(spec.entry_point), dict(spec.kwargs)
    module, _, attribute = entry.partition(":")
    return getattr(importlib.import_module(module), attribute)(**options)


def run_macro(world: Any, actions: tuple[int, ...], rules: Rules) -> tuple[float, bool]:
    """Play a macro's primitive actions on `world`: its reward and whether our episode ends.

    It breaks off where a primitive changes nothing in view, as upstream's does (mended: nor the agent's place, so
    that a turn between two empty views is not taken for a standstill).
    """
    reward, ended = 0.0, False
    before = _sight(world, rules)
    for action in actions:
        _, step_reward, terminated, truncated, _ = world.step(action)
        reward = float(step_reward)
        ended = bool(terminated or truncated) if rules.every_end else bool(terminated) and reward > 0.5
        if ended and rules.stop_at_end:
            break
        after = _sight(world, rules)
        if after == before:
            break
        before = after
    return reward, ended


def _sight(world: Any, rules: Rules) -> tuple[object, ...]:
    image = world.gen_obs()["image"].tobytes()
    if not rules.stop_at_end:
        return (image,)
    return (image, *(int(x) for x in world.agent_pos), int(world.agent_dir))
