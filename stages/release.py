"""Stage `release`: merge, check and describe the chosen model."""

from __future__ import annotations

from pathlib import Path

from affine.params import load_params
from affine.release.release import make_release
from affine.stage import main


def run() -> None:
    make_release(load_params(), Path.cwd())


if __name__ == "__main__":
    main(run)
