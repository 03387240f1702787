"""ScienceWorld's texts made brief: the task in one sentence, the things in view by name.

The full texts run to 150 words a look. The brief ones keep what the tasks of the lowest level need, by fixed rules
and from the engine's text alone: nothing is shown that the engine did not say.
"""

from __future__ import annotations

import re

_WORDS = 12
"""Words of the engine's answer that a brief observation keeps."""

_FURNITURE = frozenset(
    (
        "agent",
        "ground",
        "bathtub",
        "bed",
        "bee hive",
        "blast furnace",
        "book shelf",
        "chair",
        "closet",
        "couch",
        "counter",
        "cupboard",
        "desk",
        "drain",
        "drawer",
        "fire pit",
        "fountain",
        "freezer",
        "fridge",
        "large cupboard",
        "oven",
        "sink",
        "stove",
        "table",
        "toilet",
        "ultra low temperature freezer",
    )
)

_PLACE = re.compile(r"called the (?P<place>[a-z ]+)\.")
_ARTICLE = re.compile(r"^(?:an?|the) ")
_FIND = re.compile(r"find a\(n\) (?P<kind>.+?)\. .* move it to (?P<box>the .+ box in the .+?)\.$")
_LIFE = re.compile(r"life span")


def place(look: str) -> str:
    """The name of the place in a look around; empty where the text names none."""
    found = _PLACE.search(look)
    return found["place"] if found else ""


def things(look: str) -> list[str]:
    """The movable things in a look around, in the engine's order, without articles. What lies on furniture is
    listed; furniture, substances and what is inside of things are not."""
    inside = look.partition("You also see")[0]
    names: list[str] = []
    for line in inside.split("\n")[1:]:
        for name in _named(line.strip()):
            if name not in names:
                names.append(name)
    return names


def _named(line: str) -> list[str]:
    if not line or "substance called" in line.partition("(")[0].partition(".")[0]:
        return []
    head, _, rest = line.partition(". ")
    name = _name(head)
    found = [] if name in _FURNITURE else [name]
    on = re.search(r"On the [a-z ]+ is: (?P<list>.*)", rest)
    if on:
        parts = (part for part in _split(on["list"]) if "substance called" not in part.partition("(")[0])
        found += [inner for inner in map(_name, parts) if inner and inner != "nothing" and inner not in _FURNITURE]
    return found


def _name(text: str) -> str:
    """A thing's name, without article, state and contents."""
    return _ARTICLE.sub("", re.split(r"[(,.]", text.strip())[0].strip())


def _split(text: str) -> list[str]:
    """Split an enumeration at the commas outside of brackets; clauses of state ("which is off") are no items."""
    parts, depth = [""], 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += c
    return [part.strip() for part in parts if not part.strip().startswith(("which ", "currently "))]


def brief_look(look: str) -> str:
    """What the agent could take where it is."""
    return f"See: {', '.join(things(look)) or 'nothing'}."


def ambiguous(text: str) -> bool:
    """Whether the engine asks which of several things alike is meant; it takes the next action for the answer."""
    return text.startswith("Ambiguous request")


def brief_feedback(text: str) -> str:
    """The first words of the engine's answer, on one line; of its question which of several alike is meant, the
    numbers to answer with."""
    if ambiguous(text):
        numbers = re.findall(r"^(\d+):", text, re.MULTILINE)
        return f"Which one? Answer with a number: {', '.join(numbers[:4])}."
    words = text.split()
    return " ".join(words[:_WORDS]) + (" ..." if len(words) > _WORDS else "")


def brief_task(description: str) -> str:
    """The task in one sentence; the engine's own words where it is of no type that has a short form."""
    found = _FIND.search(description)
    if found:
        article = "an" if found["kind"][0] in "aeiou" else "a"
        return f"Task: focus on {article} {found['kind']}, then move it to {found['box']}."
    if _LIFE.search(description) and "outside" in description:
        longest, shortest = "longest life span" in description, "shortest life span" in description
        which = "longest, then the shortest" if longest and shortest else "longest" if longest else "shortest"
        return f"Task: focus on the animal with the {which} life. Animals are outside."
    return " ".join(description.split())
