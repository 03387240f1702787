"""Stage `pareto`: episode records in, metrics and pictures out.

Reads evaluations/<model>/<env>.jsonl and incumbents/<model>.json; writes metrics/evaluate.json,
metrics/pareto.json and, in metrics/plots/, scores.csv, differences.csv, dominance.csv and their pictures
scores.png, differences.png, dominance.png.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from affine.params import Params, ParetoParams
from affine.pareto import plots
from affine.pareto.incumbents import read_incumbents
from affine.pareto.metrics import Row, difference_rows, dominance_rows, evaluate_metrics, pareto_metrics, score_rows
from affine.pareto.summary import models_in, read_evaluations
from affine.pareto.verdict import Judgement, judge


def run_pareto(params: Params, root: Path) -> None:
    """Judge base, sft and ppo, and the models in `root`/incumbents, and write everything under `root`/metrics.

    Raises EvaluationError, before anything is written, where records are missing, corrupt or not comparable.
    """
    judgement = judge(read_evaluations(root / "evaluations"), params.pareto, read_incumbents(root / "incumbents"))
    for name, content in outputs(judgement).items():
        _write(root / "metrics" / name, content)


def judge_folder(folder: Path, params: ParetoParams, incumbents: Path | None = None) -> Judgement:
    """The judgement of whatever models lie in `folder`, from their episode records alone, and of the files in
    `incumbents`. Raises EvaluationError."""
    earlier = read_incumbents(incumbents) if incumbents is not None else None
    return judge(read_evaluations(folder, models_in(folder)), params, earlier)


def outputs(judgement: Judgement) -> dict[str, bytes]:
    """Every output of the stage: path under metrics/ -> its bytes, the same for the same judgement."""
    return {
        "evaluate.json": _json(evaluate_metrics(judgement)),
        "pareto.json": _json(pareto_metrics(judgement)),
        "plots/scores.csv": _csv(score_rows(judgement)),
        "plots/differences.csv": _csv(difference_rows(judgement)),
        "plots/dominance.csv": _csv(dominance_rows(judgement)),
        "plots/scores.png": plots.forest(judgement),
        "plots/differences.png": plots.differences(judgement),
        "plots/dominance.png": plots.dominance(judgement),
    }


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, allow_nan=False) + "\n").encode()


def _csv(rows: Sequence[Row]) -> bytes:
    """The rows under the union of their columns, in order of first appearance; what a row lacks stays empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or none: a killed stage leaves nothing that looks finished."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, path)
