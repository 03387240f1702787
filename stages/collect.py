"""Stage `collect`: expert demonstrations of one environment."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from affine.collect.collect import collect
from affine.params import load_params
from affine.stage import main


def run(env: str) -> None:
    console = Console(stderr=True)
    collect(load_params(), env, Path.cwd(), console=console if console.is_terminal else None)


if __name__ == "__main__":
    main(run, *sys.argv[1:])
