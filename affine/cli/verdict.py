"""`verdict`: judge models anew from their stored episodes, without a model or an engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from affine.params import load_params
from affine.pareto.policies import POLICIES
from affine.pareto.report import comparison_table, scores_table, verdict_lines
from affine.pareto.run import judge_folder


def run(arguments: list[str]) -> int:
    """Print scores, comparisons and the verdict in words. Raises EvaluationError and ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine verdict",
        description="Judge every model in FOLDER (<model>/<env>.jsonl) from its stored episodes, with the section"
        " pareto of params.yaml.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("evaluations"), help="default: evaluations")
    parser.add_argument("--policy", choices=POLICIES, help="the validators' rule to apply (default: pareto.policy)")
    parser.add_argument("--short", action="store_true", help="the verdict in words only")
    chosen = parser.parse_args(arguments)
    params = load_params().pareto
    if chosen.policy:
        params = params.model_copy(update={"policy": chosen.policy})
    judgement = judge_folder(chosen.folder, params)
    console = Console()
    if not chosen.short:
        console.print(scores_table(judgement))
        for comparison in judgement.comparisons:
            console.print(comparison_table(comparison, judgement.policy))
    for line in verdict_lines(judgement):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0
