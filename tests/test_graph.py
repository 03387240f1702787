"""The whole graph on real engines, from a fresh clone, with the smoke preset: killed once, then to the end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from affine.types import ENVS

ROOT = Path(__file__).parents[1]
MODELS = ("base", "sft", "ppo")
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@example.org",
    "GIT_COMMITTER_NAME": "t", "GIT_COMMITTER_EMAIL": "t@example.org",
}  # fmt: skip
ENVIRONMENT.pop("AFFINE_WORK", None)


def run(clone: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=clone, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if check:
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with this one's files and no data, set to the smoke preset, its first run killed."""
    target = tmp_path_factory.mktemp("graph") / "affine"
    listed = run(ROOT, "git", "ls-files", "-co", "--exclude-standard", "-z").stdout.split("\0")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    run(target, "git", "init", "-q")
    run(target, sys.executable, "-m", "affine", "preset", "smoke")
    run(target, "git", "add", "-A")
    run(target, "git", "commit", "-qm", "start")
    _kill_during_collect(target)
    run(target, "dvc", "repro")
    return target


def _kill_during_collect(clone: Path) -> None:
    process = subprocess.Popen(
        ["dvc", "repro"], cwd=clone, env=ENVIRONMENT, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 240
    while not (clone / "data" / "trajectories" / "ded").is_dir() and time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for folder in sorted((clone / "data" / "trajectories").iterdir()):
        if not folder.name.startswith("."):
            assert sorted(path.name for path in folder.iterdir()) == ["failed.jsonl", "solved.jsonl"]


@pytest.mark.timeout(900)
def test_ends_whole(clone: Path) -> None:
    evaluate = json.loads((clone / "metrics" / "evaluate.json").read_text())
    for model in MODELS:
        assert set(evaluate[model]["env"]) == set(ENVS)
        assert 0 <= evaluate[model]["low"] <= evaluate[model]["overall"] <= evaluate[model]["high"] <= 1
    for env in ENVS:
        test = (clone / "data" / "tasks" / env / "test.jsonl").read_text().splitlines()
        for model in MODELS:
            episodes = (clone / "evaluations" / model / f"{env}.jsonl").read_text().splitlines()
            assert len(episodes) == len(test)
            fingerprints = {json.loads(line)["fingerprint"] for line in episodes}
            assert len(fingerprints) == 1
    assert (clone / "release" / "README.md").is_file()
    assert (clone / "release" / "model.safetensors").is_file()


@pytest.mark.timeout(120)
def test_nothing_is_left_to_do_or_lying_about(clone: Path) -> None:
    assert "up to date" in run(clone, "dvc", "status", "dvc.yaml").stdout
    again = run(clone, "dvc", "repro")
    assert "Running stage" not in again.stdout
    assert not [path for path in clone.rglob(".*.partial") if ".venv" not in path.parts]
    assert not list((clone / "work").glob("*/checkpoint*"))


@pytest.mark.timeout(120)
def test_the_confidence_level_retrains_nothing(clone: Path) -> None:
    params = clone / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("confidence: 0.8", "confidence: 0.9"))
    assert params.read_text() != before
    output = run(clone, "dvc", "repro").stdout
    assert {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")} == {
        "pareto",
        "release",
    }
    params.write_text(before)


@pytest.mark.timeout(300)
def test_a_colleague_pulls_what_is_needed(clone: Path, tmp_path: Path) -> None:
    """With all data nothing is left to do; to judge at another level the episodes are enough, and pareto runs alone."""
    run(clone, "dvc", "repro")  # whatever another test has tried
    run(clone, "git", "add", "-A")
    run(clone, "git", "commit", "-qm", "run")
    store = str(tmp_path / "store")

    def cloned(name: str) -> Path:
        run(clone, "git", "clone", "-q", ".", str(tmp_path / name))
        run(tmp_path / name, "dvc", "remote", "add", "--local", "--default", "store", store)
        return tmp_path / name

    run(clone, "dvc", "remote", "add", "--local", "--default", "store", store)
    run(clone, "dvc", "push")
    whole = cloned("whole")
    run(whole, "dvc", "pull")
    assert "Running stage" not in run(whole, "dvc", "repro").stdout
    judge = cloned("judge")
    run(judge, "dvc", "pull", "evaluate")
    _replace(judge / "params.yaml", "confidence: 0.8", "confidence: 0.9")
    said = run(judge, "dvc", "repro", "--allow-missing", "pareto").stdout
    assert [line for line in said.splitlines() if line.startswith("Running stage")] == ["Running stage 'pareto':"]
    assert not (judge / "models").exists()
    assert not (judge / "data").exists()
    before, after = (json.loads((at / "metrics" / "evaluate.json").read_text())["ppo"] for at in (clone, judge))
    assert after["overall"] == before["overall"]
    assert after["low"] < before["low"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda clone: _replace(clone / "params.yaml", "rank:", "rnak:"), "unknown key sft.lora.rnak"),
        (lambda clone: (clone / "data/tasks/sat/test.jsonl").write_text('{"env": 1}\n'), "test.jsonl, line 1"),
        (lambda clone: (clone / "models/base/model.safetensors").write_bytes(b"\0" * 64), "model.safetensors"),
    ],
)
def test_bad_input_is_named_and_stops_the_stage(clone: Path, tmp_path: Path, spoil: object, said: str) -> None:
    spoiled = tmp_path / "spoiled"
    shutil.copytree(clone, spoiled, ignore=shutil.ignore_patterns(".dvc", ".git"), copy_function=shutil.copyfile)
    spoil(spoiled)  # type: ignore[operator]
    before = (spoiled / "evaluations" / "base" / "sat.jsonl").read_bytes()
    done = run(spoiled, sys.executable, "-m", "stages.evaluate", "base", check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2
    assert (spoiled / "evaluations" / "base" / "sat.jsonl").read_bytes() == before


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
