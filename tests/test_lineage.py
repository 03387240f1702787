"""Lineage, against DVC's own graph and lock on the real pipeline."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import networkx
import pytest
import yaml
from dvc.repo import Repo

from affine.__main__ import main
from affine.lineage import LineageError, compare, lineage
from tests import small_graph

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("output", ["models/ppo", "release", "data/dataset", "evaluations/sft"])
def test_the_stages_are_dvcs_ancestors(output: str) -> None:
    with Repo(str(ROOT)) as repo:
        graph = repo.index.graph
        [maker] = [s for s in graph for out in s.outs if str(out) == output]
        expected = {stage.addressing for stage in networkx.descendants(graph, maker)} | {maker.addressing}
    found = lineage(ROOT, output)
    assert {step.stage for step in found.steps} == expected
    order = [step.stage for step in found.steps]
    assert all(order.index(maker) < order.index(step.stage) for step in found.steps for maker in step.makers)


def test_hashes_and_parameters_are_the_locks() -> None:
    stages = yaml.safe_load((ROOT / "dvc.lock").read_text())["stages"]
    found = lineage(ROOT, "models/sft/")
    [out] = [out for out in stages["sft"]["outs"] if out["path"] == "models/sft"]
    assert found.digest == out["md5"]
    params = found.params()
    assert params["sft.lora.rank"] == stages["sft"]["params"]["params.yaml"]["sft"]["lora"]["rank"]
    assert params["base.source"] == stages["base"]["params"]["params.yaml"]["base"]["source"]
    assert not any(key.startswith(("ppo.", "evaluate.", "pareto.")) for key in params)
    assert "affine/training/sft.py" in found.code()
    assert "affine/training/ppo.py" not in found.code()


def test_two_commits_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_graph.make(tmp_path / "repository")
    small_graph.enter(folder, monkeypatch)
    for name in ("affine", "stages"):
        (folder / name).mkdir()
    (folder / "affine" / "a.py").write_text("1\n")
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("deps: [train.py, ", "deps: [affine/a.py, train.py, "))
    with Repo(str(folder)) as repo:
        repo.reproduce()
    small_graph.git(folder, "add", "-A")
    small_graph.git(folder, "commit", "-qm", "one")
    params = folder / "params.yaml"
    params.write_text(params.read_text().replace("kl: 0.01", "kl: 0.02"))
    (folder / "affine" / "a.py").write_text("2\n")
    with Repo(str(folder)) as repo:
        repo.reproduce()
    shutil.rmtree(folder / ".dvc" / "cache")  # no data is needed
    (folder / "adapter").unlink()
    changed = compare(lineage(folder, "adapter"), lineage(folder, "adapter", "HEAD"))
    assert [(c.key, c.before, c.after) for c in changed["parameters"]] == [("ppo.kl", 0.01, 0.02)]
    assert [change.key for change in changed["code"]] == ["affine/a.py"]
    assert {change.key for change in changed["data"]} >= {"adapter", "metrics/evaluate.json"}
    assert main(["lineage", "adapter", "--against", "HEAD"]) == 0
    said = capsys.readouterr().out
    assert "other bytes" in said
    assert "ppo.kl: 0.01 -> 0.02" in said
    assert main(["lineage", "adapter", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["strange"] == []
    (folder / "affine" / "a.py").write_text("3\n")
    assert lineage(folder, "adapter").strange == ("affine/a.py",)
    assert lineage(folder, "adapter", "HEAD").strange == ()


def test_code_folders_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As DVC hashes them: any of their files, added or changed, in the folder or at a commit."""
    folder = small_graph.make(tmp_path / "repository")
    small_graph.enter(folder, monkeypatch)
    engine = folder / "affine" / "envs" / "engines" / "sat"
    (engine / "deep").mkdir(parents=True)
    (engine / "a.py").write_bytes(b"1\r\n")
    (engine / "table.bin").write_bytes(bytes(range(256)))
    (engine / "deep" / "b.py").write_text("2\n")
    pipeline = folder / "dvc.yaml"
    pipeline.write_text(pipeline.read_text().replace("deps: [train.py, ", "deps: [affine/envs/engines/sat, train.py, "))
    (folder / ".dvcignore").write_text((ROOT / ".dvcignore").read_text())
    (folder / ".gitignore").write_text((folder / ".gitignore").read_text() + "__pycache__\n")
    with Repo(str(folder)) as repo:
        repo.reproduce()
    small_graph.git(folder, "add", "-A")
    small_graph.git(folder, "commit", "-qm", "one")
    (engine / "__pycache__").mkdir()
    (engine / "__pycache__" / "a.cpython-311.pyc").write_bytes(b"compiled")
    assert lineage(folder, "adapter").strange == lineage(folder, "adapter", "HEAD").strange == ()
    assert main(["lineage", "adapter"]) == 0
    assert "all code, folders too, is that of the files here" in capsys.readouterr().out
    (engine / "deep" / "b.py").write_text("3\n")
    assert lineage(folder, "adapter").strange == ("affine/envs/engines/sat",)
    assert lineage(folder, "adapter", "HEAD").strange == ()
    assert main(["lineage", "adapter"]) == 0
    assert "not the code of this commit: affine/envs/engines/sat" in capsys.readouterr().out
    small_graph.git(folder, "commit", "-qam", "changed and not run")
    assert lineage(folder, "adapter", "HEAD").strange == ("affine/envs/engines/sat",)
    (engine / "deep" / "b.py").write_text("2\n")
    (engine / "c.py").write_text("new\n")
    assert lineage(folder, "adapter").strange == ("affine/envs/engines/sat",)


def test_an_unknown_output_or_commit_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LineageError, match=r"no output models/dpo \(outputs: .*models/ppo"):
        lineage(ROOT, "models/dpo")
    monkeypatch.chdir(ROOT)
    assert main(["lineage", "models/ppo", "--rev", "nowhere"]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    with pytest.raises(LineageError, match=r"dvc.lock: no such file here"):
        lineage(tmp_path, "models/ppo")
