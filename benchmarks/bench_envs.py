"""Environments in process, beside the same environment behind HTTP and beside upstream's own engines.

Replies are recorded first; then the same replies are played in a fresh process, through a fresh HTTP server,
and (for ScienceWorld and ALFWorld) on the stock engine. So both sides do the same work, nobody pays for an
expert's thinking, and no cache is warm that would be cold at the other. Beside them: WebShop's search, the sandbox
and how long the default run's demonstrations take. All of it keeps to one core (both sides of a ratio alike), but for
the pool, which has all, and the demonstrations, which have two. Last the targets, met or missed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
from env_engines import Recording, collection, references, replay, sandbox, search
from env_server import serving
from env_targets import compared, cores, pinned
from record import RESULTS, conditions, save
from rich.console import Console
from rich.table import Table

from affine.collect.play import play
from affine.envs.env import make
from affine.tasks import draw_tasks
from affine.types import ENVS, Split

LEVEL = 0
POOL_SECONDS = 1.0
"""Passes of a pool go on for so long; a single one may be over before the other process has begun."""
SECONDS = 0.5
"""Passes in one process and over HTTP go on for so long: a single one may take milliseconds, and be hit by anything."""
REMEMBERS = ("abd", "ded", "sciworld")
"""What these have run once they remember, so that a second pass would measure nothing."""


def _seconds(name: str) -> float:
    return 0.0 if name in REMEMBERS else SECONDS


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


def in_process(name: str, recordings: dict[str, list[Recording]]) -> dict[str, Any]:
    """Runs in a fresh process: start-up (imports, engine, first reset), rates, resident memory with all engines'
    processes."""
    started = time.perf_counter()
    with closing(make(name)) as env:
        env.reset(recordings["expert"][0].task)
        start = time.perf_counter() - started
        rates = {player: replay(env.reset, env.step, played, _seconds(name)) for player, played in recordings.items()}
        mine = psutil.Process()
        memory = [process.memory_info().rss / 2**20 for process in (mine, *mine.children(recursive=True))]
    return {"start_s": start, "python_mb": memory[0], "engines_mb": sum(memory[1:]), **rates}


_gate: Any = None


def _open(gate: Any) -> None:
    global _gate  # noqa: PLW0603 - how a pool hands a barrier to its processes
    _gate = gate


def _beside_others(name: str, recordings: dict[str, list[Recording]]) -> float:
    """Runs in a process of a pool: seconds for the expert's episodes, begun when all processes are ready; the mean of
    several passes where one is short."""
    with closing(make(name)) as env:
        env.reset(recordings["expert"][0].task)
        _gate.wait()
        started = time.perf_counter()
        passes = 0
        while passes == 0 or (name not in REMEMBERS and time.perf_counter() - started < POOL_SECONDS):
            replay(env.reset, env.step, recordings["expert"])
            passes += 1
        return (time.perf_counter() - started) / passes


def in_pool(name: str, recordings: dict[str, list[Recording]], processes: int) -> dict[str, float]:
    """Rates of `processes` processes that play the same episodes at once, until the last one is through."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, _open, (context.Barrier(processes),)) as pool:
        seconds = max(pool.starmap(_beside_others, [(name, recordings)] * processes, chunksize=1))
    steps = sum(len(recording.replies) for recording in recordings["expert"])
    return {
        "processes": processes,
        "steps_per_s": processes * steps / seconds,
        "episodes_per_s": processes * len(recordings["expert"]) / seconds,
    }


def measure(name: str, episodes: int, http_episodes: int) -> dict[str, Any]:
    """One environment: in process and over HTTP on one core, in a pool on all; expert and random play."""
    with pinned(1):
        recordings, expert_ms = record(name, episodes)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            row: dict[str, Any] = pool.apply(in_process, (name, recordings))
        with serving(name) as client:
            client.reset(recordings["expert"][0].task)  # both sides start warm
            for player, played in recordings.items():
                over_http = replay(client.reset, client.step, played[:http_episodes], _seconds(name))
                row[player]["http_steps_per_s"] = over_http["steps_per_s"]
                row[player]["http_episodes_per_s"] = over_http["episodes_per_s"]
                row[player]["ratio"] = row[player]["steps_per_s"] / over_http["steps_per_s"]
    row["expert_ms_per_turn"] = expert_ms
    row["pool"] = in_pool(name, recordings, cores())
    return row


def show(rows: dict[str, Any], reference: dict[str, Any], targets: list[dict[str, Any]]) -> None:
    """Print the tables: rates, then targets."""
    table = Table(title="environments, level 0, one process; pool: the expert's steps/s with a process per core")
    names = (
        "environment",
        "player",
        "steps/s",
        "over HTTP",
        "ratio",
        "episodes/s",
        "reset ms",
        "pool",
        "start s",
        "MB",
    )
    for column in names:
        table.add_column(column, justify="left" if column in ("environment", "player") else "right")
    for env, row in rows.items():
        for player in ("expert", "random"):
            r = row[player]
            rates = [f"{r['steps_per_s']:,.0f}", f"{r['http_steps_per_s']:,.0f}", f"{r['ratio']:,.1f} x"]
            rest = [
                f"{r['episodes_per_s']:,.1f}",
                f"{r['reset_ms']:.2f}",
                f"{row['pool']['steps_per_s']:,.0f}" if player == "expert" else "",
                f"{row['start_s']:.2f}",
                f"{row['python_mb'] + row['engines_mb']:.0f}",
            ]
            table.add_row(env, player, *rates, *rest)
    for name, r in reference.items():
        if "missing" not in r:
            table.add_row(name, "expert", f"{r['ours']:,.0f}", f"{r['theirs']:,.1f}", f"{r['ratio']:,.1f} x")
    aims = Table("target", "wanted", "measured", "", title="targets")
    for row in targets:
        verdict = {True: "[green]met[/]", False: "[red]missed[/]", None: "not measured"}[row["met"]]
        aims.add_row(row["name"], row["target"], "" if row["met"] is None else f"{row['measured']:,.4g}", verdict)
    console = Console(width=130)
    console.print(table)
    for name, r in reference.items():
        if "missing" in r:
            console.print(f"{name}: not installed: {r['missing']}", markup=False, highlight=False, soft_wrap=True)
    console.print(aims)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--episodes", type=int, default=100, help="per environment and player (default 100)")
    parser.add_argument(
        "--reference-episodes", type=int, default=20, help="over HTTP and on stock engines (default 20)"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="leave out what takes minutes: WebShop's search over 1,000,000 products, the default run's demonstrations",
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args(arguments)
    result: dict[str, Any] = {**conditions(), "level": LEVEL, "episodes": chosen.episodes}
    result["envs"] = {name: measure(name, chosen.episodes, chosen.reference_episodes) for name in chosen.envs}
    with pinned(1) as one_core:
        result["one_core"] = one_core
        result["references"] = references(chosen.envs, chosen.reference_episodes)
        if "webshop" in chosen.envs:
            result["search"] = [search(level) for level in ((4,) if chosen.quick else (4, 6))]
        if "abd" in chosen.envs or "ded" in chosen.envs:
            result["sandbox"] = sandbox()
    if not chosen.quick:
        with pinned(2):
            result["collect_s"] = collection(chosen.envs)
    result["targets"] = compared(result)
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    show(result["envs"], result["references"], result["targets"])
    print(save("envs", rounded, chosen.out))


if __name__ == "__main__":
    main()
