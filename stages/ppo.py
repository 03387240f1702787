"""Stage `ppo`: improve the SFT adapter in the environments (affine/training/ppo.py)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from affine.params import load_params
from affine.stage import main
from affine.training.ppo import train_ppo


def run() -> None:
    console = Console(stderr=True)
    train_ppo(load_params(), Path.cwd(), console=console if console.is_terminal else None)


if __name__ == "__main__":
    main(run)
