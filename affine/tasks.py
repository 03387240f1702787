"""Which tasks exist: train, validation and test ids of one environment, disjoint by content.

Ids are tried in order; the hash of a task's *group* (the part of its content that must not be shared
between splits) decides the split, so that no later choice can move a task across. Where upstream has
official splits, those hold. Two ids with the same content count once.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection
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


def draw_tasks(env: Env, level: int, seed: int, wanted: dict[Split, int], without: Collection[str] = ()) -> list[Task]:
    """The first `wanted[split]` tasks of each split at one level, in the order of their ids; none of the groups in
    `without`.

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
        if content is None or content.key in seen or content.group in without:
            continue
        split = env.official_split(level, id - 1, seed) or split_of_group(content.group)
        if missing.get(split, 0) > 0:
            idle = 0
            missing[split] -= 1
            seen.add(content.key)
            tasks.append(Task(env.name, level, id - 1, seed, split, content.key, content.group))
    return tasks


def draw_range(env: Env, name: str, seed: int, count: int) -> list[Task]:
    """`count` test tasks out of a named range of upstream's ids, in the order of their ids: the whole range, or a
    random part of it that depends on `seed`. Raises EnvError where the range is unknown or holds fewer."""
    part = env.id_range(name)
    size = env.size(part.level)
    ids = list(range(part.first, min(part.last + 1, size or part.last + 1)))
    random.Random(f"tasks/{env.name}/{name}/{seed}").shuffle(ids)
    tasks: dict[str, Task] = {}
    for id in ids:
        content = env.content(part.level, id, seed) if len(tasks) < count else None
        if content is not None and content.key not in tasks:
            tasks[content.key] = Task(env.name, part.level, id, seed, Split.TEST, content.key, content.group)
    if len(tasks) < count:
        raise EnvError(
            f"{env.name}: {name} holds {len(tasks)} distinct tasks, not {count}; lower tasks.{env.name}.test"
        )
    return sorted(tasks.values(), key=lambda task: task.id)


def make_tasks(params: Params, name: str, root: Path) -> None:
    """Stage `tasks` for one environment: `data/tasks/<name>/{train,validation,test}.jsonl` and a summary
    in `metrics/tasks/<name>.json`. Quotas are shared evenly between the levels, the first taking the rest. Where
    `test_ids` names a range of upstream's ids, the test tasks come from there, and no group of theirs is in
    another split."""
    env = make(name, EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe))
    settings: TaskSet = getattr(params.tasks, name)
    try:
        seed = params.tasks.seed
        tasks = draw_range(env, settings.test_ids, seed, settings.test) if settings.test_ids else []
        held_out = frozenset(task.group for task in tasks)
        for k, level in enumerate(settings.levels):
            tasks += draw_tasks(env, level, seed, _quota(settings, k), held_out)
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
    test = 0 if settings.test_ids else settings.test
    counts = {Split.TRAIN: settings.train, Split.VALIDATION: settings.validation, Split.TEST: test}
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
