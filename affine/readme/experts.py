"""The section on experts, from benchmarks/results/experts.json (`python -m affine experts` writes it)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine.files import read_json
from affine.readme.table import table
from affine.types import ENVS

SHOWN = 6
"""Failures of one type of task that are named by id; the file has all."""


def experts(root: Path, _: str) -> str:
    """Solved of played tasks by level and type of task, what random play solves, and the failures by id."""
    path = root / "benchmarks" / "results" / "experts.json"
    if not path.is_file():
        return "*Not measured yet: run `python -m affine experts`.*"
    result = read_json(path)
    rows = []
    for env in (env for env in ENVS if env in result):
        for level, row in sorted(result[env].items(), key=lambda item: int(item[0])):
            luck = f"{row['luck']:.0%}" if "luck" in row else ""
            rows.append([env, level, f"{row['solved']} of {row['tasks']}", luck, _types(row)])
    head = ["environment", "level", "expert solved", "random play", "types of task: solved of played (failed ids)"]
    return table(head, rows, right=range(1, 4))


def _types(row: dict[str, Any]) -> str:
    parts = []
    for kind, counts in row["kinds"].items():
        ids = [failure["id"] for failure in row["failures"] if failure["kind"] == kind]
        failed = ", ".join(map(str, ids[:SHOWN])) + (", ..." if len(ids) > SHOWN else "")
        share = f"{counts['solved']}/{counts['tasks']}" + (f" ({failed})" if failed else "")
        if kind or ids:
            parts.append(f"{kind} {share}".strip())
    return "; ".join(parts)
