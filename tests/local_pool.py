"""Rollouts without worker processes."""

from __future__ import annotations

from collections.abc import Sequence

from affine.rollout.episodes import Ticket
from affine.rollout.pool import Player, Players
from affine.rollout.sampling import Sampling
from affine.rollout.weights import AdapterWeights
from affine.types import Trajectory


class LocalPool:
    """What a rollout worker does, in this process (tests/test_rollout.py shows that workers play the same)."""

    def __init__(self, players: Players, workers: int) -> None:
        self._player = Player(players, "cpu")

    def __enter__(self) -> LocalPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self._player.close()

    def load(self, weights: AdapterWeights) -> None:
        self._player.load(weights)

    @property
    def environment_seconds(self) -> float:
        return self._player.environment_seconds

    def play(self, tickets: Sequence[Ticket], sampling: Sampling) -> list[Trajectory]:
        return self._player.play(tickets, sampling)
