"""TextCraft: get and craft Minecraft items until the goal item is made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar

from affine.envs.engines.textcraft.book import TABLE, Recipe, recipe_book
from affine.envs.env import Content, Env, EnvSettings, Level, Prompt, StepResult, digest, task_rng
from affine.envs.react import single_action
from affine.types import Message, Task

UPSTREAM_SEED = 42
MAX_DIGITS = 9
"""Longer numbers are not numbers here: nobody needs a billion sticks, and `int` refuses huge ones."""

_GET = re.compile(rf"get ([0-9]{{1,{MAX_DIGITS}}}) (.*)")
_CRAFT = re.compile(r"craft (.*) using (.*)")
_STACK = re.compile(rf"([0-9]{{1,{MAX_DIGITS}}}) (.*)")


def _level(
    summary: str, turn_limit: int, depths: tuple[int, ...], variants: int, distractors: int, **more: int
) -> Level:
    return Level(summary, turn_limit, {"depths": depths, "variants": variants, "distractors": distractors, **more})


class TextCraft(Env):
    """TextCraft, Minecraft's crafting as text.

    Description
        The agent sees crafting commands and a goal item. It gets raw items out of the world and applies
        the commands, intermediate products first, until it crafts the goal.
    Task
        A goal and the commands shown: those that lead to it and distractors that use the same
        ingredients (filled up with any others except at the last level). Ids enumerate the goals of the
        level by depth and name (id mod number of goals); id div number of goals is the variant, which has
        its own distractors and order. The group is the goal item, so no goal is in two splits. Level
        settings: `depths` of the goals, `variants` per goal, number of `distractors`, `max_ingredients` of
        goals and distractors (absent: any), `single_path` (1: one recipe per item is shown; absent: all).
    Observation
        First "Crafting commands:", one command a line, and "Goal: craft ITEM.". Then "Got N ITEM",
        "Crafted N ITEM", "Inventory: [ITEM] (N) ...", "Could not find ITEM", "Could not find enough items
        to craft ITEM", "Could not find a valid recipe for ITEM", "Wrong item format: ..." or "Could not
        execute ...".
    Actions
        `get N ITEM` for items without a recipe, any number; `craft N ITEM using N1 ITEM1, N2 ITEM2` for one
        application of one recipe, ingredient counts exact, concrete items in place of tags (the number
        before the output is not checked, as upstream); `inventory`. The whole recipe book applies, not
        only what is shown. The action is the line after the only "Action:" of the reply.
    Reward
        1 on the step that crafts the goal, else 0; the score is that reward.
    Episode end
        When the goal is crafted, or at the turn limit.
    Expert
        A depth-first planner over the commands shown in the first observation, which replans every turn
        from the inventory it infers from the replies; not privileged.
    Upstream
        AgentGym's TextCraft (recipes of Minecraft's data pack; 544 goals, 20 rounds; the validators
        played 30 rounds). Goals and ids differ: upstream's order within a depth is the directory order of
        the machine it runs on, and its recipes are another release's (ours: 551 goals); so no range of
        its ids (the validators' 0 to 581, taken mod 544) names the same tasks here. As there, the
        last level draws distractors with the same seed, 42, whatever the task's. Mode "upstream" keeps:
        raw ids ("minecraft:oak_planks") in the replies to `craft`, a printed data structure in the reply
        about a missing recipe, and tags such as "oak logs" that count as items only, so that a recipe
        over them refuses an "oak log". Mode "fixed" mends these three.
    """

    name: ClassVar[str] = "textcraft"
    version: ClassVar[str] = "1"
    levels: ClassVar[Mapping[int, Level]] = {
        0: _level("one craft of at most two ingredients", 6, (1,), 40, 2, max_ingredients=2, single_path=1),
        1: _level("two crafting steps, one way shown", 16, (2,), 20, 2, max_ingredients=2, single_path=1),
        2: _level("up to two steps, all alternatives", 20, (1, 2), 10, 5),
        3: _level("three steps", 50, (3,), 10, 5),
        4: _level("three or four steps, many distractors", 60, (3, 4), 10, 10),
        5: _level("upstream: every goal, 10 distractors", 30, (1, 2, 3, 4), 1, 10),
    }
    prompts: ClassVar[Mapping[str, Prompt]] = {
        "brief": Prompt("Craft the goal. Action: get N item, craft N item using N item, or inventory."),
        "full": Prompt(
            "You play a crafting game in which items are made out of other items. You will be shown a list of "
            "crafting commands and a goal item. In each turn you may take one action:\n"
            "- get N ITEM: fetch raw items out of the world. Works only for items that no recipe makes.\n"
            "- craft N ITEM using N1 ITEM1, N2 ITEM2: apply one recipe once. The ingredients and their counts must "
            "be exactly those of the command, and you must hold them. Where a command names a kind of item, such as "
            "planks, give one item of that kind, such as oak planks.\n"
            "- inventory: list what you hold.\n"
            "Some of the commands are of no use for the goal. Craft intermediate items first.\n"
            "Reply in this format, with exactly one action:\n"
            "Thought: your reasoning\nAction: your action",
            "I will craft the goal step by step, with one action in each turn.",
        ),
    }

    observation: str
    """The first observation of the episode (what the expert reads)."""

    def __init__(self, settings: EnvSettings | None = None) -> None:
        super().__init__(settings)
        self.book = recipe_book()
        self.raw = self.settings.mode == "upstream"

    def engine(self) -> Mapping[str, str]:
        return {"recipes": digest(TABLE.read_text(encoding="utf-8"))}

    def _goals(self, level: int) -> list[str]:
        return _goals(self.levels[level].settings["depths"], self.levels[level].settings.get("max_ingredients"))

    def size(self, level: int) -> int | None:
        return len(self._goals(level)) * int(self.levels[level].settings["variants"])

    def _build(self, level: int, id: int, seed: int) -> tuple[str, list[str]]:
        """The goal and the commands shown, in order."""
        settings = self.levels[level].settings
        goals = self._goals(level)
        goal = goals[id % len(goals)]
        rng = task_rng(self.name, level, id, UPSTREAM_SEED if settings["variants"] == 1 else seed)
        limit = settings.get("max_ingredients")
        on_path = self.book.path(goal, rng, limit) if settings.get("single_path") else self.book.tree(goal)
        outputs = {recipe.output for recipe in on_path}

        def fits(recipe: Recipe) -> bool:
            return recipe.output not in outputs and (limit is None or len(recipe.ingredients) <= limit)

        names = dict.fromkeys(name for recipe in on_path for name, _ in recipe.ingredients)
        related = [r for r in dict.fromkeys(use for name in names for use in self.book.uses_of[name]) if fits(r)]
        distractors = rng.sample(related, min(len(related), settings["distractors"]))
        if settings["variants"] > 1:  # unlike upstream, where a goal with lonely ingredients has fewer
            others = [recipe for recipe in self.book.recipes if fits(recipe) and recipe not in distractors]
            distractors += rng.sample(others, settings["distractors"] - len(distractors))
        shown = [recipe.command for recipe in (*on_path, *distractors)]
        rng.shuffle(shown)
        return goal, shown

    def task_type(self, level: int, id: int, seed: int) -> str:
        goals = self._goals(level)
        depth = self.book.depth[goals[id % len(goals)]]
        return f"{depth} step{'s' if depth > 1 else ''}"

    def content(self, level: int, id: int, seed: int) -> Content | None:
        size = self.size(level)
        if size is not None and not 0 <= id < size:
            return None
        goal, shown = self._build(level, id, seed)
        return Content(digest(self.name, goal, *sorted(shown)), digest(self.name, goal))

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        self.task = task
        self.goal, shown = self._build(task.level, task.id, task.seed)
        self.inventory: dict[str, int] = {}
        self.done = False
        self.observation = "Crafting commands:\n" + "\n".join(shown) + f"\n\nGoal: craft {self.goal}."
        return self.opening(self.observation)

    def step(self, reply: str) -> StepResult:
        if self.done:
            return StepResult("The goal has been crafted.", 0.0, True, False)
        if reply.count("Action:") > 1:
            return StepResult("Error: a reply may hold only one 'Action:'.", 0.0, False, False)
        action = " ".join((single_action(reply) or "").split())
        try:
            observation = self._act(action)
        except _Refused as refusal:
            return StepResult(str(refusal), 0.0, False, False)
        return StepResult(observation, float(self.done), self.done)

    def _act(self, action: str) -> str:
        """Carry out one action and say what came of it. Raises _Refused where it can't be done."""
        if found := _CRAFT.match(action):
            return self._craft(found[1], found[2])
        if found := _GET.match(action):
            return self._get(int(found[1]), found[2])
        if action.startswith("inventory"):
            held = " ".join(f"[{name}] ({count})" for name, count in self.inventory.items())
            return f"Inventory: {held or 'You are not carrying anything.'}"
        raise _Refused(f"Could not execute {action}")

    def _get(self, count: int, name: str) -> str:
        if not self.book.gettable(name):
            raise _Refused(f"Could not find {name}")
        self.inventory[name] = self.inventory.get(name, 0) + count
        return f"Got {count} {name}"

    def _craft(self, output: str, ingredients: str) -> str:
        numbered = _STACK.match(output)
        output = numbered[2] if numbered else output
        stacks: list[tuple[str, int]] = []
        for part in ingredients.split(","):
            found = _STACK.match(part.strip())
            if not found:
                raise _Refused(f"Wrong item format: {part.strip()}")
            stacks.append((found[2], int(found[1])))
        if any(self.inventory.get(name, 0) < count for name, count in stacks):
            raise _Refused(f"Could not find enough items to craft {self._name(output)}")
        recipe = next((r for r in self.book.recipes_of.get(output, []) if self._matches(r, stacks)), None)
        if recipe is None:
            missing = int(numbered[1]) if numbered else 1
            raise _Refused(f"Could not find a valid recipe for {self._missing(output, missing)}")
        for name, count in stacks:
            self.inventory[name] -= count
            if self.inventory[name] == 0:
                del self.inventory[name]
        self.inventory[output] = self.inventory.get(output, 0) + recipe.made
        self.done = output == self.goal
        return f"Crafted {recipe.made} {self._name(output)}"

    def _matches(self, recipe: Recipe, stacks: Sequence[tuple[str, int]]) -> bool:
        """Whether each stack is one ingredient of the recipe, in its exact count, and none is missing."""
        left = list(stacks)
        # Exact names first, so that a concrete ingredient is not spent on a tag.
        for name, count in sorted(recipe.ingredients, key=lambda ingredient: ingredient[0] in self.book.tags):
            fitting = [stack for stack in left if stack[1] == count and self._serves(stack[0], name)]
            if not fitting:
                return False
            left.remove(fitting[0])
        return not left

    def _serves(self, item: str, ingredient: str) -> bool:
        """Whether `item` can be used where a recipe asks for `ingredient`."""
        if item == ingredient:
            return ingredient not in self.book.tags or self.book.gettable(ingredient)
        if self.raw and self.book.gettable(ingredient):
            return False
        wanted = self.book.tags.get(ingredient, ())
        return item in wanted or (item in self.book.tags and set(self.book.tags[item]) <= set(wanted))

    def _name(self, item: str) -> str:
        return f"minecraft:{item.replace(' ', '_')}" if self.raw else item

    def _missing(self, item: str, count: int) -> str:
        if not self.raw:
            return item
        return f"ItemTagWithCount(item_tag=ItemTag(tag=None, item_id='{self._name(item)}'), count={count})"

    def score(self) -> float:
        return float(self.done)

    def solved(self) -> bool:
        return self.done


class _Refused(Exception):  # noqa: N818 - an observation, not a fault
    """An action that can't be done; the message is the observation."""


@cache
def _goals(depths: tuple[int, ...], max_ingredients: int | None) -> list[str]:
    return recipe_book().goals(depths, max_ingredients)
