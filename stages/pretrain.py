"""Stage `pretrain`: make the nano model anew as the base (affine/models/pretrain.py). In the graph only where
`base.make` names it."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from affine.models.pretrain import pretrain
from affine.params import load_params
from affine.stage import main


def run() -> None:
    root, console = Path.cwd(), Console(stderr=True)
    pretrain(load_params(), root, root / "models" / "pretrained", console=console if console.is_terminal else None)


if __name__ == "__main__":
    main(run)
