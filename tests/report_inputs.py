"""A small run to report on: real episodes of all eight environments, played by experts whose share of
uninformed turns stands for the three models, judged by the real statistics; curves as dvclive writes them."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from affine.collect.play import play
from affine.envs.env import Env, make
from affine.files import write_records
from affine.params import load_params
from affine.pareto.run import run_pareto
from affine.tasks import draw_tasks
from affine.types import ENVS, Episode, Split, Task, Trajectory

ROOT = Path(__file__).parents[1]
NOISE = {"base": 0.8, "sft": 0.3, "ppo": 0.05}


def make_run(root: Path, tasks: int = 3) -> Path:
    """Fill `root` with params.yaml, dvc.yaml, evaluations/ and metrics/ of `tasks` tasks per environment."""
    root.mkdir(parents=True, exist_ok=True)
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, root / name)
    for name in ENVS:
        with closing(make(name)) as env:
            drawn = draw_tasks(env, 0, 0, {Split.TEST: tasks})
            for model, noise in NOISE.items():
                write_records(root / "evaluations" / model / f"{name}.jsonl", _episodes(env, drawn, model, noise))
    run_pareto(load_params(root / "params.yaml"), root)
    for stage, names in {"sft": ("train/loss", "validation/loss", "train/learning_rate"), "ppo": _ppo_curves()}.items():
        for k, name in enumerate(names):
            _curve(root / "metrics" / "curves" / stage / f"{name}.tsv", k)
    return root


def _ppo_curves() -> tuple[str, ...]:
    return ("score/overall", *(f"score/{env}" for env in ENVS), "approx_kl", "entropy", "explained_variance")


def _episodes(env: Env, tasks: list[Task], model: str, noise: float) -> Iterator[Episode]:
    for task in tasks:
        trajectory = play(env, task, random.Random(f"{model}/{task.env}/{task.id}"), noise=noise)
        yield Episode(_tokenised(trajectory), model, "f00d" * 4)


def _tokenised(trajectory: Trajectory) -> Trajectory:
    """The turns with a token per word, as if a model had sampled them."""
    turns = [
        replace(turn, token_ids=tuple(range(len(turn.text.split()))), logprobs=(-0.5,) * len(turn.text.split()))
        for turn in trajectory.turns
    ]
    return replace(trajectory, turns=tuple(turns))


def _curve(path: Path, shift: int) -> None:
    rng = random.Random(str(path.name) + str(shift))
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"{step}\t{1 - 0.9 ** (step + shift) + 0.03 * rng.random()}" for step in range(40)]
    path.write_text("\n".join([f"step\t{path.stem}", *lines]) + "\n", encoding="utf-8")
