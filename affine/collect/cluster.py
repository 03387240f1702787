"""Experts on the machines of a Ray cluster, one to a core."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from affine.cluster import Crew
from affine.collect.collect import BATCH, Attempt, Attempts, Demonstrator
from affine.types import Task, Trajectory


class _Guest:
    """A demonstrator on another machine."""

    def __init__(self, how: Attempts) -> None:
        self._demonstrator = Demonstrator(how)

    def play(self, attempts: list[Attempt]) -> list[Trajectory | None]:
        return [self._demonstrator.play(attempt) for attempt in attempts]


def cluster_trajectories(how: Attempts, tasks: list[Task], passes: int, address: str) -> Iterator[Trajectory | None]:
    """What `affine.collect.collect.trajectories` yields, in the same order, played by the cluster at `address`.

    Raises ClusterError, EnvError.
    """
    queue = [Attempt(task, sample) for sample, task in itertools.product(range(passes), tasks)]
    batches = [queue[k : k + BATCH] for k in range(0, len(queue), BATCH)]
    done: dict[int, list[Trajectory | None]] = {}
    following = 0
    with Crew(address, _Guest, (how,)) as crew:
        for number, played in crew.run("play", ((batch,) for batch in batches)):
            done[number] = played
            while following in done:
                yield from done.pop(following)
                following += 1
