"""ScienceWorld's experts: honest rules for finding things and judging life spans, and the engine's gold path."""

from __future__ import annotations

import random
import re

from affine.envs.engines.sciworld.text import ambiguous, brief_task, place, things
from affine.envs.env import Env, EnvError, Expert, GaveUp, Move, StepResult
from affine.envs.sciworld import SciWorld

SUCCESS: dict[int, float] = {0: 0.97, 1: 0.97, 2: 0.95, 3: 0.90, 4: 0.88, 5: 0.7, 6: 0.15}
"""Share of tasks solved within the level's turn limit: a floor that the tests hold. What was measured stands in
benchmarks/results/experts.json."""

PLACES = ("kitchen", "bathroom", "bedroom", "living room", "workshop", "greenhouse", "outside")

LIFE_YEARS = {
    "ant": 1,
    "beaver": 12,
    "brown bear": 30,
    "chameleon": 5,
    "chipmunk": 8,
    "crocodile": 70,
    "dragonfly": 0.5,
    "elephant": 65,
    "frog": 10,
    "giant tortoise": 120,
    "hedgehog": 5,
    "mouse": 2,
    "parrot": 60,
    "rabbit": 9,
    "wolf": 14,
}
"""How long animals live, roughly: everyday knowledge, not read from the engine."""

_STAGE = re.compile(r"^(?:baby|hatchling|juvenile|adult) (?P<young>.+)$|^(?P<unborn>.+) egg$")
_FIND = re.compile(r"Task: focus on an? (?P<kind>.+), then move it to the (?P<box>.+ box) in the (?P<room>.+)\.")
_LIFE = re.compile(r"Task: focus on the animal with the (?P<which>longest, then the shortest|longest|shortest) life")


def animal(name: str) -> str:
    """The species of a living animal's name ("dove egg": "dove"); empty for anything else."""
    found = _STAGE.match(name)
    return (found["young"] or found["unborn"]) if found else ""


class RulesExpert(Expert):
    """Goes where such things are, looks, focuses on a thing of the asked kind, carries it to the box; or compares
    the visible animals' life spans. Knows what the agent was shown, and everyday facts."""

    def __init__(self, env: SciWorld) -> None:
        self.env = env
        text = brief_task(env.description)
        self.find, self.life = _FIND.match(text), _LIFE.match(text)
        if not (self.find or self.life):
            raise EnvError(f"sciworld: no rules for {text!r}; use a level whose expert is the gold path")
        self.focused: list[str] = []
        self.held: list[str] = []
        self.left_in: dict[str, str] = {}
        self.refused = 0
        self.unknown: list[str] = []
        self.asked = ""
        self._learn()

    def act(self) -> Move:
        if self.refused >= 3:
            raise GaveUp("the engine refuses what the rules want")
        if self.asked:
            return Move("They are alike, any will do.", "0")
        if not self.env.brief and not self.looked:
            return Move("I look what is here.", "look around")
        return self._judge() if self.life else self._fetch()

    def observe(self, action: str, result: StepResult) -> None:
        self.refused = 0 if result.valid else self.refused + 1
        if ambiguous(self.env.outcome.observation):
            self.asked = action
            return
        action, self.asked = self.asked if self.asked and action == "0" else action, ""
        before = self.here
        self._learn()
        if self.here != before:
            self.looked = False
        if action == "look around":
            self.looked = True
        verb, _, name = action.partition(" up " if action.startswith("pick") else " ")
        if result.observation.startswith("You focus on"):
            self.focused.append(name.removeprefix("on "))
        elif not result.valid and verb == "focus":
            self.unknown.append(name.removeprefix("on "))
        elif result.observation.startswith("You move the") and verb == "pick":
            self.held.append(name)
        elif result.observation.startswith("You move the") and verb == "move":
            thing = name.partition(" to ")[0]
            self.held = [held for held in self.held if held != thing]
            self.left_in[thing] = self.here

    def wander(self, rng: random.Random) -> Move:
        names = [*self.seen, *self.held] or ["air"]
        verb = rng.choice(("teleport to", "focus on", "pick up", "move") if self.find else ("teleport to", "focus on"))
        if verb == "teleport to":
            return Move("", f"{verb} {rng.choice(PLACES)}")
        if verb == "move":
            assert self.find
            return Move("", f"move {rng.choice(names)} to {self.find['box']}")
        return Move("", f"{verb} {rng.choice(names)}")

    looked = True
    """Whether the agent has seen the things in the place where it is (the opening shows the first place)."""

    def _learn(self) -> None:
        self.here = place(self.env.outcome.look)
        self.seen = things(self.env.outcome.look)

    def _judge(self) -> Move:
        assert self.life
        if self.here != "outside":
            return Move("The animals are outside.", "teleport to outside")
        known = [name for name in [*self.seen, *self.held] if animal(name) in LIFE_YEARS]
        if not known:
            raise GaveUp("no animal is in sight")
        longest = self.life["which"].startswith("longest") and not self.focused
        pick = (max if longest else min)(known, key=lambda name: LIFE_YEARS[animal(name)])
        return Move(f"Of these, the {animal(pick)} lives {'longest' if longest else 'shortest'}.", f"focus on {pick}")

    def _fetch(self) -> Move:
        assert self.find
        room, box = self.find["room"], self.find["box"]
        if not self.focused:
            return self._choose(self.find["kind"], box, room)
        thing = self.focused[0]
        if self.here == room and (thing in self.held or thing in self.seen):
            return Move("Now it goes into the box.", f"move {thing} to {box}")
        if thing in self.held:
            return Move(f"The box is in the {room}.", f"teleport to {room}")
        if thing in self.seen:
            return Move("I have to carry it to the box.", f"pick up {thing}")
        where = self.left_in.get(thing, self.chosen_in)
        if where == self.here:
            raise GaveUp(f"{thing} is out of sight")
        return Move(f"I left it in the {where}.", f"teleport to {where}")

    chosen_in = ""
    """Where the thing was when the agent focused on it."""

    def _choose(self, kind: str, box: str, room: str) -> Move:
        living = kind != "non-living thing"
        fitting = [
            name
            for name in self.seen
            if bool(animal(name)) == living and not name.endswith("box") and name not in self.unknown
        ]
        if fitting and (living or self.here == room):
            self.chosen_in = self.here
            reason = f"A {fitting[0]} is {'an animal' if kind == 'animal' else 'alive' if living else 'not alive'}."
            return Move(reason, f"focus on {fitting[0]}")
        goal = "outside" if living else room if self.here != room else "kitchen"
        if self.here == goal:
            raise GaveUp(f"no {kind} is in sight")
        nothing = f"I see no {kind} here that fits."
        why = "Animals live outside." if living else f"The box is in the {room}." if goal == room else nothing
        return Move(why, f"teleport to {goal}")


_DO = {
    "go": "I go there",
    "teleport": "I go there",
    "open": "I open it",
    "close": "I close it",
    "look": "I look",
    "read": "I read it",
    "examine": "I look closer",
    "pick": "I take it",
    "put": "I lay it down",
    "focus": "I say that it is what the task is about",
    "move": "I move it",
    "pour": "I pour it",
    "dunk": "I dip it in",
    "mix": "I mix what is in it",
    "activate": "I switch it on",
    "deactivate": "I switch it off",
    "use": "I use it",
    "connect": "I connect it",
    "disconnect": "I take it off",
    "eat": "I eat it",
    "flush": "I flush it",
}
"""What an action does to the first thing it names, by its first word."""

_PARTS = re.compile(r"^[a-z0-9]+ (?:to |at |in |on |up |down )?")
_BETWEEN = re.compile(r" (?:into|in|to|on|with) ")
_GOAL = re.compile(r"[Yy]our task is to (?P<goal>[^.,]+)")
_GOAL_WORDS = 8


def reason(action: str, task: str, last: str, before: str, previous: str = "") -> str:
    """Why `action`: what the task asks for, and where the first thing that the action names was met: in the task's
    words, in the last observation or in one before (`previous` is the move before). A thing that was not shown yet is
    not named."""
    goal = _GOAL.search(task)
    words = goal["goal"].split() if goal else []
    aim = f"To {' '.join(words[:_GOAL_WORDS])}{' ...' if len(words) > _GOAL_WORDS else ''}: " if words else ""
    verb = action.partition(" ")[0]
    if action.isdigit():
        return f"{aim}I mean number {action} of these."
    if verb.startswith("wait"):
        return f"{aim}this takes time, I wait."
    if action in ("look around", "inventory"):
        return f"{aim}I look what I have." if action == "inventory" else f"{aim}I look what is here."
    if verb == "go" and previous == f"open door to {action.removeprefix('go to ')}":
        return f"{aim}the door is open now, I go through."
    do = _DO.get(verb, "I try it")
    name, *others = _BETWEEN.split(_PARTS.sub("", action))
    goes_to = next(
        (f" to the {other}" for other in others if verb in _TO and is_shown(other, f"{task} {last} {before}")), ""
    )
    for text, met in ((last, "I see"), (task, "the task names"), (before, "I have seen")):
        if is_shown(name, text):
            return f"{aim}{met} the {name}, {do}{goes_to}."
    return f"{aim}what I need for it was not shown yet, so I try."


_TO = ("move", "pour", "connect")


def is_shown(name: str, text: str) -> bool:
    """Whether `text` has `name` in it as whole words."""
    return bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE))


class GoldExpert(Expert):
    """Plays the engine's gold path. After a move that was not its own it goes back to the place it was in and
    plays on; where the path ends without success it gives up. Its reasons come from the task's words and from what
    the house has answered so far (`reason`)."""

    privileged = True

    def __init__(self, env: SciWorld) -> None:
        self.env = env
        self.path = env.gold_path()
        self.played = 0
        self.back: str = ""
        self.here = place(env.outcome.look)
        self.shown = [env.outcome.look]
        """What the agent was shown, one text an observation; the task's description apart."""
        self.previous = ""

    def act(self) -> Move:
        if self.back:
            if self.env.levels[self.env.task.level].settings["simplifications"]:
                return Move("That was not the way.", f"teleport to {self.back}")
            return Move("That was not the way.", f"go to {self.back}")
        if self.played >= len(self.path):
            raise GaveUp("the gold path has ended without success")
        action = self.path[self.played]
        *before, last = self.shown
        return Move(reason(action, self.env.description, last, " ".join(before), self.previous), action)

    def observe(self, action: str, result: StepResult) -> None:
        self.shown.append(result.observation)
        self.previous = action
        now = place(self.env.outcome.look)
        if self.back:
            self.back = "" if now == self.back else self.back
        elif self.played < len(self.path) and action == self.path[self.played]:
            self.played += 1
        elif now != self.here:
            self.back = self.here
        self.here = now

    def wander(self, rng: random.Random) -> Move:
        doors = re.findall(r"A door to the ([a-z ]+) \(that is open\)", self.env.outcome.look)
        around = [f"look at {name}" for name in things(self.env.outcome.look)]
        return Move("", rng.choice(["look around", "inventory", *around, *(f"go to {door}" for door in doors)]))


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, SciWorld)
    rules = env.levels[env.task.level].settings.get("expert") == "rules"
    return RulesExpert(env) if rules else GoldExpert(env)
