"""Collecting: the bytes don't depend on processes or hash seeds, and only what was solved is kept."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from affine.collect import collect as module
from affine.collect.collect import Attempt, Attempts, CollectError, collect, trajectories
from affine.collect.play import play
from affine.envs.env import EnvError, EnvSettings, GaveUp, Move, make, task_rng
from affine.envs.textcraft import TextCraft
from affine.files import read_records, write_records
from affine.params import Params, load_params
from affine.tasks import draw_tasks
from affine.types import Split, StopReason, Task, Trajectory, to_json, trajectory_from_json

REPOSITORY = Path(__file__).parents[1]
HOW = Attempts("textcraft", EnvSettings(), 0, "action", 0.3, 0.5, 20.0)


@pytest.fixture(scope="module")
def tasks() -> list[Task]:
    return draw_tasks(make("textcraft"), 0, 0, {Split.TRAIN: 12})


def params(env: str, episodes: int, **collect_changes: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["collect"] |= {env: {"episodes": episodes}} | collect_changes
    return Params.model_validate(data)


def noisy() -> Params:
    return params("textcraft", 20, noise=0.4, recovery=0.7)


def prepare(root: Path, env: str, tasks: Sequence[Task]) -> Path:
    write_records(root / "data" / "tasks" / env / "train.jsonl", tasks)
    return root


def outputs(root: Path) -> dict[str, bytes]:
    files = [
        p for folder in ("data/trajectories", "metrics") for p in sorted((root / folder).rglob("*")) if p.is_file()
    ]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def kept(root: Path, env: str, name: str = "solved") -> list[Trajectory]:
    return list(read_records(root / "data" / "trajectories" / env / f"{name}.jsonl", trajectory_from_json))


class InProcess:
    """`trajectories` without worker processes, for what is patched in this one."""

    def __call__(self, how: Attempts, tasks: list[Task], passes: int) -> Iterator[Trajectory | None]:
        player = module.Demonstrator(how)
        for sample in range(passes):
            for task in tasks:
                yield player.play(Attempt(task, sample))


# --- what is kept ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def collected(tasks: list[Task], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stage run with worker processes: more demonstrations than tasks, so that a second pass is needed."""
    root = prepare(tmp_path_factory.mktemp("collected"), "textcraft", tasks)
    collect(noisy(), "textcraft", root)
    return root


def test_only_distinct_solved_training_episodes_are_kept(collected: Path, tasks: list[Task]) -> None:
    solved = kept(collected, "textcraft")
    assert len(solved) == 20
    assert len({to_json(trajectory) for trajectory in solved}) == 20
    assert {trajectory.task for trajectory in solved} <= set(tasks)
    assert all(trajectory.solved and trajectory.stop is StopReason.SOLVED for trajectory in solved)
    assert not any(trajectory.solved for trajectory in kept(collected, "textcraft", "failed"))


def test_the_environment_agrees_that_they_are_solved(collected: Path) -> None:
    """Every kept reply, given to a fresh environment, leads to the recorded observations and score."""
    env = make("textcraft")
    for trajectory in kept(collected, "textcraft"):
        assert tuple(env.reset(trajectory.task)) == trajectory.opening
        for turn in trajectory.turns:
            result = env.step(turn.text)
            assert turn.observation == ("" if result.done else result.observation)
        assert (env.solved(), env.score()) == (True, trajectory.score)


def test_the_summary_counts_every_episode(collected: Path) -> None:
    summary = json.loads((collected / "metrics" / "collect" / "textcraft.json").read_text(encoding="utf-8"))
    assert summary["played"] == summary["solved"] + sum(summary["not_kept"].values())
    solved = kept(collected, "textcraft")
    assert summary["recovery_episodes"] == sum(any(not turn.expert for turn in t.turns) for t in solved)
    assert 0 < summary["recovery_episodes"] < 20
    assert summary["turns_max"] == max(len(t.turns) for t in solved)


def test_other_processes_and_hash_seeds_give_the_same_bytes(collected: Path, tasks: list[Task], tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        import test_collect as tests
        from affine.collect import collect as module

        if __name__ == "__main__":
            module.os.cpu_count = lambda: int(sys.argv[3])
            module.collect(tests.noisy(), "textcraft", Path(sys.argv[2]))
        """
    )
    (tmp_path / "run.py").write_text(script)
    for hash_seed, processes in (("1", "1"), ("77", "3")):
        root = prepare(tmp_path / hash_seed, "textcraft", tasks)
        subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), str(REPOSITORY / "tests"), str(root), processes],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
        )
        assert outputs(root) == outputs(collected)


# --- noise -------------------------------------------------------------------------------------------------


def test_noisy_turns_are_marked(tasks: list[Task]) -> None:
    env = make("textcraft")
    for noise in (0.0, 0.5, 0.999):
        played = [play(env, task, random.Random(k), noise=noise) for k, task in enumerate(tasks * 3)]
        turns = [turn for trajectory in played for turn in trajectory.turns]
        share = sum(not turn.expert for turn in turns) / len(turns)
        assert share == pytest.approx(noise, abs=0.15)
    calm = [play(env, task, task_rng("textcraft", 0, task.id, 0, "x")) for task in tasks]
    assert calm == [play(env, task, task_rng("textcraft", 0, task.id, 0, "x")) for task in tasks]


@pytest.mark.parametrize(("single_turns", "noisy"), [(False, False), (True, True)])
def test_single_replies_are_spared_the_noise(single_turns: bool, noisy: bool) -> None:
    how = Attempts("sat", EnvSettings(), 0, "action", 0.9, 1.0, 20.0, single_turns=single_turns)
    tasks = draw_tasks(make("sat"), 0, 0, {Split.TRAIN: 10})
    played = [trajectory for trajectory in InProcess()(how, tasks, 1) if trajectory]
    assert make("sat").levels[0].turn_limit == 1
    assert any(not turn.expert for trajectory in played for turn in trajectory.turns) is noisy


def test_an_expert_that_gives_up_has_failed(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    from affine.envs import textcraft_expert

    long = next(task for task in tasks if len(play(make("textcraft"), task, random.Random(0)).turns) > 1)
    real = textcraft_expert.expert

    def after_one(env: TextCraft, rng: random.Random) -> object:
        playing = real(env, rng)
        first = [playing.act()]

        def act() -> Move:
            if not first:
                raise GaveUp("no idea")
            return first.pop()

        playing.act = act  # type: ignore[method-assign]
        return playing

    monkeypatch.setattr(textcraft_expert, "expert", after_one)
    trajectory = play(make("textcraft"), long, random.Random(0))
    assert (len(trajectory.turns), trajectory.stop, trajectory.solved) == (1, StopReason.FAILED, False)


# --- limits and errors -------------------------------------------------------------------------------------


def test_a_task_out_of_time_is_counted_and_the_engine_renewed(
    tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, closed = tasks[2].id, []
    reset, close = TextCraft.reset, TextCraft.close

    def hang(self: TextCraft, task: Task) -> object:
        opening = reset(self, task)
        if task.id == slow:
            try:
                time.sleep(60)
            except Exception:  # what engines' clients do; it must not keep the task alive
                time.sleep(60)
        return opening

    def count(self: TextCraft) -> None:
        closed.append(self)
        close(self)

    monkeypatch.setattr(TextCraft, "reset", hang)
    monkeypatch.setattr(TextCraft, "close", count)
    monkeypatch.setattr(module, "trajectories", InProcess())
    monkeypatch.setattr(module, "HANG", 1.0)
    root = prepare(tmp_path, "textcraft", tasks)
    collect(params("textcraft", 10, time_limit=0.3, recovery=0.0), "textcraft", root)
    summary = json.loads((root / "metrics" / "collect" / "textcraft.json").read_text(encoding="utf-8"))
    assert summary["not_kept"] == {"out_of_time": 1}
    assert summary["played"] == 11
    assert summary["success"] == round(10 / 11, 4)
    assert slow not in {trajectory.task.id for trajectory in kept(root, "textcraft")}
    assert len({id(env) for env in closed}) == len(closed) == 2  # the late one, and one asked for its engine
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_busy_machine_takes_no_ones_time(tasks: list[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting is not counted, computing is: the limit does not depend on what else runs."""
    player = module.Demonstrator(replace(HOW, time_limit=0.2, recovery=0.0))
    reset = TextCraft.reset

    def waiting(self: TextCraft, task: Task) -> object:
        time.sleep(0.5)
        return reset(self, task)

    def computing(self: TextCraft, task: Task) -> object:
        while True:
            pass

    monkeypatch.setattr(TextCraft, "reset", waiting)
    trajectory = player.play(Attempt(tasks[0], 0))
    assert trajectory
    assert trajectory.solved
    monkeypatch.setattr(TextCraft, "reset", computing)
    started = time.process_time()
    assert player.play(Attempt(tasks[0], 0)) is None
    assert 0.1 < time.process_time() - started < 1.0
    assert signal.getitimer(signal.ITIMER_PROF) == signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_too_few_solved_name_what_to_change(tasks: list[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TextCraft, "solved", lambda self: False)
    monkeypatch.setattr(module, "trajectories", InProcess())
    root = prepare(tmp_path, "textcraft", tasks[:3])
    with pytest.raises(CollectError, match=r"textcraft: 0 of 5 demonstrations after 12 episodes .*'failed': 12"):
        collect(params("textcraft", 5), "textcraft", root)
    assert outputs(root) == {}
    monkeypatch.undo()
    monkeypatch.setattr(module, "trajectories", InProcess())
    with pytest.raises(
        CollectError, match=r"lower collect\.textcraft\.episodes or raise tasks\.textcraft\.train"
    ) as stopped:
        collect(params("textcraft", 50, recovery=0.0), "textcraft", root)
    assert "'duplicate': 9" in str(stopped.value)  # without noise the same three episodes four times


def test_an_environment_that_fails_names_the_task(tasks: list[Task]) -> None:
    broken = [*tasks[:3], Task("textcraft", 0, -5, 0, Split.TRAIN)]
    with pytest.raises(EnvError, match="textcraft, level 0, task -5: textcraft: no task -5"):
        list(trajectories(HOW, broken, 1, processes=1))


def test_an_environment_that_does_not_start_is_one_line(tasks: list[Task]) -> None:
    how = Attempts("textcraft", EnvSettings(prompts="/nowhere.yaml"), 0, "action", 0.0, 0.0, 20.0)
    with pytest.raises(EnvError, match=r"envs\.prompts: '/nowhere\.yaml'"):
        list(trajectories(how, tasks, 1, processes=1))


def test_a_killed_worker_is_an_error_and_nothing_is_left(tasks: list[Task]) -> None:
    playing = trajectories(HOW, tasks, 200, processes=2)
    next(playing)
    workers = workers_of(os.getpid())
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    with pytest.raises(CollectError, match="textcraft: an expert's process died"):
        list(playing)
    assert workers_of(os.getpid()) == []


def test_enough_is_enough(tasks: list[Task], capfd: pytest.CaptureFixture[str]) -> None:
    """Closing the iterator ends the processes in the middle of their work, without a word."""
    playing = trajectories(HOW, tasks, 10_000, processes=1)
    next(playing)
    playing.close()  # type: ignore[attr-defined]
    assert workers_of(os.getpid()) == []
    assert capfd.readouterr().err == ""


def workers_of(pid: int) -> list[int]:
    """Living processes that multiprocessing spawned from `pid` (not its resource tracker)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if int(parent) == pid and state != "Z" and b"spawn_main" in command:
                found.append(int(entry.name))
    return sorted(found)


def test_no_worker_outlives_a_killed_parent(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        sys.path.insert(0, sys.argv[1])
        import test_collect as tests
        from affine.envs.env import make
        from affine.tasks import draw_tasks
        from affine.types import Split

        if __name__ == "__main__":
            tasks = draw_tasks(make("textcraft"), 0, 0, {Split.TRAIN: 5})
            for _ in tests.trajectories(tests.HOW, tasks, 100_000, processes=1):
                print("playing", flush=True)
        """
    )
    (tmp_path / "run.py").write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py"), str(REPOSITORY / "tests")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "playing\n"
    [worker] = workers_of(parent.pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        if (Path(f"/proc/{worker}") / "stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break  # dead, not yet reaped by whoever adopts orphans here
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{worker}").exists()
