"""The section on experts, from benchmarks/results/experts.json (`python -m affine experts` writes it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine.readme.table import table
from affine.recorded import EXPERTS, expert_rows, luck
from affine.types import ENVS

SHOWN = 6
"""Failures of one type of task that are named by id; the file has all."""


def experts(root: Path, _: str) -> str:
    """Solved of played tasks by level and type of task, what random play solves, and the failures by id."""
    if not (root / EXPERTS).is_file():
        return "*Not measured yet: run `python -m affine experts`.*"
    rows = []
    for env in ENVS:
        for level, row in expert_rows(root, env).items():
            sees = "the engine" if row.get("privileged") else "what is shown"
            solved = f"{row['solved']} of {row['tasks']}"
            rows.append([env, level, sees, solved, luck(row), _types(row)])
    types = "types of task: solved of played (failed ids)"
    return table(
        ["environment", "level", "expert sees", "expert solved", "random play", types], rows, right=range(3, 5)
    )


def _types(row: dict[str, Any]) -> str:
    parts = []
    for kind, counts in row["kinds"].items():
        ids = [failure["id"] for failure in row["failures"] if failure["kind"] == kind]
        failed = ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
        share = f"{counts['solved']}/{counts['tasks']}" + (f" ({failed})" if failed else "")
        if kind or ids:
            parts.append(f"{kind} {share}".strip())
    return "; ".join(parts)
