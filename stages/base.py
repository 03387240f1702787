"""Stage `base`: the starting checkpoint (affine/models/base.py)."""

from __future__ import annotations

from pathlib import Path

from affine.models.base import make_base
from affine.params import load_params
from affine.stage import main


def run() -> None:
    make_base(load_params(), Path.cwd())


if __name__ == "__main__":
    main(run)
