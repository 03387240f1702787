"""`watch`: training curves in the terminal while a run goes on (or after it)."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from affine.errors import AffineError
from affine.logs import log_root
from affine.report.gather import Series, read_curves
from affine.training.track import THROUGHPUT
from affine.training.work import work_root

STAGES = ("sft", "ppo")
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 40


class WatchError(AffineError):
    """There are no curves to look at."""


def run(arguments: list[str]) -> int:
    """Draw until interrupted, or once with --once. Raises WatchError (with --once alone: else it waits)."""
    parser = argparse.ArgumentParser(
        prog="python -m affine watch",
        description="Training curves in the terminal, redrawn while the run goes on. Ctrl-C ends the watching only.",
    )
    parser.add_argument("stage", nargs="?", choices=STAGES, help="default: the one that wrote last")
    parser.add_argument("--once", action="store_true", help="draw once and end (also where output is no terminal)")
    parser.add_argument("--every", type=float, default=2.0, metavar="SECONDS", help="default: 2")
    parser.add_argument("--only", metavar="TEXT", default="", help="curves whose name contains this, such as score/")
    chosen = parser.parse_args(arguments)
    root, console = Path.cwd(), Console()
    if chosen.once or not console.is_terminal:
        console.print(draw(root, chosen.stage, chosen.only))
        return 0
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            live.update(drawn_or_waiting(root, chosen.stage, chosen.only), refresh=True)
            time.sleep(chosen.every)


def drawn_or_waiting(root: Path, stage: str | None, only: str = "") -> RenderableType:
    """`draw`; where there is nothing to draw yet, why."""
    try:
        return draw(root, stage, only)
    except WatchError as error:
        return Text(f"waiting: {error}")


def source(root: Path, stage: str | None) -> tuple[str, Path]:
    """(stage, folder with its curves) that was written last: of a run under way in the work folder, else of the last
    whole run in metrics/curves. Raises WatchError."""
    found = [
        (written, name, folder)
        for name in ([stage] if stage else STAGES)
        for folder in [*work_root(root).glob(f"{name}-*/live/plots/metrics"), root / "metrics" / "curves" / name]
        if (written := _written(folder))
    ]
    if not found:
        raise WatchError(f"no curves of {stage or ' or '.join(STAGES)} yet; `dvc repro` makes them")
    _, name, folder = max(found)
    return name, folder


def throughput(root: Path, stage: str, folder: Path) -> dict[str, Series]:
    """The curves of tokens per second that belong to the curves in `folder`: beside them while the run goes on, in
    logs/ once it is done. None where the curves came later, by git or from DVC's run cache."""
    if _running(folder):
        timed = folder.parents[1] / THROUGHPUT
    elif _written(timed := log_root(root) / THROUGHPUT / stage) < _written(folder):
        return {}
    return {f"{THROUGHPUT}/{key}": points for key, points in read_curves(timed).items()}


def _running(folder: Path) -> bool:
    return folder.parts[-3:] == ("live", "plots", "metrics")


def _written(folder: Path) -> float:
    """When the newest curve below `folder` was written; 0 if there is none."""
    return max((path.stat().st_mtime for path in folder.rglob("*.tsv")), default=0.0)


def draw(root: Path, stage: str | None, only: str = "") -> RenderableType:
    """A table with a line per curve: name, last value, extremes, and its shape. Raises WatchError."""
    try:
        name, folder = source(root, stage)
        found = read_curves(folder) | throughput(root, name, folder)
    except FileNotFoundError as error:  # a run that ends replaces its folders
        raise WatchError(f"{error.filename} has just gone, as at the end of a run; look again") from None
    curves = {key: points for key, points in found.items() if only in key and points}
    if not curves:
        raise WatchError(f"{name}: no curve with a whole row{f' has a name with {only!r}' if only else ' yet'}")
    step = max(points[-1][0] for points in curves.values())
    title = Text.assemble(
        (name, "bold"),
        f"  step {step:g}",
        f"  {'under way, in ' + folder.parts[-4] if _running(folder) else 'as committed or done'}",
    )
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("curve", no_wrap=True)
    for head in ("last", "lowest", "highest"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column(f"up to step {step:g}", no_wrap=True)
    for key, points in curves.items():
        values = [value for _, value in points if math.isfinite(value)] or [math.nan]
        cells = [f"{number:.4g}" for number in (points[-1][1], min(values), max(values))]
        table.add_row(escape(key), *cells, sparkline(points, WIDTH))
    return Group(title, table)


def sparkline(points: Series, width: int) -> str:
    """The curve in `width` characters: the mean of each stretch of steps, from its lowest to its highest value."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    if not finite:
        return ""
    first, last = finite[0][0], finite[-1][0]
    columns: list[list[float]] = [[] for _ in range(min(width, len(finite)))]
    for step, value in finite:
        columns[min(int((step - first) / ((last - first) or 1) * len(columns)), len(columns) - 1)].append(value)
    means = [sum(column) / len(column) for column in columns if column]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((mean - low) * scale)] for mean in means)
