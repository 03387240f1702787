"""The daily loop: DVC with nothing to do, what a change re-runs, stages side by side, the report, the remote.

Each number is measured in a clone of this commit with the data of the run in this folder (`dvc.lock` names it, the
cache must hold it); parallel against serial in a clone with the smoke preset, on the stages `tasks` and `collect`.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from record import ROOT, conditions, save

from affine.pareto.summary import MODELS
from affine.report.episodes import pack, read_episodes
from affine.report.gather import gather
from affine.report.page import render

CHANGES = {
    "one environment's expert": "affine/envs/textcraft_expert.py",
    "one environment": "affine/envs/textcraft.py",
    "training code of ppo": "affine/training/ppo.py",
    "evaluation code": "affine/evaluation.py",
    "statistics": "affine/pareto/paired.py",
    "a shared module": "affine/types.py",
}
"""What is changed -> the file that is changed."""

PARAMS = {"ppo.kl": "ppo", "the confidence level": "pareto", "a comment in params.yaml": ""}
"""What is changed -> the section of params.yaml that is changed."""


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


def reruns() -> dict[str, list[str]]:
    """What is changed -> the stages that name it, so that DVC runs them; what follows runs where their outputs
    change."""
    found: dict[str, list[str]] = {}
    with Repo(str(ROOT)) as repo:
        stages = [stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"]
    for change, path in CHANGES.items():
        found[change] = [
            stage.name
            for stage in stages
            if any(Path(ROOT / path).is_relative_to(dep.fs_path) for dep in stage.deps if not hasattr(dep, "params"))
        ]
    for change, section in PARAMS.items():
        names = [(s.name, key) for s in stages for dep in s.deps for key in getattr(dep, "params", ())]
        found[change] = sorted({name for name, key in names if section and key.partition(".")[0] == section})
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


def report(episodes: int) -> dict[str, Any]:
    """Seconds and bytes of report.html with `episodes` episodes: those of this run, each played again under other
    task seeds until there are as many."""
    own = list(read_episodes(ROOT / "evaluations", MODELS))
    results = gather(ROOT, 0.8)

    def many() -> Any:
        for turn in itertools.count():
            for model, episode in own:
                task = dataclasses.replace(episode.trajectory.task, seed=episode.trajectory.task.seed + turn)
                trajectory = dataclasses.replace(episode.trajectory, task=task)
                yield model, dataclasses.replace(episode, trajectory=trajectory)

    chosen = list(itertools.islice(many(), episodes))
    start = time.perf_counter()
    packed = pack(chosen, MODELS)
    page = render(dataclasses.replace(results, packed=packed), "")
    return {"episodes": episodes, "s": round(time.perf_counter() - start, 2), "bytes": len(page.encode())}


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
    chosen = parser.parse_args()
    result = conditions()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        parts: dict[str, Callable[[], Any]] = {
            "no_op": lambda: no_op(Path(temporary) / "no_op"),
            "parallel": lambda: side_by_side(Path(temporary), chosen.jobs),
            "report": lambda: report(chosen.episodes),
            "remote": lambda: remote(Path(temporary) / "remote"),
        }
        result["reruns"] = reruns()
        for name, measure in parts.items():
            if name not in chosen.without:
                result[name] = measure()
                print(name, result[name], flush=True)
    print(save("graph", result))


if __name__ == "__main__":
    main()
