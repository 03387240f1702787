"""Stages on several processes and machines.

How many processes run a stage is chosen outside params.yaml, so that it invalidates no result:

    AFFINE_ACCELERATE="--config_file launch/ddp.yaml" dvc repro

starts the stages `sft`, `ppo` and `evaluate` under `accelerate launch` with those options. Every process runs the
stage's own script; the first one writes what the stage makes. Likewise

    AFFINE_RAY=auto dvc repro

spreads the episodes of `collect` and `evaluate` over a Ray cluster (extra `cluster`).
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass

OPTIONS = "AFFINE_ACCELERATE"
"""The environment variable with the launcher's options; unset or empty for one process."""

RAY = "AFFINE_RAY"
"""The environment variable with the address of a Ray cluster (see `affine.cluster`, which is read only then)."""


@dataclass(frozen=True, slots=True)
class Place:
    """This process among those that run the stage: `rank` of `processes`, `local_rank` on its machine."""

    rank: int
    processes: int
    local_rank: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0


def place() -> Place:
    """Where this process stands, from what `accelerate launch` (or torchrun) says in the environment."""
    rank, processes, local = (int(os.environ.get(name, default)) for name, default in _NAMES)
    return Place(rank, processes, local)


_NAMES = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))


def relaunch(module: str, *arguments: str) -> None:
    """Become `accelerate launch ... -m module arguments` where the environment asks for it; else do nothing."""
    options = os.environ.pop(OPTIONS, "")
    if options and "WORLD_SIZE" not in os.environ:
        command = [sys.executable, "-m", "accelerate.commands.launch", *shlex.split(options), "-m", module, *arguments]
        os.execv(sys.executable, command)  # noqa: S606 - the user's own options, split without a shell
