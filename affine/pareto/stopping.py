"""Stopping an evaluation environment by environment, as soon as the comparison with an incumbent is settled.

Tasks are played cluster by cluster in a fixed random order; after each look the sequential test (`sequential`) says
whether its wealth has crossed 1/error. However often it is looked at, an environment without a difference is
called better with probability at most `error`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from affine.pareto.paired import cluster_names, pair, sequence
from affine.pareto.sequential import LOOKS, Sequential, order, sequential
from affine.pareto.summary import EnvResult, TaskId, TaskResult
from affine.types import Task


class Looks:
    """What to play next, and what has been settled.

    `tasks` are those of each environment, `incumbent` the whole evaluation to compare with. Use:

        while batch := looks.next():
            for task, score in play(batch): looks.add(task, score)
    """

    def __init__(
        self, model: str, tasks: Mapping[str, Sequence[Task]], incumbent: Mapping[str, EnvResult], error: float
    ) -> None:
        self._error = error
        self._incumbent = incumbent
        self._played = {env: EnvResult(model, env, incumbent[env].fingerprint) for env in tasks}
        self._batches = {env: _batches(env, members) for env, members in tasks.items()}
        self._total = {env: len(members) for env, members in tasks.items()}
        self._tests: dict[str, Sequential] = {}

    def next(self) -> list[Task]:
        """The tasks of the next round, environments taking turns; none when all is settled or played."""
        for env, played in self._played.items():
            if played.tasks:
                pairs = pair(played.settle(), self._incumbent[env])
                self._tests[env] = sequential(*sequence(pairs), self._error)
                if self._tests[env].decision != "open":
                    self._batches[env] = []
        rounds = [batches.pop(0) for batches in self._batches.values() if batches]
        return [members[k] for k in range(max(map(len, rounds), default=0)) for members in rounds if k < len(members)]

    def add(self, task: Task, score: float) -> None:
        """One more episode of a task."""
        known = self._played[task.env].tasks.setdefault(_identity(task), _unplayed(task))
        known.scores.append(score)

    def report(self, against: str) -> dict[str, Any]:
        """stops.json: per environment how many tasks were played of how many, and on what evidence."""
        return {
            "against": against,
            "error": self._error,
            "env": {
                env: {
                    "played": len(played.tasks),
                    "of": self._total[env],
                    "stopped": len(played.tasks) < self._total[env],
                    "decision": self._tests[env].decision if env in self._tests else "open",
                }
                for env, played in self._played.items()
            },
        }


def _identity(task: Task) -> TaskId:
    return TaskId(task.level, task.id, task.seed)


def _unplayed(task: Task) -> TaskResult:
    return TaskResult(task.key, task.group)


def _batches(env: str, tasks: Sequence[Task]) -> list[list[Task]]:
    """At most `LOOKS` batches of whole clusters, about equally many tasks each."""
    names = cluster_names({_identity(task): _unplayed(task) for task in tasks}, "group")
    members: dict[str, list[Task]] = {}
    for task in tasks:
        members.setdefault(names[_identity(task)], []).append(task)
    batches: list[list[Task]] = [[]]
    for name in order(env, members):
        if len(batches[-1]) * LOOKS >= len(tasks):
            batches.append([])
        batches[-1] += members[name]
    return [batch for batch in batches if batch]
