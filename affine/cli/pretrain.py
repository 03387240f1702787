"""`pretrain`: make the nano model that the repository ships."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from affine.models.pretrain import pretrain
from affine.params import Params, load_params


def run(arguments: list[str]) -> int:
    """Train and write the checkpoint. Raises AffineError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine pretrain",
        description="Make the nano model from seed and code: text from the training tasks only (`dvc repro tasks`"
        " first). A run that was stopped goes on where it was when the same command is given again.",
    )
    parser.add_argument("--steps", type=_positive, help="optimizer steps after the drills (base.pretrain.steps)")
    parser.add_argument("--episodes", type=_positive, help="of noisy play per environment (base.pretrain.episodes)")
    parser.add_argument("--seed", type=_natural, help="of initialisation and sampling (seed)")
    parser.add_argument("--out", type=Path, default=Path("pretrained/nano"), help="default: pretrained/nano")
    chosen = parser.parse_args(arguments)
    params = with_overrides(load_params(), seed=chosen.seed, steps=chosen.steps, episodes=chosen.episodes)
    console = Console(stderr=True)
    pretrain(params, Path.cwd(), chosen.out, console=console if console.is_terminal else None)
    print(f"{chosen.out}: made")
    return 0


def with_overrides(params: Params, *, seed: int | None, steps: int | None, episodes: int | None) -> Params:
    """`params` with what was given put in its place."""
    values = params.model_dump()
    values["seed"] = params.seed if seed is None else seed
    changes = {"steps": steps, "episodes": episodes}
    values["base"]["pretrain"] |= {key: value for key, value in changes.items() if value is not None}
    return Params.model_validate(values)


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
