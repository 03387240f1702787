"""BabyAI in words: what the agent sees, and the macro actions it may answer with.

minigrid shows the agent a 7 x 7 field: column 3 is straight ahead, row 6 its own. Everything here is computed from
that field alone, so neither the text nor a macro action can know what is out of sight. AgentGym's BabyAI server set
the sentences and the action grammar that are followed here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Wording = Literal["brief", "full"]

LEFT, RIGHT, FORWARD, PICKUP, DROP, TOGGLE, WAIT = range(7)
"""minigrid's primitive actions; its last one, "done", changes nothing but lets the verifier look again."""

_STEPS = ((0, -1), (1, 0), (0, 1), (-1, 0))
"""(column, row) moved by a step in each heading: ahead, right, back, left."""

_THINGS = ("door", "key", "ball", "box")


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in view. `forward` and `right` count cells from the agent; `state` is a door's."""

    color: str
    type: str
    state: str
    forward: int
    right: int
    name: str


@dataclass(frozen=True, slots=True)
class View:
    """The field in view: things nearest first, what stands straight ahead and how far, what is carried, and the
    shortest way (primitive actions) to stand before each reachable thing, by its name."""

    things: tuple[Thing, ...]
    ahead: str
    distance: int
    carrying: tuple[str, str] | None
    ways: Mapping[str, tuple[int, ...]]

    @property
    def front(self) -> Thing | None:
        """The thing in the cell directly ahead."""
        return next((thing for thing in self.things if thing.forward == 1 and thing.right == 0), None)


def look(world: Any, wording: Wording) -> View:
    """What the agent of `world` (a minigrid environment) sees now."""
    from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT, STATE_TO_IDX

    image = world.gen_obs()["image"].tolist()
    states = {number: name for name, number in STATE_TO_IDX.items()}
    middle, own_row = len(image) // 2, len(image) - 1
    found = []
    for column, cells in enumerate(image):
        for row, (kind, color, state) in enumerate(cells):
            name = IDX_TO_OBJECT[kind]
            if name in _THINGS and (column, row) != (middle, own_row):
                door = states[state] if name == "door" else ""
                found.append((own_row - row, column - middle, IDX_TO_COLOR[color], name, door))
    found.sort(key=lambda thing: (thing[0] + abs(thing[1]), thing))
    things = _named(found, wording)
    free = {
        (column, row)
        for column, cells in enumerate(image)
        for row, (kind, _, state) in enumerate(cells)
        if IDX_TO_OBJECT[kind] in ("empty", "floor") or (IDX_TO_OBJECT[kind] == "door" and states[state] == "open")
    }
    ahead, distance = "", 0
    for forward in range(1, own_row + 1):
        kind = IDX_TO_OBJECT[image[middle][own_row - forward][0]]
        if kind == "unseen":
            break
        if (middle, own_row - forward) not in free:
            ahead, distance = kind, forward
            break
    carried = (world.carrying.color, world.carrying.type) if world.carrying else None
    return View(things, ahead, distance, carried, _ways(things, free, middle, own_row))


def _named(found: list[tuple[int, int, str, str, str]], wording: Wording) -> tuple[Thing, ...]:
    counts: dict[str, int] = {}
    things = []
    for forward, right, color, kind, door in found:
        shown = "" if wording == "brief" and door == "closed" else door
        base = " ".join(part for part in (color, shown, kind) if part)
        counts[base] = counts.get(base, 0) + 1
        numbered = wording == "full" or counts[base] > 1
        name = f"{base} {counts[base]}" if numbered else base
        things.append(Thing(color, kind, door, forward, right, name))
    return tuple(things)


def _ways(
    things: tuple[Thing, ...], free: set[tuple[int, int]], middle: int, own_row: int
) -> dict[str, tuple[int, ...]]:
    """Breadth-first search over (cell, heading) inside the field."""
    wanted = {(middle + thing.right, own_row - thing.forward): thing.name for thing in things}
    ways: dict[str, tuple[int, ...]] = {}
    start = (middle, own_row, 0)
    came: dict[tuple[int, int, int], tuple[int, ...]] = {start: ()}
    queue = deque([start])
    while queue and len(ways) < len(wanted):
        column, row, heading = state = queue.popleft()
        way = came[state]
        step = _STEPS[heading]
        facing = (column + step[0], row + step[1])
        if facing in wanted:
            ways.setdefault(wanted[facing], way)
        nexts = [((column, row, (heading - 1) % 4), LEFT), ((column, row, (heading + 1) % 4), RIGHT)]
        if facing in free:
            nexts.insert(0, ((*facing, heading), FORWARD))
        for after, action in nexts:
            if after not in came:
                came[after] = (*way, action)
                queue.append(after)
    return ways


def moves(view: View, *, mended: bool) -> dict[str, tuple[int, ...]]:
    """The available actions in the order of the list, each with its primitive actions.

    Where `mended`, a box directly ahead can be opened (upstream offers `toggle` for doors only), and going to what
    is already directly ahead takes one waiting step, so that the engine notices the arrival (upstream takes none).
    """
    listed: dict[str, tuple[int, ...]] = {"turn left": (LEFT,), "turn right": (RIGHT,)}
    if view.distance != 1:
        listed["move forward"] = (FORWARD,)
    for thing in view.things:
        if thing.name not in view.ways:
            continue
        way = view.ways[thing.name]
        listed[f"go to {thing.name}"] = way or ((WAIT,) if mended else ())
        if thing.type != "door":
            if view.carrying is None:
                listed[f"pickup {thing.name}"] = (*way, PICKUP)
        elif thing.state == "open":
            listed[f"go through {thing.name}"] = (*way, FORWARD)
        elif _opens(thing, view):
            listed[f"toggle and go through {thing.name}"] = (*way, TOGGLE, FORWARD)
    if view.carrying is not None:
        listed["drop"] = (DROP,)
    front = view.front
    if front is not None and (_opens(front, view) or (mended and front.type == "box")):
        listed["toggle"] = (TOGGLE,)
    return listed


def _opens(thing: Thing, view: View) -> bool:
    """Whether `thing` is a door that a toggle would open now."""
    return thing.type == "door" and (
        thing.state == "closed" or (thing.state == "locked" and view.carrying == (thing.color, "key"))
    )


def describe(view: View, wording: Wording, *, positions: bool) -> str:
    """The state in words; `positions` adds to the brief wording where each thing is."""
    if wording == "brief":
        names = [_brief_place(thing) if positions else thing.name for thing in view.things]
        text = f"See: {', '.join(names) or 'nothing'}."
        return f"{text} Carry: {' '.join(view.carrying)}." if view.carrying else text
    sentences = []
    for thing in view.things:
        if thing.right == 0:
            sentences.append(f"There is a {thing.name} right in front of you {thing.forward} steps away.")
        else:
            side = "right" if thing.right > 0 else "left"
            sentences.append(
                f"There is a {thing.name} {thing.forward} steps in front of you and {abs(thing.right)} steps to "
                f"your {side}."
            )
    if view.ahead:
        sentences.append(f"You are facing a {view.ahead} {view.distance} steps away.")
    carried = f"a {' '.join(view.carrying)}" if view.carrying else "nothing"
    return " ".join([*sentences, f"You are carrying {carried}."])


def _brief_place(thing: Thing) -> str:
    ahead = [f"{thing.forward} ahead"] if thing.forward else []
    side = [f"{abs(thing.right)} {'right' if thing.right > 0 else 'left'}"] if thing.right else []
    return f"{thing.name}: {' '.join([*ahead, *side])}"


def list_moves(listed: Mapping[str, tuple[int, ...]], wording: Wording) -> str:
    """The line that names the available actions."""
    if wording == "brief":
        return f"Actions: {', '.join(listed)}"
    names = ", ".join(f'"{name}"' for name in [*listed, "check available actions"])
    return f"Available actions: [{names}]"
