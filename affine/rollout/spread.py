"""Episodes spread over the processes of `accelerate launch`, or over the machines of a Ray cluster.

Each ticket has its own random streams, so who plays it changes no token; every caller gets every trajectory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from affine.launch import RAY, place
from affine.rollout.episodes import Ticket
from affine.rollout.pool import Players, RolloutPool
from affine.rollout.sampling import Sampling
from affine.rollout.weights import AdapterWeights
from affine.types import Trajectory


class Pool(Protocol):
    """What evaluation needs of those who play; see `RolloutPool`."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def load(self, weights: AdapterWeights) -> None: ...
    def play(
        self,
        tickets: Sequence[Ticket],
        sampling: Sampling,
        finished: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]: ...


def open_pool(players: Players, workers: int) -> Pool:
    """Those who play: `workers` processes here; under `accelerate launch` so many in each of its processes; with
    AFFINE_RAY set, so many on each machine of that cluster.

    Raises ClusterError where there is no such cluster.
    """
    if place().processes > 1:
        return SharedPool(players, workers)
    if address := os.environ.get(RAY):
        from affine.rollout.cluster import ClusterPool

        return ClusterPool(players, workers, address)
    return RolloutPool(players, workers)


class SharedPool:
    """A pool in each process of the launch. All of them must call `play` with the same tickets; each plays its share
    and gets everybody's trajectories."""

    def __init__(self, players: Players, workers: int) -> None:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())  # joins the process group unless that has happened
        self._place = place()
        self._pool = RolloutPool(players, workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.close()

    def load(self, weights: AdapterWeights) -> None:
        """See `RolloutPool.load`."""
        self._pool.load(weights)

    def play(
        self,
        tickets: Sequence[Ticket],
        sampling: Sampling,
        finished: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """See `RolloutPool.play`. Of other processes' episodes `finished` is told when all are played."""
        from torch.distributed import all_gather_object

        rank, processes = self._place.rank, self._place.processes
        parts: list[Any] = [None] * processes
        all_gather_object(parts, self._pool.play(tickets[rank::processes], sampling, finished))
        for number, part in enumerate(parts):
            if finished and number != rank:
                for trajectory in part:
                    finished(trajectory)
        return [parts[i % processes][i // processes] for i in range(len(tickets))]
