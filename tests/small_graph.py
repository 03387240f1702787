"""A small pipeline in a repository of its own, with this project's parameters: what `dvc exp` and its relatives need,
in a second a stage."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  left:
    cmd: {wait} && echo left > left
    deps: [code.txt]
    outs: [left]
  right:
    cmd: {wait} && echo right > right
    deps: [code.txt]
    outs: [right]
  ppo:
    cmd: python train.py
    deps: [train.py, left, right]
    params: [seed, ppo.kl, sft.learning_rate]
    outs: [adapter]
    metrics:
      - metrics/evaluate.json: {cache: false}
      - metrics/pareto.json: {cache: false}
    plots:
      - metrics/plots/scores.csv: {cache: false}
"""
TRAIN = """
import json, math, pathlib
from affine.logs import logged
from ruamel.yaml import YAML
params = YAML(typ="safe", pure=True).load(pathlib.Path("params.yaml"))
kl, rate = params["ppo"]["kl"], params["sft"]["learning_rate"]
with logged(pathlib.Path.cwd(), "ppo"):
    print(f"kl {kl}")
    assert kl < 0.9, "diverged"
score = 0.9 - abs(math.log10(rate) + 3) / 10 - kl
pathlib.Path("adapter").write_text(repr(score))
pathlib.Path("metrics/plots").mkdir(parents=True, exist_ok=True)
env = {"sat": score, "textcraft": score / 2}
row = {"overall": score, "low": score - 0.05, "high": score + 0.05, "tokens": 41.0, "env": env}
pathlib.Path("metrics/evaluate.json").write_text(json.dumps({"base": row, "ppo": row}))
lines = [f"ppo,{name},{mean},{mean - 0.1},{mean + 0.1}" for name, mean in env.items()]
pathlib.Path("metrics/plots/scores.csv").write_text("\\n".join(["model,env,score,low,high", *lines]))
pair = {"dominates": {"p": False}, "blocks": "textcraft", "verdict": "no"}
pathlib.Path("metrics/pareto.json").write_text(json.dumps({"policy": "p", "ppo_vs_base": pair}))
"""


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def make(folder: Path, wait: str = "true") -> Path:
    """The repository, committed and not yet run."""
    folder.mkdir(parents=True, exist_ok=True)
    git(folder, "init", "-q")
    git(folder, "config", "user.name", "t")
    git(folder, "config", "user.email", "t@example.org")
    Repo.init(str(folder))
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(PIPELINE.replace("{wait}", wait))
    (folder / "train.py").write_text(TRAIN)
    (folder / "code.txt").write_text("1\n")
    (folder / ".gitignore").write_text("/left\n/right\n/adapter\n/work\n/logs\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "start")
    return folder


def enter(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work there, with this interpreter's commands first."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("AFFINE_WORK", raising=False)


def evaluate(folder: Path) -> dict[str, dict[str, float]]:
    """metrics/evaluate.json as it lies there."""
    found: dict[str, dict[str, float]] = json.loads((folder / "metrics" / "evaluate.json").read_text())
    return found
