"""The graph's code dependencies: complete, and such that a change re-runs what it should and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from dataless import Clone, clone
from dvc.repo import Repo

from affine.deps import closure, compare, declared_code, imports, main, write
from affine.pins import PinsError, stale_pins, write_pins
from affine.report.stale import stale_stages
from affine.types import ENVS

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def stages() -> dict[str, object]:
    """Stage name -> DVC's own stage object, of the root pipeline."""
    with Repo(str(ROOT)) as repo:
        return {stage.name: stage for stage in repo.index.stages if stage.path_in_repo == "dvc.yaml"}


@pytest.fixture(scope="module")
def made_anew(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The stages of a copy that has the preset `pretrain`."""
    copy = tmp_path_factory.mktemp("made")
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "presets", copy / "presets")
    subprocess.run(
        [sys.executable, "-m", "affine", "preset", "pretrain"],
        cwd=copy,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    Repo.init(str(copy), no_scm=True)
    with Repo(str(copy)) as repo:
        return {stage.name: stage for stage in repo.index.stages}


def reruns(stages: dict[str, object], path: str) -> set[str]:
    """The stages that DVC would run because `path` changed, before any of their outputs changes."""
    changed = set()
    for name, stage in stages.items():
        for dep in stage.deps:  # type: ignore[attr-defined]
            declared = str(Path(dep.fs_path).relative_to(stage.wdir)) if not hasattr(dep, "params") else ""  # type: ignore[attr-defined]
            if declared and (path == declared or path.startswith(f"{declared}/")):
                changed.add(name)
    return changed


def test_declared_code_is_the_import_closure() -> None:
    assert compare(ROOT) == []


def test_an_undeclared_import_is_found_and_written(tmp_path: Path) -> None:
    for folder in ("affine", "stages", "deploy", "endpoint"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
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


@pytest.mark.parametrize(
    ("old", "new", "stage", "more"),
    [
        ("stop: never", "stop: sequential", "evaluate", {"stopping", "sequential", "paired", "intervals", "summary"}),
        ("source: expert", "source: policy", "collect", {"policy", "pool", "episodes", "generator", "lora", "chat"}),
    ],
)
def test_an_option_that_runs_more_code_depends_on_it(
    tmp_path: Path, old: str, new: str, stage: str, more: set[str]
) -> None:
    for folder in ("affine", "stages", "deploy", "endpoint"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    text = (ROOT / "params.yaml").read_text()
    assert text.count(old) == 1
    (tmp_path / "params.yaml").write_text(text.replace(old, new))
    found = compare(tmp_path)
    assert {difference.stage.partition("@")[0] for difference in found} == {stage}
    for difference in found:
        assert not difference.superfluous
        assert more <= {Path(file).stem for file in difference.missing}
        assert "cluster" not in {Path(file).stem for file in difference.missing if "rollout" in file}
    assert write(tmp_path) == [f"dvc.yaml: {stage}"]
    assert compare(tmp_path) == []
    (tmp_path / "params.yaml").write_text(text)
    assert write(tmp_path) == [f"dvc.yaml: {stage}"]
    assert (tmp_path / "dvc.yaml").read_text() == (ROOT / "dvc.yaml").read_text()


def test_relative_imports_and_other_stages_count(tmp_path: Path) -> None:
    files = {
        "affine/__init__.py": "",
        "affine/near.py": "",
        "affine/deep/__init__.py": "from .inner import X\n",
        "affine/deep/inner.py": "from .. import near\nX = 1\n",
        "affine/deep/beside.py": "from . import inner\nfrom ..near import Y\n",
        "stages/one.py": "import affine.deep.beside\n",
        "stages/two.py": "from stages.one import run\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def found(file: str) -> set[str]:
        return {str(path) for path in imports(tmp_path, Path(file))}

    assert found("affine/deep/__init__.py") == {"affine/__init__.py", "affine/deep/__init__.py", "affine/deep/inner.py"}
    assert found("affine/deep/inner.py") == {"affine/__init__.py", "affine/near.py"}
    assert found("affine/deep/beside.py") == {*found("affine/deep/__init__.py"), "affine/near.py"}
    assert found("stages/two.py") == {"stages/one.py"}
    assert {str(path) for path in closure(tmp_path, [Path("stages/two.py")])} == set(files)


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


RERUNS = {
    "affine/envs/textcraft_expert.py": {"collect@textcraft"},
    "affine/envs/textcraft.py": {"tasks@textcraft", "collect@textcraft", "ppo", "evaluate@*"},
    "affine/envs/engines/textcraft/book.py": {"tasks@textcraft", "collect@textcraft", "ppo", "evaluate@*"},
    "affine/envs/engines/programs/sandbox.py": {
        "tasks@abd", "tasks@ded", "collect@abd", "collect@ded", "ppo", "evaluate@*"
    },
    "affine/pareto/paired.py": {"pareto"},
    "affine/training/ppo.py": {"ppo"},
    "affine/training/sft.py": {"sft"},
    "affine/training/live.py": {"sft", "ppo"},
    "affine/evaluation.py": {"evaluate@*"},
    "affine/rollout/generator.py": {"ppo", "evaluate@*"},
    "affine/collect/play.py": {"collect@*"},
    "affine/release/card.md.jinja": {"release"},
    "affine/types.py": {"*"},
    "affine/models/pretrain.py": set(),
    "affine/models/skills.py": set(),
    "pretrained/nano/model.safetensors": {"base"},
    "affine/cli/play.py": set(),
    "README.md": set(),
}  # fmt: skip
"""A changed file -> the stages that DVC then runs, before any of their outputs changes."""


@pytest.fixture(scope="module")
def without_data(tmp_path_factory: pytest.TempPathFactory) -> Clone:
    return Clone(tmp_path_factory.mktemp("clone") / "affine")


@pytest.fixture(scope="module")
def causes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Stage -> what DVC finds changed in a clone where every file of `RERUNS` has another byte at its end."""
    folder = clone(tmp_path_factory.mktemp("changed") / "affine")
    for path in RERUNS:
        with (folder / path).open("ab") as file:
            file.write(b"\n")
    return stale_stages(folder)


@pytest.mark.parametrize("path", RERUNS)
def test_what_a_change_of_code_reruns(stages: dict[str, object], causes: dict[str, list[str]], path: str) -> None:
    """DVC names a folder that a stage depends on, where one of the files in it has changed."""
    blamed = {name for name, found in causes.items() if any(Path(path).is_relative_to(cause) for cause in found)}
    assert blamed == {name for name in stages for pattern in RERUNS[path] if fnmatch(name, pattern)}


@pytest.mark.parametrize(
    ("path", "old", "new", "expected"),
    [
        ("params.yaml", "seed: 0  ", "# a comment\nseed: 0  ", set()),
        ("params.yaml", "confidence: 0.8", "confidence: 0.95", {"pareto", "release"}),
        ("affine/envs/sat_expert.py", "from __future__", "# a comment\nfrom __future__", {"collect@sat"}),
        ("pyproject.toml", '\ntorch = "', '\ntorch = "9.', {"sft", "ppo"}),
        ("pyproject.toml", '\ntrl = "', '\ntrl = "9.', {"sft", "ppo"}),
        ("pyproject.toml", 'description = "', 'description = "Now ', set()),
    ],
)
def test_what_dvc_blames_after_a_change(without_data: Clone, path: str, old: str, new: str, expected: set[str]) -> None:
    assert set(without_data.blamed(path, lambda text: text.replace(old, new, 1))) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("affine/models/pretrain.py", {"pretrain@nano"}),
        ("affine/models/skills.py", {"pretrain@nano"}),
        ("affine/envs/sat_expert.py", {"pretrain@nano", "collect@sat"}),
        ("models/pretrained/model.safetensors", {"base"}),
        ("pretrained/nano/model.safetensors", set()),
    ],
)
def test_a_base_that_is_made_anew_follows_its_code(made_anew: dict[str, object], path: str, expected: set[str]) -> None:
    """With the preset `pretrain` the stage of that name is in the graph; without it there is none."""
    assert reruns(made_anew, path) == expected


def test_the_shipped_base_needs_no_pretraining(stages: dict[str, object], made_anew: dict[str, object]) -> None:
    assert set(made_anew) - set(stages) == {"pretrain@nano"}


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
    evaluations = {f"evaluate@{model}" for model in ("base", "sft", "ppo")}
    assert readers["evaluate.temperature"] == readers["evaluate.stop"] == evaluations | {"release"}
    assert not [key for key in readers if key.startswith("evaluate.endpoint")]
    assert not any(name.startswith("tasks") for name in readers["seed"])
    assert readers["tool.affine.training"] == {"sft", "ppo"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seed: 0  ", "# a comment\nseed: 0  ", set()),
        ("confidence: 0.8", "confidence: 0.95", {"pareto", "release"}),
        ("  kl: 0.01", "  kl: 0.02", {"ppo", "release"}),
        ("  sat: {episodes: 400}", "  sat: {episodes: 401}", {"collect@sat", "release"}),
        ("tracking: [dvclive]", "tracking: [dvclive, tensorboard]", set()),
    ],
)
def test_what_a_change_of_params_reruns(tmp_path: Path, old: str, new: str, expected: set[str]) -> None:
    """By the values that DVC itself reads for each stage, before and after. `release` names the sections that its card
    shows."""
    for name in ("dvc.yaml", "params.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    Repo.init(str(tmp_path), no_scm=True)

    def values() -> dict[str, list[object]]:
        with Repo(str(tmp_path)) as repo:
            return {
                stage.name: [dep.read_params() for dep in stage.deps if hasattr(dep, "params")]
                for stage in repo.index.stages
            }

    before = values()
    params = tmp_path / "params.yaml"
    text = params.read_text()
    assert text.count(old) == 1
    params.write_text(text.replace(old, new))
    after = values()
    assert {name for name in before if before[name] != after[name]} == expected


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


def test_training_versions_are_those_of_the_lock_file(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    assert stale_pins(tmp_path) == {}
    lock = tmp_path / "requirements.lock"
    lock.write_text(re.sub(r"(?m)^(trl|rich)==.*$", r"\1==99.0", lock.read_text()))
    assert set(stale_pins(tmp_path)) == {"trl"}  # rich trains nothing
    assert len(write_pins(tmp_path)) == 1
    assert stale_pins(tmp_path) == {}
    before, after = ((root / "pyproject.toml").read_text().splitlines() for root in (ROOT, tmp_path))
    assert [line for line in after if line not in before] == ['trl = "99.0"']
    lock.write_text(re.sub(r"(?m)^torch==.*\n", "", lock.read_text()))
    with pytest.raises(PinsError, match=r"requirements\.lock has no torch"):
        stale_pins(tmp_path)
