"""Stage `sft`: fine-tune the base on the dataset (affine/training/sft.py)."""

from __future__ import annotations

from pathlib import Path

from affine.params import load_params
from affine.stage import main
from affine.training.sft import train_sft


def run() -> None:
    train_sft(load_params(), Path.cwd())


if __name__ == "__main__":
    main(run)
