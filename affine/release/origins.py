"""Where the tasks of an environment come from, by level: what the model card says of its data.

The texts are about content, not about code. A licence stands only where we know it; data that a user brings keeps
the terms under which it was got.
"""

from __future__ import annotations

from collections.abc import Iterable

from affine.params import TaskSet

GENERATED = {
    "sat": "generated formulas",
    "abd": "generated programs, run in a sandbox",
    "ded": "generated programs, run in a sandbox",
    "webshop": "generated catalogue, after AgentGym's WebShop (MIT)",
    "alfworld": "games generated from ALFWorld's floor plans (MIT)",
    "babyai": "minigrid (MIT), worded like AgentGym's BabyAI (MIT)",
    "sciworld": "ScienceWorld (Apache-2.0)",
    "textcraft": "Minecraft's recipes from minecraft-data (MIT)",
}
"""What comes with the pipeline: all levels but those of `BROUGHT`."""

_ROWS = "rows of the rl-python data set, brought by the user under its own terms, run in a sandbox"
_SHOP = "WebShop's own products and {} goals, brought by the user under their own terms"

BROUGHT = {
    ("abd", 6): _ROWS,
    ("ded", 6): _ROWS,
    ("webshop", 7): _SHOP.format("synthetic"),
    ("webshop", 8): _SHOP.format("human"),
    ("alfworld", 5): "ALFWorld's own games, downloaded by the user under their own terms",
}
"""(environment, level) whose content is no part of the pipeline."""

OWN = "an environment of the user's own"

BROUGHT_IDS = {"abd": 6, "ded": 6, "webshop": 7}
"""The level of upstream's own ids (`tasks.ENV.test_ids`) where those are of data that the user brings."""


def origin(env: str, levels: Iterable[int]) -> str:
    """What tasks of these levels are made from, and its licence; level by level where they differ."""
    texts: dict[str, list[int]] = {}
    for level in levels:
        texts.setdefault(BROUGHT.get((env, level)) or GENERATED.get(env, OWN), []).append(level)
    if len(texts) == 1:
        return next(iter(texts))
    return "; ".join(f"level {', '.join(map(str, which))}: {text}" for text, which in texts.items())


def used_levels(env: str, tasks: TaskSet) -> tuple[int, ...]:
    """The levels of all tasks, as far as they tell where a task comes from: those of the test tasks, too, where these
    are named by upstream's ids."""
    tested = {BROUGHT_IDS[env]} if tasks.test_ids and env in BROUGHT_IDS else set()
    return tuple(sorted({*tasks.levels, *tested}))
