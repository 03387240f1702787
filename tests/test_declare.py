"""A ninth environment: the guide's files and its one line, declared and collected by the real graph's stages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from affine.declare import DeclareError, declare

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "TRAINING_GUIDE.md").read_text(encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The repository's code and graph, without what was made by it."""
    for name in ("affine", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "pyproject.toml", "requirements.lock", *map(str, pipelines())):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    for name, code in re.findall(r"```python\n# affine/envs/(\w+)\.py\n(.*?)```", GUIDE, re.DOTALL):
        (tmp_path / "affine" / "envs" / f"{name}.py").write_text(code, encoding="utf-8")
    return tmp_path


def pipelines() -> list[Path]:
    return [path.relative_to(ROOT) for path in sorted(ROOT.glob("*/dvc.yaml"))]


def register(root: Path) -> None:
    line = re.search(r"`REGISTRY`:\n\n```python\n(.*?)\n```", GUIDE, re.DOTALL)
    assert line
    types = root / "affine" / "types.py"
    before, opening, after = types.read_text(encoding="utf-8").partition("\n}\n")
    types.write_text(f"{before}\n{line[1]}{opening}{after}", encoding="utf-8")


def python(root: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(root), "COLUMNS": "120"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def few(root: Path) -> None:
    """A few tasks and demonstrations of what was declared."""
    params = root / "params.yaml"
    text = params.read_text(encoding="utf-8")
    for old, new in (
        ("train: 1000, validation: 40, test: 200", "train: 40, validation: 4, test: 8"),
        ("episodes: 200", "episodes: 9"),
    ):
        text = text.replace(old, new)
    params.write_text(text, encoding="utf-8")


def test_a_file_and_a_line_make_a_ninth_environment_of_the_graph(copy: Path) -> None:
    register(copy)
    before = (copy / "params.yaml").read_text(encoding="utf-8"), (copy / "dvc.yaml").read_text(encoding="utf-8")
    assert "tasks.guess" in python(copy, "affine", "envs", "--declare")
    after = (copy / "params.yaml").read_text(encoding="utf-8"), (copy / "dvc.yaml").read_text(encoding="utf-8")
    for old, new in zip(before, after, strict=True):
        kept = [line for line in new.splitlines() if "guess" not in line]
        assert kept == old.splitlines()
    graph = YAML(typ="safe").load(after[1])
    everywhere = json.dumps(graph["stages"])
    for file in ("data/tasks/guess/train.jsonl", "data/tasks/guess/test.jsonl", "data/trajectories/guess/solved.jsonl"):
        assert everywhere.count(file) == everywhere.count(file.replace("guess", "textcraft"))
    assert everywhere.count("metrics/collect/guess.json") == everywhere.count("metrics/collect/textcraft.json") == 1
    engines = len(graph["stages"]["tasks"]["foreach"]["guess"]) + len(graph["stages"]["collect"]["foreach"]["guess"])
    assert everywhere.count("affine/envs/guess.py") == everywhere.count("affine/envs/textcraft.py") + engines
    assert "nothing to add" in python(copy, "affine", "envs", "--declare")

    few(copy)
    python(copy, "stages.tasks", "guess")
    python(copy, "stages.collect", "guess")
    collected = json.loads((copy / "metrics" / "collect" / "guess.json").read_text(encoding="utf-8"))
    assert collected["solved"] == 9


def test_an_expert_may_have_a_file_of_its_own(copy: Path) -> None:
    """Then the tasks do not depend on it, and dvc reads both forms."""
    register(copy)
    graph = copy / "dvc.yaml"
    before = graph.read_bytes()
    python(copy, "affine", "envs", "--declare")
    assert depends(copy, "tasks@guess") >= {"affine/envs/guess.py"}
    assert depends(copy, "collect@guess") >= {"affine/envs/guess.py"}
    graph.write_bytes(before)

    file = copy / "affine" / "envs" / "guess.py"
    code, marker, expert = file.read_text(encoding="utf-8").partition("SUCCESS")
    file.write_text(code, encoding="utf-8")
    head = "import random\nfrom affine.envs.env import Env, Expert, Move, StepResult\n"
    head += "from affine.envs.guess import Guess\n"
    file.with_name("guess_expert.py").write_text(head + marker + expert, encoding="utf-8")
    python(copy, "affine", "envs", "--declare")
    assert "affine/envs/guess_expert.py" not in depends(copy, "tasks@guess")
    assert depends(copy, "collect@guess") >= {"affine/envs/guess.py", "affine/envs/guess_expert.py"}
    few(copy)
    python(copy, "stages.tasks", "guess")
    python(copy, "stages.collect", "guess")
    assert json.loads((copy / "metrics" / "collect" / "guess.json").read_text(encoding="utf-8"))["solved"] == 9


def depends(root: Path, stage: str) -> set[str]:
    """The dependencies of a stage as DVC sees them."""
    with Repo.init(str(root), no_scm=True, force=True) as repo:
        (found,) = repo.stage.load_all(str(root / "dvc.yaml"), stage)
        return {str(Path(dep.fs_path).relative_to(root)) for dep in found.deps if dep.protocol == "local"}


def test_a_file_that_is_not_there_is_named(copy: Path) -> None:
    register(copy)
    (copy / "affine" / "envs" / "guess.py").unlink()
    with pytest.raises(AssertionError, match=r"guess\.py: no such file; guess is registered as being there"):
        python(copy, "affine", "envs", "--declare")
    assert (copy / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


def test_it_says_where_it_must_be_run(tmp_path: Path) -> None:
    with pytest.raises(DeclareError, match=r"dvc\.yaml: no such file; run from the repository's root"):
        declare(tmp_path)
