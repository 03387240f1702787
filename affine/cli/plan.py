"""`plan`: how many episodes it takes to see a gain, before any is played."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from affine.errors import AffineError
from affine.files import read_json
from affine.params import load_params
from affine.pareto.incumbents import FOLDER, read_incumbents
from affine.pareto.policies import POLICIES, IntervalRule
from affine.pareto.report import Plan
from affine.types import ENVS

GAPS = (2.0, 3.0, 5.0, 10.0, 20.0)

METRICS = Path("metrics/evaluate.json")


class PlanError(AffineError):
    """There is nothing known about the model to plan against."""


def run(arguments: list[str]) -> int:
    """Print the tables. Raises ParamsError, PlanError, EvaluationError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine plan",
        description="Episodes per environment with which a gain would be seen, by the validators' rule of separate"
        " intervals and by the paired test (section pareto of params.yaml).",
    )
    parser.add_argument("gaps", nargs="*", type=_points, metavar="POINTS", help="gains (default: 2 3 5 10 20)")
    whom = parser.add_mutually_exclusive_group()
    whom.add_argument("--incumbent", type=_share, default=0.4, metavar="SCORE", help="its mean score (default 0.4)")
    whom.add_argument(
        "--against",
        metavar="MODEL",
        help=f"plan each environment from what MODEL scores there ({METRICS} or {FOLDER}/MODEL.json)",
    )
    parser.add_argument("--power", type=_share, default=0.8, help="chance to see a gain that is there (default 0.8)")
    parser.add_argument(
        "--correlation",
        type=_share,
        default=0.5,
        help="of the two models' outcomes on one task; counts for the paired test (default 0.5)",
    )
    chosen = parser.parse_args(arguments)
    params = load_params().pareto
    policy = POLICIES[params.policy]
    level = policy.level if isinstance(policy, IntervalRule) else params.confidence
    plan = Plan(chosen.power, chosen.correlation, level, params.error)
    gaps = [points / 100 for points in chosen.gaps or GAPS]
    if chosen.against is None:
        Console().print(plan.gaps_table(gaps, chosen.incumbent))
        return 0
    means = known_means(chosen.against)
    for gap in gaps:
        Console().print(plan.envs_table(gap, chosen.against, means))
    return 0


def known_means(model: str) -> Mapping[str, float]:
    """The model's mean score per environment. Raises PlanError where nothing is known of it, EvaluationError."""
    played = read_json(METRICS) if METRICS.is_file() else {}
    if model in played:
        means: Mapping[str, float] = played[model]["env"]
        return means
    incumbents = read_incumbents(Path(FOLDER))
    if model in incumbents:
        return {env: incumbents[model][env].mean for env in ENVS if env in incumbents[model]}
    known = ", ".join([*played, *incumbents]) or "none yet"
    raise PlanError(f"--against {model}: no such model in {METRICS} or {FOLDER}/ (known: {known})")


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _points(text: str) -> float:
    value = float(text)
    if not 0.0 < value < 100.0:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 100 points")
    return value
