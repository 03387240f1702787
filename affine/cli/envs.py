"""`envs`: the environments with their levels, experts and engines, and how fast they are here."""

from __future__ import annotations

import argparse
import inspect
import json
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from affine.collect.play import play
from affine.declare import declare
from affine.envs.env import REGISTRY, Env, EnvSettings, env_class, make, task_rng
from affine.params import unsafe_allowed
from affine.recorded import EXPERTS, expert_rows, share
from affine.recorded import speed as recorded_speed
from affine.tasks import split_of_group
from affine.types import Split, Task

_CAPTION = (
    f"expert: share of held-out tasks it solves, and of how many, from {EXPERTS} (`python -m affine experts`)"
    "\n* it looks into the engine to choose its moves"
)


def run(arguments: list[str]) -> int:
    """Print the table, or one environment's documentation. Raises EnvError and ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine envs",
        description="The environments: levels of difficulty, turn limits, share of tasks the expert solves, engines,"
        " splits and speed, as measured last. With a name, that environment's documentation.",
    )
    parser.add_argument("env", nargs="?", choices=REGISTRY, metavar="ENV", help=f"one of {', '.join(REGISTRY)}")
    parser.add_argument("--speed", action="store_true", help="measure level 0 now, on one core (a few seconds each)")
    parser.add_argument("--seconds", type=float, default=2.0, help="per environment, for --speed (default 2)")
    parser.add_argument(
        "--declare", action="store_true", help="write a new environment of the registry into params.yaml and dvc.yaml"
    )
    chosen = parser.parse_args(arguments)
    console = Console()
    if chosen.declare:
        for line in declare(Path.cwd()) or ["nothing to add: params.yaml and dvc.yaml have all environments"]:
            console.print(line, markup=False, highlight=False)
        return 0
    if chosen.env:
        console.print(inspect.cleandoc(env_class(chosen.env).__doc__ or ""), markup=False, highlight=False)
        console.print()
    table = Table(caption=_CAPTION, caption_justify="left")
    for name in ("level", "what a task is"):
        table.add_column(name)
    for name in ("turns", "expert"):
        table.add_column(name, justify="right")
    settings = EnvSettings(unsafe=chosen.speed and unsafe_allowed(Path.cwd()))  # a list runs no program
    for name in [chosen.env] if chosen.env else REGISTRY:
        with console.status(f"{name}: measuring" if chosen.speed else name):
            _add(table, make(name, settings), measure(name, chosen.seconds, settings) if chosen.speed else "")
    console.print(table)
    return 0


def _add(table: Table, env: Env, speed: str) -> None:
    here = Path.cwd()
    engine = ", ".join(f"{name} {version}" for name, version in sorted(env.engine().items()))
    about = [f"[bold]{env.name}[/]  [dim]{engine}[/]", splits(here / "metrics" / "tasks" / f"{env.name}.json")]
    about += [speed or recorded_speed(here, env.name), *official_splits(env)]
    about += [
        f"ids {name}: {part.first} to {part.last} of level {part.level}, {part.summary}"
        for name, part in env.id_ranges.items()
    ]
    table.add_section()
    table.add_row("", "\n".join(line for line in about if line))
    measured = expert_rows(here, env.name)
    for number, level in sorted(env.levels.items()):
        row = measured.get(number)
        looks = " *" if row and row.get("privileged") else ""
        table.add_row(str(number), level.summary, str(level.turn_limit), share(row) + looks)
    env.close()


def splits(summary: Path) -> str:
    """How many tasks the run in this folder has, from `summary`; empty where none were made."""
    if not summary.is_file():
        return ""
    made = json.loads(summary.read_text(encoding="utf-8"))
    return "tasks: " + ", ".join(f"{made[split]['tasks']} {split}" for split in Split)


def official_splits(env: Env) -> list[str]:
    """A line for each run of levels to whose tasks upstream itself gives splits, with the sizes of those."""
    found: dict[str, list[int]] = {}
    for level in sorted(env.levels):
        size = env.size(level) if env.official_split(level, 0, 0) is not None else None
        if size is not None:
            counts = Counter(env.official_split(level, id, 0) for id in range(size))
            sizes = ", ".join(f"{counts[split]:,} {split}" for split in Split)
            found.setdefault(sizes, []).append(level)
    return [f"upstream's splits, level {', '.join(map(str, levels))}: {sizes}" for sizes, levels in found.items()]


def measure(name: str, seconds: float, settings: EnvSettings) -> str:
    """Play level 0 with the expert for about `seconds`, after one episode to warm up; rates as text."""
    env = make(name, settings)
    try:
        episodes = steps = id = 0
        start = time.perf_counter()
        first = 0.0
        while True:
            content = env.content(0, id, 0)
            task = Task(name, 0, id, 0, split_of_group(content.group)) if content else None
            id += 1
            if task is None:
                continue
            trajectory = play(env, task, task_rng(name, 0, id, 0, "speed"))
            if not first:
                first = time.perf_counter() - start
                start = time.perf_counter()
                continue
            episodes += 1
            steps += len(trajectory.turns)
            spent = time.perf_counter() - start
            if spent > seconds:
                break
    finally:
        env.close()
    return f"{episodes / spent:,.0f} episodes/s, {steps / spent:,.0f} steps/s with the expert; first {first:.1f} s"
