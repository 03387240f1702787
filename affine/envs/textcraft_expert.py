"""TextCraft's expert: a depth-first planner that knows only what the player was shown."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from math import ceil, inf

from affine.envs.env import Env, Expert, GaveUp, Move, StepResult
from affine.envs.textcraft import TextCraft

SUCCESS: dict[int, float] = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 0.99}
"""Share of tasks solved, by level: a floor that the tests hold (what was measured stands in
benchmarks/results/experts.json). At level 5, upstream's 30 turns are too few for anvils and netherite blocks."""

KINDS = {"planks": "planks", "wool": "wool", "wooden slabs": "slab"}
"""Ingredients that name a kind rather than an item, and the last word of the items of that kind. This much
English a player brings along; "stone bricks" or "glass" look alike but are items."""

_COMMAND = re.compile(r"^craft (\d+) (.+?) using (.+)$", re.MULTILINE)
_STACK = re.compile(r"(\d+) (.+)")
_GOAL = re.compile(r"Goal: craft (.+)\.$")

Stacks = tuple[tuple[str, int], ...]


class Command:
    """A shown command: what it makes, how many, out of what."""

    def __init__(self, made: int, output: str, ingredients: Stacks) -> None:
        self.made, self.output, self.ingredients = made, output, ingredients

    def action(self, used: Stacks) -> str:
        """The command with concrete items in place of kinds."""
        return f"craft {self.made} {self.output} using {', '.join(f'{count} {name}' for name, count in used)}"


def _number(count: int) -> str:
    return "" if count == 1 else f"{count} times "


def _stacks(text: str) -> Stacks:
    found = (_STACK.fullmatch(part.strip()) for part in text.split(","))
    return tuple((match[2], int(match[1])) for match in found if match)


def read_commands(observation: str) -> list[Command]:
    """The commands that the first observation lists."""
    return [Command(int(made), output, _stacks(used)) for made, output, used in _COMMAND.findall(observation)]


class TextCraftExpert(Expert):
    """Plans from the shown commands, and replans each turn from the inventory inferred so far."""

    def __init__(self, observation: str) -> None:
        self.commands = read_commands(observation)
        goal = _GOAL.search(observation)
        if goal is None:
            raise GaveUp("the first observation names no goal")
        self.goal = goal[1]
        self.outputs = {command.output for command in self.commands}
        self.inventory: Counter[str] = Counter()
        self.cost = self._costs()

    def _items(self, name: str) -> list[str]:
        """The craftable items that serve as `name`; empty where it is to be got."""
        if name in self.outputs:
            return [name]
        if name not in KINDS:
            return []
        return sorted(output for output in self.outputs if output.split()[-1] == KINDS[name])

    def _costs(self) -> dict[str, float]:
        """About how many actions one of each item takes: 1 for what can be got, else the cheapest command.

        Repeats until nothing gets cheaper, so commands that run in circles stay dear.
        """
        names = {name for command in self.commands for name, _ in command.ingredients} | self.outputs
        cost = {name: inf if self._items(name) else 1.0 for name in sorted(names)}
        changed = True
        while changed:
            changed = False
            for command in self.commands:
                price = self._price(command, cost)
                if price < cost[command.output]:
                    cost[command.output] = price
                    changed = True
            for kind in KINDS:
                best = min((cost[item] for item in self._items(kind)), default=inf)
                if kind in cost and best < cost[kind]:
                    cost[kind] = best
                    changed = True
        return cost

    @staticmethod
    def _price(command: Command, cost: dict[str, float]) -> float:
        return 1 + sum(cost[name] if cost[name] == 1 else cost[name] * count for name, count in command.ingredients)

    def _obtain(self, name: str, count: int, free: Counter[str]) -> Iterator[tuple[str, str]]:
        """Yield (action, reason) until `free` holds `count` of `name`. Simulates `free` along the way."""
        missing = count - free[name]
        if missing <= 0:
            return
        command = min(
            (command for command in self.commands if command.output == name),
            key=lambda command: self._price(command, self.cost),
            default=None,
        )
        if command is None:
            yield f"get {missing} {name}", f"needs {count} {name}"
            free[name] = count
            return
        if self.cost[name] == inf:
            raise GaveUp(f"no shown commands lead to {name}")
        times = ceil(missing / command.made)
        used: list[tuple[str, int]] = []
        reserved: Counter[str] = Counter()
        for ingredient, each in command.ingredients:
            item = self._concrete(ingredient, each * times, free)
            for action, reason in self._obtain(item, each * times, free):
                # "needs 3 wheat" becomes "bread needs 3 wheat" where the recursion comes back to who needs it.
                yield action, f"{_number(times)}{name} {reason}" if reason.startswith("needs ") else reason
            free[item] -= each * times
            reserved[item] += each * times
            used.append((item, each))
        for _ in range(times):
            yield command.action(tuple(used)), f"I have all for {name}"
        free[name] += command.made * times

    def _concrete(self, ingredient: str, count: int, free: Counter[str]) -> str:
        """The item to use for `ingredient`: one that is there in sufficient number, else the cheapest."""
        items = self._items(ingredient) or [ingredient]
        return min(items, key=lambda item: (free[item] < count, self.cost[item], item))

    def act(self) -> Move:
        free = Counter(self.inventory)
        free[self.goal] = 0  # the goal has to be crafted anew
        for action, reason in self._obtain(self.goal, 1, free):
            return Move(reason[0].upper() + reason[1:] + ".", action)
        raise GaveUp(f"nothing left to do for {self.goal}")

    def wander(self, rng: random.Random) -> Move:
        command = rng.choice(self.commands)
        options = [f"get {count} {name}" for name, count in command.ingredients]
        options.append(command.action(command.ingredients))
        return Move("I try something.", rng.choice(options))

    def observe(self, action: str, result: StepResult) -> None:
        if not result.valid:
            return
        if result.observation.startswith("Got "):
            self._add(_stacks(action.removeprefix("get ")), 1)
        elif result.observation.startswith("Crafted "):
            made, _, used = action.removeprefix("craft ").partition(" using ")
            self._add(_stacks(made), 1)
            self._add(_stacks(used), -1)

    def _add(self, stacks: Sequence[tuple[str, int]], sign: int) -> None:
        for name, count in stacks:
            self.inventory[name] += sign * count


def expert(env: Env, rng: random.Random) -> TextCraftExpert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, TextCraft)
    return TextCraftExpert(env.observation)
