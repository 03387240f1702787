"""The section on speed, from benchmarks/results/*.json (`make bench` writes them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine.files import read_json


def speed(root: Path, _: str) -> str:
    """What was measured last, as ratios and rates, with the machine it was measured on."""
    parts = [
        describe(read_json(path))
        for name, describe in (("envs", _envs), ("rollout", _rollout))
        if (path := root / "benchmarks" / "results" / f"{name}.json").is_file()
    ]
    return "\n\n".join(parts) if parts else "*Not measured yet: run `make bench`.*"


def _envs(result: dict[str, Any]) -> str:
    lines = [
        "| environment | steps/s in process | steps/s over HTTP | ratio | episodes/s, expert | start-up, s |",
        "| --- | --: | --: | --: | --: | --: |",
    ]
    for env, row in result["envs"].items():
        expert = row["expert"]
        lines.append(
            f"| {env} | {expert['steps_per_s']:,.0f} | {expert['http_steps_per_s']:,.0f} | {expert['ratio']:,.0f} x |"
            f" {expert['episodes_per_s']:,.1f} | {row['start_s']:.1f} |"
        )
    for name, row in result["references"].items():
        lines.append(f"| {name} | {row['ours']:,.0f} | {row['theirs']:,.1f} (its own) | {row['ratio']:,.0f} x | | |")
    return "\n".join([*lines, "", _where(result)])


def _rollout(result: dict[str, Any]) -> str:
    lines = ["| rollouts | sampled tokens/s | episodes/s |", "| --- | --: | --: |"]
    for name, key in (("this engine", "engine"), ("`model.generate`, every turn encoded anew", "generate")):
        row = result[key]
        lines.append(f"| {name} | {row['tokens_per_s']:,.0f} | {row['episodes_per_s']:,.1f} |")
    ratio = result["ratio"]
    lines.append(f"| ratio | {ratio['tokens_per_s']:.1f} x | {ratio['episodes_per_s']:.1f} x |")
    played = f"{result['engine']['episodes']} episodes of {result['engine']['turns']:.1f} turns, {result['model']}."
    return "\n".join([*lines, "", played, _where(result)])


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Measured on {machine['processor']} ({machine['cores']} cores, load {machine['load']:.1f} before), Python"
        f" {machine['python']}, commit {result['commit'] or 'unknown'}."
    )
