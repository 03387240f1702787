"""`experts`: how often the experts succeed, by level and type of task, with every failure by its id."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from affine.collect.collect import Attempts, trajectories
from affine.envs.env import REGISTRY, Env, EnvError, EnvSettings, expert_module, make, make_expert, task_rng
from affine.files import read_json, write_json
from affine.params import unsafe_allowed
from affine.recorded import EXPERTS
from affine.tasks import draw_tasks, split_of_group
from affine.types import Split, Task, Trajectory

SECONDS = 60.0
"""A task may take the expert so long, on a busy machine too."""


def run(arguments: list[str]) -> int:
    """Play and write the result, level by level. Raises EnvError where an engine or a level is missing, ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine experts",
        description="Let experts and random play meet tasks of every level, and write the shares they solve, by type of"
        f" task, with the failures, to {EXPERTS}. What is there of other levels stays.",
    )
    parser.add_argument("env", nargs="*", metavar="ENV", help=f"one or more of {', '.join(REGISTRY)} (default: all)")
    parser.add_argument("--levels", nargs="+", type=int, metavar="L", help="default: all that need no data of yours")
    parser.add_argument("--tasks", type=int, default=50, metavar="N", help="per level (default 50)")
    parser.add_argument(
        "--spread", action="store_true", help="tasks from all over the level's ids (those of AgentGym go type by type)"
    )
    parser.add_argument("--random", action="store_true", help="random play of the same tasks too: what luck reaches")
    parser.add_argument("--seed", type=int, default=0, help="of the world of tasks (default 0)")
    parser.add_argument("--out", type=Path, default=EXPERTS, help=f"default {EXPERTS}")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.env if name not in REGISTRY]:
        raise EnvError(f"no environment {unknown[0]!r} (known: {', '.join(REGISTRY)})")
    settings = EnvSettings(unsafe=unsafe_allowed(Path.cwd()))
    console = Console()
    result: dict[str, Any] = read_json(chosen.out) if chosen.out.is_file() else {}
    for name in chosen.env or REGISTRY:
        for level in chosen.levels or sorted(expert_module(name).SUCCESS):
            row = measure(
                name, level, chosen.tasks, chosen.seed, settings, with_random=chosen.random, spread=chosen.spread
            )
            result.setdefault(name, {})[str(level)] = row
            write_json(chosen.out, result)
            luck = f", by luck {row['luck']:.0%}" if chosen.random else ""
            console.print(f"{name} level {level}: {row['solved']} of {row['tasks']} solved{luck}", highlight=False)
            for failure in row["failures"]:
                kind = f" ({failure['kind']})" if failure["kind"] else ""
                console.print(f"  task {failure['id']}{kind}: {failure['why']}", highlight=False)
    return 0


def measure(
    name: str, level: int, count: int, seed: int, settings: EnvSettings, *, with_random: bool, spread: bool = False
) -> dict[str, Any]:
    """The record of one level: shares by kind of task, failures, turns, whether the expert looks into the engine, the
    chance of a random answer where that can be estimated. Test tasks, as far as there are enough."""
    with closing(make(name, settings)) as env:
        tasks = _spread(env, level, seed, count) if spread else draw_tasks(env, level, seed, {Split.TEST: count})
        kinds = [env.task_type(task.level, task.id, task.seed) for task in tasks]
        engine = dict(env.engine())
        env.reset(tasks[0])
        privileged = make_expert(env, task_rng(name, level, tasks[0].id, seed, "experts")).privileged
        chances = _chances(env, tasks)
    played = _play(name, tasks, settings, noise=0.0)
    by_kind: dict[str, Counter[str]] = defaultdict(Counter)
    failures = []
    for task, kind, trajectory in zip(tasks, kinds, played, strict=True):
        solved = trajectory is not None and trajectory.solved
        by_kind[kind].update(tasks=1, solved=int(solved))
        if not solved:
            failures.append({"id": task.id, "kind": kind, "why": _why(trajectory)})
    lengths = [len(trajectory.turns) for trajectory in played if trajectory is not None and trajectory.solved]
    row: dict[str, Any] = {
        "tasks": len(tasks),
        "solved": len(lengths),
        "turns_mean": round(sum(lengths) / len(lengths), 2) if lengths else None,
        "turns_max": max(lengths, default=None),
        "kinds": {kind: dict(counts) for kind, counts in sorted(by_kind.items())},
        "failures": failures,
        "privileged": privileged,
        "engine": engine,
        "spread": spread,
        "seed": seed,
    }
    if chances:
        row["chance"] = round(sum(chances) / len(chances), 5)
    if with_random:
        guesses = _play(name, tasks, settings, noise=1.0)
        row["luck"] = round(sum(t is not None and t.solved for t in guesses) / len(tasks), 4)
    return row


def _spread(env: Env, level: int, seed: int, count: int) -> list[Task]:
    """`count` test tasks at even steps through all the ids of a level. Raises EnvError where it has no end or fewer."""
    size = env.size(level)
    if size is None:
        raise EnvError(f"{env.name}: --spread needs a level with a last id, which level {level} has not")
    tasks = []
    for id in range(size):
        content = env.content(level, id, seed)
        if content and (env.official_split(level, id, seed) or split_of_group(content.group)) == Split.TEST:
            tasks.append(Task(env.name, level, id, seed, Split.TEST, content.key, content.group))
    if len(tasks) < count:
        raise EnvError(f"{env.name}: level {level} has {len(tasks)} test tasks, not {count}; lower --tasks")
    return [tasks[k * len(tasks) // count] for k in range(count)]


def _chances(env: Env, tasks: list[Task]) -> list[float]:
    """For each task how likely a random answer is right, where the expert's module estimates that by search."""
    chance = getattr(expert_module(env.name), "chance", None)
    return [chance(env, task) for task in tasks] if chance else []


def _play(name: str, tasks: list[Task], settings: EnvSettings, noise: float) -> list[Trajectory | None]:
    how = Attempts(name, settings, 0, "action", noise, 1.0, SECONDS, single_turns=True)
    return list(trajectories(how, tasks, 1))


def _why(trajectory: Trajectory | None) -> str:
    """How a failed episode ended, in words."""
    if trajectory is None:
        return f"no solution within {SECONDS:.0f} s"
    if str(trajectory.stop) == "turn_limit":
        return f"turns ran out, score {trajectory.score:.2f}"
    if trajectory.turns and trajectory.turns[-1].observation:
        return f"the expert gave up after {len(trajectory.turns)} turns, score {trajectory.score:.2f}"
    return f"ended after {len(trajectory.turns)} turns with score {trajectory.score:.2f}"
