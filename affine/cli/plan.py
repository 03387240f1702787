"""`plan`: how many episodes it takes to see a gain, before any is played."""

from __future__ import annotations

import argparse

from rich.console import Console

from affine.params import load_params
from affine.pareto.policies import POLICIES, IntervalRule
from affine.pareto.report import plan_table

GAPS = (2.0, 3.0, 5.0, 10.0, 20.0)


def run(arguments: list[str]) -> int:
    """Print the table. Raises ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine plan",
        description="Episodes per environment with which a gain would be seen, by the validators' rule of separate"
        " intervals and by the paired test (section pareto of params.yaml).",
    )
    parser.add_argument("gaps", nargs="*", type=_points, metavar="POINTS", help="gains (default: 2 3 5 10 20)")
    parser.add_argument("--incumbent", type=_share, default=0.4, metavar="SCORE", help="its mean score (default 0.4)")
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
    table = plan_table(
        [points / 100 for points in chosen.gaps or GAPS],
        chosen.incumbent,
        correlation=chosen.correlation,
        power=chosen.power,
        level=policy.level if isinstance(policy, IntervalRule) else params.confidence,
        error=params.error,
    )
    Console().print(table)
    return 0


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
