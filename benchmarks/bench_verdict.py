"""Verdicts at scale: a field of 256 models under the validators' rules, and a million stored episodes.

Field: intervals, dominance and weights of 256 models over eight environments, all 255 subsets of them, from totals.

Episodes: those of the run in this folder, each written again under other task seeds until there are --episodes, and
then read back as `python -m affine verdict` reads them. Of an episode only its score is kept (some 32 bytes), of a task
its identity, group and type (some 450 bytes): memory grows with the number of distinct tasks, and hardly with that of
episodes. So once every episode is a task of its own, the worst case, and once each task is played --samples times.
Reading is measured in a process of its own, memory as the peak of that process and of the largest of its workers.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import orjson
from record import RESULTS, ROOT, conditions, save

from affine.pareto.dominance import outcome, standings
from affine.pareto.policies import POLICIES, IntervalRule
from affine.pareto.summary import MODELS, read_evaluations
from affine.types import ENVS


def field(models: int) -> dict[str, Any]:
    """Seconds for points and weights of `models` made-up models in all environments, per policy that has subsets."""
    rng = random.Random(0)
    results = {f"m{m}": {env: (rng.uniform(200, 400), 400) for env in ENVS} for m in range(models)}
    seconds = {}
    for name, policy in POLICIES.items():
        if isinstance(policy, IntervalRule):
            start = time.perf_counter()
            outcome(policy, standings(results, ENVS))
            seconds[name] = round(time.perf_counter() - start, 3)
    return {"models": models, "subsets": 2 ** len(ENVS) - 1, "s": seconds}


def replay(source: Path, target: Path, episodes: int, samples: int) -> int:
    """Write `episodes` records, equally many of each model and environment, each task `samples` times. Returns their
    number of tasks."""
    tasks = 0
    each, extra = divmod(episodes, len(MODELS) * len(ENVS))
    for place, (model, env) in enumerate((model, env) for model in MODELS for env in ENVS):
        path = source / model / f"{env}.jsonl"
        if not path.is_file():
            sys.exit(f"{path}: no such file; make it with `dvc repro` (or `dvc pull evaluate`)")
        stored = [record for record in map(orjson.loads, path.read_bytes().splitlines()) if record["sample"] == 0]
        (target / model).mkdir(parents=True, exist_ok=True)
        count = each + (place < extra)
        with (target / model / path.name).open("wb") as out:
            for number in range(count):
                task, sample = divmod(number, samples)
                again, which = divmod(task, len(stored))
                record, identity = stored[which], stored[which]["trajectory"]["task"]
                played = {**record["trajectory"], "task": {**identity, "seed": again}}
                out.write(orjson.dumps({**record, "sample": sample, "trajectory": played}) + b"\n")
        tasks += -(-count // samples)
    return tasks


def read(folder: Path) -> dict[str, Any]:
    """Seconds and memory of reading all records below `folder`, in a process that has done nothing else."""
    start = time.perf_counter()
    results = read_evaluations(folder)
    seconds = time.perf_counter() - start
    whose = {"peak_mb": resource.RUSAGE_SELF, "worker_mb": resource.RUSAGE_CHILDREN}
    peaks = {name: round(resource.getrusage(who).ru_maxrss * 1024 / 1e6) for name, who in whose.items()}
    episodes = sum(result.episodes for by_env in results.values() for result in by_env.values())
    return {"episodes": episodes, "s": round(seconds, 2), **peaks}


def stored(source: Path, episodes: int, samples: int) -> dict[str, Any]:
    """`read` of `episodes` records that are written for it and then deleted."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tasks = replay(source, folder, episodes, samples)
        size = sum(path.stat().st_size for path in folder.rglob("*.jsonl"))
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as alone:
            return {"samples": samples, "tasks": tasks, "bytes": size, **alone.submit(read, folder).result()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=256, help="in the field (default: 256)")
    parser.add_argument("--episodes", type=int, default=1_000_000, help="default: 1,000,000 (two gigabytes on disk)")
    parser.add_argument("--samples", type=int, default=25, help="of each task, the second time (default: 25)")
    parser.add_argument("--evaluations", type=Path, default=ROOT / "evaluations", help="default: evaluations")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result: dict[str, Any] = {**conditions(), "field": field(chosen.models)}
    print("field", result["field"], flush=True)
    result["episodes"] = []
    for samples in (1, chosen.samples):
        result["episodes"].append(stored(chosen.evaluations, chosen.episodes, samples))
        print("episodes", result["episodes"][-1], flush=True)
    print(save("verdict", result, chosen.out))


if __name__ == "__main__":
    main()
