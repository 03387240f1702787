"""The daily loop: DVC with nothing to do, what a change re-runs, stages side by side, the report, the remote.

Each number is measured in a clone of this commit with the data of the run in this folder (`dvc.lock` names it, the
cache must hold it); parallel against serial in a clone with the smoke preset, on the stages `tasks` and `collect`.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from record import RESULTS, ROOT, conditions, save

from affine.files import write_records
from affine.pareto.summary import MODELS
from affine.report.episodes import read_episodes
from affine.report.stale import stale_stages
from affine.types import Episode

CHANGES = {
    "one environment's expert": ("affine/envs/textcraft_expert.py", "from __future__", "# a comment\nfrom __future__"),
    "one environment": ("affine/envs/textcraft.py", "from __future__", "# a comment\nfrom __future__"),
    "training code of ppo": ("affine/training/ppo.py", "from __future__", "# a comment\nfrom __future__"),
    "evaluation code": ("affine/evaluation.py", "from __future__", "# a comment\nfrom __future__"),
    "statistics": ("affine/pareto/paired.py", "from __future__", "# a comment\nfrom __future__"),
    "a shared module": ("affine/types.py", "from __future__", "# a comment\nfrom __future__"),
    "ppo.kl": ("params.yaml", "  kl: 0.01", "  kl: 0.02"),
    "the confidence level": ("params.yaml", "confidence: 0.8", "confidence: 0.95"),
    "a comment in params.yaml": ("params.yaml", "\nseed: ", "\n# a comment\nseed: "),
}
"""What is changed -> the file, what stands there, and what is put in its place."""


def timed(action: Callable[[], Any]) -> float:
    """Seconds that `action` takes."""
    start = time.perf_counter()
    action()
    return round(time.perf_counter() - start, 2)


def run(folder: Path, *command: str, **environment: str) -> str:
    """A command's output; its failure ends the benchmark."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(folder), **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def clone(folder: Path, *, cache: bool) -> Path:
    """This commit in a repository of its own; with this folder's cache, or with none."""
    run(ROOT, "git", "clone", "--quiet", str(ROOT), str(folder))
    if cache:
        run(folder, "dvc", "cache", "dir", "--local", str(ROOT / ".dvc" / "cache"))
    return folder


def reruns(folder: Path) -> dict[str, list[str]]:
    """What is changed -> the stages that DVC then runs, asked in a clone without data; what follows them runs where
    their outputs change."""
    work = clone(folder, cache=False)
    if stale := stale_stages(work):
        sys.exit(f"dvc.lock does not fit this commit ({', '.join(stale)}); run `dvc repro` and commit it first")
    found: dict[str, list[str]] = {}
    for change, (path, old, new) in CHANGES.items():
        file = work / path
        text = file.read_text(encoding="utf-8")
        if text.count(old) != 1:
            sys.exit(f"{path}: {old!r} stands there {text.count(old)} times, not once")
        file.write_text(text.replace(old, new), encoding="utf-8")
        found[change] = list(stale_stages(work))
        file.write_text(text, encoding="utf-8")
    return found


def no_op(folder: Path) -> dict[str, float]:
    """Seconds of `dvc repro` and `dvc status` with nothing to do, on the whole graph."""
    work = clone(folder, cache=True)
    run(work, "dvc", "checkout", "--quiet")
    said = run(work, "dvc", "repro")
    if "Running stage" in said:
        sys.exit("dvc.lock does not fit this commit; run `dvc repro` and commit it first")
    return {
        "repro_s": timed(lambda: run(work, "dvc", "repro")),
        "status_s": timed(lambda: run(work, "dvc", "status", "dvc.yaml")),
        "affine_repro_s": timed(lambda: run(work, sys.executable, "-m", "affine", "repro")),
    }


def side_by_side(folder: Path, jobs: int) -> dict[str, Any]:
    """Seconds of tasks and collect (16 stages) from nothing, one after the other and `jobs` at a time."""
    seconds = {}
    for how in ("serial", "parallel"):
        work = clone(folder / how, cache=False)
        run(work, sys.executable, "-m", "affine", "preset", "smoke")
        pipeline = work / "dvc.yaml"
        text = pipeline.read_text(encoding="utf-8")
        pipeline.write_text(text[: text.index("\n  pretrain:")] + "\n", encoding="utf-8")
        command = ["dvc", "repro"] if how == "serial" else [sys.executable, "-m", "affine", "repro", "-j", str(jobs)]
        seconds[f"{how}_s"] = timed(lambda command=command, work=work: run(work, *command))
    return {**seconds, "jobs": jobs, "ratio": round(seconds["serial_s"] / seconds["parallel_s"], 2)}


def report(folder: Path, episodes: int) -> dict[str, Any]:
    """Seconds of `python -m affine report` from its start to the written page, and the page's bytes, with `episodes`
    records: those of this run, and as many more with other task seeds and their words in other orders."""
    work = clone(folder, cache=False)
    records: dict[tuple[str, str], list[Episode]] = {}
    own = list(read_episodes(ROOT / "evaluations", MODELS))
    for k in range(episodes):
        turn, at = divmod(k, len(own))
        model, episode = own[at]
        records.setdefault((model, episode.trajectory.task.env), []).append(_another(episode, turn))
    for (model, env), some in records.items():
        write_records(work / "evaluations" / model / f"{env}.jsonl", some)
    seconds = timed(lambda: run(work, sys.executable, "-m", "affine", "report"))
    return {"episodes": episodes, "s": seconds, "bytes": (work / "report.html").stat().st_size}


def _another(episode: Episode, turn: int) -> Episode:
    """The episode as if played on another task; turn 0 is the episode itself. Copies would compress to nothing."""
    if turn == 0:
        return episode
    trajectory = episode.trajectory
    task = dataclasses.replace(trajectory.task, seed=trajectory.task.seed + turn)
    rng = random.Random(f"{task.env}/{task.id}/{task.seed}")

    def shuffled(text: str) -> str:
        words = text.split(" ")
        rng.shuffle(words)
        return " ".join(words)

    opening = tuple(dataclasses.replace(m, content=shuffled(m.content)) for m in trajectory.opening)
    turns = tuple(
        dataclasses.replace(t, text=shuffled(t.text), observation=shuffled(t.observation)) for t in trajectory.turns
    )
    return dataclasses.replace(
        episode, trajectory=dataclasses.replace(trajectory, task=task, opening=opening, turns=turns)
    )


def remote(folder: Path) -> dict[str, Any]:
    """Seconds to push this run's data to an S3 server on loopback, and to pull it into a clone with an empty cache."""
    (folder / "server" / "affine").mkdir(parents=True)
    log = folder / "server.log"
    rclone = str(Path(sys.executable).with_name("rclone"))
    with log.open("wb") as file:
        server = subprocess.Popen(
            [rclone, "serve", "s3", "--config", os.devnull, "--addr", "127.0.0.1:0", "--dir-cache-time", "1s",
             "--auth-key", "benchkey,benchsecret", str(folder / "server")], stdout=subprocess.DEVNULL, stderr=file,
        )  # fmt: skip
    try:
        while not (found := re.search(r"http://127\.0\.0\.1:\d+", log.read_text())):
            time.sleep(0.05)
        keys = {"AWS_ACCESS_KEY_ID": "benchkey", "AWS_SECRET_ACCESS_KEY": "benchsecret"}
        seconds = {}
        for name, cache in (("push", True), ("pull", False)):
            work = clone(folder / name, cache=cache)
            run(work, "dvc", "remote", "add", "--local", "--default", "store", "s3://affine/store")
            run(work, "dvc", "remote", "modify", "--local", "store", "endpointurl", found[0])
            run(work, "dvc", "remote", "modify", "--local", "store", "verify", "true")
            seconds[f"{name}_s"] = timed(lambda name=name, work=work: run(work, "dvc", name, **keys))
    finally:
        server.kill()
        server.wait()
    objects = [path for path in (folder / "server").rglob("*") if path.is_file()]
    return {**seconds, "objects": len(objects), "bytes": sum(path.stat().st_size for path in objects)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="stages at a time (default: all cores)")
    parser.add_argument("--episodes", type=int, default=10_000, help="in the report (default: 10,000)")
    parser.add_argument("--without", choices=("no_op", "parallel", "report", "remote"), nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result = conditions()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        parts: dict[str, Callable[[], Any]] = {
            "no_op": lambda: no_op(Path(temporary) / "no_op"),
            "parallel": lambda: side_by_side(Path(temporary), chosen.jobs),
            "report": lambda: report(Path(temporary) / "report", chosen.episodes),
            "remote": lambda: remote(Path(temporary) / "remote"),
        }
        result["reruns"] = reruns(Path(temporary) / "reruns")
        for name, measure in parts.items():
            if name not in chosen.without:
                result[name] = measure()
                print(name, result[name], flush=True)
    print(save("graph", result, chosen.out))


if __name__ == "__main__":
    main()
