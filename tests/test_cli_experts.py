"""`experts`: shares by type of task that add up, failures by id that can be played, other levels kept; and what
`experts`, `envs --speed` and `play` let programs do where no sandbox is safe."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from affine.cli import experts
from affine.cli.envs import run as run_envs
from affine.cli.experts import run
from affine.cli.play import run as run_play
from affine.collect.collect import Attempts
from affine.collect.play import play
from affine.envs.abd import Abd
from affine.envs.engines.programs import sandbox
from affine.envs.engines.programs.program_env import execute_once, execute_own
from affine.envs.env import EnvError, make
from affine.tasks import draw_tasks
from affine.types import Split, Task, Trajectory

ROOT = Path(__file__).parents[1]


def test_the_record_is_what_playing_gives(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "experts.json"
    assert run(["textcraft", "--levels", "2", "--tasks", "12", "--random", "--out", str(out)]) == 0
    assert run(["textcraft", "--levels", "0", "--tasks", "3", "--out", str(out)]) == 0
    result = json.loads(out.read_text(encoding="utf-8"))["textcraft"]
    assert list(result) == ["0", "2"]
    row = result["2"]
    with closing(make("textcraft")) as env:
        tasks = draw_tasks(env, 2, 0, {Split.TEST: 12})
        solved = {task.id: play(env, task, random.Random(0)).solved for task in tasks}
        assert set(row["kinds"]) == {env.task_type(2, task.id, 0) for task in tasks}
    assert row["solved"] == sum(solved.values())
    assert {failure["id"] for failure in row["failures"]} == {id for id, won in solved.items() if not won}
    assert sum(counts["tasks"] for counts in row["kinds"].values()) == row["tasks"] == 12
    assert 0 <= row["luck"] < 0.6
    assert "luck" not in result["0"]
    assert row["privileged"] is False
    assert "chance" not in row
    assert f"textcraft level 2: {row['solved']} of 12 solved, by luck {row['luck']:.0%}" in capsys.readouterr().out


def test_spread_tasks_reach_over_all_types_of_a_level() -> None:
    """AgentGym's ids go type by type: the first ones are all of its first types."""
    with closing(make("sciworld")) as env:
        first = draw_tasks(env, 5, 0, {Split.TEST: 23})
        spread = experts._spread(env, 5, 0, 23)
        assert len({env.task_type(5, task.id, 0) for task in first}) <= 4
        assert len({env.task_type(5, task.id, 0) for task in spread}) >= 10
        assert all(env.official_split(5, task.id, 0) == Split.TEST for task in spread)
        with pytest.raises(EnvError, match="lower --tasks"):
            experts._spread(env, 5, 0, 4000)
    with closing(make("sat")) as env, pytest.raises(EnvError, match="sat: --spread needs a level with a last id"):
        experts._spread(env, 0, 0, 5)


def test_an_unknown_environment_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match="no environment 'chess'"):
        run(["chess", "--out", str(tmp_path / "x.json")])


@pytest.fixture
def nothing_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which no sandbox is safe."""
    monkeypatch.setitem(sandbox.Sandbox.__init__.__kwdefaults__, "levels", ())
    monkeypatch.setattr(sandbox, "_shared", {})
    execute_once.cache_clear()
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sandbox.shared(True).close()


def allow(folder: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    assert text.count("unsafe: false") == 1
    (folder / "params.yaml").write_text(text.replace("unsafe: false", "unsafe: true"), encoding="utf-8")


def test_experts_run_programs_unprotected_only_where_the_parameters_say_so(
    nothing_safe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(how: Attempts, tasks: list[Task], passes: int) -> Iterator[Trajectory]:
        with closing(make(how.env, how.settings)) as env:
            yield from (play(env, task, random.Random(0)) for task in tasks)

    monkeypatch.setattr(experts, "trajectories", here)
    arguments = ["abd", "--levels", "0", "--tasks", "2", "--out", "experts.json"]
    with pytest.raises(EnvError, match="no safe level"):
        run(arguments)
    allow(nothing_safe)
    assert run(arguments) == 0
    assert json.loads(Path("experts.json").read_text(encoding="utf-8"))["abd"]["0"]["solved"] == 2


def test_speed_is_measured_unprotected_only_where_the_parameters_say_so(
    nothing_safe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["abd", "--speed", "--seconds", "0.05"]
    with pytest.raises(EnvError, match="no safe level"):
        run_envs(arguments)
    allow(nothing_safe)
    assert run_envs(arguments) == 0
    assert "episodes/s" in capsys.readouterr().out


def test_play_runs_programs_unprotected_only_where_the_parameters_say_so(
    nothing_safe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("!\n"))
    with pytest.raises(EnvError, match="no safe level"):
        run_play(["abd"])
    allow(nothing_safe)
    monkeypatch.setattr("sys.stdin", io.StringIO("!\n"))
    assert run_play(["abd"]) == 0
    assert "solved: score 1.00" in capsys.readouterr().out


def test_what_guessing_is_worth_in_abd_is_a_share_of_inputs(tmp_path: Path) -> None:
    """Counted again with other inputs, by running the programs in the sandbox."""
    out = tmp_path / "experts.json"
    assert run(["abd", "--levels", "0", "--tasks", "8", "--out", str(out)]) == 0
    row = json.loads(out.read_text(encoding="utf-8"))["abd"]["0"]
    assert row["privileged"] is True
    hits = 0
    with closing(Abd()) as env:
        for task in draw_tasks(env, 0, 0, {Split.TEST: 8}):
            env.reset(task)
            assert env.problem.program
            rng = random.Random(task.id)
            for _ in range(60):
                stdin = env.problem.program.draw_input(rng)
                hits += execute_own(env.problem.source, stdin, env.limits, False).stdout == env.problem.output
    assert row["chance"] == pytest.approx(hits / 480, abs=0.05)
