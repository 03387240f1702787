"""What the dataset holds, per environment, for metrics/dataset.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from affine.dataset.sequences import Demonstration


class Counted(Protocol):
    """A demonstration, the number of its turns, and of those that hold a model's own tokens."""

    @property
    def demonstration(self) -> Demonstration: ...
    @property
    def turns(self) -> int: ...
    @property
    def sampled(self) -> int: ...


Part = tuple[Sequence[Counted], Sequence[Counted], Mapping[str, int]]
"""Training part, validation part, and how many were left out why."""


def report(parts: Mapping[str, Part]) -> dict[str, Any]:
    """`{"all": ..., "envs": {env: ...}}` with counts, mean turns, lengths in tokens and what was left out."""
    whole: Part = (
        [row for train, _, _ in parts.values() for row in train],
        [row for _, validation, _ in parts.values() for row in validation],
        {why: sum(left_out[why] for _, _, left_out in parts.values()) for why in next(iter(parts.values()))[2]},
    )
    return {"all": _summary(whole), "envs": {env: _summary(part) for env, part in parts.items()}}


def _summary(part: Part) -> dict[str, Any]:
    train, validation, left_out = part
    rows = [*train, *validation]
    lengths = np.array([len(row.demonstration) for row in rows] or [0])
    return {
        "demonstrations": len(rows),
        "validation": len(validation),
        "tokens": int(lengths.sum()),
        "agent_tokens": sum(row.demonstration.agent_tokens for row in rows),
        "sampled_turns": sum(row.sampled for row in rows),
        "turns": round(sum(row.turns for row in rows) / max(1, len(rows)), 3),
        "length": {
            "p50": float(np.percentile(lengths, 50)),
            "p95": float(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "left_out": dict(left_out),
    }
