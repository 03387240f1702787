"""Stage `pareto`: decide with intervals, the validators' policies and paired evidence (affine/pareto)."""

from __future__ import annotations

from pathlib import Path

from affine.params import load_params
from affine.pareto.run import run_pareto
from affine.stage import main


def run() -> None:
    run_pareto(load_params(), Path.cwd())


if __name__ == "__main__":
    main(run)
