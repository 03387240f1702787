"""Rollout workers: processes that live as long as the stage, each with its model and its engines.

On CPUs this uses the cores better than threads inside one small model's operators do, and environments step
in one worker while the model computes in another. Tickets are dealt out by their position, so that results
do not depend on which worker is faster. A worker ends when its parent does, however that happens.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from affine.envs.env import EnvError, EnvSettings
from affine.errors import AffineError
from affine.processes import end_with_parent
from affine.rollout.episodes import EnvPool, Limits, Ticket, play_episodes
from affine.rollout.sampling import Sampling
from affine.rollout.weights import NO_ADAPTER, AdapterWeights
from affine.types import Trajectory


class RolloutError(AffineError):
    """A rollout worker died or could not start."""


@dataclass(frozen=True, slots=True)
class Players:
    """What every worker is given. `threads` is the number of threads a worker's model may use."""

    base: Path
    settings: EnvSettings
    limits: Limits
    slots: int
    threads: int = 1


@dataclass(frozen=True, slots=True)
class _Order:
    tickets: list[Ticket]
    sampling: Sampling
    weights: AdapterWeights | None


class RolloutPool:
    """`workers` processes playing episodes. Use as a context manager."""

    def __init__(self, players: Players, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, players, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._weights: AdapterWeights | None = NO_ADAPTER

    def __enter__(self) -> RolloutPool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def load(self, weights: AdapterWeights) -> None:
        """The adapter that the next episodes are played with."""
        self._weights = weights

    def play(
        self,
        tickets: Sequence[Ticket],
        sampling: Sampling,
        finished: Callable[[Trajectory], None] | None = None,
    ) -> list[Trajectory]:
        """Play all tickets; trajectories in their order. `finished` is told of each as it ends.

        Raises EnvError where an environment could not go on and RolloutError where a worker died.
        """
        workers = len(self._connections)
        for k, connection in enumerate(self._connections):
            try:
                connection.send(_Order(list(tickets[k::workers]), sampling, self._weights))
            except (BrokenPipeError, ConnectionResetError):
                raise self._lost(k) from None
        self._weights = None
        parts: list[list[Trajectory]] = [[] for _ in range(workers)]
        busy = set(range(workers))
        while busy:
            for ready in wait([self._connections[k] for k in sorted(busy)]):
                k = next(k for k in sorted(busy) if self._connections[k] is ready)
                try:
                    kind, value = self._connections[k].recv()
                except (EOFError, ConnectionResetError):
                    raise self._lost(k) from None
                if kind == "error":
                    raise EnvError(value)
                if kind == "done":
                    parts[k] = value
                    busy.remove(k)
                elif finished:
                    finished(value)
        return [parts[i % workers][i // workers] for i in range(len(tickets))]

    def _lost(self, k: int) -> RolloutError:
        process = self._processes[k]
        process.join(timeout=5)
        return RolloutError(
            f"rollout worker {k} died (exit code {process.exitcode}); if memory ran out, lower rollout.slots "
            "or rollout.workers"
        )

    def close(self) -> None:
        """End the workers and their engines."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()


def _serve(connection: Connection, players: Players, parent: int) -> None:
    """A worker's life: orders in, trajectories out, until the pipe closes."""
    end_with_parent(parent)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    from affine.models.chat import Renderer
    from affine.models.memory import keep_freed_memory
    from affine.rollout.generator import CachedGenerator
    from affine.rollout.weights import Folded

    keep_freed_memory()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(players.threads)
    model = AutoModelForCausalLM.from_pretrained(players.base, local_files_only=True, attn_implementation="sdpa").eval()
    if torch.cuda.is_available():
        model = model.to("cuda")
    folded = Folded(model)
    generator = CachedGenerator(model, players.slots, players.limits.context)
    renderer = Renderer(AutoTokenizer.from_pretrained(players.base, local_files_only=True))
    envs = EnvPool(players.settings)
    try:
        while True:
            try:
                order: _Order = connection.recv()
            except EOFError:
                return
            if order.weights is not None:
                folded.load(order.weights)
            try:
                trajectories = play_episodes(
                    order.tickets,
                    generator=generator,
                    renderer=renderer,
                    envs=envs,
                    sampling=order.sampling,
                    limits=players.limits,
                    finished=lambda trajectory: connection.send(("episode", trajectory)),
                )
            except EnvError as error:
                connection.send(("error", str(error)))
                return
            connection.send(("done", trajectories))
    except (BrokenPipeError, ConnectionResetError):
        return  # the parent closed the pool in the middle of an order
    finally:
        envs.close()
