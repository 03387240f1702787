"""`tune`: search parameters with Optuna, each trial a DVC experiment."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from affine.cli.experiments import SCORES
from affine.cli.preset import PARAMS, Change, assign, merge, override, read_yaml
from affine.report.changes import reader
from affine.tune import (
    PATIENCE,
    Dimension,
    Metric,
    Search,
    Trial,
    TuneError,
    parse_dimension,
    read_experiment,
    run_experiment,
    study_name,
)

INTERVALS = "metrics/plots/scores.csv"
"""A row per model and environment, with the interval of its score."""


def run(arguments: list[str]) -> int:
    """Search until there are as many trials as asked for. Raises TuneError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine tune",
        description="Search parameters: Optuna proposes, `dvc exp run` tries. Ctrl-C stops; the same command goes"
        " on. Every trial is an experiment (`python -m affine experiments`, `dvc exp apply NAME`).",
        epilog="example: python -m affine tune sft.learning_rate=1e-5..1e-3:log ppo.kl=0.01,0.03 --trials 20",
    )
    parser.add_argument("space", nargs="+", metavar="KEY=WHAT", help="LOW..HIGH, LOW..HIGH:log or A,B,C")
    parser.add_argument("--trials", type=int, default=20, help="in all, earlier runs of this search included (20)")
    parser.add_argument("--metric", default=f"{SCORES}:ppo.overall", metavar="FILE:KEY", help="default: %(default)s")
    parser.add_argument("--minimize", action="store_true", help="lower is better, as for a loss")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals")
    chosen = parser.parse_args(arguments)
    root, console = Path.cwd(), Console()
    space = [parse_dimension(text) for text in chosen.space]
    file, colon, key = chosen.metric.partition(":")
    if not colon or not key:
        parser.error("--metric: expected FILE:KEY, such as metrics/sft.json:validation_loss.best")
    check_space(space)
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError:
        raise TuneError("optuna is not installed: .venv/bin/pip install -e '.[tune]'") from None
    metric = Metric(file, key, maximize=not chosen.minimize)
    _, commit = reader(root, "HEAD")
    search = Search(
        root, study_name(space, metric, commit), space, metric,
        seed=chosen.seed, run=partial(attempt, console, root, metric),
    )  # fmt: skip
    failures = 0
    while (number := len(search.finished())) < chosen.trials:
        console.print(f"[bold]{search.name}[/]: trial {number + 1} of {chosen.trials}")
        trial = search.step()
        failures = 0 if trial else failures + 1
        if failures == PATIENCE:
            raise TuneError(f"{PATIENCE} trials failed one after the other; see above, and logs/{search.name}-*/")
        if trial:
            console.print(f"  {escape(_values(trial))}: {trial.score:.4f}", soft_wrap=True)
    show(console, search, root)
    return 0


def attempt(console: Console, root: Path, metric: Metric, name: str, values: Mapping[str, Any]) -> str | None:
    """`run_experiment`; where a trial fails, say where its log lies."""
    text = run_experiment(root, metric, name, values)
    if text is None:
        console.print(f"  [red]failed[/]; what its stages said is in logs/{name}/", highlight=False, soft_wrap=True)
    return text


def check_space(space: list[Dimension]) -> None:
    """Every end of every range must be a valid parameter file. Raises PresetError (naming the key) or TuneError."""
    keys = [dimension.key for dimension in space]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise TuneError(f"{', '.join(twice)}: named twice")
    known = read_yaml(PARAMS)
    for dimension in space:
        value: Any = known
        for part in dimension.key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise TuneError(f"params.yaml has no {dimension.key}; write it there first, so that DVC sees it change")
        for end in dimension.choices or (dimension.low, dimension.high):
            overlay: dict[str, Any] = {}
            assign(overlay, f"{dimension.key}={json.dumps(end)}")
            merge(f"{dimension.key}={end}", overlay)


def show(console: Console, search: Search, root: Path) -> None:
    """The trials, best first, and how to go on with the best one."""
    best = search.best()
    if best is None:
        console.print("no trial was finished")
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("experiment", no_wrap=True)
    table.add_column("values", overflow="fold")
    table.add_column(search.metric.key, justify="right")
    sign = -1 if search.metric.maximize else 1
    for trial in sorted(search.finished(), key=lambda one: sign * one.score)[:10]:
        table.add_row(trial.name, escape(_values(trial)), f"{trial.score:.4f}")
    console.print(table)
    console.print(f"best: [bold]{best.name}[/], {interval(root, search.metric, best)}", soft_wrap=True)
    console.print(f"  dvc exp apply {best.name}", highlight=False)
    if search.metric.file == SCORES and len(search.finished()) > 1:
        console.print(
            f"The best of {len(search.finished())} on the test tasks looks better than it is; believe it after an"
            " evaluation on other tasks (`-S tasks.seed=...`).", soft_wrap=True,
        )  # fmt: skip


def interval(root: Path, metric: Metric, best: Trial) -> str:
    """The best trial's metric with its interval: of a model's overall score it stands beside that, of a model in an
    environment in `INTERVALS`; other numbers have none, which is said."""
    score, file = f"{best.score:.4f}", metric.file
    model, _, what = metric.key.partition(".")
    ends: tuple[float, float] | None = None
    if metric.file == SCORES and what == "overall":
        values = json.loads(read_experiment(root, best.name, file))[model]
        ends = values["low"], values["high"]
    elif metric.file == SCORES and what.startswith("env."):
        file = INTERVALS
        for row in csv.DictReader(read_experiment(root, best.name, file).splitlines()):
            if (row["model"], row["env"]) == (model, what.removeprefix("env.")):
                ends = float(row["low"]), float(row["high"])
    return f"{score} ({ends[0]:.4f} to {ends[1]:.4f})" if ends else f"{score} (no interval in {file})"


def _values(trial: Trial) -> str:
    return shlex.join(override(Change(key, None, value, known=True)) for key, value in trial.values.items())
