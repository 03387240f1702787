"""The native ALFWorld engine beside the real one (TextWorld), command by command.

Plays a dozen generated games by default; `AFFINE_LOCKSTEP_GAMES=200` plays that many. Nearly half of the moves are the
expert's, the others are random ones with a liking for handling things. Beside them two games of each task type are
played to their end and must be won on both.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from affine.envs.alfworld import EVEN, AlfWorld
from affine.envs.alfworld_expert import AlfWorldExpert
from affine.envs.engines.alfworld import files, games
from affine.envs.engines.alfworld.games import Game, Size
from affine.envs.env import GaveUp, StepResult
from affine.types import Split, Task

GAMES = int(os.environ.get("AFFINE_LOCKSTEP_GAMES", "12"))
STEPS = 20
LONGEST = 60
"""Moves in which the expert, with one move in ten not its own, wins a small room."""
TASK_TYPES = sorted(EVEN)

pytestmark = [
    pytest.mark.alfworld,
    pytest.mark.skipif(
        importlib.util.find_spec("alfworld") is None or importlib.util.find_spec("fast_downward") is None,
        reason="the real TextWorld engine is not installed: pip install 'affine[alfworld]' (needs a C/C++ compiler)",
    ),
]


@pytest.fixture(scope="module", autouse=True)
def _no_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """alfworld makes its data folder when imported; let it be a temporary one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALFWORLD_DATA", str(tmp_path_factory.mktemp("alfworld")))
        yield


def real_engine(game: Game) -> Any:
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    inner = PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True))
    env = AlfredDemangler(inner, shuffle=False)
    env.load(files.real_game(game))
    _remember_commands(inner)
    return env


def _remember_commands(inner: Any) -> None:
    """The engine parses the template of every admissible command anew after each step, most of its time; what a
    command reads depends on its arguments alone. Feedback is never remembered."""
    grammar = inner._logic.grammar
    derive, known = grammar.derive, {}
    templates = {action.template for action in inner._logic.actions.values()}

    def derive_once(start: str, context: dict[str, Any]) -> str:
        if start not in templates:
            return str(derive(start, context))
        key = (start, tuple(sorted((placeholder.name, v.name) for placeholder, v in context["mapping"].items())))
        if key not in known:
            known[key] = str(derive(start, context))
        return known[key]

    grammar.derive = derive_once


def compare(game: Game, seed: int, steps: int, insight: float = 0.45) -> tuple[int, bool]:
    """Play `game` on both engines, a share `insight` of the moves the expert's: how many steps agreed (all, or an
    assertion fails), and whether the game was won on both."""
    rng = random.Random(seed)
    native = AlfWorld()
    native.task, native.game, native.play = Task("alfworld", 4, 0, 0, Split.TRAIN), game, game.engine()
    expert = AlfWorldExpert(native)
    real = real_engine(game)
    state = real.reset()
    welcome = "-= Welcome to TextWorld, ALFRED! =-"
    assert state.feedback == f"{welcome}\n\n{native.play.intro()}\n\nYour task is to: {game.sentence}."
    for step in range(steps):
        actions = native.play.actions()
        assert sorted(actions) == state.admissible_commands
        command = choose(rng, actions, expert, insight)
        feedback = native.play.step(command)
        state, _, _ = real.step(command)
        assert feedback == state.feedback, command
        assert native.play.won == state.won, command
        if state.won:
            return step + 1, True
        expert.observe(command, StepResult(feedback, 0.0, False, command in actions))
    return steps, False


def choose(rng: random.Random, actions: dict[str, Any], expert: AlfWorldExpert, insight: float) -> str:
    kind = rng.random()
    if kind >= 0.95:
        return rng.choice(["", "dance", "go to moon 1", "take apple 1 from fridge", "look "])
    if kind < insight:
        try:
            return expert.act().action
        except GaveUp:
            pass
    handling = sorted(c for c in actions if not c.startswith(("go to", "look", "help", "inventory", "examine")))
    return rng.choice(handling) if handling and rng.random() < 0.6 else rng.choice(sorted(actions))


@pytest.mark.parametrize("number", range(GAMES))
def test_native_engine_answers_as_the_real_one(number: int) -> None:
    """All six task types in turn, both dialects; one game in six is a whole floor plan."""
    size = Size() if number % 6 == number // 6 % 6 else Size((6, 9), (6, 10))
    task_type = TASK_TYPES[number % 6]
    game = games.generate(random.Random(f"lockstep/{number}"), {task_type: 1}, size)
    game = replace(game, dialect="put" if number // 6 % 2 == 0 else "move")
    assert compare(game, number, STEPS)[0] > 0


@pytest.mark.parametrize("number", range(2))
def test_receptacles_that_share_a_location(number: int) -> None:
    """As in the downloaded games, where one viewing pose serves several drawers."""
    game = games.generate(random.Random(f"shared/{number}"), {TASK_TYPES[number]: 1}, Size((8, 8), (8, 8)))
    pattern = re.compile(r"(receptacleAtLocation|objectAtLocation) (\S+) loc_bar_(\d+)")
    shared = pattern.sub(lambda m: f"{m[1]} {m[2]} loc_bar_{(int(m[3]) + 1) // 2}", game.problem)
    assert compare(replace(game, problem=shared, dialect="move"), number, 40)[0] > 0


@pytest.mark.parametrize("task_type", TASK_TYPES)
def test_every_task_type_is_won_on_both(task_type: str) -> None:
    """Nearly all moves are the expert's, so that the comparison reaches the end of games of every type."""
    for number, dialect in enumerate(("put", "move")):
        game = games.generate(random.Random(f"won/{task_type}/{number}"), {task_type: 1}, Size((6, 8), (5, 8)))
        steps, won = compare(replace(game, dialect=dialect), number, LONGEST, insight=0.9)
        assert won, f"{task_type} ({dialect}) is not won after {steps} steps"


def test_the_real_loader_opens_saved_games(tmp_path: Path) -> None:
    from alfworld.agents.environment.alfred_tw_env import TASK_TYPES as REAL_TYPES
    from alfworld.agents.environment.alfred_tw_env import AlfredTWEnv

    paths = set()
    for number, task_type in enumerate(TASK_TYPES):
        game = games.generate(random.Random(number), {task_type: 1}, Size((5, 5), (4, 4)))
        paths.add(str(files.save(game, tmp_path, f"trial_{number}")))
    config = {
        "env": {"goal_desc_human_anns_prob": 0, "task_types": list(REAL_TYPES), "domain_randomization": False},
        "dataset": {"data_path": str(tmp_path), "num_train_games": -1},
    }
    loaded = AlfredTWEnv(config)
    assert set(loaded.game_files) == paths
    path = Path(sorted(paths)[0])
    env = real_engine(files.load(path))
    env.load(str(path))
    assert json.loads(path.read_text())["pddl_problem"] == files.load(path).problem
    assert f"Your task is to: {files.load(path).sentence}." in env.reset().feedback
