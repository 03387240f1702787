"""Reading actions out of ReAct replies ("Thought: ... Action: ..."), as AgentGym's clients did."""

from __future__ import annotations

import re

_MARK = "Action:"
_LINE = re.compile(r"Action:\s*(.*)")
_KEEP = re.compile(r"[^A-Za-z0-9, ]+")


def last_action(reply: str) -> str | None:
    """The text after the last "Action:", stripped; None where there is no mark.

    WebShop, ALFWorld and ScienceWorld read replies like this.
    """
    _, mark, tail = reply.rpartition(_MARK)
    return tail.strip() if mark else None


def single_action(reply: str) -> str | None:
    """The line after the only "Action:", reduced to letters, digits, commas and spaces; None where there
    is no mark or more than one.

    BabyAI and TextCraft read replies like this: two marks are an error there.
    """
    if reply.count(_MARK) != 1:
        return None
    found = _LINE.search(reply)
    return _KEEP.sub("", found.group(1)).strip() if found else None
