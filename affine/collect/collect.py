"""Stage `collect`: experts play training tasks until enough demonstrations are solved.

Episodes are independent, so a few processes play them; the order of the results, not of the processes,
decides what is kept, so that the bytes do not depend on timing. Only what the environment itself scored as
solved becomes a demonstration; the rest is kept apart and counted.

One thing can depend on the machine: a task that runs out of time is left out, and another takes its place. The limit is
CPU time of the expert's process, so that a busy machine leaves out what an idle one does, and only a slower one perhaps
more; just a hang, such as an engine in another process that does not answer, is measured by the clock. Where
`metrics/collect/<name>.json` has no `not_kept.out_of_time`, as in the default run, the limit had no part in what was
kept. ABD's and DED's programs have limits of their own, of CPU time and by the clock (`program_env.LIMITS`); experts'
take a few milliseconds, and one that was stopped counts as failed.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from affine.collect.play import WRITINGS, Writing, play
from affine.envs.env import EnvError, EnvSettings, env_class, make, task_rng
from affine.errors import AffineError
from affine.files import published, write_json, write_records
from affine.launch import RAY
from affine.params import CollectParams, Params
from affine.processes import end_with_parent
from affine.tasks import load_tasks
from affine.types import Split, Task, Trajectory, to_json

PASSES = 4
"""How often the training tasks may be gone through, each time with other noise, before giving up."""

BATCH = 8
"""Attempts that a process is given at once."""

HANG = 10.0
"""How many times its limit of CPU time a task may take by the clock: much more than on any busy machine."""


class CollectError(AffineError):
    """Too few demonstrations; names the environment and what to change."""


class OutOfTime(BaseException):
    """A task took longer than its limit: an outcome, counted and not an error of the stage. No Exception, so
    that no engine's client takes it for a fault of its own and tries again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One expert episode to play; `sample` numbers the pass over the tasks."""

    task: Task
    sample: int


@dataclass(frozen=True, slots=True)
class Attempts:
    """How every attempt is played: a share `recovery` of the episodes with a share `noise` of uninformed
    turns, written in `style` or, mixed, in one that is drawn for each. A single reply leaves nothing to recover
    from, so single-turn environments are spared, unless `single_turns` asks for uninformed answers too."""

    env: str
    settings: EnvSettings
    seed: int
    style: Writing | Literal["mixed"]
    noise: float
    recovery: float
    time_limit: float
    single_turns: bool = False


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTime after so many seconds of this process's CPU time, or HANG times as many by the clock."""

    def ring(signum: int, frame: FrameType | None) -> None:
        raise OutOfTime

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, HANG * seconds)}
    previous = {number: signal.signal(number, ring) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


class Demonstrator:
    """Plays attempts with an environment of its own, in a worker process's main thread (deadlines are alarms)."""

    def __init__(self, how: Attempts) -> None:
        self._how = how
        self._env = make(how.env, how.settings)

    def play(self, attempt: Attempt) -> Trajectory | None:
        """None for a task that ran out of time. Raises EnvError naming the task."""
        task, how = attempt.task, self._how
        rng = task_rng(task.env, task.level, task.id, how.seed, f"collect/{attempt.sample}")
        can_recover = how.single_turns or self._env.levels[task.level].turn_limit > 1
        noisy = can_recover and rng.random() < how.recovery
        try:
            with _deadline(how.time_limit):
                return play(self._env, task, rng, style=self._style(attempt), noise=how.noise if noisy else 0.0)
        except OutOfTime:
            # The engine was interrupted somewhere: what state it is in is anybody's guess.
            self._env.close()
            self._env = make(how.env, how.settings)
            return None
        except EnvError as error:
            raise EnvError(f"{task.env}, level {task.level}, task {task.id}: {error}") from error

    def _style(self, attempt: Attempt) -> Writing:
        """The episode's style; a stream of its own draws it, so that mixing them changes no move."""
        task, how = attempt.task, self._how
        if how.style != "mixed":
            return how.style
        return task_rng(task.env, task.level, task.id, how.seed, f"style/{attempt.sample}").choice(WRITINGS)


def _serve(connection: Connection, how: Attempts, parent: int) -> None:
    """A worker's life: lists of attempts in, lists of trajectories (or an error's text) out."""
    end_with_parent(parent)
    try:
        player = Demonstrator(how)
        while True:
            attempts: list[Attempt] = connection.recv()
            connection.send([player.play(attempt) for attempt in attempts])
    except AffineError as error:
        connection.send(str(error))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the parent has enough


def attempts_of(params: Params, name: str) -> Attempts:
    """How the parameters say that `name` is collected."""
    collect: CollectParams = params.collect
    settings = EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe)
    return Attempts(name, settings, params.seed, collect.style, collect.noise, collect.recovery, collect.time_limit)


def trajectories(
    how: Attempts, tasks: list[Task], passes: int, processes: int | None = None
) -> Iterator[Trajectory | None]:
    """Play `tasks` `passes` times with so many processes (as many as there are cores); results in order, None
    for a task that ran out of time. Closing the iterator ends the processes.

    Raises EnvError where the environment cannot go on and CollectError where a process died.
    """
    queue = [Attempt(task, sample) for sample, task in itertools.product(range(passes), tasks)]
    waiting = [queue[k : k + BATCH] for k in range(0, len(queue), BATCH)][::-1]
    total = len(waiting)
    context = multiprocessing.get_context("spawn")
    workers: dict[Connection, Any] = {}
    playing: dict[Connection, int] = {}
    done: dict[int, list[Trajectory | None]] = {}
    try:
        for _ in range(min(processes or _cores(), total)):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, how, os.getpid()), daemon=True)
            process.start()
            theirs.close()
            workers[ours] = process
        for number in range(total):
            while number not in done:
                for idle in [ours for ours in workers if ours not in playing][: len(waiting)]:
                    playing[idle] = total - len(waiting)
                    _send(idle, waiting.pop(), how.env)
                ready = wait(list(playing))
                for connection in [ours for ours in playing if ours in ready]:
                    done[playing.pop(connection)] = _receive(connection, how.env)
            yield from done.pop(number)
    finally:
        for ours, process in workers.items():
            ours.close()
            process.kill()
            process.join()


def _send(connection: Connection, attempts: list[Attempt], env: str) -> None:
    try:
        connection.send(attempts)
    except (BrokenPipeError, ConnectionResetError):
        _receive(connection, env)  # what it said before it ended, or that it said nothing


def _receive(connection: Connection, env: str) -> list[Trajectory | None]:
    try:
        answer: list[Trajectory | None] | str = connection.recv()
    except (EOFError, ConnectionResetError):
        raise CollectError(f"{env}: an expert's process died; if memory ran out, free some and run again") from None
    if isinstance(answer, str):
        raise EnvError(answer)
    return answer


def _played(params: Params, name: str, tasks: list[Task], root: Path) -> Iterator[Trajectory | None]:
    """What is played for `name`: by a policy, or by experts in this machine's processes or on the cluster that the
    environment names."""
    if params.collect.source == "policy":
        from affine.collect.policy import policy_trajectories

        return policy_trajectories(params, tasks, root)
    how = attempts_of(params, name)
    if address := os.environ.get(RAY):
        from affine.collect.cluster import cluster_trajectories

        return cluster_trajectories(how, tasks, PASSES, address)
    return trajectories(how, tasks, PASSES)


def collect(params: Params, name: str, root: Path, *, console: Console | None = None) -> None:
    """Write `data/trajectories/<name>/{solved,failed}.jsonl` and `metrics/collect/<name>.json`.

    Raises CollectError where the tasks do not yield enough demonstrations, EnvError for an unknown name or an
    engine that fails, FileError where there are no tasks.
    """
    env_class(name)  # an unknown name is refused here
    wanted: int = getattr(params.collect, name).episodes
    tasks = load_tasks(root, name, Split.TRAIN)
    solved: list[Trajectory] = []
    failed: list[Trajectory] = []
    texts: set[str] = set()
    counts: Counter[str] = Counter()
    bar = Progress(
        TextColumn("collect {task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} solved"),
        TimeRemainingColumn(), console=console or Console(stderr=True), disable=console is None,
    )  # fmt: skip
    with bar:
        row = bar.add_task(name, total=wanted)
        for trajectory in _played(params, name, tasks, root):
            counts["played"] += 1
            if trajectory is None:
                counts["out_of_time"] += 1
            elif not trajectory.solved:
                failed.append(trajectory)
                counts[str(trajectory.stop)] += 1
            elif (text := _text(trajectory)) in texts:
                counts["duplicate"] += 1
            else:
                texts.add(text)
                solved.append(trajectory)
                bar.advance(row)
            if len(solved) == wanted:
                break
    if len(solved) < wanted:
        raise CollectError(
            f"{name}: {len(solved)} of {wanted} demonstrations after {counts['played']} episodes "
            f"({dict(sorted(counts.items()))}); lower collect.{name}.episodes or raise tasks.{name}.train"
        )
    with published(root / "data" / "trajectories" / name) as folder:
        write_records(folder / "solved.jsonl", solved)
        write_records(folder / "failed.jsonl", failed)
    with closing(make(name, attempts_of(params, name).settings)) as env:
        conditions = dict(env.conditions())
    write_json(root / "metrics" / "collect" / f"{name}.json", {**_summary(solved, counts), **conditions})


def _text(trajectory: Trajectory) -> str:
    """What was said and what came of it, whatever tokens it was said in."""
    return to_json(replace(trajectory, turns=tuple(replace(turn, token_ids=()) for turn in trajectory.turns)))


def _summary(solved: list[Trajectory], counts: Counter[str]) -> dict[str, Any]:
    turns = [len(trajectory.turns) for trajectory in solved]
    return {
        "played": counts["played"],
        "solved": len(solved),
        "success": round((len(solved) + counts["duplicate"]) / counts["played"], 4),
        "not_kept": {name: count for name, count in sorted(counts.items()) if name != "played"},
        "turns_mean": round(sum(turns) / len(turns), 3),
        "turns_max": max(turns),
        "recovery_episodes": sum(not all(turn.expert for turn in t.turns) for t in solved),
    }
