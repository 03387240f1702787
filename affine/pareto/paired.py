"""Paired comparison: the same tasks on both sides, the posterior of the difference, clusters kept whole."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import fsum, sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from affine.pareto.intervals import JEFFREYS
from affine.pareto.sequential import order
from affine.pareto.summary import EnvResult, EvaluationError, TaskId, TaskResult

Cluster = Literal["group", "type"]
Floats = NDArray[np.float64]

PRIOR = ((1.0, 0.5), (0.0, 0.5), (-1.0, 0.5))
"""Prior pseudo-tasks: (difference, weight). With one task per cluster and 0/1 scores this is the Jeffreys
prior of (won, tied, lost)."""


MIN_TYPES = 5
"""With fewer task types than this, how types differ cannot be seen, and groups are the clusters."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Differences (challenger - incumbent) of mean scores on common tasks.

    `differences` and `groups` (the names of their clusters) are per common task, and so are `types`, the coarser
    clusters, empty where there are too few of them (`type_names`). `only_challenger` and `only_incumbent` count the
    tasks that the other side lacks. `differing` names what the two evaluators were allowed to differ in; `early` says
    that play on one side was stopped when it was settled.
    """

    env: str
    differences: tuple[float, ...]
    groups: tuple[str, ...]
    only_challenger: int
    only_incumbent: int
    differing: tuple[str, ...] = ()
    early: bool = False
    types: tuple[str, ...] = ()

    @property
    def mean(self) -> float:
        """Mean difference over the common tasks."""
        return sum(self.differences) / len(self.differences)


@dataclass(frozen=True, slots=True)
class Unpaired:
    """Two results without common tasks to look at: (mean score, effective episodes) of each."""

    env: str
    challenger: tuple[float, float]
    incumbent: tuple[float, float]

    @property
    def mean(self) -> float:
        """Difference of the mean scores."""
        return self.challenger[0] - self.incumbent[0]


def type_names(tasks: Mapping[TaskId, TaskResult]) -> dict[TaskId, str]:
    """The level and type of each task; nothing where there are fewer than `MIN_TYPES` of them."""
    types = {task: f"{task.level}/{found.type}" for task, found in tasks.items()}
    return types if len(set(types.values())) >= MIN_TYPES else {}


def cluster_names(tasks: Mapping[TaskId, TaskResult], cluster: Cluster) -> dict[TaskId, str]:
    """The cluster of each task: its group, or its level and type where there are at least `MIN_TYPES` of them. A
    task without a group is its own cluster; where all share one, which cannot show how groups differ, so are all.
    """
    alone = {task: f"{task.level}/{task.id}/{task.seed}" for task in tasks}
    names = {task: found.group or alone[task] for task, found in tasks.items()}
    if cluster == "type":
        names = type_names(tasks) or names
    return names if len(set(names.values())) > 1 else alone


def pair(
    challenger: EnvResult, incumbent: EnvResult, cluster: Cluster = "group", may_differ: Sequence[str] = ()
) -> Pairs:
    """Pair two models' results in one environment by task.

    A partial overlap is used and its size kept. Raises EvaluationError where the evaluators differ in anything
    but `may_differ` (keys of evaluator.json), a task has another content on the other side, or no task is common.
    """
    env, names = challenger.env, f"{challenger.model} and {incumbent.model}"
    if challenger.env != incumbent.env:
        raise EvaluationError(f"{names}: cannot compare {challenger.env} with {incumbent.env}")
    differing = _differing(challenger, incumbent, may_differ)
    common = sorted(task for task in challenger.tasks if task in incumbent.tasks)
    if not common:
        raise EvaluationError(
            f"{env}: {names} have no task in common ({len(challenger.tasks)} and {len(incumbent.tasks)} tasks)\n"
            "evaluate both on the same test split: dvc repro evaluate"
        )
    for task in common:
        ours, theirs = challenger.tasks[task], incumbent.tasks[task]
        if (ours.key, ours.group) != (theirs.key, theirs.group):
            raise EvaluationError(
                f"{env}: task {task.id} of level {task.level} is not the same for {names} "
                f"({ours.key or '-'} and {theirs.key or '-'})\nevaluate both on the same test split: dvc repro evaluate"
            )
    both = {**incumbent.tasks, **challenger.tasks}
    cluster_of, type_of = cluster_names(both, cluster), type_names(both)
    return Pairs(
        env=env,
        differences=tuple(challenger.tasks[task].mean - incumbent.tasks[task].mean for task in common),
        groups=tuple(cluster_of[task] for task in common),
        only_challenger=len(challenger.tasks) - len(common),
        only_incumbent=len(incumbent.tasks) - len(common),
        differing=differing,
        early=challenger.stopped or incumbent.stopped,
        types=tuple(type_of[task] for task in common) if type_of else (),
    )


def _differing(challenger: EnvResult, incumbent: EnvResult, may_differ: Sequence[str]) -> tuple[str, ...]:
    """The keys in which the evaluators differ. Raises EvaluationError where one of them may not."""
    if challenger.fingerprint == incumbent.fingerprint:
        return ()
    ours, theirs = challenger.evaluator, incumbent.evaluator
    keys = [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]
    if ours and theirs and all(key in may_differ for key in keys):
        return tuple(keys)
    named = "; ".join(difference(key, ours.get(key), theirs.get(key)) for key in keys if key not in may_differ)
    raise EvaluationError(
        f"{challenger.env}: {challenger.model} and {incumbent.model} were scored by different evaluators "
        f"({challenger.fingerprint}, {incumbent.fingerprint}{': ' + named if ours and theirs else ''})\n"
        "evaluate both with the same params.yaml and engine versions (dvc repro evaluate), "
        "or list what may differ in pareto.may_differ"
    )


def difference(key: str, ours: Any, theirs: Any) -> str:
    """One difference of two evaluators in words: nested keys dotted, long values cut."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        inner = [k for k in sorted({*ours, *theirs}) if ours.get(k) != theirs.get(k)]
        return "; ".join(difference(f"{key}.{k}", ours.get(k), theirs.get(k)) for k in inner)
    shown = [text if len(text) <= 40 else f"{text[:39]}…" for text in (repr(ours), repr(theirs))]
    return f"{key} {shown[0]} and {shown[1]}"


def sequence(pairs: Pairs) -> tuple[list[float], list[int]]:
    """Sums of differences and sizes of the clusters in the order in which they are looked at."""
    members: dict[str, list[float]] = {}
    for name, value in zip(_labels(pairs), pairs.differences, strict=True):
        members.setdefault(name, []).append(value)
    in_order = [members[name] for name in order(pairs.env, members)]
    return [fsum(values) for values in in_order], [len(values) for values in in_order]


def first_tasks(pairs: Pairs, count: int) -> Pairs:
    """The comparison as it stood after `count` of the common tasks, in a fixed order that is not by id.

    The order is drawn from the environment's name, so that a generator whose ids grow harder does not make
    the early tasks easier than the late ones.
    """
    order = list(range(len(pairs.differences)))
    random.Random(f"order/{pairs.env}").shuffle(order)
    chosen = sorted(order[:count])
    return replace(
        pairs,
        differences=tuple(pairs.differences[i] for i in chosen),
        groups=tuple(pairs.groups[i] for i in chosen),
        types=tuple(pairs.types[i] for i in chosen) if pairs.types else (),
    )


def _labels(pairs: Pairs) -> list[str]:
    return [group or f"\0{index}" for index, group in enumerate(pairs.groups)]


def clusters(pairs: Pairs) -> tuple[Floats, Floats]:
    """Per cluster the sum of differences and the number of tasks.

    A task without a group is its own cluster; a single group cannot show how groups differ, so its tasks are
    the clusters.
    """
    labels = _labels(pairs)
    if len(set(labels)) == 1:
        return np.asarray(pairs.differences, dtype=np.float64), np.ones(len(labels))
    _, cluster = np.unique(np.array(labels), return_inverse=True)
    sums = np.bincount(cluster, weights=np.asarray(pairs.differences))
    return sums.astype(np.float64), np.bincount(cluster).astype(np.float64)


def posterior(pairs: Pairs, draws: int, stream: str) -> Floats:
    """`draws` values of the mean difference from its posterior; `stream` names the random stream.

    A Bayesian bootstrap (Rubin 1981) over clusters: each gets an exponential weight and the difference is
    the weighted ratio of sums; the pseudo-tasks of `PRIOR` keep it from certainty where every pair agrees.
    Equal clusters are drawn together as one gamma weight, which makes the 0/1 unclustered case exactly the
    posterior Dirichlet(1/2 + won, 1/2 + tied, 1/2 + lost).

    Where tasks share clusters, few clusters understate the spread: draws are then stretched about their mean
    by sqrt((G + 1) / (G - 1)), which undoes the bootstrap's bias with G clusters, and by a Student factor
    with G - 1 degrees of freedom, and cut to [-1, 1].
    """
    sums, sizes = clusters(pairs)
    kinds, counts = np.unique(np.column_stack([np.round(sums, 9), sizes]), axis=0, return_counts=True)
    parts = [(float(s), float(m), float(k)) for (s, m), k in zip(kinds, counts, strict=True)]
    parts += [(difference, 1.0, weight) for difference, weight in PRIOR]
    # RandomState: numpy promises the same numbers in every version, which it does not for Generator.
    rng = np.random.RandomState(random.Random(f"{stream}/{pairs.env}").getrandbits(32))
    weighted, weight = np.zeros(draws), np.zeros(draws)
    for total, tasks, shape in parts:
        gamma = rng.standard_gamma(shape, size=draws)
        weighted += gamma * total
        weight += gamma * tasks
    drawn: Floats = weighted / weight
    size = len(sums)
    if size == len(pairs.differences):
        return drawn
    student = np.sqrt((size - 1) / rng.chisquare(size - 1, size=draws))
    centre = float(np.mean(drawn))
    stretched: Floats = centre + (drawn - centre) * sqrt((size + 1) / (size - 1)) * student
    return np.clip(stretched, -1.0, 1.0)


def unpaired_posterior(results: Unpaired, draws: int, stream: str) -> Floats:
    """`draws` values of the difference of two independent means, each Beta(1/2 + m n, 1/2 + (1 - m) n)."""
    rng = np.random.RandomState(random.Random(f"{stream}/{results.env}").getrandbits(32))
    drawn = [
        rng.beta(JEFFREYS + mean * n, JEFFREYS + (1.0 - mean) * n, size=draws)
        for mean, n in (results.challenger, results.incumbent)
    ]
    difference: Floats = drawn[0] - drawn[1]
    return difference
