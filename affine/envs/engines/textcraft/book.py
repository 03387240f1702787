"""Minecraft's crafting recipes as TextCraft uses them: what can be got, what is made of what, how deep."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("recipes.json")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One application makes `made` of `output` out of the ingredients (name, count)."""

    output: str
    made: int
    ingredients: tuple[tuple[str, int], ...]

    @property
    def command(self) -> str:
        """The recipe as the action that applies it."""
        return (
            f"craft {self.made} {self.output} using {', '.join(f'{count} {name}' for name, count in self.ingredients)}"
        )


class RecipeBook:
    """Minecraft 1.16.2's crafting recipes: a directed graph from items to their ingredients.

    An ingredient may be a tag ("planks"), for which any of its members serves. A tag that has a member
    without a recipe ("oak logs", of which "oak log" grows on trees) is also an item one can get.
    """

    def __init__(self, recipes: Iterable[Recipe], tags: Mapping[str, Sequence[str]]) -> None:
        self.recipes = tuple(recipes)
        self.tags = {tag: tuple(members) for tag, members in sorted(tags.items())}
        self.recipes_of: dict[str, list[Recipe]] = {}
        self.uses_of: dict[str, list[Recipe]] = {}
        for recipe in self.recipes:
            self.recipes_of.setdefault(recipe.output, []).append(recipe)
            for name, _ in recipe.ingredients:
                self.uses_of.setdefault(name, []).append(recipe)
        members = {member for group in self.tags.values() for member in group}
        self.names = frozenset(self.recipes_of) | frozenset(self.uses_of) | members
        self.depth = self._depths()

    def gettable(self, name: str) -> bool:
        """Whether `get` finds it: a known item without a recipe, or a tag with such a member."""
        if name in self.tags:
            return any(member not in self.recipes_of for member in self.tags[name])
        return name in self.names and name not in self.recipes_of

    def sources(self, name: str) -> tuple[str, ...]:
        """The items to craft where `name` is wanted: its members if it is a tag, else itself."""
        return self.tags.get(name, (name,))

    def _depths(self) -> dict[str, int]:
        """Crafting steps above what one can get: 0, or 1 + the deepest ingredient of the flattest recipe."""
        depth = {name: 0 for name in sorted(self.names) if self.gettable(name)}
        for level in range(1, len(self.names)):
            found: dict[str, int] = {}
            for recipe in self.recipes:
                if recipe.output not in depth and all(name in depth for name, _ in recipe.ingredients):
                    found[recipe.output] = level
            for tag, members in self.tags.items():
                if tag not in depth and any(member in found for member in members):
                    found[tag] = level
            if not found:
                break
            depth |= found
        return depth

    def flattest(self, item: str) -> list[Recipe]:
        """The recipes of `item` that give it its depth; following them alone can't run in circles."""
        return [
            recipe
            for recipe in self.recipes_of[item]
            if 1 + max(self.depth.get(name, len(self.names)) for name, _ in recipe.ingredients) == self.depth[item]
        ]

    def goals(self, depths: Sequence[int], max_ingredients: int | None = None) -> list[str]:
        """The craftable items of these depths, by depth and then by name: the same on every machine.

        With `max_ingredients`, only those that have a flattest recipe of so few different ingredients.
        """
        return [
            item
            for item in sorted(self.recipes_of, key=lambda name: (self.depth.get(name, 0), name))
            if self.depth.get(item) in depths
            and any(max_ingredients is None or len(r.ingredients) <= max_ingredients for r in self.flattest(item))
        ]

    def tree(self, goal: str) -> list[Recipe]:
        """Every recipe that may serve on the way to `goal`, over all alternatives."""
        found: list[Recipe] = []
        waiting, seen = [goal], {goal}
        while waiting:
            name = waiting.pop()
            if self.gettable(name):
                continue
            for recipe in [recipe for item in self.sources(name) for recipe in self.recipes_of.get(item, [])]:
                if recipe not in found:
                    found.append(recipe)
                for ingredient, _ in recipe.ingredients:
                    if ingredient not in seen:
                        seen.add(ingredient)
                        waiting.append(ingredient)
        return found

    def path(self, goal: str, rng: random.Random, max_ingredients: int | None) -> list[Recipe]:
        """One way to `goal`: a single flattest recipe for each item that has to be crafted."""
        found: dict[str, Recipe] = {}
        waiting = [goal]
        while waiting:
            name = waiting.pop()
            if self.gettable(name) or any(item in found for item in self.sources(name)):
                continue
            item = rng.choice([item for item in self.sources(name) if self.depth.get(item) == self.depth[name]])
            choices = self.flattest(item)
            short = [r for r in choices if max_ingredients is None or len(r.ingredients) <= max_ingredients]
            found[item] = rng.choice(short or choices)
            waiting.extend(ingredient for ingredient, _ in found[item].ingredients)
        return list(found.values())


@cache
def recipe_book() -> RecipeBook:
    """The recipe book, read once from the table that scripts/textcraft_recipes.py makes."""
    table = json.loads(TABLE.read_text(encoding="utf-8"))
    recipes = (Recipe(output, made, tuple(counts.items())) for output, made, counts in table["recipes"])
    return RecipeBook(recipes, table["tags"])
