"""Stage `dataset`: demonstrations as tokens (affine/dataset/build.py)."""

from __future__ import annotations

from pathlib import Path

from affine.dataset.build import build_dataset
from affine.params import load_params
from affine.stage import main


def run() -> None:
    build_dataset(load_params(), Path.cwd())


if __name__ == "__main__":
    main(run)
