"""A native engine for ALFWorld's games: the PDDL domain `alfred` and its text grammar, without TextWorld.

It reads the same PDDL problem as the real engine (`textworld` with `alfworld`) and answers with the same
admissible commands, the same feedback and the same verdict; `tests/test_alfworld_lockstep.py` plays the two
side by side. One object can be in hand; the goal is a conjunction of existential blocks, as all six task types
and all the downloaded games have it.

Two dialects: "put" (alfworld 0.3: `put apple 1 in/on desk 1`, arrivals name the location) and "move"
(alfworld 0.4: `move apple 1 to desk 1`).
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from typing import Literal

from affine.envs.engines.alfworld.pddl import CHANGING, Fact, Problem, alternatives

Dialect = Literal["put", "move"]
Command = tuple[str, str, str]
"""What a command line means: verb, first and second identifier ("" where the verb takes fewer)."""

NOTHING_HAPPENS = "Nothing happens."
_EMPTY_HANDS = "You are not carrying anything."
_APPLIANCES = {"sinkbasintype": "clean", "microwavetype": "heat", "fridgetype": "cool"}
_TREATED = {"clean": "cleanable", "heat": "heatable", "cool": "coolable"}
_KNIVES = frozenset(("knifetype", "butterknifetype"))


def display_names(identifiers: Iterable[str]) -> dict[str, str]:
    """Identifier -> name as the player reads it (`desk 2`).

    alfworld's rule: identifiers sorted as text, the copies of a class numbered downwards in that order.
    """
    classes: dict[str, str] = {}
    for identifier in sorted(identifiers):
        name, bar, _ = identifier.partition("_bar_")
        if bar:
            classes[identifier] = name + ("basin" if "basin" in identifier else "")
    left = Counter(classes.values())
    names: dict[str, str] = {}
    for identifier, name in classes.items():
        names[identifier] = f"{name} {left[name]}"
        left[name] -= 1
    return names


def listing(items: Iterable[str]) -> str:
    """`a pen 1, and a mug 2`, or `nothing`."""
    words = list(items)
    if len(words) < 2:
        return words[0] if words else "nothing"
    return f"{', '.join(words[:-1])}, and {words[-1]}"


class Engine:
    """One game in play. `won` is the goal's verdict on the current state."""

    def __init__(self, problem: Problem, dialect: Dialect, help_text: str) -> None:
        self.dialect = dialect
        self.help_text = help_text
        self.names = display_names({word for fact in problem.facts for word in fact[1:]})
        self.facts: set[Fact] = {fact for fact in problem.facts if fact[0] in CHANGING}
        self.static: frozenset[Fact] = frozenset(fact for fact in problem.facts if fact[0] not in CHANGING)
        self.kind = {fact[1]: fact[2] for fact in problem.facts if fact[0] in ("objecttype", "receptacletype")}
        self.place = {fact[1]: fact[2] for fact in problem.facts if fact[0] == "receptacleatlocation"}
        self.receptacles = sorted(self.place)
        self.at: dict[str, list[str]] = {}
        for receptacle in self.receptacles:
            self.at.setdefault(self.place[receptacle], []).append(receptacle)
        self.contents: dict[str, list[str]] = {receptacle: [] for receptacle in self.receptacles}
        self.inner: dict[str, list[str]] = {}
        for fact in sorted(problem.facts):
            if fact[0] == "inreceptacle":
                self.contents[fact[2]].append(fact[1])
            elif fact[0] == "inreceptacleobject":
                self.inner.setdefault(fact[2], []).append(fact[1])
        self.location = next((fact[2] for fact in problem.facts if fact[0] == "atlocation"), "")
        self.holding = next((fact[2] for fact in problem.facts if fact[0] == "holds"), "")
        self.taken_from: set[tuple[str, str]] = set()
        self.shown = ""
        """The receptacle whose state the last feedback described, "" where it described none."""
        self._goes: dict[str, Command] = {f"go to {self.names[r]}": ("go", r, "") for r in self.receptacles}
        self._goal = [alternatives(block, problem, self.static) for block in problem.goal]

    @property
    def won(self) -> bool:
        """Whether the goal holds now."""
        facts = self.facts
        return all(any(all(fact in facts for fact in option) for option in block) for block in self._goal)

    def is_accessible(self, receptacle: str) -> bool:
        """Whether things can be put into and taken out of it: it is open, or never closed."""
        return ("openable", receptacle) not in self.static or ("opened", receptacle) in self.facts

    def room(self) -> list[str]:
        """The receptacles, in the order in which the first observation names them."""
        return [self.names[receptacle] for receptacle in self.receptacles]

    def actions(self) -> dict[str, Command]:
        """The admissible commands of the current state and what they mean."""
        found: dict[str, Command] = {**self._goes, "look": ("look", "", ""), "help": ("help", "", "")}
        found["inventory"] = ("inventory", "", "")
        names, held = self.names, self.holding
        for receptacle in self.at.get(self.location, ()):
            name = names[receptacle]
            del found[f"go to {name}"]
            found[f"examine {name}"] = ("examine", receptacle, "")
            if ("openable", receptacle) in self.static:
                verb = "close" if ("opened", receptacle) in self.facts else "open"
                found[f"{verb} {name}"] = (verb, receptacle, "")
            self._handle(found, receptacle)
        if held:
            found[f"examine {names[held]}"] = ("examine object", held, "")
            if self.kind.get(held) in _KNIVES:
                for fact in self.facts:
                    if fact[0] == "objectatlocation" and fact[2] == self.location and self._is("sliceable", fact[1]):
                        found[f"slice {names[fact[1]]} with {names[held]}"] = ("slice", fact[1], held)
        return found

    def _handle(self, found: dict[str, Command], receptacle: str) -> None:
        """Add what can be done with the things in `receptacle` and in hand, standing before it."""
        names, held, name = self.names, self.holding, self.names[receptacle]
        for thing in self.contents[receptacle]:
            if self._is("toggleable", thing):
                found[f"use {names[thing]}"] = ("use", thing, receptacle)
        if held:
            rtype, otype = self.kind.get(receptacle, ""), self.kind.get(held, "")
            if self.is_accessible(receptacle) and ("cancontain", rtype, otype) in self.static:
                joint = "in/on" if self.dialect == "put" else "to"
                found[f"{self.dialect} {names[held]} {joint} {name}"] = ("put", held, receptacle)
            verb = _APPLIANCES.get(rtype)
            if verb and self._is(_TREATED[verb], held):
                found[f"{verb} {names[held]} with {name}"] = (verb, held, receptacle)
        elif self.is_accessible(receptacle):
            for thing in self.contents[receptacle]:
                if self._is("pickupable", thing):
                    found[f"take {names[thing]} from {name}"] = ("take", thing, receptacle)

    def _is(self, predicate: str, thing: str) -> bool:
        return (predicate, thing) in self.static or (predicate, thing) in self.facts

    def intro(self) -> str:
        """What the player reads first: the room."""
        return self._in_the_middle(self.room())

    def step(self, command: str) -> str:
        """Play `command` (exact but for outer space) and return the feedback; what is inadmissible changes nothing."""
        self.shown = ""
        meaning = self.actions().get(command.strip())
        return NOTHING_HAPPENS if meaning is None else self._apply(*meaning)

    def _apply(self, verb: str, first: str, second: str) -> str:
        """Play an admissible command: change the state and say what happened."""
        a, b = self.names.get(first, ""), self.names.get(second, "")
        match verb:
            case "go":
                self._move(self.place[first])
                text = (
                    f"You arrive at {a if self.dialect == 'move' else self.names[self.location]}. {self._show(first)}"
                )
            case "open":
                self.facts.add(("opened", first))
                text = f"You open the {a}. {self._show(first)}"
            case "close":
                self.facts.discard(("opened", first))
                text = f"You close the {a}."
            case "take":
                self._take(first, second)
                text = f"You pick up the {a} from the {b}."
            case "put":
                self._put(first, second)
                text = f"You move the {a} to the {b}." if self.dialect == "move" else f"You put the {a} in/on the {b}."
            case "use":
                self.facts.add(("istoggled", first))  # for good: the domain never takes it back
                text = f"You turn on the {a}."
            case "clean" | "heat" | "cool":
                self._treat(verb, first)
                text = f"You {verb} the {a} using the {b}."
            case "slice":
                self.facts.add(("issliced", first))
                text = f"You sliced the {a} with the {b}."
            case _:
                text = self._answer(verb, first)
        return text

    def _answer(self, verb: str, first: str) -> str:
        """What the commands say that change nothing."""
        match verb:
            case "examine":
                text = self._show(first)
            case "examine object":
                text = self._describe(first)
            case "inventory":
                text = f"You are carrying: a {self.names[self.holding]}." if self.holding else _EMPTY_HANDS
            case "look":
                text = self._look()
            case _:
                text = self.help_text
        return text

    def _move(self, location: str) -> None:
        self.facts.discard(("atlocation", "agent1", self.location))
        self.location = location
        self.facts.add(("atlocation", "agent1", location))

    def _take(self, thing: str, receptacle: str) -> None:
        self.facts -= {("inreceptacle", thing, receptacle), ("objectatlocation", thing, self.location)}
        self.facts.add(("holds", "agent1", thing))
        self.contents[receptacle].remove(thing)
        self.taken_from.add((thing, receptacle))
        self.holding = thing

    def _put(self, thing: str, receptacle: str) -> None:
        self.facts.discard(("holds", "agent1", thing))
        self.facts |= {("inreceptacle", thing, receptacle), ("objectatlocation", thing, self.location)}
        insort(self.contents[receptacle], thing)
        self.taken_from.discard((thing, receptacle))
        self.holding = ""

    def _treat(self, verb: str, thing: str) -> None:
        if verb == "clean":
            self.facts.add(("isclean", thing))
        else:
            hot, cool = ("ishot", thing), ("iscool", thing)
            self.facts.add(hot if verb == "heat" else cool)
            self.facts.discard(cool if verb == "heat" else hot)

    def _things(self, things: Iterable[str]) -> str:
        return listing(f"a {self.names[thing]}" for thing in things)

    def _show(self, receptacle: str) -> str:
        self.shown = receptacle
        name = self.names[receptacle]
        if ("openable", receptacle) not in self.static:
            return f"On the {name}, you see {self._things(self.contents[receptacle])}."
        if ("opened", receptacle) not in self.facts:
            return f"The {name} is closed."
        return f"The {name} is open. In it, you see {self._things(self.contents[receptacle])}."

    def _describe(self, thing: str) -> str:
        name = self.names[thing]
        if self._is("isreceptacleobject", thing):
            return f"This is a normal {name}. In it, you see {self._things(self.inner.get(thing, ()))}."
        clean, sliced = self._is("isclean", thing), self._is("issliced", thing)
        hot, cool = self._is("ishot", thing), self._is("iscool", thing)
        warmth = "hot" if hot else "cool" if cool else ""
        if warmth == "cool" and not clean and not sliced:
            warmth = "cold"  # the grammar's own exception
        words = [" and ".join(word for word in (warmth, "clean" if clean else "") if word), "sliced" if sliced else ""]
        qualities = " ".join(word for word in words if word)
        return f"This is a {qualities} {name}." if qualities else f"There's nothing special about {name}."

    def _look(self) -> str:
        here = self.at.get(self.location, [])
        if not here:
            return self._in_the_middle([])
        beside = [
            fact[1]
            for fact in sorted(self.facts)
            if fact[0] == "objectatlocation" and fact[2] == self.location
            for receptacle in here
            if (fact[1], receptacle) in self.taken_from
        ]
        facing = listing(self.names[receptacle] for receptacle in here)
        return f"You are facing the {facing}. Next to it, you see {self._things(beside)}."

    @staticmethod
    def _in_the_middle(receptacles: Iterable[str]) -> str:
        seen = listing(f"a {receptacle}" for receptacle in receptacles)
        return f"You are in the middle of a room. Looking quickly around you, you see {seen}."
