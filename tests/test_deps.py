"""The graph's code dependencies: complete, and such that a change re-runs what it should and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from affine.deps import closure, compare, declared_code, imports, main, write
from affine.types import ENVS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stages() -> dict[str, object]:
    """Stage name -> DVC's own stage object, of the root pipeline."""
    with Repo(str(ROOT)) as repo:
        return {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}


def reruns(stages: dict[str, object], path: str) -> set[str]:
    """The stages that DVC would run because `path` changed, before any of their outputs changes."""
    changed = set()
    for name, stage in stages.items():
        for dep in stage.deps:  # type: ignore[attr-defined]
            declared = str(Path(dep.fs_path).relative_to(ROOT)) if not hasattr(dep, "params") else ""
            if declared and (path == declared or path.startswith(f"{declared}/")):
                changed.add(name)
    return changed


def test_declared_code_is_the_import_closure() -> None:
    assert compare(ROOT) == []


def test_an_undeclared_import_is_found_and_written(tmp_path: Path) -> None:
    for folder in ("affine", "stages", "deploy"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "affine" / "novel.py").write_text("X = 1\n")
    script = tmp_path / "stages" / "pareto.py"
    script.write_text(script.read_text() + "\nfrom affine.novel import X\n")
    [difference] = compare(tmp_path)
    assert (difference.stage, difference.missing, difference.superfluous) == ("pareto", ["affine/novel.py"], [])
    assert write(tmp_path) == ["dvc.yaml: pareto"]
    assert compare(tmp_path) == []
    # Comments and everything but the one list stay as they were.
    before = (ROOT / "dvc.yaml").read_text().splitlines()
    after = (tmp_path / "dvc.yaml").read_text().splitlines()
    assert sorted(set(after) - set(before)) == ["      - affine/novel.py"]
    assert sorted(set(before) - set(after)) == []


def test_the_closure_is_what_python_really_imports() -> None:
    """A second way: import the stage's script in a fresh interpreter and look at what was loaded."""
    for stage in ("pareto", "dataset", "sft", "release"):
        code = (
            f"import sys, stages.{stage}; print('\\n'.join(sorted(m.__file__ for n, m in sys.modules.items() "
            "if n.split('.')[0] in {'affine', 'stages'} and getattr(m, '__file__', None))))"
        )
        run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = {str(Path(line).relative_to(ROOT)) for line in run.stdout.split()} - {"stages/__init__.py"}
        reachable = {str(path) for path in closure(ROOT, [Path("stages") / f"{stage}.py"])}
        assert loaded <= reachable, stage


def test_imports_inside_functions_count() -> None:
    assert Path("affine/envs/engines/babyai/bot.py") in imports(ROOT, Path("affine/envs/babyai_expert.py"))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("affine/envs/textcraft_expert.py", {"collect@textcraft"}),
        ("affine/envs/textcraft.py", {"tasks@textcraft", "collect@textcraft", "ppo", "evaluate@*"}),
        ("affine/envs/engines/textcraft/book.py", {"tasks@textcraft", "collect@textcraft", "ppo", "evaluate@*"}),
        (
            "affine/envs/engines/programs/sandbox.py",
            {"tasks@abd", "tasks@ded", "collect@abd", "collect@ded", "ppo", "evaluate@*"},
        ),
        ("affine/pareto/paired.py", {"pareto"}),
        ("affine/training/ppo.py", {"ppo"}),
        ("affine/training/sft.py", {"sft"}),
        ("affine/training/live.py", {"sft", "ppo"}),
        ("affine/evaluation.py", {"evaluate@*"}),
        ("affine/rollout/generator.py", {"ppo", "evaluate@*"}),
        ("affine/collect/play.py", {"collect@*"}),
        ("affine/release/card.md.jinja", {"release"}),
        ("affine/models/pretrain.py", set()),
        ("affine/cli/play.py", set()),
        ("README.md", set()),
    ],
)
def test_what_a_change_of_code_reruns(stages: dict[str, object], path: str, expected: set[str]) -> None:
    whole = {name for pattern in expected for name in stages if name == pattern or (name.startswith(pattern.rstrip("*"))
             and pattern.endswith("*"))}  # fmt: skip
    assert reruns(stages, path) == whole


def test_a_shared_module_reruns_everything(stages: dict[str, object]) -> None:
    assert reruns(stages, "affine/types.py") == set(stages)


def test_parameters_reach_exactly_their_stages(stages: dict[str, object]) -> None:
    readers: dict[str, set[str]] = {}
    for name, stage in stages.items():
        for dep in stage.deps:  # type: ignore[attr-defined]
            for key in getattr(dep, "params", []):
                readers.setdefault(key, set()).add(name)
    assert readers["pareto"] == {"pareto", "release"}
    assert readers["ppo"] == {"ppo", "release"}
    assert readers["collect.sat"] == {"collect@sat"}
    assert readers["tasks.sat"] == {"tasks@sat"}
    assert readers["evaluate"] == {f"evaluate@{model}" for model in ("base", "sft", "ppo")} | {"release"}
    assert not any(name.startswith("tasks") for name in readers["seed"])


def test_every_environment_feeds_the_dataset(stages: dict[str, object]) -> None:
    deps = {str(Path(dep.fs_path).relative_to(ROOT)) for dep in stages["dataset"].deps}  # type: ignore[attr-defined]
    for env in ENVS:
        assert f"data/trajectories/{env}/solved.jsonl" in deps
        assert f"data/tasks/{env}/test.jsonl" in deps


def test_a_bare_repro_never_publishes(stages: dict[str, object]) -> None:
    assert "deploy" not in stages
    assert any(name == "deploy" for name, _, _ in declared_code(ROOT))


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main(["--check"]) == 0
    assert capsys.readouterr().out == ""
