"""BabyAI's experts: an honest rule for one small room, and minigrid's bot folded into macro actions for the rest."""

from __future__ import annotations

import copy
import random
import re
from typing import Any

from affine.envs.babyai import BabyAi, run_macro
from affine.envs.engines.babyai.text import Thing, View
from affine.envs.env import Env, EnvError, Expert, GaveUp, Move, StepResult

SUCCESS: dict[int, float] = {0: 0.98, 1: 0.97, 2: 0.95, 3: 0.95, 4: 0.75, 5: 0.68}
"""Share of tasks solved within the level's turn limit ("fixed" mode): a floor that the tests hold. What was measured
stands in benchmarks/results/experts.json."""

_GOAL = re.compile(
    r"(?P<verb>go to|pick up|open) (?:a|the) (?:(?P<color>red|green|blue|purple|yellow|grey) )?"
    r"(?P<type>object|door|key|ball|box)"
)

_NAMED = re.compile(r"(?:(?P<color>red|green|blue|purple|yellow|grey) )?(?P<type>object|door|key|ball|box)")

_BOT_STEPS = 600
"""Primitive actions after which a run of the bot counts as endless."""
_PLANS = 12
"""Runs of the bot in one episode: after so many lost plans the expert gives up."""


class LookExpert(Expert):
    """Goes for a visible thing that matches the goal, and turns left while there is none."""

    def __init__(self, env: BabyAi) -> None:
        self.env = env
        goal = _GOAL.fullmatch(env.mission())
        if goal is None:
            raise EnvError(f"babyai: the look rule does not read {env.mission()!r}; use the bot for this level")
        self.verb, self.color, self.type = goal["verb"], goal["color"], goal["type"]
        self.turned = 0

    def act(self) -> Move:
        view, listed = self.env.view, self.env.listed
        if self.verb == "pick up" and view.carrying is not None:
            if view.distance != 1:
                return Move("My hands are full.", "drop")
            return Move("My hands are full and no room ahead.", "turn left")
        seen = [thing for thing in view.things if self._matches(thing)]
        for thing in seen:
            action = self._take(thing)
            if action in listed:
                if not listed[action]:  # upstream takes no step to what is directly ahead, and sees no arrival
                    return Move(f"I turn to face the {thing.name} anew.", "turn left")
                return Move(f"The {thing.name} matches the goal.", action)
        if seen or self.turned >= 3:
            self.turned = 0
            if "move forward" in listed:
                return Move("I cannot get there from here." if seen else "Nothing around matches.", "move forward")
        return Move(f"I see no {self._wanted()}.", "turn left")

    def observe(self, action: str, result: StepResult) -> None:
        self.turned = self.turned + 1 if action == "turn left" else 0

    def wander(self, rng: random.Random) -> Move:
        return Move("", rng.choice(list(self.env.listed)))

    def _matches(self, thing: Thing) -> bool:
        return self.color in (None, thing.color) and self.type in ("object", thing.type)

    def _take(self, thing: Thing) -> str:
        if self.verb == "open":
            if self.env.rules.stop_at_end:
                return f"toggle and go through {thing.name}"
            # upstream's macro walks on and loses the win: go there, then toggle
            return "toggle" if self.env.view.front == thing else f"go to {thing.name}"
        return f"{'go to' if self.verb == 'go to' else 'pickup'} {thing.name}"

    def _wanted(self) -> str:
        return " ".join(part for part in (self.color, self.type) if part)


class BotExpert(Expert):
    """Lets minigrid's bot play to the end in a copy of the engine, then takes at each turn the macro action that
    reaches the furthest state of that run. After a move that leaves the run it plans anew from where it stands."""

    privileged = True

    def __init__(self, env: BabyAi) -> None:
        self.env = env
        self.run: dict[tuple[object, ...], int] = {}
        self.plans = 0

    def act(self) -> Move:
        here = state_key(self.env.world)
        if here not in self.run:
            self.plans += 1
            if self.plans > _PLANS:
                raise GaveUp("the plan was lost too often")
            self.run = bot_run(self.env.world)
        best, reached, goal = "", self.run[here], max(self.run.values())
        for action, primitives in self.env.listed.items():
            world = copy.deepcopy(self.env.world)
            gained, _ = run_macro(world, primitives, self.env.rules)
            place = self.run.get(state_key(world), -1)
            if place > reached and (gained > 0 or place < goal):
                best, reached = action, place
        if not best:
            raise GaveUp("no macro action leads on along the bot's plan")
        return Move(_reason(best, self.env), best)

    def wander(self, rng: random.Random) -> Move:
        return Move("", rng.choice(list(self.env.listed)))


def state_key(world: Any) -> tuple[object, ...]:
    """What tells two states of one episode apart, the finished parts of the instruction included: without those,
    a detour that serves a sub-goal would look like a loop."""
    carried = (world.carrying.color, world.carrying.type) if world.carrying else None
    place = (*(int(x) for x in world.agent_pos), int(world.agent_dir))
    return (place, carried, world.grid.encode().tobytes(), _progress(world.instrs))


def _progress(instr: Any) -> tuple[object, ...]:
    if not hasattr(instr, "instr_a"):
        return ()
    return (str(instr.a_done), str(instr.b_done), _progress(instr.instr_a), _progress(instr.instr_b))


def bot_run(world: Any) -> dict[tuple[object, ...], int]:
    """The states of the bot's run from `world` to success, each with its last place in the run.

    Raises GaveUp where the bot finds no way, fails an assertion of its own or runs in circles.
    """
    from affine.envs.engines.babyai.bot import PlanningBot

    world = copy.deepcopy(world)
    states = [state_key(world)]
    try:
        bot = PlanningBot(world)
        action = bot.replan()
        for _ in range(_BOT_STEPS):
            _, reward, terminated, truncated, _ = world.step(action)
            states.append(state_key(world))
            if terminated or truncated:
                if reward > 0:
                    return {state: place for place, state in enumerate(states)}
                raise GaveUp("the bot's run does not succeed")
            action = bot.replan(action)
    except (AssertionError, IndexError, TypeError, RecursionError) as error:  # the bot's ways to fail
        raise GaveUp(f"the bot cannot plan here ({type(error).__name__})") from error
    raise GaveUp("the bot's run does not end")


def _reason(action: str, env: BabyAi) -> str:
    """Why this action, as far as the goal and the words on the screen tell."""
    view = env.view
    wanted = [
        thing
        for goal in _NAMED.finditer(env.mission())
        for thing in view.things
        if goal["color"] in (None, thing.color) and goal["type"] in ("object", thing.type)
    ]
    if action.startswith("turn "):
        seen = f"The {wanted[0].name} is in view, but I have to face another way" if wanted else _MISSING
        return f"{seen}: I look to the {action.removeprefix('turn ')}."
    if action == "move forward":
        far = f"The {view.ahead} ahead is {view.distance} steps away" if env.wording == "full" and view.ahead else ""
        return f"{far or 'The way ahead is free'}: I go on."
    if action == "drop":
        assert view.carrying is not None, "drop is listed where something is carried"
        named = any(goal["type"] in ("object", view.carrying[1]) for goal in _NAMED.finditer(env.mission()))
        why = "this is the place for it" if named else "I need my hands free"
        return f"I carry the {' '.join(view.carrying)}: {why}."
    if action == "toggle":
        assert view.front is not None, "toggle is listed where something is directly ahead"
        return f"The {view.front.name} is right before me: I open it."
    thing = next(thing for thing in view.things if action.endswith(f" {thing.name}"))
    return f"The goal names the {thing.name}." if thing in wanted else _detour(action, thing, view, bool(wanted))


_MISSING = "Nothing that the goal names is in view"


def _detour(action: str, thing: Thing, view: View, sees_wanted: bool) -> str:
    """Why an action on a thing that the goal does not name."""
    if thing.type == "door":
        return f"My way leads by the {thing.name}." if sees_wanted else f"{_MISSING}: I look behind the {thing.name}."
    if not action.startswith("pickup"):
        return f"The goal does not name the {thing.name}, but my way leads there."
    if thing.type != "key":
        return f"The goal does not name the {thing.name}: I take it out of the way."
    locked = [door for door in view.things if door.state == "locked" and door.color == thing.color]
    return f"The {thing.name} opens {f'the {locked[0].name}' if locked else 'doors of its colour'}."


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, BabyAi)
    return LookExpert(env) if env.levels[env.task.level].settings.get("expert") == "look" else BotExpert(env)
