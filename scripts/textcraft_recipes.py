"""Derive TextCraft's recipe table from Minecraft 1.16.2's game data.

    python scripts/textcraft_recipes.py            # writes affine/envs/engines/textcraft/recipes.json

Source: the PyPI package `minecraft-data` (MIT; extra `tables`), files `items.json` and `recipes.json`
of PC version 1.16.2. There every crafting recipe is spelled out for each concrete item, so that a
chest has eight recipes, one for each kind of planks. This script

1. reduces each recipe to counts, because TextCraft's commands have no grid;
2. folds recipes that differ only in the member of a known tag into one recipe over the tag. The tags
   are listed below, since folding whatever happens to vary would also invent a tag "cornflower or
   lapis lazuli";
3. drops unpacking recipes (iron block -> 9 iron ingots) where the packing inverse exists, since the
   items would otherwise be craftable from each other and from nothing else;
4. drops the recipes of `BASE` items. Honey bottles and honey blocks are only made from each other, which
   step 3 doesn't see because the way back also takes glass bottles; bees fill bottles, so bottles come first.

The table is sorted and holds one recipe a line, so that a change of the source shows in a diff.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

VERSION = "1.16.2"
TABLE = Path(__file__).resolve().parent.parent / "affine" / "envs" / "engines" / "textcraft" / "recipes.json"

WOODS = ("acacia", "birch", "dark oak", "jungle", "oak", "spruce")
STEMS = ("crimson", "warped")
DYES = (
    "black",
    "blue",
    "brown",
    "cyan",
    "gray",
    "green",
    "light blue",
    "light gray",
    "lime",
    "magenta",
    "orange",
    "pink",
    "purple",
    "red",
    "white",
    "yellow",
)
BASE = ("honey bottle",)

Recipe = tuple[str, int, tuple[tuple[str, int], ...]]
"""Output, how many one application makes, and the ingredients with their counts, sorted by name."""


def tags() -> dict[str, tuple[str, ...]]:
    """Minecraft's item tags that recipes use, by name, widest first (the order in which they are folded)."""
    logs = {f"{wood} logs": _bark(wood, "log", "wood") for wood in WOODS}
    logs |= {f"{stem} stems": _bark(stem, "stem", "hyphae") for stem in STEMS}
    kinds = WOODS + STEMS
    return {
        "logs": tuple(sorted(log for members in logs.values() for log in members)),
        **logs,
        "wool": tuple(sorted(f"{dye} wool" for dye in DYES)),
        "planks": tuple(sorted(f"{kind} planks" for kind in kinds)),
        "wooden slabs": tuple(sorted(f"{kind} slab" for kind in kinds)),
        "coals": ("charcoal", "coal"),
        "stone crafting materials": ("blackstone", "cobblestone"),
        "soul fire base blocks": ("soul sand", "soul soil"),
    }


def _bark(wood: str, log: str, bark: str) -> tuple[str, ...]:
    return tuple(sorted(f"{stripped}{wood} {part}" for stripped in ("", "stripped ") for part in (log, bark)))


def source_folder() -> Path:
    """Where the installed `minecraft-data` keeps the version's files.

    Raises SystemExit with the remedy where the package is missing.
    """
    spec = find_spec("minecraft_data")
    if spec is None or spec.origin is None:
        raise SystemExit("minecraft-data is not installed; install the extra: pip install -e '.[tables]'")
    return Path(spec.origin).parent / "data" / "data" / "pc" / VERSION


def concrete_recipes(items: Sequence[Mapping[str, Any]], recipes: Mapping[str, Any]) -> set[Recipe]:
    """Every recipe of the source as counts of concrete items."""
    names = {item["id"]: str(item["name"]).replace("_", " ") for item in items}
    found: set[Recipe] = set()
    for variants in recipes.values():
        for recipe in variants:
            cells = recipe.get("ingredients") or [cell for row in recipe["inShape"] for cell in row]
            used = [names[cell] for cell in cells if cell is not None]
            counts = tuple(sorted((name, used.count(name)) for name in set(used)))
            found.add((names[recipe["result"]["id"]], recipe["result"]["count"], counts))
    return found


def fold(recipes: set[Recipe], tag: str, members: Sequence[str]) -> set[Recipe]:
    """Replace each complete family of recipes, one for every member of `tag`, by one recipe over the tag."""
    families: dict[Recipe, dict[str, Recipe]] = {}
    for recipe in recipes:
        output, made, ingredients = recipe
        used = [name for name, _ in ingredients if name in members]
        if len(used) == 1:
            general = tuple(sorted((tag if name == used[0] else name, count) for name, count in ingredients))
            families.setdefault((output, made, general), {})[used[0]] = recipe
    folded = set(recipes)
    for general_recipe, family in families.items():
        if len(family) == len(members):
            folded -= set(family.values())
            folded.add(general_recipe)
    return folded


def without_unpacking(recipes: set[Recipe]) -> set[Recipe]:
    """Drop `1 block -> n items` where `n items -> 1 block` exists."""

    def unpacks(recipe: Recipe) -> bool:
        output, made, ingredients = recipe
        if made == 1 or len(ingredients) != 1 or ingredients[0][1] != 1:
            return False
        return (ingredients[0][0], 1, ((output, made),)) in recipes

    return {recipe for recipe in recipes if not unpacks(recipe)}


def build(items: Sequence[Mapping[str, Any]], recipes: Mapping[str, Any]) -> str:
    """The table's text."""
    found = concrete_recipes(items, recipes)
    for tag, members in tags().items():
        found = fold(found, tag, members)
    found = without_unpacking(found)
    found = {recipe for recipe in found if recipe[0] not in BASE}
    used = {name for _, _, ingredients in found for name, _ in ingredients}
    lines = [json.dumps([output, made, dict(ingredients)]) for output, made, ingredients in sorted(found)]
    tag_lines = [f"{json.dumps(tag)}: {json.dumps(members)}" for tag, members in sorted(tags().items()) if tag in used]
    return (
        "{\n"
        f'"source": "Minecraft {VERSION} by PyPI minecraft-data (MIT), scripts/textcraft_recipes.py",\n'
        '"tags": {\n' + ",\n".join(tag_lines) + "\n},\n"
        '"recipes": [\n' + ",\n".join(lines) + "\n]\n}\n"
    )


def main() -> None:
    folder = source_folder()
    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    recipes = json.loads((folder / "recipes.json").read_text(encoding="utf-8"))
    text = build(items, recipes)
    TABLE.write_text(text, encoding="utf-8")
    print(f"{TABLE.name}: {len(json.loads(text)['recipes'])} recipes")


if __name__ == "__main__":
    main()
