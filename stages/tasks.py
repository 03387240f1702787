"""Stage `tasks`: train, validation and test tasks of one environment."""

from __future__ import annotations

import sys
from pathlib import Path

from affine.params import load_params
from affine.stage import main
from affine.tasks import make_tasks


def run(env: str) -> None:
    make_tasks(load_params(), env, Path.cwd())


if __name__ == "__main__":
    main(run, *sys.argv[1:])
