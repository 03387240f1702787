"""`experts`: shares by type of task that add up, failures by id that can be played, other levels kept; and what
`experts` and `envs --speed` let programs do where no sandbox is safe."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from affine.cli import experts
from affine.cli.envs import run as run_envs
from affine.cli.experts import run
from affine.collect.collect import Attempts
from affine.collect.play import play
from affine.envs.engines.programs import sandbox
from affine.envs.engines.programs.program_env import execute_once
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
    assert f"textcraft level 2: {row['solved']} of 12 solved, by luck {row['luck']:.0%}" in capsys.readouterr().out


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
