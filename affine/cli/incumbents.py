"""`incumbents`: other models' results, checked and listed; evaluations turned into such files."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from affine.pareto.incumbents import FOLDER, read_incumbents, write_incumbent
from affine.pareto.summary import Evaluations, read_model
from affine.types import ENVS


def run(arguments: list[str]) -> int:
    """List the incumbents, or add one. Raises EvaluationError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine incumbents",
        description=f"Check and list {FOLDER}/*.json, the models that ours are compared with ({FOLDER}/README.md).",
    )
    parser.add_argument("--add", metavar="NAME", help="turn the evaluation of NAME into an incumbent's file first")
    parser.add_argument("--as", dest="alias", metavar="NAME", help="under this name (default: the evaluation's)")
    parser.add_argument("--block", type=int, default=0, help="its first block: its place among incumbents (default 0)")
    parser.add_argument("--evaluations", type=Path, default=Path("evaluations"), help="default: evaluations")
    parser.add_argument("--folder", type=Path, default=Path(FOLDER), help=f"default: {FOLDER}")
    chosen = parser.parse_args(arguments)
    if chosen.alias and not chosen.add:
        parser.error("--as goes with --add")
    if chosen.add:
        source = chosen.evaluations / chosen.add
        path = chosen.folder / f"{chosen.alias or chosen.add}.json"
        write_incumbent(path, read_model(source), f"evaluation {chosen.add}", chosen.block)
        print(f"{path}: written; git keeps it, and dvc repro pareto compares with it")
    Console().print(_table(read_incumbents(chosen.folder)))
    return 0


def _table(incumbents: Evaluations) -> Table:
    """Mean score and episodes of every incumbent in every environment."""
    table = Table(title="Incumbents, the earliest first")
    table.add_column("environment")
    for name in incumbents:
        table.add_column(name, justify="right")
    for env in ENVS:
        cells = []
        for results in incumbents.values():
            found = results.get(env)
            kind = "" if found is None else f"{len(found.tasks)} tasks" if found.tasks else f"{found.episodes} episodes"
            cells.append(f"{found.mean:.3f} ({kind})" if found else "-")
        table.add_row(env, *cells)
    return table
