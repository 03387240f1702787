"""Stage `sft`: fine-tune the base on the dataset (affine/training/sft.py)."""

from __future__ import annotations

from pathlib import Path

from affine.launch import relaunch
from affine.params import load_params
from affine.stage import main
from affine.training.sft import train_sft
from affine.training.track import flat, tracked


def run() -> None:
    params, root = load_params(), Path.cwd()
    with tracked(root, params.tracking, flat(params.model_dump(mode="json")), root / "metrics" / "curves" / "sft"):
        train_sft(params, root)


if __name__ == "__main__":
    relaunch("stages.sft")
    main(run)
