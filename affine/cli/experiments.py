"""`experiments`: DVC's experiments as a table that fits a terminal."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from affine.errors import AffineError
from affine.logs import experiment_seconds
from affine.training.track import flat
from affine.types import ENVS

SCORES = "metrics/evaluate.json"
VERDICTS = "metrics/pareto.json"


class ExperimentsError(AffineError):
    """DVC cannot list experiments here."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A commit, an experiment on it (`child`), or the workspace. `params` are dotted keys; `state` is DVC's: success,
    queued, running or failed; `seconds` is what its stages ran on this machine, None if they came from elsewhere."""

    name: str
    created: str
    state: str
    child: bool
    params: Mapping[str, Any]
    scores: Mapping[str, Any]
    verdicts: Mapping[str, Any]
    seconds: float | None = None


def run(arguments: list[str]) -> int:
    """Print the table. Raises ExperimentsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine experiments",
        description="DVC's experiments in a few columns: what was changed, overall score with its interval, score per"
        " environment, tokens per episode, the time its stages ran on this machine, verdict. (`dvc exp show` has every"
        " metric and parameter, a column each.)",
    )
    parser.add_argument("--model", choices=("base", "sft", "ppo"), default="ppo", help="default: ppo")
    parser.add_argument("-n", "--num", type=int, default=1, metavar="N", help="experiments of the last N commits")
    parser.add_argument("--all", action="store_true", help="experiments of every commit")
    chosen = parser.parse_args(arguments)
    rows = list(experiments(Path.cwd(), chosen.num, everything=chosen.all))
    console = Console()
    console.print(table(rows, chosen.model, console.width))
    return 0


def experiments(root: Path, num: int = 1, *, everything: bool = False) -> Iterator[Experiment]:
    """The workspace, then each commit with its experiments. Raises ExperimentsError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo, contextlib.redirect_stdout(io.StringIO()):
            shown = repo.experiments.show(num=num, all_commits=everything)
    except DvcException as error:
        raise ExperimentsError(f"{' '.join(str(error).split())}; run from the repository's root") from None
    for state in shown:
        yield _experiment(root, state, "success", child=False)
        for group in state.experiments or ():
            running = group.executor.state if group.executor else "success"
            for one in group.revs[:1]:
                yield _experiment(root, one, running, child=True)


def _experiment(root: Path, state: Any, running: str, *, child: bool) -> Experiment:
    data = state.data
    name = state.name or ("workspace" if state.rev == "workspace" else state.rev[:7])
    if data is None:
        return Experiment(name, "", "failed" if state.error else running, child, {}, {}, {})
    params = {key: value for file in data.params.values() for key, value in flat(file.get("data") or {}).items()}
    metrics = {path: file.get("data") or {} for path, file in data.metrics.items()}
    created = f"{data.timestamp:%m-%d %H:%M}" if data.timestamp else ""
    seconds = experiment_seconds(root, name) if child else None
    scores, verdicts = metrics.get(SCORES, {}), metrics.get(VERDICTS, {})
    return Experiment(name, created, running, child, params, scores, verdicts, seconds)


def table(rows: list[Experiment], model: str, width: int = 120) -> Table:
    """A line per experiment, in percent; experiments stand below their commit, with the parameters that differ from it.
    Under 120 columns dates are left out and the environments' names are cut."""
    caption = f"scores of {model} in percent; time: what an experiment's stages ran on this machine"
    made = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, caption=caption, caption_justify="left")
    made.add_column("experiment", overflow="fold", min_width=16)
    made.add_column("overall", justify="right", no_wrap=True)
    for env in ENVS:
        made.add_column(env if width >= 120 else env[:3], justify="right", no_wrap=True)
    for head in ("tokens", "time"):
        made.add_column(head, justify="right", no_wrap=True)
    made.add_column("verdict", overflow="fold", min_width=9)
    if width >= 120:
        made.add_column("created", no_wrap=True)
    parent: Mapping[str, Any] = {}
    for row in rows:
        if not row.child:
            parent = row.params
        scores = row.scores.get(model, {})
        envs = scores.get("env", {})
        state = "" if row.state == "success" else f" [yellow]{row.state}[/]"
        set_here = f"\n  {escape(changed(row.params, parent))}" if row.child and row.params else ""
        cells = [
            f"{'' if row.child else '[bold]'}{escape(row.name)}{'' if row.child else '[/]'}{state}{set_here}",
            _overall(scores),
            *(f"{100 * envs[env]:.0f}" if env in envs else "" for env in ENVS),
            f"{scores['tokens']:.0f}" if "tokens" in scores else "",
            "" if row.seconds is None else _time(row.seconds),
            escape(_verdict(row.verdicts, model)),
            *([row.created] if width >= 120 else []),
        ]
        made.add_row(*cells)
    return made


def changed(params: Mapping[str, Any], parent: Mapping[str, Any]) -> str:
    """The parameters that differ, as `-S` would take them."""
    return ", ".join(f"{key}={params[key]}" for key in sorted(params) if params[key] != parent.get(key, params[key]))


def _time(seconds: float) -> str:
    """In at most five characters up to a thousand hours."""
    if seconds < 99.5:
        return f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f}h"


def _overall(scores: Mapping[str, Any]) -> str:
    if "overall" not in scores:
        return ""
    half = (scores["high"] - scores["low"]) / 2
    return f"{100 * scores['overall']:.1f}±{100 * half:.1f}"


def _verdict(verdicts: Mapping[str, Any], model: str) -> str:
    """Against the model that was trained from: what is better and worse beyond noise."""
    pairs = [pair for name, pair in verdicts.items() if name.startswith(f"{model}_vs_")]
    if not pairs:
        return ""
    first = pairs[0]
    if first["dominates"].get(verdicts["policy"]):
        return "dominates"
    return f"blocked: {first['blocks']}" if first.get("blocks") else "does not dominate"
