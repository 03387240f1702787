"""Paired comparison: the same tasks on both sides, the posterior of the difference, clusters kept whole."""

from __future__ import annotations

import random
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from affine.pareto.summary import EnvResult, EvaluationError

Floats = NDArray[np.float64]

PRIOR = ((1.0, 0.5), (0.0, 0.5), (-1.0, 0.5))
"""Prior pseudo-tasks: (difference, weight). With one task per cluster and 0/1 scores this is the Jeffreys
prior of (won, tied, lost)."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Differences (challenger - incumbent) of mean scores on common tasks.

    `differences` and `groups` are per common task; `only_challenger` and `only_incumbent` count the tasks
    that the other side lacks.
    """

    env: str
    differences: tuple[float, ...]
    groups: tuple[str, ...]
    only_challenger: int
    only_incumbent: int

    @property
    def mean(self) -> float:
        """Mean difference over the common tasks."""
        return sum(self.differences) / len(self.differences)


def pair(challenger: EnvResult, incumbent: EnvResult) -> Pairs:
    """Pair two models' results in one environment by task.

    A partial overlap is used and its size kept. Raises EvaluationError where the evaluators' fingerprints
    differ, a task has another content on the other side, or no task is common.
    """
    env, names = challenger.env, f"{challenger.model} and {incumbent.model}"
    if challenger.env != incumbent.env:
        raise EvaluationError(f"{names}: cannot compare {challenger.env} with {incumbent.env}")
    if challenger.fingerprint != incumbent.fingerprint:
        raise EvaluationError(
            f"{env}: {names} were scored by different evaluators ({challenger.fingerprint}, {incumbent.fingerprint})\n"
            "evaluate both with the same params.yaml and engine versions: dvc repro evaluate"
        )
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
    return Pairs(
        env=env,
        differences=tuple(challenger.tasks[task].mean - incumbent.tasks[task].mean for task in common),
        groups=tuple(challenger.tasks[task].group for task in common),
        only_challenger=len(challenger.tasks) - len(common),
        only_incumbent=len(incumbent.tasks) - len(common),
    )


def first_tasks(pairs: Pairs, count: int) -> Pairs:
    """The comparison as it stood after `count` of the common tasks, in a fixed order that is not by id.

    The order is drawn from the environment's name, so that a generator whose ids grow harder does not make
    the early tasks easier than the late ones.
    """
    order = list(range(len(pairs.differences)))
    random.Random(f"order/{pairs.env}").shuffle(order)
    chosen = sorted(order[:count])
    return Pairs(
        env=pairs.env,
        differences=tuple(pairs.differences[i] for i in chosen),
        groups=tuple(pairs.groups[i] for i in chosen),
        only_challenger=pairs.only_challenger,
        only_incumbent=pairs.only_incumbent,
    )


def clusters(pairs: Pairs) -> tuple[Floats, Floats]:
    """Per cluster the sum of differences and the number of tasks.

    A task without a group is its own cluster; a single group cannot show how groups differ, so its tasks are
    the clusters.
    """
    labels = [group or f"\0{index}" for index, group in enumerate(pairs.groups)]
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
