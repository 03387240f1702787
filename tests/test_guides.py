"""Every command and snippet of README, QUICKSTART and TRAINING_GUIDE is run: here, in tests/test_guides_run.py (what
takes a server or data), in tests/test_sweep.py, or in the test file named here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import test_guides_run
import test_sweep
import yaml
from guides import GUIDES, ROOT, commands, dvc, make_repository, words_of

import affine.pareto.policies
from affine.__main__ import main
from affine.cli.preset import assign
from affine.files import read_json
from affine.params import Params, load_params
from affine.pareto.policies import POLICIES, IntervalRule
from affine.pareto.run import judge_folder

REAL = (
    "python -m affine params",
    "python -m affine policies",
    "python -m affine plan",
    "python -m affine plan 5 --against base",
    "python -m affine envs ENV",
    "python -m affine experts --random",
    "python -m affine verdict",
    "python -m affine verdict --check",
    "python -m affine serve",
    "python -m affine serve --chutes USERNAME",
    "python -m affine check",
    "python -m affine check --profile affine-2025",
    "dvc metrics show",
    "dvc metrics diff",
    "dvc plots show",
    "dvc plots diff",
    "dvc status",
    "dvc status dvc.yaml",
    "dvc exp show",
    "dvc exp diff",
    "dvc remote add -d NAME s3://...",
    "python -m affine preset pretrain",
    "python -m affine preset smoke",
    "python -m affine preset qwen3-4b -S base.revision=<commit> --show",
    "python -m affine preset qwen3-4b -S base.revision=<commit>",
)
"""Run as they stand and in this order, in a repository with results."""

SMALLER = {"check": ["--no-probes"], "experts": ["sat", "--levels", "0", "--tasks", "2"]}
"""What the test adds so that the model need not play and the experts play little."""

MAKE = {
    "make all": ["dvc repro"],
    "make test": ["pytest"],
    "make deploy": ["stages.deploy --check", "dvc repro", "deploy/dvc.yaml:deploy"],
    "make deploy DRY=1": ["stages.deploy --check --dry-run", "dvc repro", "stages.deploy --dry-run"],
    "make all JOBS=4": ["affine repro --jobs 4"],
    "make remote-demo": ["scripts/remote_demo.sh"],
    "make doctor": ["affine doctor"],
    "make bench-envs": ["bench"],
    "make report": ["affine report"],
    "make deploy-demo": ["scripts.deploy_demo"],
}
"""Targets, asked with -n -> what they must be about to run."""

QUEUED = (
    "dvc exp run",
    "dvc exp run -S collect.source=policy -S collect.policy=policies/first -S collect.policy_digest=...",
    "dvc exp run -S pareto.confidence=0.95",
    "dvc exp run -S pareto.policy=ours-2026-01-01",
    "dvc exp run -S ppo.kl=0.03",
    "dvc exp run -S sft.epochs=6",
    "dvc exp run -n no-sft -S sft.epochs=0",
    "dvc exp run -n no-kl -S ppo.kl=0",
    "dvc exp run -n turn-gae -S ppo.advantage=gae -S ppo.gae=turn",
    "dvc exp run -n token-gae -S ppo.advantage=gae -S ppo.gae=token",
    "dvc exp run -n shaped -S ppo.advantage=gae -S ppo.gae=turn -S +ppo.shaping=1",
)
"""Experiments, queued and not run."""

ELSEWHERE = {
    "dvc repro collect@sat": ("test_guides.py", '"repro", "collect@sat"'),
    "dvc repro": ("test_graph.py", '"dvc", "repro"'),
    "dvc pull": ("test_remote.py", 'dvc("pull")'),
    "dvc pull --run-cache": ("test_remote.py", '"pull", "--run-cache"'),
    "dvc push --run-cache": ("test_remote.py", 'dvc("push", "--run-cache")'),
    "python -m affine play textcraft": ("test_cli.py", '"play"'),
    "python -m affine play ENV --level LEVEL --task ID": ("test_cli.py", '"--task"'),
    "git clone <this repository> affine && cd affine": ("test_remote.py", '"clone"'),
    "python -m affine play guess": ("test_readme.py", 'main(["play", "guess"])'),
    "python -m affine bench verdict": ("test_bench.py", 'run(["verdict"'),
    "python -m affine envs --declare": ("test_declare.py", '"envs", "--declare"'),
    "python -m affine pretrain": ("test_pretrain.py", "pretrain("),
    "dvc pull evaluate": ("test_graph.py", '"pull", "evaluate"'),
    "dvc repro --allow-missing pareto": ("test_graph.py", '"--allow-missing", "pareto"'),
    "dvc push": ("test_remote.py", 'dvc("push")'),
    "dvc repro --pull": ("test_remote.py", '"repro", "--pull"'),
    "dvc status -c": ("test_remote.py", '"status", "-c"'),
    "dvc exp push origin NAME": ("test_remote.py", '"exp", "push"'),
    "dvc exp diff HEAD kl-1": ("test_sweep.py", "difference.splitlines()"),
    "dvc exp show --only-changed": ("test_tune.py", '"--only-changed"'),
    'eval "dvc exp run $(python -m affine preset smoke --args)"': ("test_presets.py", '"smoke", "--args"'),
    "python -m affine preset NAME --show": ("test_presets.py", '"smoke", "--show"'),
    "python -m affine deps --check": ("test_deps.py", '"--check"'),
    "python -m affine lineage models/ppo": ("test_lineage.py", '"models/ppo"'),
    "python -m affine remote-check": ("test_remote.py", '"remote-check"'),
    "python -m affine repro -j 4": ("test_repro.py", '"repro", "-j"'),
    "python -m affine watch": ("test_watch.py", 'main(["watch"'),
    "python -m affine readme": ("test_readme.py", "run([])"),
}
"""Command -> the test file that runs it, and what stands there."""


def test_every_command_of_the_guides_is_run() -> None:
    known = {*REAL, *MAKE, *QUEUED, *ELSEWHERE, *test_sweep.commands(), *test_guides_run.COMMANDS}
    assert commands() == known
    for file, text in ELSEWHERE.values():
        assert text in (ROOT / "tests" / file).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_repository(tmp_path_factory.mktemp("guides") / "affine")


@pytest.mark.parametrize("command", REAL)
def test_command_runs_as_it_stands(repository: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(repository)
    words = words_of(command)
    if words[0] == "dvc":
        assert dvc(words[1:]) == 0
        return
    assert main([*words[3:], *SMALLER.get(words[3], [])]) == 0
    if words[3] == "preset" and "--show" not in words:
        assert load_params("params.yaml") != load_params(ROOT / "params.yaml")
        shutil.copyfile(ROOT / "params.yaml", "params.yaml")


@pytest.fixture
def on_path(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repository)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("command", MAKE)
def test_target_is_about_to_run_what_it_says(on_path: None, command: str) -> None:
    done = subprocess.run(["make", "-n", *shlex.split(command)[1:]], capture_output=True, text=True, check=True)
    assert all(text in done.stdout for text in MAKE[command])
    if "DRY=1" in command:
        assert "--force" not in done.stdout


def test_experiments_of_the_guides_can_be_queued(on_path: None) -> None:
    """All changes in one experiment, which would train for an hour: queued, looked at and removed."""
    changes = [word for command in QUEUED for word in words_of(command)[3:]]
    assert dvc(["exp", "run", "--queue", *changes]) == 0
    queued = subprocess.run(["dvc", "queue", "status"], capture_output=True, text=True, check=True).stdout
    assert "Queued" in queued
    assert dvc(["queue", "remove", "--all"]) == 0


# The policy "ours" is what the guide's example adds to the code.
@pytest.mark.parametrize("command", [c for c in QUEUED if "policy=ours" not in c and "-S" in c])
def test_experiments_of_the_guides_are_other_parameters(command: str) -> None:
    """Valid ones, unlike the default; DVC wants a plus before a key exactly where params.yaml has none."""
    written = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    words = words_of(command)
    for change in (words[k + 1] for k, word in enumerate(words) if word == "-S"):
        section, key = change.lstrip("+").partition("=")[0].split(".")
        assert (key not in written[section]) is change.startswith("+"), change
        assign(written, change.lstrip("+"))
    assert Params.model_validate(written) != load_params(ROOT / "params.yaml")


def test_one_environments_stage_runs_alone(on_path: None) -> None:
    """`dvc repro collect@sat` with the smoke preset: its own tasks and demonstrations, and nobody else's."""
    assert "`dvc repro collect@sat`" in GUIDES["TRAINING_GUIDE.md"]
    assert main(["preset", "smoke"]) == 0
    subprocess.run(["dvc", "repro", "collect@sat"], check=True, capture_output=True)
    assert sorted(path.name for path in Path("data/trajectories").iterdir()) == ["sat"]
    assert Path("data/trajectories/sat/solved.jsonl").stat().st_size > 0
    shutil.copyfile(ROOT / "params.yaml", "params.yaml")


# Snippets of the guide --------------------------------------------------------------------------------------------


def snippet(begins: str) -> str:
    (found,) = re.findall(rf"```python\n({re.escape(begins)}.*?)```", GUIDES["TRAINING_GUIDE.md"], re.DOTALL)
    return str(found)


def test_metric_of_the_guide(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against the mean that the metrics give: the made-up episodes are equally long, solved or not."""
    monkeypatch.chdir(repository)
    exec(snippet("# tokens that a solved"), {})
    rows = {tuple(line.split()[:2]): float(line.split()[2]) for line in capsys.readouterr().out.splitlines()}
    summary = read_json(repository / "metrics/evaluate.json")
    assert len(rows) == sum(len(summary[model]["env"]) for model in ("base", "sft", "ppo"))
    assert {round(value, 4) for value in rows.values()} == {summary["ppo"]["tokens"]}


def test_policy_of_the_guide(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A level of 95 % asks for more than the validators' 80 %, and 100 episodes for less than their 200."""
    rule = eval(snippet("IntervalRule("), {"IntervalRule": IntervalRule})
    monkeypatch.setitem(affine.pareto.policies.POLICIES, rule.name, rule)
    params = load_params(ROOT / "params.yaml").pareto.model_copy(update={"policy": rule.name})
    judged = judge_folder(repository / "evaluations", params)
    assert judged.policy == rule.name
    assert set(judged.outcomes) == set(POLICIES)
    assert f"-S pareto.policy={rule.name}" in GUIDES["TRAINING_GUIDE.md"]
