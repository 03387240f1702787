"""An honest expert for ALFWorld: it searches, remembers what it was shown, and plans from that.

What it knows beyond its observations is common sense: which classes of receptacle can hold an object
(ALFWorld's table) and which have a door. It looks first where the chance per action is best: a class of which the
room has one before a class of which it has twenty, open surfaces before closed doors.
"""

from __future__ import annotations

import random

from affine.envs.alfworld import AlfWorld
from affine.envs.engines.alfworld import games
from affine.envs.env import Env, EnvError, Expert, GaveUp, Move, StepResult

SUCCESS: dict[int, float] = {0: 0.99, 1: 0.99, 2: 0.99, 3: 0.98, 4: 0.97}
"""Share of tasks solved, by level: a floor that the tests hold. What was measured stands in
benchmarks/results/experts.json."""


class AlfWorldExpert(Expert):
    """Plays the game that `env` was last reset to."""

    def __init__(self, env: AlfWorld) -> None:
        self.play = env.play
        self.game = env.game
        self.treatment = games.TREATMENTS.get(env.game.task_type, "")
        self.seen: dict[str, list[str]] = {}
        """Receptacle -> what lay in it when last seen open."""
        self.treated: set[str] = set()
        self._classes: dict[str, str] = {
            f"{name.lower()}type": name for name in (*games.table()["holds"], *games.object_classes())
        }

    def observe(self, action: str, result: StepResult) -> None:
        """Remember what the feedback showed, and what was done to the object in hand."""
        for receptacle in self.play.at.get(self.play.location, ()):
            if (receptacle in self.seen or receptacle == self.play.shown) and self.play.is_accessible(receptacle):
                self.seen[receptacle] = list(self.play.contents[receptacle])
        verb = action.split(maxsplit=1)[0] if action.strip() else ""
        if result.valid and self.play.holding and verb in games.APPLIANCES:
            if verb == self.treatment:
                self.treated.add(self.play.holding)
            elif {verb, self.treatment} == {"heat", "cool"}:
                self.treated.discard(self.play.holding)

    def wander(self, rng: random.Random) -> Move:
        """Any admissible command but `help`, whose long answer teaches nothing."""
        return Move("Let me see what this does.", rng.choice(sorted(self.play.actions().keys() - {"help"})))

    def act(self) -> Move:
        held = self.play.holding
        if not held:
            return self._fetch()
        if self._class(held) != self.game.target:
            return self._put_away(held)
        if self.game.lamp:
            return self._under_lamp(held)
        if self.treatment and held not in self.treated:
            return self._treat(held)
        return self._deliver(held)

    def _class(self, identifier: str) -> str:
        return self._classes.get(self.play.kind.get(identifier, ""), "")

    def _name(self, identifier: str) -> str:
        return self.play.names[identifier]

    def _of_class(self, name: str) -> list[str]:
        return [receptacle for receptacle in self.play.receptacles if self._class(receptacle) == name]

    def _is_here(self, receptacle: str) -> bool:
        return self.play.place[receptacle] == self.play.location

    def _remembered(self, name: str) -> list[tuple[str, str]]:
        """(object, receptacle) of every object of class `name` that was seen and should still be there."""
        found = ((thing, place) for place, things in self.seen.items() for thing in things)
        return sorted(pair for pair in found if self._class(pair[0]) == name)

    def _destination(self) -> str:
        """The receptacle to fill: of the right class, the one that already holds most of what is wanted."""
        places = self._of_class(self.game.parent)
        if not places:
            raise GaveUp(f"there is no {self.game.parent} in the room")
        held = [place for _, place in self._remembered(self.game.target)]
        return max(places, key=held.count)

    def _reach(self, receptacle: str, why: str) -> Move | None:
        """The next move towards standing at `receptacle` with its door open; None when there."""
        name = self._name(receptacle)
        if not self._is_here(receptacle):
            return Move(why, f"go to {name}")
        if not self.play.is_accessible(receptacle):
            return Move(f"{name} is closed, so I open it.", f"open {name}")
        return None

    def _fetch(self) -> Move:
        """Take an object of the target class: a treated one if there is one, never one that is in place already."""
        found = self._remembered(self.game.target)
        if self.game.task_type == "pick_two_obj_and_place":
            destination = self._destination()
            found = [pair for pair in found if pair[1] != destination]
        if not found:
            return self._search(self.game.target)
        thing, place = min(found, key=lambda pair: (pair[0] not in self.treated, not self._is_here(pair[1]), pair))
        name, where = self._name(thing), self._name(place)
        why = f"{name} is at {where}, so I go there."
        return self._reach(place, why) or Move(f"{name} is here, so I take it.", f"take {name} from {where}")

    def _search(self, wanted: str) -> Move:
        """Look where the wanted class is likely for the fewest actions."""
        unseen = [receptacle for receptacle in self.play.receptacles if receptacle not in self.seen]
        if self.game.task_type == "pick_and_place_simple":  # one in its place would have ended the task
            unseen = [receptacle for receptacle in unseen if self._class(receptacle) != self.game.parent]
        if not unseen:
            raise GaveUp(f"no {wanted} anywhere")

        def effort(receptacle: str) -> tuple[bool, int]:
            """Actions per chance of finding it, if each class of receptacle were equally likely."""
            name = self._class(receptacle)
            actions = (not self._is_here(receptacle)) + (name in games.table()["openable"])
            return wanted not in games.held_by(name), actions * len(self._of_class(name))

        place = min(unseen, key=effort)
        name = self._name(place)
        move = self._reach(place, f"I need a {wanted.lower()}, {name} may have one.")
        return move or Move(f"I have not looked at {name} yet.", f"examine {name}")

    def _put_away(self, held: str) -> Move:
        """Put down an object that is not wanted, here if possible."""
        fits = [place for place in self.play.receptacles if self._class(held) in games.held_by(self._class(place))]
        if not fits:
            raise GaveUp(f"nowhere to put {self._name(held)}")

        def effort(receptacle: str) -> tuple[bool, bool]:
            return not self._is_here(receptacle), self._class(receptacle) in games.table()["openable"]

        place = min(fits, key=effort)
        why = f"I do not need {self._name(held)}."
        return self._reach(place, why) or Move(why, self._put(held, place))

    def _put(self, held: str, receptacle: str) -> str:
        joint = "in/on" if self.play.dialect == "put" else "to"
        return f"{self.play.dialect} {self._name(held)} {joint} {self._name(receptacle)}"

    def _treat(self, held: str) -> Move:
        places = self._of_class(games.APPLIANCES[self.treatment])
        if not places:
            raise GaveUp(f"nothing to {self.treatment} {self._name(held)} with")
        thing, where = self._name(held), self._name(places[0])
        if not self._is_here(places[0]):
            return Move(f"To {self.treatment} {thing} I need {where}.", f"go to {where}")
        return Move(f"I {self.treatment} {thing} here.", f"{self.treatment} {thing} with {where}")

    def _deliver(self, held: str) -> Move:
        place = self._destination()
        thing, where = self._name(held), self._name(place)
        arrived = Move(f"This is the place for {thing}.", self._put(held, place))
        return self._reach(place, f"I have {thing}, it goes to {where}.") or arrived

    def _under_lamp(self, held: str) -> Move:
        found = self._remembered(self.game.lamp)
        if not found:
            return self._search(self.game.lamp)
        lamp, place = found[0]
        name, where = self._name(lamp), self._name(place)
        if not self._is_here(place):
            return Move(f"{name} is at {where}, so I go there.", f"go to {where}")
        return Move(f"I hold {self._name(held)} and turn on {name}.", f"use {name}")


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the game that `env` was last reset to."""
    if not isinstance(env, AlfWorld):
        raise EnvError(f"alfworld: this expert cannot play {env.name}")
    return AlfWorldExpert(env)
