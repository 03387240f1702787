"""What was measured and is kept in benchmarks/results/: how often experts succeed, and how fast environments are.

The numbers shown of an expert come from here (`python -m affine experts` writes them). The table `SUCCESS` beside each
expert is something else: the floor below which the environment's tests fail.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine.files import read_json

EXPERTS = Path("benchmarks/results/experts.json")
SPEED = Path("benchmarks/results/envs.json")
NOT_MEASURED = "not measured"


def expert_rows(root: Path, env: str) -> dict[int, dict[str, Any]]:
    """Level -> the record of its expert; empty where none is below `root`. Raises FileError."""
    path = root / EXPERTS
    rows = read_json(path).get(env, {}) if path.is_file() else {}
    return {int(level): row for level, row in sorted(rows.items(), key=lambda item: int(item[0]))}


def share(row: dict[str, Any] | None) -> str:
    """The share of tasks solved and of how many ("86% of 80"), or that it was not measured."""
    return f"{row['solved'] / row['tasks']:.0%} of {row['tasks']}" if row else NOT_MEASURED


def luck(row: dict[str, Any] | None) -> str:
    """What random play solves; in ABD also the share of random inputs that give the output."""
    if row is None or "luck" not in row:
        return ""
    hits = f" ({row['chance']:.2%} of inputs)" if row.get("chance") is not None else ""
    return f"{row['luck']:.0%}{hits}"


def speed(root: Path, env: str) -> str:
    """The recorded speed of `env` with the machine and the date; empty where none is below `root`. Raises FileError."""
    path = root / SPEED
    if not path.is_file():
        return ""
    result = read_json(path)
    row = result["envs"].get(env)
    if row is None:
        return ""
    rates = f"{row['expert']['steps_per_s']:,.0f} steps/s, {row['expert']['episodes_per_s']:,.0f} episodes/s"
    return f"recorded at level {result['level']}: {rates} ({result['machine']['processor']}, {result['date']})"
