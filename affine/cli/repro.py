"""`repro`: the graph with independent stages side by side.

DVC runs one stage after the other. Its locks allow more: while a stage's command runs, the repository is free for
others, and `dvc.lock` is written by one at a time. So every stage that is ready gets a `dvc repro --single-item` of its
own, which costs some two seconds of DVC's own work; for graphs of short stages, plain `dvc repro` is quicker.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from rich.console import Console

from affine.errors import AffineError

PIPELINE = "dvc.yaml"


class ReproError(AffineError):
    """A stage failed, or there is no pipeline here."""


Start = Callable[[str, IO[bytes]], "subprocess.Popen[bytes]"]
"""Begins a stage's command, which writes to the file."""


@dataclass
class Job:
    """A stage under way. Its output goes to a file: a pipe that nobody reads fills up, and its writer waits."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]
    started: float = field(default_factory=time.monotonic)

    def said(self) -> str:
        """All that the command, which has ended, wrote; once."""
        with self.output as file:
            file.seek(0)
            return file.read().decode(errors="replace")


def run(arguments: list[str]) -> int:
    """Run what has changed. Raises ReproError naming the stage that failed."""
    parser = argparse.ArgumentParser(
        prog="python -m affine repro",
        description="As `dvc repro`, but stages that do not need each other run at the same time. Stages that train or"
        " play use every core by themselves (`rollout.workers`): the gain lies in tasks and collect.",
    )
    parser.add_argument("-j", "--jobs", type=_positive, default=os.cpu_count() or 1, help="default: as many as cores")
    jobs = parser.parse_args(arguments).jobs
    root, console = Path.cwd(), Console(stderr=True)
    upstream = graph(root)
    start = time.monotonic()
    ran = schedule(upstream, jobs, partial(stale, root), partial(launch, root), console)
    console.print(f"{len(ran)} of {len(upstream)} stages run in {time.monotonic() - start:.0f} s")
    return 0


def graph(root: Path) -> dict[str, set[str]]:
    """Stage -> the stages it depends on, of the root pipeline, in the order of dvc.yaml. Raises ReproError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repo:
            stages = {s.name: s for s in repo.index.stages if s.path_in_repo == PIPELINE}
            edges = repo.index.graph
            return {name: {up.name for up in edges.successors(stage)} for name, stage in stages.items()}
    except DvcException as error:
        raise ReproError(f"{' '.join(str(error).split())}; run from the repository's root") from None


def stale(root: Path, stage: str) -> bool:
    """Would DVC run it? Asked in this process, because starting DVC costs more than most answers."""
    from dvc.lock import LockError
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        [found] = [s for s in repo.index.stages if s.name == stage and s.path_in_repo == PIPELINE]
        while True:
            try:
                with repo.lock:
                    return bool(found.changed())
            except LockError:  # a stage is begun or committed just now
                time.sleep(0.1)


def launch(root: Path, stage: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    """DVC on one stage; it waits for the lock where another writes."""
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", stage],
        cwd=root, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
    )  # fmt: skip


def schedule(
    upstream: Mapping[str, set[str]],
    jobs: int,
    needed: Callable[[str], bool],
    start: Start,
    console: Console,
) -> list[str]:
    """Run stages as soon as all that they depend on is done, `jobs` at a time; those that ran, in order of their end.

    After a failure nothing new is begun, what is under way ends, and ReproError names the stage. An interruption
    reaches the stages too (they can be resumed); they are waited for.
    """
    waiting, done, running = list(upstream), set[str](), dict[str, Job]()
    ran: list[str] = []
    failed: tuple[str, str] | None = None
    try:
        while running or (waiting and not failed):
            for stage in [s for s in waiting if upstream[s] <= done] if not failed else []:
                if len(running) == jobs:
                    break
                waiting.remove(stage)
                if needed(stage):
                    output = tempfile.TemporaryFile()  # noqa: SIM115 (closed when its job has ended)
                    running[stage] = Job(start(stage, output), output)
                    console.print(f"[cyan]{stage}[/] started")
                else:
                    done.add(stage)
            finished = _wait(running)
            for stage in finished:
                job = running.pop(stage)
                said = job.said()
                if job.process.returncode:
                    failed = failed or (stage, said)
                    continue
                done.add(stage)
                ran.append(stage)
                console.print(f"[green]{stage}[/] done after {time.monotonic() - job.started:.0f} s")
    except BaseException:
        for job in running.values():
            job.process.wait()
        raise
    if failed:
        console.print(failed[1], markup=False, highlight=False)
        raise ReproError(f"{failed[0]} failed (above, and in logs/); what is done stays done, run this again")
    return ran


def _wait(running: Mapping[str, Job]) -> list[str]:
    """The stages that have ended, after at most a tenth of a second."""
    if running and not any(job.process.poll() is not None for job in running.values()):
        time.sleep(0.1)
    return [stage for stage, job in running.items() if job.process.poll() is not None]


def _positive(text: str) -> int:
    value = int(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value
