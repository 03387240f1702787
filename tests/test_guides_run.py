"""Commands of the guides that take a server, tasks, or a stage's outputs: run as they stand, on small ones."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guides import GUIDES, ROOT, WORDS, commands, make_repository, words_of
from loopback_chat import ChatServer, completion
from pareto_episodes import write_evaluations
from scipy import stats

import affine.cli.tune
import affine.rollout.cluster
from affine.__main__ import main
from affine.envs.env import make
from affine.files import read_json
from affine.launch import OPTIONS, relaunch
from affine.params import load_params
from affine.rollout.spread import open_pool
from affine.types import ENVS

SMALL = [f"-S tasks.{env}.{split}={count}" for env in ENVS for split, count in (("train", 4), ("test", 1))]
URL = "http://localhost:8000/v1"
SERVED = f"dvc exp run endpoint/dvc.yaml -S evaluate.endpoint.url={URL} -S evaluate.endpoint.model=NAME"
TUNE = "python -m affine tune sft.learning_rate=1e-5..1e-3:log ppo.kl=0.01,0.03 --trials 20"
ACCELERATE = tuple(sorted(command for command in commands() if command.startswith("AFFINE_ACCELERATE=")))

COMMANDS = (
    "git checkout params.yaml",
    "git checkout params.yaml dvc.lock metrics",
    "dvc repro base",
    "play --ids affine-2025-11-17 --task N",
    "dvc repro tasks",
    SERVED,
    "make endpoint",
    "python -m affine incumbents --add endpoint",
    "dvc commit --force sft",
    TUNE,
    "AFFINE_RAY=auto dvc repro",
    *ACCELERATE,
)
"""Those that this file runs."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("guides-run") / "affine")


@pytest.fixture
def repository(made: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The same for all, with the committed parameters before and after each."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(made))
    yield made
    shutil.copyfile(ROOT / "params.yaml", made / "params.yaml")


def run(command: list[str]) -> str:
    """What it says; its exit status must be 0."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def run_make(repository: Path, *arguments: str) -> str:
    """`make`, with this interpreter's environment in the place of .venv and nothing to install."""
    installed = repository.parent / "installed"
    installed.touch()
    return run(["make", f"BIN={Path(sys.executable).parent}", f"INSTALLED={installed}", *arguments])


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("git checkout")])
def test_the_default_comes_back(repository: Path, command: str) -> None:
    before = (repository / "params.yaml").read_bytes()
    assert main(["preset", "smoke"]) == 0
    assert (repository / "params.yaml").read_bytes() != before
    run(words_of(command))
    assert (repository / "params.yaml").read_bytes() == before


def test_tasks_of_all_and_a_served_model_that_plays_them(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the guide: tasks, the served model's play, the same by make (nothing is left to do), and the
    result as an incumbent."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    assert main(["preset", "smoke", *shlex.split(" ".join(SMALL))]) == 0
    run(words_of("dvc repro tasks"))
    drawn = {path.parent.name: len(path.read_text().splitlines()) for path in Path("data/tasks").glob("*/test.jsonl")}
    assert drawn == dict.fromkeys(ENVS, 1)

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        return completion("Action: 1")

    with ChatServer(answer) as server:
        words = [word.replace(URL, server.url).replace(WORDS["NAME"], "tiny")
                 for word in words_of(SERVED)]  # fmt: skip
        run(words)
        asked = len(server.requests)
        assert asked >= len(ENVS)
        assert {body["model"] for _, body in server.requests} == {"tiny"}
        assert load_params("params.yaml").evaluate.endpoint.url == server.url  # exp run leaves it in the workspace
        assert "didn't change" in run_make(repository, "endpoint")
        assert len(server.requests) == asked
    assert read_json(Path("evaluations/endpoint/policy.json"))["model"] == "tiny"
    assert main(words_of("python -m affine incumbents --add endpoint")[3:]) == 0
    added = read_json(Path("incumbents/endpoint.json"))["environments"]
    for env in ENVS:
        [episode] = [json.loads(line) for line in Path(f"evaluations/endpoint/{env}.jsonl").read_text().splitlines()]
        [task] = added[env]["tasks"]
        assert task["scores"] == [episode["trajectory"]["score"]]


def test_a_harmless_refactoring_is_accepted(repository: Path) -> None:
    """`dvc commit --force sft`: with outputs there, a comment in a dependency makes the stage stale, and this mends
    it without running the stage."""
    for folder in ("models/base", "models/sft", "data/dataset"):
        Path(folder).mkdir(parents=True)
        (Path(folder) / "made-up").write_text(folder)
    command = words_of("dvc commit --force sft")
    run(command)
    assert not status("sft")
    with Path("affine/training/sft.py").open("a") as file:
        file.write("# harmless\n")
    assert "affine/training/sft.py" in json.dumps(status("sft"))
    run(command)
    assert not status("sft")
    assert (Path("models/sft") / "made-up").read_text() == "models/sft"


def status(stage: str) -> Any:
    return json.loads(run(["dvc", "status", "--json", stage]))


def test_report_is_made(repository: Path) -> None:
    assert "open it in a browser" in run_make(repository, "report")
    assert (repository / "report.html").stat().st_size > 10_000


def test_the_nth_task_of_an_upstream_range_is_played(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    env = "babyai"
    _, _, name, _, _ = words = shlex.split("play --ids affine-2025-11-17 --task N")
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert main(["play", env, *words[1:-1], "7"]) == 0
    wanted = make(env).id_range(name)
    assert f"{env} level {wanted.level}, task {wanted.first + 7} (" in capsys.readouterr().out


def test_search_of_the_guide(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its space is valid for params.yaml and gives what it says; without DVC, for a trial would train for an hour."""
    seen: list[dict[str, Any]] = []
    text = json.dumps({"ppo": {"overall": 0.5, "low": 0.4, "high": 0.6}})

    def fake(root: Path, metric: object, name: str, values: dict[str, Any]) -> str:
        seen.append(dict(values))
        return text

    monkeypatch.setattr(affine.cli.tune, "run_experiment", fake)
    monkeypatch.setattr(affine.cli.tune, "read_experiment", lambda root, name, file: text)
    assert main([*words_of(TUNE)[3:-1], "1"]) == 0
    [values] = seen
    assert 1e-5 <= values["sft.learning_rate"] <= 1e-3
    assert values["ppo.kl"] in (0.01, 0.03)
    assert "0.5000 (0.4000 to 0.6000)" in capsys.readouterr().out


@pytest.mark.parametrize("command", ACCELERATE)
def test_options_for_several_processes(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the point where the stage becomes `accelerate launch`, whose own parser then reads the rest."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    setting, *rest = shlex.split(command)
    assert rest in (["dvc", "repro"], ["python", "-m", "stages.sft"])
    name, _, options = setting.partition("=")
    assert name == OPTIONS
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(name, options)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    became: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda path, arguments: became.append(arguments))
    relaunch("stages.sft")
    [[python, dash, launcher, *arguments]] = became
    assert (python, dash, launcher) == (sys.executable, "-m", "accelerate.commands.launch")
    read, _, _ = _validate_launch_command(launch_command_parser().parse_args(arguments))
    assert (read.module, read.training_script) == (True, "stages.sft")
    asked = dict(re.findall(r"--(\w+) (\S+)", options))
    assert Path(asked.pop("config_file")).is_file()
    assert asked
    assert {key: str(getattr(read, key)) for key in asked} == asked
    assert read.num_machines == int(asked.get("num_machines", 1))


def test_a_clusters_address_reaches_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the pool then does on a real cluster is in tests/test_cluster.py."""
    setting, *rest = shlex.split("AFFINE_RAY=auto dvc repro")
    assert rest == ["dvc", "repro"]
    monkeypatch.setenv(*setting.split("="))
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(affine.rollout.cluster, "ClusterPool", lambda players, workers, address: address)
    absent: Any = None
    assert open_pool(absent, 1) == "auto"


def test_policy_of_the_guide_judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both files changed as the guide says. With 120 episodes the validators' rule decides nothing (it wants 200) and
    this one does: the 95 % intervals of 0.3 and 0.7 lie apart, those of the scores beside each other do not."""
    shutil.copytree(ROOT / "affine", tmp_path / "affine", ignore=shutil.ignore_patterns("__pycache__"))
    text = (ROOT / "params.yaml").read_text()
    assert text.count("policy: affine-2025-10-22") == 1
    (tmp_path / "params.yaml").write_text(text.replace("policy: affine-2025-10-22", "policy: ours-2026-01-01"))
    (rule,) = re.findall(r"```python\n(IntervalRule\(.*?)```", GUIDES["TRAINING_GUIDE.md"], re.DOTALL)
    change(tmp_path / "affine/pareto/policies.py", "    for policy in (\n", f"    for policy in (\n{rule.rstrip()},\n")
    change(tmp_path / "affine/params.py", 'policy: Literal["', 'policy: Literal["ours-2026-01-01", "')
    rates = {"base": 0.3, "sft": 0.35, "ppo": 0.7}
    write_evaluations(tmp_path / "evaluations", tasks=120, rates=rates, groups=120)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    python = [sys.executable, "-m", "affine"]
    assert "ours-2026-01-01" in run([*python, "policies"])
    scores = {
        model: {env: sum(json.loads(line)["trajectory"]["score"] for line in path.read_text().splitlines())
                for env in ENVS if (path := tmp_path / "evaluations" / model / f"{env}.jsonl")}
        for model in rates
    }  # fmt: skip

    def apart(challenger: str, incumbent: str) -> bool:
        lows = [stats.beta(0.5 + scores[challenger][env], 120.5 - scores[challenger][env]).ppf(0.025) for env in ENVS]
        highs = [stats.beta(0.5 + scores[incumbent][env], 120.5 - scores[incumbent][env]).ppf(0.975) for env in ENVS]
        return all(low > high for low, high in zip(lows, highs, strict=True))

    def said(*arguments: str) -> dict[str, dict[str, Any]]:
        run([*python, "verdict", "--write", "written", *arguments])
        return dict(read_json(tmp_path / "written" / "pareto.json"))

    ours, theirs = said(), said("--policy", "affine-2025-10-22")
    assert ours["policy"] == "ours-2026-01-01"
    for pair in (("ppo", "base"), ("ppo", "sft"), ("sft", "base")):
        name = "{}_vs_{}".format(*pair)
        assert ours[name]["dominates"]["ours-2026-01-01"] is apart(*pair)
        assert theirs[name]["dominates"]["affine-2025-10-22"] is False
    assert apart("ppo", "base")
    assert not apart("sft", "base")


def change(path: Path, old: str, new: str) -> None:
    """In a copy of our code."""
    text = path.read_text()
    assert text.count(old) == 1, path
    path.write_text(text.replace(old, new))


def test_the_base_alone(repository: Path) -> None:
    run(words_of("dvc repro base"))
    assert (repository / "models/base/model.safetensors").is_file()
