"""Episode records made for the statistics' tests: no engine, no model, real records."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path

from affine.types import ENVS, Episode, Message, Split, StopReason, Task, Trajectory, Turn, to_json

RATES = {"base": 0.3, "sft": 0.55, "ppo": 0.7}


def episode(
    env: str = "sat",
    id: int = 0,
    score: float = 1.0,
    *,
    model: str = "ppo",
    group: str = "",
    key: str = "",
    fingerprint: str = "f00d",
    sample: int = 0,
    turns: int = 2,
) -> Episode:
    """One record; its last turn is invalid unless it was solved."""
    task = Task(env, 0, id, 7, Split.TEST, key or f"{env}-{id}", group)
    solved = score == 1.0
    played = tuple(
        Turn(
            "Action: go",
            "",
            0.0,
            valid=solved or t + 1 < turns,
            token_ids=(5, 6, 7),
            logprobs=(-0.1, -0.2, 0.0),
        )
        for t in range(turns)
    )
    stop = StopReason.SOLVED if solved else StopReason.TURN_LIMIT
    return Episode(
        Trajectory(task, (Message("user", "begin"),), played, score, solved, stop), model, fingerprint, sample
    )


def write_evaluations(
    folder: Path, tasks: int = 200, rates: Mapping[str, float] = RATES, *, groups: int = 50, seed: int = 0
) -> None:
    """`folder`/<model>/<env>.jsonl for all eight environments; outcomes on one task are correlated."""
    for env in ENVS:
        for model, rate in rates.items():
            lines = []
            for id in range(tasks):
                shared = random.Random(f"{seed}/{env}/{id}").random()
                own = random.Random(f"{seed}/{env}/{id}/{model}")
                luck = shared if own.random() < 0.5 else own.random()
                record = episode(env, id, float(luck < rate), model=model, group=f"g{id % groups}")
                lines.append(to_json(record) + "\n")
            path = folder / model / f"{env}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
