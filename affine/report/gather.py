"""What the page shows, read from metrics/ and evaluations/; nothing is computed here that a metrics file holds."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine.errors import AffineError
from affine.files import read_json
from affine.pareto.summary import MODELS, models_in
from affine.report.episodes import Packed, pack, read_episodes
from affine.report.graph import Graph, read_graph
from affine.types import ENVS

Row = Mapping[str, str]
Series = Sequence[tuple[float, float]]


class ReportError(AffineError):
    """There is nothing to report on yet."""


@dataclass(frozen=True, slots=True)
class Results:
    """The measured part. `scores` by (model, env or "overall"), `effects` by (pair, env or "overall"), `curves`
    by stage and name. `level` is that of all intervals. `packed` is None where the episodes are not here."""

    models: tuple[str, ...]
    envs: tuple[str, ...]
    level: float
    summary: Mapping[str, Any]
    verdicts: Mapping[str, Any]
    scores: Mapping[tuple[str, str], Row]
    effects: Mapping[tuple[str, str], Row]
    curves: Mapping[str, Mapping[str, Series]]
    graph: Graph
    packed: Packed | None

    @property
    def pairs(self) -> list[str]:
        """Names of the comparisons between models played here, as metrics/pareto.json has them."""
        pairs = dict.fromkeys(pair for pair, _ in self.effects)
        return [pair for pair in pairs if pair.partition("_vs_")[2] in self.models]


def gather(root: Path, level: float) -> Results:
    """Read everything under `root`. Raises ReportError where nothing was evaluated yet, FileError where a file
    is damaged, GraphError."""
    metrics = root / "metrics"
    if not (metrics / "evaluate.json").is_file():
        raise ReportError(f"{metrics / 'evaluate.json'}: no such file; nothing to report on yet, run `make all` first")
    scores = {(row["model"], row["env"]): row for row in read_rows(metrics / "plots" / "scores.csv")}
    summary = read_json(metrics / "evaluate.json")
    models = tuple(summary)
    played = {env for _, env in scores}
    evaluations = root / "evaluations"
    packed = None
    if evaluations.is_dir() and any(evaluations.iterdir()):
        evaluated = models_in(evaluations)
        packed = pack(read_episodes(evaluations, evaluated), evaluated)
    return Results(
        models=models,
        envs=tuple(env for env in ENVS if env in played),
        level=level,
        summary=summary,
        verdicts=read_json(metrics / "pareto.json"),
        scores=scores,
        effects={(row["pair"], row["env"]): row for row in read_rows(metrics / "plots" / "differences.csv")},
        curves={stage: read_curves(metrics / "curves" / stage) for stage in MODELS[1:]},
        graph=read_graph(root / "dvc.yaml"),
        packed=packed,
    )


def read_rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows. Raises ReportError where it is missing."""
    try:
        return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
    except FileNotFoundError:
        raise ReportError(f"{path}: no such file; run `dvc repro pareto`") from None


def read_curves(folder: Path) -> dict[str, Series]:
    """dvclive's curves below `folder`: name (with slashes) -> points. Empty where the stage logged none. A last row
    that is still being written is left out."""
    curves: dict[str, Series] = {}
    for path in sorted(folder.rglob("*.tsv")):
        _, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        if rows and not rows[-1].endswith("\n"):
            del rows[-1]
        cells = [row.split("\t") for row in rows]
        curves[path.relative_to(folder).with_suffix("").as_posix()] = [(float(c[0]), float(c[-1])) for c in cells]
    return curves
