"""Rejection sampling: a model plays training tasks, and what it solves becomes demonstrations (`collect.source:
policy`).

The model is a whole checkpoint (a release, say). It is named by the hash of its files as a Hub base is by its
commit: what collect is made from cannot change unnoticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from affine.collect.collect import PASSES, CollectError
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import base_digest
from affine.params import Params
from affine.rollout.episodes import Ticket
from affine.rollout.pool import players_of
from affine.rollout.sampling import Sampling
from affine.rollout.spread import open_pool
from affine.types import Task, Trajectory

ROUNDS = 4
"""How many times the rollout slots are filled between two looks at whether there are enough demonstrations."""


def policy_trajectories(params: Params, tasks: list[Task], root: Path) -> Iterator[Trajectory]:
    """Play `tasks` in order, up to `PASSES` times, with the model of `collect.policy`; closing the iterator ends its
    processes.

    Turns that the environment did not understand are marked as not to be learnt. The replies keep the tokens that were
    sampled: the dataset holds those and not another spelling of the same text.

    Raises CollectError where the model's hash is not `collect.policy_digest`, CheckpointError, EnvError.
    """
    folder = root / params.collect.policy
    check_checkpoint(folder)
    if (digest := base_digest(folder)) != params.collect.policy_digest:
        raise CollectError(
            f"collect.policy {params.collect.policy} has the hash {digest}; to play with it, set"
            f" collect.policy_digest to that (it is {params.collect.policy_digest or 'empty'})"
        )
    size = ROUNDS * params.rollout.slots * params.rollout.workers
    with open_pool(players_of(params, folder), params.rollout.workers) as pool:
        for sample in range(PASSES):
            for k in range(0, len(tasks), size):
                tickets = [Ticket(task, sample, params.seed) for task in tasks[k : k + size]]
                for trajectory in pool.play(tickets, Sampling(params.collect.temperature)):
                    yield _as_demonstration(trajectory)


def _as_demonstration(trajectory: Trajectory) -> Trajectory:
    turns = tuple(replace(turn, logprobs=(), expert=turn.valid) for turn in trajectory.turns)
    return replace(trajectory, turns=turns)
