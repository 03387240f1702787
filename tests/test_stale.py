"""Whether dvc.lock fits: asked in a clone of this repository without data, with one thing at a time out of joint."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from dataless import OTHER, Clone, clone

from affine.report.comment import _stale
from affine.report.stale import StaleError, fit, stale_stages
from affine.types import ENVS


class Agreeing(Clone):
    """A clone where every input has, in the lock, the hash of the output that it is."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        lock = yaml.safe_load((folder / "dvc.lock").read_text())
        outs = {out["path"]: out for stage in lock["stages"].values() for out in stage.get("outs", ())}
        for dep in (dep for stage in lock["stages"].values() for dep in stage["deps"]):
            if dep["path"] in outs:
                dep["md5"] = outs[dep["path"]]["md5"]
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock))
        self.before = stale_stages(folder)

    def relock(self, stage: str, path: str, md5: str | None) -> dict[str, list[str]]:
        """What is blamed where the lock has another hash for this output of `stage`; None: no entry."""

        def change(text: str) -> str:
            lock: dict[str, Any] = yaml.safe_load(text)
            outs = lock["stages"][stage]["outs"]
            [out] = [out for out in outs if out["path"] == path]
            if md5 is None:
                outs.remove(out)
            else:
                out["md5"] = md5
            return yaml.safe_dump(lock)

        return self.blamed("dvc.lock", change)


@pytest.fixture(scope="module")
def agreeing(tmp_path_factory: pytest.TempPathFactory) -> Agreeing:
    return Agreeing(tmp_path_factory.mktemp("stale") / "affine")


def test_the_committed_lock_fits_the_committed_code(tmp_path: Path) -> None:
    """What the check of a pull request asks. It fails while code is changed and `dvc repro` not yet run."""
    assert stale_stages(clone(tmp_path / "affine")) == {}


@pytest.mark.parametrize(
    ("stage", "path", "readers"),
    [
        ("sft", "models/sft", {"ppo", "evaluate@sft", "release"}),
        ("evaluate@sft", "evaluations/sft", {"evaluate@ppo", "pareto", "release"}),
        ("base", "models/base", {"dataset", "sft", "ppo", "evaluate@base", "evaluate@sft", "evaluate@ppo", "release"}),
    ],
)
def test_an_input_must_be_what_its_maker_made(agreeing: Agreeing, stage: str, path: str, readers: set[str]) -> None:
    assert agreeing.relock(stage, path, f"{OTHER}.dir") == {reader: [path] for reader in readers}


def test_files_of_a_folder_whose_files_the_lock_names(agreeing: Agreeing) -> None:
    """Other stages name all three files of data/tasks/sat, so that the folder's hash can be made of theirs."""
    found = agreeing.relock("tasks@sat", "data/tasks/sat", f"{OTHER}.dir")
    assert found == {
        "collect@sat": ["data/tasks/sat/train.jsonl"],
        "dataset": ["data/tasks/sat/test.jsonl"],
        "ppo": ["data/tasks/sat/train.jsonl", "data/tasks/sat/validation.jsonl"],
        **{f"evaluate@{model}": ["data/tasks/sat/test.jsonl"] for model in ("base", "sft", "ppo")},
    }


def test_files_of_a_folder_whose_list_is_in_the_cache(agreeing: Agreeing) -> None:
    """Nobody reads failed.jsonl: without the list of data/trajectories/sat the lock says nothing of solved.jsonl, and
    that is said."""
    path = "data/trajectories/sat/solved.jsonl"
    assert fit(agreeing.folder).unproven == tuple(sorted(f"data/trajectories/{env}/solved.jsonl" for env in ENVS))
    assert "Not comparable without the data: " in " ".join(_stale(fit(agreeing.folder)))
    assert agreeing.relock("collect@sat", "data/trajectories/sat", f"{OTHER}.dir") == {}
    listed = json.dumps([{"md5": OTHER, "relpath": name} for name in ("failed.jsonl", "solved.jsonl")])
    md5 = hashlib.md5(listed.encode()).hexdigest()
    cached = agreeing.folder / ".dvc" / "cache" / "files" / "md5" / md5[:2] / f"{md5[2:]}.dir"
    cached.parent.mkdir(parents=True)
    cached.write_text(listed)
    assert agreeing.relock("collect@sat", "data/trajectories/sat", f"{md5}.dir") == {"dataset": [path]}


def test_what_git_keeps_of_outputs_must_be_what_was_made(agreeing: Agreeing) -> None:
    assert agreeing.blamed("metrics/sft.json", lambda text: text.replace("{", '{"tokens": 1, ', 1)) == {
        "sft": ["metrics/sft.json (modified)"]
    }
    curve = "metrics/curves/sft/train/loss.tsv"
    assert agreeing.blamed(curve, lambda text: text + "9999\t0.0\n") == {"sft": ["metrics/curves/sft (modified)"]}
    assert agreeing.blamed("metrics/dataset.json", lambda text: text + " ") == {
        "dataset": ["metrics/dataset.json (modified)"],
        "release": ["metrics/dataset.json"],
    }
    file = agreeing.folder / "metrics" / "sft.json"
    text = file.read_text()
    file.unlink()
    assert "metrics/sft.json (deleted)" in stale_stages(agreeing.folder)["sft"]
    file.write_text(text)


def test_an_output_that_the_lock_does_not_have(agreeing: Agreeing) -> None:
    new = agreeing.blamed("dvc.yaml", lambda text: text.replace("      - models/sft\n    metrics", NEW, 1))
    assert new == {"sft": ["models/new (not in dvc.lock)"]}
    assert agreeing.relock("release", "release", None) == {"release": ["release (not in dvc.lock)"]}


NEW = "      - models/sft\n      - models/new\n    metrics"


def test_a_pipeline_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(StaleError, match=r"dvc\.yaml or dvc\.lock cannot be used: .*not.* repository"):
        stale_stages(tmp_path)
