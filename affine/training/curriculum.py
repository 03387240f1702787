"""Which training tasks an iteration plays: environments by weight, levels by what there is to learn.

A bucket is one level of one environment. Under `ppo.curriculum: learnable` a bucket's share follows how much the
scores of one task varied of late: tasks that always or never succeed teach nothing. Where tasks are played
once, the variance between tasks stands in for it. A share never falls below FLOOR, so that what is learnt
stays played.
"""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import mean, variance

from affine.params import PpoParams
from affine.rollout.episodes import Ticket
from affine.types import ENVS, Task, Trajectory

FLOOR = 0.25
"""Share of a bucket with nothing to learn, relative to one whose tasks are solved half the time each."""

MOST = 0.25
"""The largest variance of scores in [0, 1]: that of a fair coin."""

MEMORY = 0.8
"""What a bucket's running mean keeps of its past at each iteration."""


@dataclass(slots=True)
class Curriculum:
    """Running variances of one task's scores by bucket ("env/level"); part of a checkpoint."""

    variances: dict[str, float] = field(default_factory=dict)

    def learn(self, trajectories: Iterable[Trajectory]) -> None:
        """Take in an iteration's scores."""
        seen: dict[str, dict[Task, list[float]]] = defaultdict(lambda: defaultdict(list))
        for trajectory in trajectories:
            seen[_bucket(trajectory.task)][trajectory.task].append(trajectory.score)
        for bucket, by_task in seen.items():
            groups = [scores for scores in by_task.values() if len(scores) > 1]
            found = groups or [[scores[0] for scores in by_task.values()]]
            now = mean(variance(scores) if len(scores) > 1 else MOST for scores in found)
            before = self.variances.get(bucket, now)
            self.variances[bucket] = MEMORY * before + (1 - MEMORY) * now

    def appeal(self, bucket: str) -> float:
        """Between FLOOR and 1; buckets never seen are as appealing as can be."""
        return FLOOR + (1 - FLOOR) * min(self.variances.get(bucket, MOST) / MOST, 1.0)


def _bucket(task: Task) -> str:
    return f"{task.env}/{task.level}"


def shares(tasks: Mapping[str, list[Task]], settings: PpoParams, curriculum: Curriculum) -> dict[str, float]:
    """Bucket -> share of the iteration's tasks, summing to 1; an environment's levels count as it has tasks of them."""
    weights = settings.weights.as_dict()
    raw: dict[str, float] = {}
    for env in ENVS:
        if weights[env] <= 0:
            continue
        for task in tasks[env]:
            bucket = _bucket(task)
            appeal = curriculum.appeal(bucket) if settings.curriculum == "learnable" else 1.0
            raw[bucket] = raw.get(bucket, 0.0) + weights[env] * appeal / len(tasks[env])
    total = sum(raw.values())
    return {bucket: share / total for bucket, share in raw.items()}


def draw_tickets(
    tasks: Mapping[str, list[Task]], settings: PpoParams, seed: int, iteration: int, curriculum: Curriculum
) -> list[Ticket]:
    """The episodes of one iteration: `group` of each drawn task, every one from its own random stream, mixed."""
    rng = random.Random(f"ppo/{seed}/{iteration}/tasks")
    buckets: dict[str, list[Task]] = defaultdict(list)
    for env in ENVS:
        for task in tasks.get(env, []):
            buckets[_bucket(task)].append(task)
    wanted = settings.episodes // settings.group
    exact = {bucket: wanted * share for bucket, share in shares(tasks, settings, curriculum).items()}
    counts = {bucket: math.floor(share) for bucket, share in exact.items()}
    # Largest remainders first, ties in the order of the table.
    spare = wanted - sum(counts.values())
    for bucket in sorted(exact, key=lambda b: counts[b] - exact[b])[:spare]:
        counts[bucket] += 1
    drawn: list[Task] = []
    for bucket, count in counts.items():
        rounds, rest = divmod(count, len(buckets[bucket]))
        drawn += buckets[bucket] * rounds + rng.sample(buckets[bucket], rest)
    times: dict[Task, int] = defaultdict(int)
    tickets: list[Ticket] = []
    for task in drawn:
        for _ in range(settings.group):
            # No stream is used twice, by whatever way a task comes again in this or another iteration.
            tickets.append(Ticket(task, iteration * settings.episodes + times[task], seed))
            times[task] += 1
    rng.shuffle(tickets)
    return tickets
