"""Stage `ppo`: improve the SFT adapter in the environments (affine/training/ppo.py)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from affine.launch import place, relaunch
from affine.params import load_params
from affine.stage import main
from affine.training.ppo import train_ppo
from affine.training.track import flat, tracked


def run() -> None:
    console = Console(stderr=True)
    params, root = load_params(), Path.cwd()
    with tracked(root, params.tracking, flat(params.model_dump(mode="json")), root / "metrics" / "curves" / "ppo"):
        train_ppo(params, root, console=console if console.is_terminal and place().first else None)


if __name__ == "__main__":
    relaunch("stages.ppo")
    main(run)
