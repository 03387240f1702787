"""No task of the test split is in training, by what the agent is shown or the engine holds, and not by the hashes that
decide the splits: each environment's canonical form is written down a second time here."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest

from affine.envs.env import make
from affine.tasks import draw_tasks
from affine.types import ENVS, Split

Form = Any


def formula(env: Any, shown: str) -> Form:
    """The clauses up to their order; of small formulas also up to names and signs of variables, by trying all."""
    clauses = [re.findall(r"(¬?)x(\d+)", clause) for clause in re.findall(r"\(([^()]*)\)", shown)]
    literals = [tuple(-int(v) if sign else int(v) for sign, v in clause) for clause in clauses]
    variables = sorted({abs(literal) for clause in literals for literal in clause})
    if len(variables) > 4:
        return tuple(sorted(tuple(sorted(clause)) for clause in literals))
    renamed = (
        tuple(sorted(tuple(sorted(signed[abs(x)] * (1 if x > 0 else -1) for x in clause)) for clause in literals))
        for order in itertools.permutations(range(1, len(variables) + 1))
        for signs in itertools.product((1, -1), repeat=len(variables))
        for signed in [{v: name * sign for v, name, sign in zip(variables, order, signs, strict=True)}]
    )
    return min(renamed)


class _WithoutConstants(ast.NodeTransformer):
    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant(type(node.value).__name__)


def program(env: Any, shown: str) -> Form:
    """The syntax tree, above level 0 without the constants' values."""
    source = env.problem.source if env.name == "abd" else env.problem.answer
    assert env.name == "ded" or source in shown
    tree = ast.parse(source)
    return ast.dump(tree if env.task.level == 0 else _WithoutConstants().visit(tree))


def wish(env: Any, shown: str) -> Form:
    """The instruction without options and price."""
    words = shown.partition("Instruction: [SEP] ")[2].partition(" [SEP]")[0]
    return re.split(r",| with (?:color|size|[a-z ]+:)", words)[0]


def plan(env: Any, shown: str) -> Form:
    """The floor plan: where its furniture stands, at the level that keeps all of it."""
    if env.task.level < 4:
        return env.game.scene
    return frozenset(re.findall(r"\(receptacleType (\S+) ", env.game.problem))


def grid(env: Any, shown: str) -> Form:
    """The mission and what stands in the rooms, wherever it stands."""
    world = env.world
    cells = (world.grid.get(x, y) for x in range(world.width) for y in range(world.height))
    things = sorted((cell.type, cell.color) for cell in cells if cell is not None and cell.type != "wall")
    return env.mission(), world.width, world.height, tuple(things)


def variation(env: Any, shown: str) -> Form:
    return env._game[:2]


def goal(env: Any, shown: str) -> Form:
    return re.findall(r"^Goal: craft (.+)\.$", shown, re.MULTILINE)[0]


FORMS: dict[str, tuple[Callable[[Any, str], Form], dict[int, int]]] = {
    "sat": (formula, {0: 300, 1: 300, 2: 300}),
    "abd": (program, {0: 200, 1: 200, 2: 200, 3: 100}),
    "ded": (program, {0: 200, 1: 200, 2: 200, 3: 100}),
    "webshop": (wish, {0: 300, 1: 300, 2: 200}),
    "alfworld": (plan, {0: 300, 1: 200, 2: 100, 4: 200}),
    "babyai": (grid, {0: 250, 1: 100, 2: 100}),
    "sciworld": (variation, {0: 20, 2: 10}),
    "textcraft": (goal, {0: 300, 1: 100, 2: 100}),
}
"""Canonical form and training tasks to draw per level, by environment."""


@functools.cache
def drawn(name: str) -> dict[tuple[int, Split], list[Form]]:
    """The canonical forms of drawn tasks by level and split; half as many to test as to train."""
    form, sizes = FORMS[name]
    found: dict[tuple[int, Split], list[Form]] = {}
    with closing(make(name)) as env:
        for level, count in sizes.items():
            for task in draw_tasks(env, level, 0, {Split.TRAIN: count, Split.TEST: count // 2}):
                found.setdefault((level, task.split), []).append(form(env, env.reset(task)[-1].content))
    return found


def of(name: str, split: Split) -> set[Form]:
    return {form for (_, part), forms in drawn(name).items() if part is split for form in forms}


@pytest.mark.parametrize("name", ENVS)
def test_what_is_tested_was_not_trained_on(name: str) -> None:
    for level, count in FORMS[name][1].items():
        assert (len(drawn(name)[level, Split.TRAIN]), len(drawn(name)[level, Split.TEST])) == (count, count // 2)
    assert not of(name, Split.TRAIN) & of(name, Split.TEST)


@pytest.mark.parametrize("name", [name for name in ENVS if name != "sciworld"])
def test_tasks_alike_are_common_enough_to_be_shared_without_care(name: str) -> None:
    """What makes the test above one: halves of the training tasks do share forms. Only ScienceWorld's variations exist
    once each; there upstream's own split holds."""
    train = [forms for (_, split), forms in drawn(name).items() if split is Split.TRAIN]
    assert any(set(forms[::2]) & set(forms[1::2]) for forms in train)


@pytest.mark.parametrize(("trained", "tested"), [("abd", "ded"), ("ded", "abd")])
def test_programs_to_write_and_to_invert_are_split_alike(trained: str, tested: str) -> None:
    """A program that ABD shows in training is no test task's hidden answer in DED."""
    assert not of(trained, Split.TRAIN) & of(tested, Split.TEST)
    assert of(trained, Split.TRAIN) & of(tested, Split.TRAIN)
