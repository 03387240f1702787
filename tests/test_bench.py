"""The benchmarks run, measure the same play on both sides, and write what the README reads. No time is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from affine.cli.bench import BenchError, run
from affine.collect.play import play
from affine.envs.env import make, task_rng
from affine.readme.sections import SECTIONS
from affine.tasks import draw_tasks
from affine.types import Split

ROOT = Path(__file__).parents[1]


def test_http_server_gives_what_play_in_process_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from env_server import serving

    env = make("textcraft")
    with serving("textcraft") as client:
        for task in draw_tasks(env, 0, 0, {Split.TRAIN: 3}):
            trajectory = play(env, task, task_rng("textcraft", 0, task.id, 0), noise=0.5)
            assert [m["content"] for m in client.reset(task)] == [m.content for m in trajectory.opening]
            for k, turn in enumerate(trajectory.turns):
                answer = client.step(turn.text)
                assert (answer["reward"], answer["valid"]) == (turn.reward, turn.valid)
                last = k + 1 == len(trajectory.turns)
                assert answer["observation"] == turn.observation or last
            assert answer["score"] == trajectory.score


def test_benchmarks_write_results_that_the_guides_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "benchmarks" / "results"
    monkeypatch.chdir(ROOT)
    small = ["--envs", "sat", "textcraft", "--episodes", "3", "--reference-episodes", "2", "--out", str(out)]
    assert run(["envs", *small]) == 0
    assert run(["rollout", "--episodes", "3", "--slots", "2", "--out", str(out)]) == 0
    envs, rollout = (json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("envs", "rollout"))
    for result in (envs, rollout):
        assert result["machine"]["cores"] >= 1
        assert result["versions"]["torch"]
        assert set(result) >= {"commit", "date"}
    for row in envs["envs"].values():
        for player in ("expert", "random"):
            assert row[player]["ratio"] == pytest.approx(
                row[player]["steps_per_s"] / row[player]["http_steps_per_s"], rel=1e-2
            )
    assert rollout["engine"]["episodes"] == rollout["generate"]["episodes"] == 3
    text = SECTIONS["speed"](tmp_path, "")
    assert "| textcraft |" in text
    assert "| ratio |" in text


def test_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match="run from the repository's root"):
        run(["envs"])
    monkeypatch.chdir(ROOT)
    with pytest.raises(BenchError, match="failed with exit code 2"):
        run(["envs", "--episodes", "many"])


def test_a_server_process_does_not_outlive_its_client() -> None:
    code = (
        "import sys; sys.path.insert(0, 'benchmarks')\n"
        "from env_server import serving\n"
        "import multiprocessing\n"
        "if __name__ == '__main__':\n"
        "    with serving('sat'):\n"
        "        assert multiprocessing.active_children()\n"
        "    assert not multiprocessing.active_children()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
