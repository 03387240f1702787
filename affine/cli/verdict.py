"""`verdict`: judge models anew from their stored episodes, without a model or an engine."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from affine.params import load_params
from affine.pareto.incumbents import FOLDER, read_incumbents
from affine.pareto.policies import POLICIES
from affine.pareto.report import comparison_table, scores_table, verdict_lines
from affine.pareto.run import judge_folder, outputs
from affine.pareto.summary import read_evaluations
from affine.pareto.verdict import Judgement, judge


def run(arguments: list[str]) -> int:
    """Print scores, comparisons and the verdict in words; or write, or check, the files of stage `pareto`. Raises
    EvaluationError and ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine verdict",
        description="Judge every model in FOLDER (<model>/<env>.jsonl) and the incumbents from what is stored of them,"
        " with the section pareto of params.yaml.",
    )
    parser.add_argument("folder", nargs="?", type=Path, default=Path("evaluations"), help="default: evaluations")
    parser.add_argument("--incumbents", type=Path, default=Path(FOLDER), metavar="FOLDER", help=f"default: {FOLDER}")
    parser.add_argument("--policy", choices=POLICIES, help="the validators' rule to apply (default: pareto.policy)")
    parser.add_argument("--short", action="store_true", help="the verdict in words only")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write the metrics, tables and plots there as well"
    )
    parser.add_argument(
        "--check",
        nargs="?",
        type=Path,
        const=Path("metrics"),
        metavar="FOLDER",
        help="only compare with what stage pareto wrote there (default: metrics); exit 1 where a byte differs",
    )
    chosen = parser.parse_args(arguments)
    params = load_params().pareto
    if chosen.policy:
        params = params.model_copy(update={"policy": chosen.policy})
    if chosen.check:
        return _check(judge(read_evaluations(chosen.folder), params, read_incumbents(chosen.incumbents)), chosen.check)
    judgement = judge_folder(chosen.folder, params, chosen.incumbents)
    console = Console()
    if not chosen.short:
        console.print(scores_table(judgement))
        for comparison in judgement.comparisons:
            console.print(comparison_table(comparison, judgement.policy))
    for line in verdict_lines(judgement):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if chosen.write:
        for name, content in outputs(judgement).items():
            path = chosen.write / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return 0


def _check(judgement: Judgement, folder: Path) -> int:
    """Say of each file whether it holds what the records give."""
    wrong = 0
    for name, content in outputs(judgement).items():
        path = folder / name
        same = path.is_file() and path.read_bytes() == content
        wrong += not same
        print(f"{path}: {'same bytes' if same else 'differs' if path.is_file() else 'missing'}")
    if wrong:
        print("what differs was made from other records, parameters, code or library versions: dvc repro pareto")
    return 1 if wrong else 0
