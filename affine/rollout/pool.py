"""Rollout workers: processes that live as long as the stage, each with its model and its engines.

On CPUs this uses the cores better than threads inside one small model's operators do, and environments step
in one worker while the model computes in another. Tickets are dealt out by their position, so that results
do not depend on which worker is faster. A worker ends when its parent does, however that happens.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

from affine.envs.env import EnvError, EnvSettings
from affine.errors import AffineError
from affine.launch import place
from affine.models.memory import estimate_rollout, out_of_memory
from affine.params import Params
from affine.processes import end_with_parent
from affine.rollout.episodes import EnvPool, Limits, Ticket, play_episodes
from affine.rollout.sampling import Sampling
from affine.rollout.weights import NO_ADAPTER, AdapterWeights
from affine.types import Trajectory


class RolloutError(AffineError):
    """A rollout worker died, could not start or ran out of memory."""


@dataclass(frozen=True, slots=True)
class Players:
    """What every worker is given. `dtype` is the format of a CPU engine's products (on CUDA it is the checkpoint's),
    `threads` the number of threads a worker's model may use."""

    base: Path
    settings: EnvSettings
    limits: Limits
    slots: int
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int = 1


def settings_of(params: Params) -> EnvSettings:
    """How the parameters say that environments behave."""
    return EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe)


def players_of(params: Params, base: Path) -> Players:
    """How the parameters say that the model at `base` plays."""
    rollout = params.rollout
    return Players(base, settings_of(params), Limits(rollout.context, rollout.reply), rollout.slots, rollout.dtype)


class Player:
    """One model with its engines, in this process."""

    def __init__(self, players: Players, device: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from affine.models.chat import Renderer
        from affine.models.memory import keep_freed_memory
        from affine.rollout.generator import make_generator
        from affine.rollout.weights import Folded

        keep_freed_memory()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(players.threads)
        model = AutoModelForCausalLM.from_pretrained(
            players.base, local_files_only=True, attn_implementation="sdpa"
        ).eval()
        if device != "cpu":
            model = model.to(device)
        self._folded = Folded(model)
        self._generator = make_generator(model, players.slots, players.limits.context, getattr(torch, players.dtype))
        self._renderer = Renderer(AutoTokenizer.from_pretrained(players.base, local_files_only=True))
        self._envs = EnvPool(players.settings)
        self._limits = players.limits

    def load(self, weights: AdapterWeights) -> None:
        """The adapter that the next episodes are played with."""
        self._folded.load(weights)

    def play(
        self, tickets: Sequence[Ticket], sampling: Sampling, finished: Callable[[Trajectory], None] | None = None
    ) -> list[Trajectory]:
        """See `play_episodes`."""
        return play_episodes(
            tickets,
            generator=self._generator,
            renderer=self._renderer,
            envs=self._envs,
            sampling=sampling,
            limits=self._limits,
            finished=finished,
        )

    @property
    def environment_seconds(self) -> float:
        """How long the engines have taken so far."""
        return self._envs.seconds

    def close(self) -> None:
        """End the engines."""
        self._envs.close()


@dataclass(frozen=True, slots=True)
class _Order:
    tickets: list[Ticket]
    sampling: Sampling
    weights: AdapterWeights | None


class RolloutPool:
    """`workers` processes playing episodes. Use as a context manager. `environment_seconds` is how long environments
    have taken so far, measured in the workers: the mean of them, to be held against the time that `play` took."""

    def __init__(self, players: Players, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes: list[Any] = []
        for k in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, players, os.getpid(), k), daemon=True)
            process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        self._weights: AdapterWeights | None = NO_ADAPTER
        self._players = players
        self.environment_seconds = 0.0

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

        Raises EnvError where an environment could not go on and RolloutError where a worker died or ran out of memory.
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
                if kind == "memory":
                    raise RolloutError(f"rollout worker {k}: out of memory; {self._advice()}")
                if kind == "done":
                    parts[k], seconds = value
                    self.environment_seconds += seconds / workers
                    busy.remove(k)
                elif finished:
                    finished(value)
        return [parts[i % workers][i // workers] for i in range(len(tickets))]

    def _lost(self, k: int) -> RolloutError:
        process = self._processes[k]
        process.join(timeout=5)
        return RolloutError(
            f"rollout worker {k} died (exit code {process.exitcode}); if memory ran out: {self._advice()}"
        )

    def _advice(self) -> str:
        """What to lower, with an estimate of what it takes."""
        slots, context = self._players.slots, self._players.limits.context
        try:
            need = estimate_rollout(self._players.base, slots, context)
            half = estimate_rollout(self._players.base, max(1, slots // 2), context)
        except (OSError, ValueError, KeyError):  # the checkpoint may be why the worker died
            return "lower rollout.slots, rollout.context or rollout.workers"
        return (
            f"each of {len(self._processes)} workers needs about {need.total_gb:.2g} GB, {need.weights_gb:.2g} GB of"
            f" them weights, for rollout.slots {slots} of rollout.context {context}. Half the slots need about"
            f" {half.total_gb:.2g} GB; lower rollout.slots, rollout.context or rollout.workers"
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


def _device(worker: int) -> str:
    """The worker's device: under a launcher its process's GPU, else GPUs in turn."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    here = place()
    return f"cuda:{(here.local_rank if here.processes > 1 else worker) % torch.cuda.device_count()}"


def _serve(connection: Connection, players: Players, parent: int, number: int) -> None:
    """A worker's life: orders in, trajectories out, until the pipe closes."""
    end_with_parent(parent)
    try:
        with closing(Player(players, _device(number))) as player:
            _work(connection, player)
    except (BrokenPipeError, ConnectionResetError):
        return  # the parent closed the pool in the middle of an order
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        connection.send(("memory", ""))


def _work(connection: Connection, player: Player) -> None:
    """Orders in, trajectories out. Returns when the pipe closes or an environment could not go on."""
    while True:
        try:
            order: _Order = connection.recv()
        except EOFError:
            return
        if order.weights is not None:
            player.load(order.weights)
        before = player.environment_seconds
        try:
            trajectories = player.play(
                order.tickets, order.sampling, lambda trajectory: connection.send(("episode", trajectory))
            )
        except EnvError as error:
            connection.send(("error", str(error)))
            return
        connection.send(("done", (trajectories, player.environment_seconds - before)))
