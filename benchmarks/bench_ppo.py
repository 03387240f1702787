"""Where the time of a PPO iteration goes, with the smoke preset's sizes.

    generate     rollout workers, without what their environments take
    environment  the engines, inside the workers
    annotate     old and reference log-probabilities and values, one pass over what was played
    update       advantages, gradient steps

The clocks are the stage's own; its play of the validation tasks is left out. models/base and models/sft are trained on
if they are there, else the shipped nano model with a new adapter, which changes nothing yet. The first iteration, in
which workers and engines start, is not counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_rollout import checkpoint
from record import RESULTS, ROOT, conditions, save
from rich.console import Console

from affine.cli.preset import merge, read_preset
from affine.files import write_records
from affine.models.lora import add_adapter, base_digest, load_base, save_adapter
from affine.models.memory import keep_freed_memory
from affine.models.quiet import quiet_transformers
from affine.params import Params, load_params
from affine.rollout.pool import RolloutPool, players_of
from affine.tasks import load_tasks, make_tasks
from affine.training.ppo import Trainer
from affine.types import ENVS, Split

PARTS = ("generate", "environment", "annotate", "update")


def settings(folder: Path, envs: Sequence[str], episodes: int) -> Params:
    """params.yaml with the smoke preset, of `envs` alone, with `episodes` an iteration (0: the preset's)."""
    with contextlib.chdir(ROOT):
        text = merge("smoke", read_preset("smoke"))
    (folder / "params.yaml").write_text(text, encoding="utf-8")
    data = load_params(folder / "params.yaml").model_dump(mode="json")
    data["ppo"] |= {"enabled": True, "weights": {env: float(env in envs) for env in ENVS}}
    data["ppo"]["episodes"] = episodes or data["ppo"]["episodes"]
    return Params.model_validate(data)


def prepare(params: Params, root: Path, base: Path) -> None:
    """What the stage reads: base, SFT adapter, tasks."""
    (root / "models").mkdir(parents=True)
    (root / "models" / "base").symlink_to(base)
    trained = ROOT / "models" / "sft"
    if base == ROOT / "models" / "base" and (trained / "adapter_model.safetensors").is_file():
        (root / "models" / "sft").symlink_to(trained)
    else:
        (root / "models" / "sft").mkdir()
        model = load_base(base, attention="sdpa", dtype=torch.float32, device=torch.device("cpu"))
        save_adapter(add_adapter(model, params.sft.lora, params.seed), root / "models" / "sft", base_digest(base))
    for env in ENVS:
        if getattr(params.ppo.weights, env) > 0:
            make_tasks(params, env, root)
        else:
            for split in (Split.TRAIN, Split.VALIDATION):
                write_records(root / "data" / "tasks" / env / f"{split.value}.jsonl", [])


def measure(params: Params, root: Path, iterations: int) -> dict[str, Any]:
    """Seconds of each part in a mean iteration, its shares, and of how many episodes the update could learn."""
    trainer = Trainer(params, root)
    tasks = {env: load_tasks(root, env, Split.TRAIN) for env in ENVS if getattr(params.ppo.weights, env) > 0}
    clock: dict[str, float] = defaultdict(float)
    informative = 0.0
    with RolloutPool(players_of(params, root / "models" / "base"), params.rollout.workers) as pool:
        for k in range(iterations + 1):
            metrics = trainer.iterate(pool, tasks, clock if k else defaultdict(float))
            trainer.iteration += 1
            informative += metrics["informative"] if k else 0.0
    return summary(clock, iterations) | {"informative": informative / iterations}


def summary(clock: dict[str, float], iterations: int) -> dict[str, Any]:
    """Seconds an iteration, and shares of its parts."""
    total = sum(clock[part] for part in PARTS)
    return {
        "iteration_s": total / iterations,
        "seconds": {part: clock[part] / iterations for part in PARTS},
        "share": {part: clock[part] / total for part in PARTS},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=4, help="after one to warm up (default 4)")
    parser.add_argument("--episodes", type=int, default=0, help="of an iteration (default: the smoke preset's)")
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=ENVS, help="default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    if chosen.iterations < 1:
        parser.error("--iterations must be 1 or more")
    result: dict[str, Any] = conditions()
    keep_freed_memory()
    quiet_transformers()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        root.mkdir()
        path, name = checkpoint(Path(folder) / "base")
        params = settings(root, chosen.envs, chosen.episodes)
        # The learning rate falls to 0 with the last iteration.
        ppo = params.ppo.model_copy(update={"iterations": chosen.iterations + 1})
        params = params.model_copy(update={"ppo": ppo})
        prepare(params, root, path)
        measured = measure(params, root, chosen.iterations)
    result |= {"model": name, "device": "cuda" if torch.cuda.is_available() else "cpu", "envs": chosen.envs}
    result |= {"workers": params.rollout.workers, "iterations": chosen.iterations, "episodes": params.ppo.episodes}
    result |= measured
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    console = Console()
    for part in PARTS:
        console.print(f"{part:<12} {measured['seconds'][part]:7.2f} s an iteration {measured['share'][part]:6.1%}")
    console.print(str(save("ppo", rounded, chosen.out)))


if __name__ == "__main__":
    main()
