"""ALFWorld: find, treat and place household objects by text commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from affine.envs.engines.alfworld import files, games
from affine.envs.engines.alfworld.engine import NOTHING_HAPPENS, Engine
from affine.envs.engines.alfworld.games import Game, Size
from affine.envs.engines.alfworld.pddl import ProblemError
from affine.envs.env import Content, Env, EnvError, IdRange, Level, Prompt, StepResult, digest, task_rng
from affine.envs.react import last_action
from affine.types import Message, Split, Task

PICK = {"pick_and_place_simple": 1}
EASY = {"pick_and_place_simple": 2, "look_at_obj_in_light": 1, "pick_two_obj_and_place": 1}
EVEN = dict.fromkeys(games.table()["goals"], 1)
UPSTREAM = {
    "pick_and_place_simple": 672,
    "pick_clean_then_place_in_recep": 448,
    "pick_cool_then_place_in_recep": 394,
    "pick_two_obj_and_place": 389,
    "pick_heat_then_place_in_recep": 321,
    "look_at_obj_in_light": 196,
}
"""AgentGym's 2420 training games by task type."""
DOWNLOADED = 5
"""The level of the downloaded games; it exists where `$ALFWORLD_DATA` holds them."""
_SPLITS = {"train": Split.TRAIN, "valid_seen": Split.VALIDATION, "valid_unseen": Split.TEST, "valid_train": Split.TEST}

_ACTIONS = {
    "": "go to R, open R, take O from R, put O in/on R",
    "look_at_obj_in_light": "use O",
    "pick_clean_then_place_in_recep": "clean O with R",
    "pick_heat_then_place_in_recep": "heat O with R",
    "pick_cool_then_place_in_recep": "cool O with R",
}
"""Actions to name in the prompt: always, and where the level has the task type that needs them."""
_FURTHER = "close R, examine O or R, slice O with O, look, inventory, help"
_BRIEF = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^You (?:arrive at|open the) [^.]*\. ", ""),
        (r"^The (.*?) is open\. In it, you see ", r"In \1: "),
        (r", you see ", ": "),
        (r"\b(?:[Tt]he|a|and) ", ""),
    )
)
"""How brief observations are made out of the engine's sentences; nothing that informs is lost."""
_LONGEST = 200
"""Characters; no command of any game is longer, so nothing longer needs reading."""
_ARRIVAL = re.compile(r"^You arrive at loc \d+\. ")


@dataclass(frozen=True, slots=True)
class Rules:
    """What the two modes differ in.

    `put` reads a put command as (object, receptacle); with `is_lenient` case, spacing and a final full stop do
    not matter; with `lists_again` a reply that does nothing is answered with the available actions, at the
    levels that list them at all.
    """

    put: re.Pattern[str]
    is_lenient: bool
    lists_again: bool


RULES = {
    "upstream": Rules(re.compile(r"put (.+?) (?:in/on|in|on) (.+)"), is_lenient=False, lists_again=False),
    "fixed": Rules(
        re.compile(r"(?:put|move) (.+?) (?:in/on|into|onto|in|on|to) (.+)"), is_lenient=True, lists_again=True
    ),
}


def _level(
    summary: str, turn_limit: int, types: Mapping[str, int], size: Size, *, is_brief: bool, lists_actions: bool
) -> Level:
    settings = {"types": types, "size": size, "is_brief": is_brief, "lists_actions": lists_actions}
    return Level(summary, turn_limit, settings)


def _levels() -> dict[int, Level]:
    levels = {
        0: _level(
            "pick and place, 3 or 4 receptacles and 3 objects, brief observations",
            *(16, PICK, Size((3, 4), (2, 2))),
            is_brief=True,
            lists_actions=False,
        ),
        1: _level(
            "pick and place one or two, or look in light; 6 receptacles, brief observations",
            *(20, EASY, Size((5, 6), (4, 6))),
            is_brief=True,
            lists_actions=False,
        ),
        2: _level(
            "all six task types, 8 to 10 receptacles, brief observations",
            *(30, EVEN, Size((8, 10), (8, 12))),
            is_brief=True,
            lists_actions=False,
        ),
        3: _level(
            "all six task types, 12 to 16 receptacles, upstream's observations",
            *(30, EVEN, Size((12, 16), (12, 20))),
            is_brief=False,
            lists_actions=True,
        ),
        4: _level(
            "upstream: all six task types in its proportions, whole floor plans",
            *(30, UPSTREAM, Size()),
            is_brief=False,
            lists_actions=True,
        ),
    }
    if files.data_folder() is not None:
        levels[DOWNLOADED] = _level(
            "the downloaded games below $ALFWORLD_DATA", 30, UPSTREAM, Size(), is_brief=False, lists_actions=True
        )
    return levels


@cache
def _downloaded(folder: Path) -> tuple[Path, ...]:
    return tuple(files.real_games(folder))


class FolderRanges(Mapping[str, IdRange]):
    """The ids of each folder of the downloaded data set by the folder's name; empty where there is no data. The folders
    are read when a range is asked for, not before: that takes seconds."""

    def _found(self) -> dict[str, IdRange]:
        folder = files.data_folder() if DOWNLOADED in AlfWorld.levels else None
        ranges: dict[str, IdRange] = {}
        for id, path in enumerate(_downloaded(folder) if folder else ()):
            name = _folder_of(path)
            first = ranges[name].first if name in ranges else id
            ranges[name] = IdRange(DOWNLOADED, first, id, f"the downloaded games of {name}")
        return ranges

    def __getitem__(self, name: str) -> IdRange:
        return self._found()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())


def _folder_of(path: Path) -> str:
    return next(part for part in path.parts if part in _SPLITS)


class AlfWorld(Env):
    """Description
        A household room out of AI2-THOR's 120 floor plans, played by text: walk to receptacles, open them, carry
        one object at a time, clean, heat or cool it, put it where the task wants it. The games are generated from
        the floor plans in ALFWorld's own PDDL and played by a native engine that answers as TextWorld does; where
        `$ALFWORLD_DATA` holds the downloaded games, level 5 plays those.

    Task
        One of six types: put an object (or two of a kind) into a kind of receptacle; the same with a cleaned,
        heated or cooled object; look at an object under a switched-on lamp. Where things lie must be found out.
        `group` is the floor plan: rooms of the test split are never seen in training.

    Observation
        First the room's receptacles and the task, at levels 3 and up with all available actions; then what the
        last action led to (what lies on or in the receptacle, whether it is closed). Levels 0 to 2 shorten the
        engine's sentences (`_BRIEF`). "Nothing happens." answers whatever is not possible. A prompt may use the fields
        {actions} (those that the level's task types need) and {further} (the others).

    Actions
        The text after the last "Action:". go to R, open R, close R, take O from R, put O in/on R, use O,
        clean|heat|cool O with R, slice O with O, examine O|R, look, inventory, help; O and R with their numbers.

    Reward
        1 when the task is done, else 0, at every step. The score is that of the last step.

    Episode end
        The task is done; or the level's turn limit (upstream: 30 rounds).

    Expert
        Searches honestly: it knows which receptacles can hold what (ALFWorld's table) and otherwise only what
        it was shown; likely and cheap places first.

    Upstream
        AgentGym's ALFWorld server and client (alfworld 0.3.3), as the validators ran it: the welcome line
        and "You arrive at loc N." are cut off, actions are listed in the first message only, put commands are read with
        "in", "on" or "in/on". Mode "upstream" keeps two defects: a reply that does nothing gets no hint of what
        is possible, and case, spacing, a final full stop or 0.4's "move O to R" make a good action do nothing.
        Mode "fixed" mends both (`RULES`). Different in both modes: generated games instead of the
        downloaded 3,553, each receptacle at a location of its own, and no reply without "Action:" is read.
        No range of ids carries over: upstream's 0 to 2619 (2420 games to train on, 200 to test with) are places in
        AgentGym's own list of downloaded games. Ours number the games that the generator makes with a seed and, at
        level 5, the games found below `$ALFWORLD_DATA`, by split and path, in the splits of their folders.
    """

    name = "alfworld"
    version = "1"
    levels: ClassVar[Mapping[int, Level]] = _levels()
    id_ranges: ClassVar[Mapping[str, IdRange]] = FolderRanges()
    prompts: ClassVar[Mapping[str, Prompt]] = {
        "brief": Prompt("Do the household task. Actions: {actions}."),
        "full": Prompt(
            "You are in a simulated household and have a task to do there by text actions. The next message "
            "describes the room, states the task and, in the larger rooms, lists the actions that are available. "
            "After each action you read what came of it; 'Nothing happens.' means that it was not possible.\n"
            "The actions are {actions}, {further}. O stands for an object and R for a receptacle, each "
            "with its number, as in 'take mug 2 from shelf 1'. You can carry one object at a time, and you see "
            "what a closed receptacle holds only once it is open.\n"
            "Reply with a short reason and exactly one action, in this form:\n"
            "Thought: why this comes next\n"
            "Action: the action",
            "Understood. I will give one thought and one action at a time.",
        ),
    }

    game: Game
    play: Engine

    def content(self, level: int, id: int, seed: int) -> Content | None:
        size = self.size(level)
        if level not in self.levels or id < 0 or (size is not None and id >= size):
            return None
        game = self._game(level, id, seed)
        split = self._folder(id) if level == DOWNLOADED else ""
        return Content(digest(game.problem, game.sentence), digest("floor plan", game.scene, split))

    def task_type(self, level: int, id: int, seed: int) -> str:
        return self._game(level, id, seed).task_type

    def size(self, level: int) -> int | None:
        return len(self._files()) if level == DOWNLOADED else None

    def official_split(self, level: int, id: int, seed: int) -> Split | None:
        return _SPLITS[self._folder(id)] if level == DOWNLOADED else None

    def _files(self) -> tuple[Path, ...]:
        folder = files.data_folder()
        if folder is None:
            raise EnvError("alfworld: level 5 plays the downloaded games; set ALFWORLD_DATA to where they are")
        return _downloaded(folder)

    def _folder(self, id: int) -> str:
        return _folder_of(self._files()[id])

    def _game(self, level: int, id: int, seed: int) -> Game:
        settings = self.levels[level].settings
        if level != DOWNLOADED:
            return games.generate(task_rng(self.name, level, id, seed), settings["types"], settings["size"])
        path = self._files()[id]
        try:
            return files.load(path)
        except (OSError, KeyError, json.JSONDecodeError) as error:
            raise EnvError(f"alfworld: {path} is no playable game ({error!r}); download it again") from error

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        self.task = task
        self.game = self._game(task.level, task.id, task.seed)
        try:
            self.play = self.game.engine()
        except ProblemError as error:
            raise EnvError(f"alfworld: task {task.id} at level {task.level}: {error}") from error
        types = self.levels[task.level].settings["types"]
        actions = ", ".join(text for kind, text in _ACTIONS.items() if not kind or kind in types)
        self._help = f"Actions: {actions}, {_FURTHER}."
        return self.opening(self._first_observation(), actions=actions, further=_FURTHER)

    def _first_observation(self) -> str:
        settings = self.levels[self.task.level].settings
        if settings["is_brief"]:
            return f"Room: {', '.join(self.play.room())}.\nTask: {self.game.sentence}."
        text = f"{self.play.intro()}\nYour task is to: {self.game.sentence}."
        return f"{text}\n{self._available()}" if settings["lists_actions"] else text

    def _available(self) -> str:
        return f"AVAILABLE ACTIONS: {','.join(sorted(self.play.actions()))}"

    def step(self, reply: str) -> StepResult:
        if self.play.won:
            return StepResult("The task is done.", 1.0, True, False)
        settings, rules = self.levels[self.task.level].settings, RULES[self.settings.mode]
        command = self._command(last_action(reply) or "", rules)
        valid = command in self.play.actions()
        feedback = self.play.step(command)
        if not valid:
            text = f"{NOTHING_HAPPENS}\n{self._available()}"
            observation = text if rules.lists_again and settings["lists_actions"] else NOTHING_HAPPENS
        elif settings["is_brief"]:
            observation = self._help if command == "help" else _brief(feedback)
        else:
            observation = _ARRIVAL.sub("", feedback).strip()
        won = self.play.won
        return StepResult(observation, float(won), won, valid)

    def _command(self, action: str, rules: Rules) -> str:
        """The engine's command for an agent's action: put in the game's dialect, and tidied where the rules say so."""
        if len(action) > _LONGEST:
            return action
        if rules.is_lenient:
            action = " ".join(action.split()).lower().removesuffix(".")
        put = rules.put.fullmatch(action)
        if put is None:
            return action
        joint = "in/on" if self.play.dialect == "put" else "to"
        return f"{self.play.dialect} {put[1]} {joint} {put[2]}"

    def score(self) -> float:
        return float(self.play.won)

    def solved(self) -> bool:
        return self.play.won

    def engine(self) -> Mapping[str, str]:
        return {"native": self.version, "alfworld table": games.table()["source"]["version"]}


def _brief(feedback: str) -> str:
    for pattern, replacement in _BRIEF:
        feedback = pattern.sub(replacement, feedback)
    return feedback.strip()
