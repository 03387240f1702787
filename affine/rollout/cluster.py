"""Episodes on a Ray cluster: every machine has players with models and engines of their own."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from affine.cluster import Crew
from affine.rollout.episodes import Ticket
from affine.rollout.pool import Player, Players
from affine.rollout.sampling import Sampling
from affine.rollout.weights import NO_ADAPTER, AdapterWeights
from affine.types import Trajectory


class _Guest:
    """A player on another machine, which may not see this one's files: the base comes with the order."""

    def __init__(self, players: Players, files: dict[str, bytes]) -> None:
        import torch

        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            here = replace(players, base=Path(folder))
            self._player = Player(here, "cuda" if torch.cuda.is_available() else "cpu")
        self._version = -1

    def play(
        self, tickets: list[Ticket], sampling: Sampling, version: int, weights: AdapterWeights
    ) -> list[Trajectory]:
        if version != self._version:
            self._player.load(weights)
            self._version = version
        return self._player.play(tickets, sampling)


class ClusterPool:
    """See `affine.rollout.spread.Pool`."""

    def __init__(self, players: Players, workers: int, address: str) -> None:
        files = {path.name: path.read_bytes() for path in sorted(players.base.iterdir()) if path.is_file()}
        self._slots = players.slots
        self._crew = Crew(address, _Guest, (players, files), workers, gpu=True)
        self._version = 0
        self._weights = self._crew.share(NO_ADAPTER)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._crew.close()

    def load(self, weights: AdapterWeights) -> None:
        """See `RolloutPool.load`."""
        self._version += 1
        self._weights = self._crew.share(weights)

    def play(
        self,
        tickets: Sequence[Ticket],
        sampling: Sampling,
        finished: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """See `RolloutPool.play`; `finished` is told of episodes a part of the tickets at a time.

        A part is twice what a player holds at once: enough to keep its slots filled, little to do again.
        """
        parts = min(len(tickets), max(len(self._crew), math.ceil(len(tickets) / (2 * self._slots))))
        jobs = ((list(tickets[k::parts]), sampling, self._version, self._weights) for k in range(parts))
        played: dict[int, list[Trajectory]] = {}
        for number, part in self._crew.run("play", jobs):
            played[number] = part
            if finished:
                for trajectory in part:
                    finished(trajectory)
        return [played[i % parts][i // parts] for i in range(len(tickets))]
