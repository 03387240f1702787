"""Experts' reasons follow from what was shown: what a thought names was in sight before, and what it claims holds.

Names are found by each environment's own vocabulary (item table, object names, the episode's texts and actions), not by
the code that writes thoughts.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from affine.collect.play import play
from affine.envs.abd import Abd
from affine.envs.ded import Ded
from affine.envs.engines.programs.program_env import execute_own
from affine.envs.engines.sciworld.text import things
from affine.envs.env import make
from affine.envs.sciworld_expert import PLACES, reason
from affine.tasks import draw_tasks
from affine.types import Split, Trajectory

ENGINES = Path(__file__).parents[1] / "affine" / "envs" / "engines"


def episodes(name: str, level: int, count: int, noise: float = 0.1) -> Iterator[Trajectory]:
    """Episodes by the expert with reasons, some turns without insight."""
    with closing(make(name)) as env:
        for task in draw_tasks(env, level, 0, {Split.TRAIN: count}):
            yield play(env, task, random.Random(task.id), style="thought", noise=noise)


def said(trajectory: Trajectory) -> Iterator[tuple[str, str]]:
    """(thought, everything shown before it), turn by turn."""
    shown = "\n".join(message.content for message in trajectory.opening)
    for turn in trajectory.turns:
        head, mark, _ = turn.text.rpartition("\nAction: ")
        yield (head if mark else "", shown)
        shown += f"\n{turn.observation}"


def strays(trajectory: Trajectory, names_in: Callable[[str], set[str]]) -> list[tuple[str, str]]:
    """(name, thought) wherever a thought names what was not shown before it."""
    return [
        (name, thought)
        for thought, shown in said(trajectory)
        for name in names_in(thought)
        if not re.search(rf"(?<!\w){re.escape(name)}s?(?!\w)", shown, re.IGNORECASE)
    ]


def matches(pattern: str) -> Callable[[str], set[str]]:
    return lambda text: {found[0] for found in re.finditer(pattern, text, re.IGNORECASE)}


GRID = r"\b(?:red|green|blue|purple|yellow|grey)( open| closed| locked)? (?:door|key|ball|box)\b( \d+)?"
RECEPTACLE_OR_OBJECT = r"\b[a-z]+ \d+\b"


@pytest.mark.parametrize(
    ("name", "level", "count", "pattern"),
    [
        ("babyai", 0, 20, GRID),
        ("babyai", 1, 20, GRID),
        ("babyai", 2, 8, GRID),
        ("babyai", 4, 8, GRID),
        ("alfworld", 0, 15, RECEPTACLE_OR_OBJECT),
        ("alfworld", 3, 8, RECEPTACLE_OR_OBJECT),
        ("webshop", 0, 15, r"\bb[0-9a-z]{3,9}\b"),
        ("webshop", 3, 8, r"\bB[0-9A-Z]{9}\b"),
    ],
)
def test_thoughts_name_what_was_shown(name: str, level: int, count: int, pattern: str) -> None:
    named = 0
    for trajectory in episodes(name, level, count):
        assert not strays(trajectory, matches(pattern))
        named += sum(bool(matches(pattern)(thought)) for thought, _ in said(trajectory))
    assert named >= count / 2, "thoughts name things"


@pytest.mark.parametrize("level", [0, 3])
def test_textcraft_thoughts_name_items_that_were_shown(level: int) -> None:
    book = json.loads((ENGINES / "textcraft" / "recipes.json").read_text(encoding="utf-8"))
    items = {name.lower().replace("_", " ") for name in re.findall(r'"([a-z_ ]{4,})"', json.dumps(book))}

    pattern = "|".join(re.escape(item) for item in sorted(items, key=len, reverse=True))  # the longest name counts
    for trajectory in episodes("textcraft", level, 12):
        assert not strays(trajectory, matches(rf"(?<!\w)(?:{pattern})(?!\w)"))


@pytest.mark.parametrize(("level", "count"), [(0, 4), (2, 5)])
def test_scienceworld_thoughts_name_what_was_shown(level: int, count: int) -> None:
    """The vocabulary is all that the whole episode shows or handles, so also what the gold path knows too early."""
    told = 0
    for trajectory in episodes("sciworld", level, count):
        texts = [message.content for message in trajectory.opening] + [turn.observation for turn in trajectory.turns]
        actions = [turn.text.rpartition("Action: ")[2] for turn in trajectory.turns]
        vocabulary = {name for text in texts for name in things(text) if len(name) > 3}
        vocabulary |= {name for action in actions for name in re.split(r"\b(?:to|in|into|on|up|with)\b ", action)[1:]}
        vocabulary = {name.strip() for name in vocabulary if not name.strip().isdigit()} - {"", *PLACES}

        def names_in(text: str, known: set[str] = vocabulary) -> set[str]:
            return {name for name in known if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)}

        assert not strays(trajectory, names_in)
        told += sum(bool(names_in(thought)) for thought, _ in said(trajectory))
    assert told >= count / 2


def test_a_scienceworld_reason_keeps_to_what_was_shown() -> None:
    task = "Your task is to boil water. First, focus on the substance."
    assert (
        reason("pick up metal pot", task, "You see a metal pot.", "")
        == "To boil water: I see the metal pot, I take it."
    )
    assert (
        reason("pick up metal pot", task, "You move.", "a metal pot")
        == "To boil water: I have seen the metal pot, I take it."
    )
    assert reason("focus on water", task, "", "").startswith("To boil water: the task names the water")
    hidden = reason("pour jug into metal pot", task, "a cupboard", "a sink")
    assert "jug" not in hidden
    assert "pot" not in hidden


def test_abd_tells_a_search_whose_every_claim_holds() -> None:
    """Each input that a thought tries is run in the sandbox: the last gives the output, those before do not."""
    env = Abd()
    tried_before = 0
    for level in (1, 2, 3, 4, 5):
        for task in draw_tasks(env, level, 0, {Split.TRAIN: 12}):
            (turn,) = play(env, task, random.Random(0), style="thought").turns
            thought = turn.text.partition("<INPUT>")[0].strip()
            assert len(thought.split()) <= 40
            *failed, right = re.findall(r"Try (.+?): (.+?): (?:not yet|that is the output)\.", thought) or [("", "")]
            if not right[0]:
                assert thought.startswith("Going through")
                continue
            for inputs, trace in (*failed, right):
                stdin = "\n".join(inputs.split(", then ")) + "\n"
                printed = execute_own(env.problem.source, stdin, env.limits, False).stdout
                assert printed.strip() == trace.rpartition("; ")[2]
                assert (printed == env.problem.output) == ((inputs, trace) == right)
            tried_before += len(failed)
    assert tried_before > 40


@pytest.mark.parametrize("level", [0, 1, 3, 5])
def test_ded_quotes_the_specification_and_nothing_of_the_program(level: int) -> None:
    env = Ded()
    for task in draw_tasks(env, level, 0, {Split.TRAIN: 12}):
        trajectory = play(env, task, random.Random(0), style="thought")
        thought, _, _ = trajectory.turns[0].text.partition("```")
        steps = thought.strip().removesuffix(".").split("; ")
        shown = trajectory.opening[0].content.lower()
        assert len(steps) >= 2
        assert all(step.removesuffix(" ...").lower() in shown for step in steps), thought
