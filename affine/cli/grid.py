"""BabyAI's grid as coloured text, for people."""

from __future__ import annotations

from typing import Any

from rich.text import Text

COLOURS = {"red": "red", "green": "green", "blue": "blue", "purple": "magenta", "yellow": "yellow", "grey": "white"}
THINGS = {"key": "K", "ball": "O", "box": "B"}
HEADINGS = ">v<^"
"""The agent, by minigrid's heading: right, down, left, up."""
LEGEND = "> you   K key   O ball   B box   D door   L locked   / open   dim: out of sight"


def picture(env: Any) -> Text:
    """The world of a BabyAI environment after `reset`: two characters a cell, a legend, what is carried."""
    world = env.world
    text = Text()
    for y in range(world.height):
        for x in range(world.width):
            symbol, style = _cell(world, x, y)
            text.append(symbol * 2 if symbol == "█" else f"{symbol} ", style)
        text.append("\n")
    if world.carrying:
        text.append("carrying ").append(f"{world.carrying.color} {world.carrying.type}\n", _colour(world.carrying))
    return text.append(LEGEND, "dim")


def _cell(world: Any, x: int, y: int) -> tuple[str, str]:
    if (x, y) == tuple(world.agent_pos):
        return HEADINGS[world.agent_dir], "bold reverse"
    thing = world.grid.get(x, y)
    if thing is None:
        return "·", "dim"
    if thing.type == "wall":
        return "█", "bright_black"
    if thing.type == "door":
        symbol = "/" if thing.is_open else "L" if thing.is_locked else "D"
    else:
        symbol = THINGS.get(thing.type, "?")
    seen = world.in_view(x, y) and world.agent_sees(x, y)
    return symbol, f"{'bold' if seen else 'dim'} {_colour(thing)}"


def _colour(thing: Any) -> str:
    return COLOURS.get(thing.color, "default")
