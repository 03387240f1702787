"""Which tasks exist: train, validation and test ids of one environment, disjoint by content.

Ids are tried in order; the hash of a task's *group* (the part of its content that must not be shared
between splits) decides the split, so that no later choice can move a task across. Where upstream has
official splits, those hold. Two ids with the same content count once.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from affine.envs.env import Env, EnvError, EnvSettings, make
from affine.files import published, read_records, write_json, write_records
from affine.params import Params, TaskSet
from affine.types import Split, Task, task_from_json

TRAIN_SHARE, VALIDATION_SHARE = 60, 10
"""Of a hundred groups, how many are train and validation; the rest are test."""

PATIENCE = 50_000
"""Ids in a row that may add nothing before a level counts as exhausted."""


def split_of_group(group: str) -> Split:
    """The split that a group's hash falls into."""
    bucket = int(hashlib.sha256(f"split/{group}".encode()).hexdigest(), 16) % 100
    if bucket < TRAIN_SHARE:
        return Split.TRAIN
    return Split.VALIDATION if bucket < TRAIN_SHARE + VALIDATION_SHARE else Split.TEST


def draw_tasks(env: Env, level: int, seed: int, wanted: dict[Split, int]) -> list[Task]:
    """The first `wanted[split]` tasks of each split at one level, in the order of their ids.

    Raises EnvError where there is no such level or it has fewer distinct tasks.
    """
    if level not in env.levels:
        known = ", ".join(str(one) for one in sorted(env.levels))
        raise EnvError(f"{env.name}: no level {level} (levels: {known}); see tasks.{env.name}.levels")
    tasks: list[Task] = []
    missing = dict(wanted)
    seen: set[str] = set()
    size = env.size(level)
    id = idle = 0
    while any(missing.values()):
        if idle > PATIENCE or (size is not None and id >= size):
            short = ", ".join(f"{count} more for {split}" for split, count in missing.items() if count)
            raise EnvError(
                f"{env.name}: level {level} has too few distinct tasks ({short}); lower tasks.{env.name} or add a level"
            )
        content = env.content(level, id, seed)
        id += 1
        idle += 1
        if content is None or content.key in seen:
            continue
        split = env.official_split(level, id - 1, seed) or split_of_group(content.group)
        if missing.get(split, 0) > 0:
            idle = 0
            missing[split] -= 1
            seen.add(content.key)
            tasks.append(Task(env.name, level, id - 1, seed, split, content.key, content.group))
    return tasks


def make_tasks(params: Params, name: str, root: Path) -> None:
    """Stage `tasks` for one environment: `data/tasks/<name>/{train,validation,test}.jsonl` and a summary
    in `metrics/tasks/<name>.json`. Quotas are shared evenly between the levels, the first taking the rest."""
    env = make(name, EnvSettings(params.envs.mode, params.envs.prompts))
    settings: TaskSet = getattr(params.tasks, name)
    try:
        tasks = [
            task
            for k, level in enumerate(settings.levels)
            for task in draw_tasks(env, level, params.tasks.seed, _quota(settings, k))
        ]
    finally:
        env.close()
    by_split = {split: [task for task in tasks if task.split == split] for split in Split}
    _check_disjoint(name, by_split)
    with published(root / "data" / "tasks" / name) as folder:
        for split, members in by_split.items():
            write_records(folder / f"{split}.jsonl", members)
    summary = {
        str(split): {"tasks": len(members), "groups": len({task.group for task in members})}
        for split, members in by_split.items()
    }
    write_json(root / "metrics" / "tasks" / f"{name}.json", summary)


def _quota(settings: TaskSet, k: int) -> dict[Split, int]:
    levels = len(settings.levels)
    counts = {Split.TRAIN: settings.train, Split.VALIDATION: settings.validation, Split.TEST: settings.test}
    return {split: n // levels + (n % levels if k == 0 else 0) for split, n in counts.items()}


def _check_disjoint(name: str, by_split: dict[Split, list[Task]]) -> None:
    owner: dict[str, Split] = {}
    for split, tasks in by_split.items():
        for task in tasks:
            if owner.setdefault(task.group, split) != split:
                raise EnvError(f"{name}: group {task.group} lies in {owner[task.group]} and {split} (task {task.id})")


def load_tasks(root: Path, name: str, split: Split) -> list[Task]:
    """One split of one environment, in the order of the file. Raises FileError."""
    return list(read_records(root / "data" / "tasks" / name / f"{split}.jsonl", task_from_json))
