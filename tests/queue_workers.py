"""DVC's queue workers in a repository: waited for with a limit, and ended.

They should end by themselves once the queue is empty, but one of two was seen to wait forever: each asks for its own
end through files that both of them read and remove.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import psutil
from dvc.repo import Repo


def workers(repository: Path) -> list[psutil.Process]:
    """Those that run now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if "queue-worker" in process.cmdline() and Path(process.cwd()) == repository:
                found.append(process)
    return found


def wait_for(repository: Path, count: int, limit: float = 180.0) -> None:
    """Until `count` queued experiments are done, none failed."""
    until = time.monotonic() + limit
    while True:
        with Repo(str(repository)) as repo:
            queue = repo.experiments.celery_queue
            done, failed = list(queue.iter_success()), list(queue.iter_failed())
        assert not failed, f"{len(failed)} failed; `dvc queue logs` in {repository}"
        if len(done) >= count:
            return
        assert time.monotonic() < until, f"{len(done)} of {count} experiments after {limit} s"
        time.sleep(0.5)


def end(repository: Path) -> None:
    """End what is left of them, or they would begin with what is queued next."""
    left = workers(repository)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=60)
    assert not workers(repository)
