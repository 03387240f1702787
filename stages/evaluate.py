"""Stage `evaluate`: one model plays the held-out tasks (affine/evaluation.py)."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from affine.evaluation import evaluate
from affine.launch import place, relaunch
from affine.params import load_params
from affine.stage import main


def run(model: str) -> None:
    console = Console(stderr=True)
    evaluate(load_params(), model, Path.cwd(), console=console if console.is_terminal and place().first else None)


if __name__ == "__main__":
    relaunch("stages.evaluate", *sys.argv[1:])
    main(run, *sys.argv[1:])
