"""ALFWorld games, generated from AI2-THOR's floor plans.

A generated game takes a floor plan's receptacles (its own coordinates, plus the ones the plan only names, such
as the coffee machine), fills them with 0 to 3 copies of the object classes found in that plan wherever
ALFWorld's own table lets them lie, and asks for one of the six task types in the words and the PDDL of
ALFWorld's goal library. `thin` generation keeps a few receptacles and object classes of the plan.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from affine.envs.engines.alfworld.engine import Dialect, Engine
from affine.envs.engines.alfworld.pddl import parse_problem

TREATMENTS = {
    "pick_clean_then_place_in_recep": "clean",
    "pick_heat_then_place_in_recep": "heat",
    "pick_cool_then_place_in_recep": "cool",
}
APPLIANCES = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
LAMP_STANDS = ("Desk", "Dresser", "Shelf", "SideTable")
"""Where lamps stand: ALFWorld's holding table leaves them out."""
COPIES = {"StoveBurner": 4}
"""Copies of a receptacle class that a floor plan names without coordinates (one where not listed)."""
_START = "loc_bar_0"


@dataclass(frozen=True, slots=True)
class Game:
    """One game: the PDDL problem, the task sentence without its full stop, and what the task is about.

    `target`, `parent` and `lamp` are classes (`Apple`, `Fridge`, `DeskLamp`), "" where the task has none.
    """

    task_type: str
    scene: str
    problem: str
    sentence: str
    target: str
    parent: str
    lamp: str
    dialect: Dialect = "put"

    def engine(self) -> Engine:
        """The game in play, from its start. Raises ProblemError for a problem that cannot be played."""
        return Engine(parse_problem(self.problem), self.dialect, help_text(self.dialect))


@dataclass(frozen=True, slots=True)
class Size:
    """How much of a floor plan a game keeps: inclusive ranges, None for all of it.

    `objects` counts object classes beside the target's own, each then present once.
    """

    receptacles: tuple[int, int] | None = None
    objects: tuple[int, int] | None = None


@cache
def table() -> Mapping[str, Any]:
    """The committed table (see scripts/alfworld_scenes.py)."""
    data: dict[str, Any] = json.loads(
        (resources.files("affine.envs.engines.alfworld") / "scenes.json").read_text("utf-8")
    )
    return data


@cache
def receptacle_classes() -> tuple[str, ...]:
    """The classes that stand still and hold things."""
    return tuple(name for name in table()["holds"] if name not in table()["movable"])


@cache
def held_by(receptacle: str) -> frozenset[str]:
    """The object classes that a receptacle class may hold, lamps included (for membership tests)."""
    held = set(table()["holds"].get(receptacle, ()))
    return frozenset(held | set(table()["can"]["toggleable"])) if receptacle in LAMP_STANDS else frozenset(held)


@cache
def object_classes() -> tuple[str, ...]:
    """The classes that lie in receptacles, lamps included."""
    return tuple(sorted({name for receptacle in receptacle_classes() for name in held_by(receptacle)}))


@cache
def _plan(scene: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A floor plan's receptacles as (class, identifier), and the object classes that can lie in it."""
    data = table()["scenes"][scene]
    receptacles: list[tuple[str, str]] = []
    for name in receptacle_classes():
        for place in data["receptacles"].get(name, ()):
            root = name.removesuffix("Basin") if name.endswith("Basin") else name
            receptacles.append((name, _mangle(f"{root}|{place}" + (f"|{name}" if root != name else ""))))
        if name in data["objects"] and name not in data["receptacles"]:
            receptacles += [(name, _mangle(f"{name}|+{n:02d}.00|00.00|00.00")) for n in range(COPIES.get(name, 1))]
    classes = {name for name, _ in receptacles}
    objects = tuple(name for name in data["objects"] if any(name in held_by(receptacle) for receptacle in classes))
    return tuple(receptacles), objects


def _mangle(identifier: str) -> str:
    """AI2-THOR's identifier as PDDL can hold it."""
    for sign, word in (("|", "_bar_"), ("-", "_minus_"), ("+", "_plus_"), (".", "_dot_")):
        identifier = identifier.replace(sign, word)
    return identifier


def generate(rng: random.Random, weights: Mapping[str, int], size: Size) -> Game:
    """A game whose task type is drawn by `weights`. Deterministic for a given `rng` state."""
    task_type = rng.choices(list(weights), list(weights.values()))[0]
    rooms = table()["goals"][task_type]["rooms"]
    scenes = [scene for scene, data in table()["scenes"].items() if data["room"] in rooms]
    while True:  # some floor plans have no lamp, or no second place for the object: draw another
        game = _build(rng, task_type, rng.choice(scenes), size)
        if game is not None:
            return game


def _build(rng: random.Random, task_type: str, scene: str, size: Size) -> Game | None:
    """A game of `task_type` in `scene`, or None where the floor plan has no such task."""
    receptacles, classes = _plan(scene)
    treatment = TREATMENTS.get(task_type, "")
    choice = _choose_task(rng, task_type, treatment, receptacles, classes)
    if choice is None:
        return None
    target, parent, lamp = choice
    if size.receptacles is not None:
        receptacles = _thin(rng, receptacles, rng.randint(*size.receptacles), choice, APPLIANCES.get(treatment, ""))
    objects = _populate(rng, task_type, choice, classes, size)
    places = _place(rng, objects, receptacles, target, parent)
    goal = table()["goals"][task_type]
    names = {"obj": target, "recep": parent, "toggle": lamp, "mrecep": ""}
    sentence = rng.choice(goal["templates"]).format(**{key: name.lower() for key, name in names.items()})
    problem = _pddl(receptacles, places, goal["pddl"].format(**names))
    return Game(task_type, scene, problem, sentence, target, parent, lamp)


def _choose_task(
    rng: random.Random,
    task_type: str,
    treatment: str,
    receptacles: Sequence[tuple[str, str]],
    classes: Sequence[str],
) -> tuple[str, str, str] | None:
    """(target, parent, lamp) classes: the target can lie both in the parent and somewhere else."""
    can = table()["can"]
    present = sorted({name for name, _ in receptacles})
    pickable = [name for name in classes if name not in can["toggleable"]]
    if task_type == "look_at_obj_in_light":
        lamps = [name for name in classes if name in can["toggleable"]]
        return (rng.choice(pickable), "", rng.choice(lamps)) if lamps and pickable else None
    if treatment:
        pickable = [name for name in pickable if name in can[f"{treatment}able"]]
        if APPLIANCES[treatment] not in present:
            return None
    pairs = []
    for target in pickable:
        homes = [name for name in present if target in held_by(name)]
        pairs += [(target, name) for name in homes if len(homes) > 1 and name != APPLIANCES.get(treatment)]
    if not pairs:
        return None
    target = rng.choice(sorted({target for target, _ in pairs}))
    return target, rng.choice([parent for name, parent in pairs if name == target]), ""


def _thin(
    rng: random.Random,
    receptacles: Sequence[tuple[str, str]],
    count: int,
    choice: tuple[str, str, str],
    appliance: str,
) -> tuple[tuple[str, str], ...]:
    """About `count` receptacles: those the task needs, then others, each class as likely as any other."""
    target, parent, lamp = choice
    by_class: dict[str, list[tuple[str, str]]] = {}
    for receptacle in receptacles:
        by_class.setdefault(receptacle[0], []).append(receptacle)
    kept: list[tuple[str, str]] = []

    def keep(candidates: Sequence[str]) -> None:
        pool = by_class[rng.choice(candidates)]
        kept.append(pool.pop(rng.randrange(len(pool))))
        for name in [name for name, left in by_class.items() if not left]:
            del by_class[name]

    for needed in (parent, appliance):
        if needed and needed not in {name for name, _ in kept}:
            keep([needed])
    if lamp and not any(lamp in held_by(name) for name, _ in kept):
        keep([name for name in by_class if lamp in held_by(name)])
    if not any(target in held_by(name) and name != parent for name, _ in kept):
        keep([name for name in by_class if target in held_by(name) and name != parent])
    while len(kept) < count and by_class:
        keep(list(by_class))
    return tuple(sorted(kept))


def _populate(
    rng: random.Random, task_type: str, choice: tuple[str, str, str], classes: Sequence[str], size: Size
) -> list[str]:
    """The classes of the objects in the game, one entry per copy."""
    target, _, lamp = choice
    toggleable = table()["can"]["toggleable"]
    copies = 2 if task_type == "pick_two_obj_and_place" else 1
    if size.objects is None:
        copies = max(copies, rng.randint(1, 3))
    objects = [target] * copies + ([lamp] if lamp else [])
    if size.objects is not None:
        others = [name for name in classes if name != target and name not in toggleable]
        return objects + rng.sample(others, min(len(others), rng.randint(*size.objects)))
    for name in classes:
        if name not in (target, lamp):
            objects += [name] * (1 if name in toggleable else rng.randint(0, 3))
    return objects


def _place(
    rng: random.Random,
    objects: Sequence[str],
    receptacles: Sequence[tuple[str, str]],
    target: str,
    parent: str,
) -> list[tuple[str, str, str]]:
    """(class, identifier, receptacle) per object; a class that no kept receptacle may hold is left out.

    A class of receptacle is drawn first, then one of its copies, so that a room's many drawers do not swallow
    everything.
    """
    by_class: dict[str, list[str]] = {}
    for name, identifier in receptacles:
        by_class.setdefault(name, []).append(identifier)
    placed = []
    for number, name in enumerate(objects):
        homes = [home for home in by_class if name in held_by(home) and not (name == target and home == parent)]
        if homes:
            x, y, z = (rng.uniform(-4, 4) for _ in range(3))
            identifier = _mangle(f"{name}|{x:+06.2f}|{y:+06.2f}|{z:+06.2f}|{number}")
            placed.append((name, identifier, rng.choice(by_class[rng.choice(homes)])))
    return placed


def _pddl(receptacles: Sequence[tuple[str, str]], places: Sequence[tuple[str, str, str]], goal: str) -> str:
    """The problem in ALFWorld's PDDL; every receptacle has a location of its own."""
    can, openable, movable = table()["can"], table()["openable"], table()["movable"]
    location = {identifier: f"loc_bar_{n}" for n, (_, identifier) in enumerate(receptacles, start=1)}
    otypes, rtypes = sorted({name for name, _, _ in places}), sorted({name for name, _ in receptacles})
    facts = [f"(atLocation agent1 {_START})"]
    for name, identifier in receptacles:
        facts += [
            f"(receptacleType {identifier} {name}Type)",
            f"(receptacleAtLocation {identifier} {location[identifier]})",
        ]
        facts += [f"(openable {identifier})"] if name in openable else []
    for name, identifier, home in places:
        facts += [f"(objectType {identifier} {name}Type)", f"(inReceptacle {identifier} {home})"]
        facts += [f"(objectAtLocation {identifier} {location[home]})"]
        facts += [f"(isReceptacleObject {identifier})"] if name in movable else []
        facts += [f"({quality} {identifier})" for quality, held in can.items() if name in held]
        facts += [f"(pickupable {identifier})"] if name not in can["toggleable"] else []
    facts += [f"(canContain {r}Type {o}Type)" for r in rtypes for o in otypes if o in held_by(r)]
    objects = [
        "agent1 - agent",
        *(f"{name}Type - otype" for name in otypes),
        *(f"{name}Type - rtype" for name in rtypes),
        *(f"{identifier} - receptacle" for _, identifier in receptacles),
        *(f"{identifier} - object" for _, identifier, _ in places),
        *(f"{place} - location" for place in (_START, *location.values())),
    ]
    lines = ["(define (problem plan)", "(:domain alfred)", "(:objects", *objects, ")", "(:init", *facts, ")", goal]
    return "\n".join(lines) + "\n"


def grammar(dialect: Dialect) -> str:
    """The text grammar in one of its two dialects (the wheel's own is "move")."""
    text: str = table()["grammar"]
    return _in_dialect(text, dialect)


def help_text(dialect: Dialect) -> str:
    """The answer to `help`."""
    text: str = table()["help"]
    return _in_dialect(text, dialect)


def _in_dialect(text: str, dialect: Dialect) -> str:
    if dialect == "move":
        return text
    for move, put in (
        ("move {o} to {r}", "put {o} in/on {r}"),
        ("You move the {o.name} to the {r.name}.", "You put the {o.name} in/on the {r.name}."),
        ("move (object) to (receptacle):", "put (object) in/on (receptacle):"),
        ("You arrive at {r.name}.", "You arrive at {lend.name}."),
    ):
        text = text.replace(move, put)
    return text
