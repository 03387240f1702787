"""The subnet's requirements, each met once and missed once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny import make_tiny_base

from affine.errors import AffineError
from affine.models.checkpoint import write_sums
from affine.release.submission import (
    ADMITTED_2026,
    Line,
    Profile,
    Status,
    Submission,
    check_submission,
    commit_json,
    deployed_in,
)

DEPLOYED = {"repo": "ada/Affine-nano", "revision": "a" * 40, "private": False}


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = make_tiny_base(tmp_path / "release")
    write_sums(folder)
    return folder


def lines(submission: Submission, profile: Profile = "affine-2025") -> dict[str, Line]:
    return {line.name: line for line in check_submission(submission, profile)}


def only(found: dict[str, Line], words: str) -> Line:
    (line,) = [line for name, line in found.items() if words in name]
    return line


def test_a_good_release_fails_nothing_of_2025(release: Path, tmp_path: Path) -> None:
    other = make_tiny_base(tmp_path / "other", seed=1)
    found = lines(Submission(release, DEPLOYED, chute_id="c", against=[other]))
    assert not [line for line in found.values() if line.status is Status.FAIL]
    assert {line.name for line in found.values() if line.status is Status.UNKNOWN} == {
        "repository is not gated", "chute is deployed and hot", "answers keep the environments' formats",
    }  # fmt: skip


def test_before_deployment_nothing_is_claimed_about_the_repository(release: Path) -> None:
    found = lines(Submission(release, {}))
    for words in ("repository name", "revision", "public", "commit on the chain"):
        assert only(found, words).status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("deployed", "words"),
    [
        ({"repo": "affine/Nano"}, "repository name"),  # the owner does not count
        ({"revision": "main"}, "revision"),
        ({"revision": "abcdef0"}, "revision"),
        ({"private": True}, "public"),
    ],
)
def test_what_is_wrong_with_the_repository(release: Path, deployed: dict[str, object], words: str) -> None:
    found = lines(Submission(release, DEPLOYED | deployed))
    assert [line.name for line in found.values() if line.status is Status.FAIL] == [only(found, words).name]


def test_shared_weights(release: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(release, tmp_path / "copy"))
    line = only(lines(Submission(release, DEPLOYED, against=[copy])), "nobody else's")
    assert line.status is Status.FAIL
    assert "all shards are those of" in line.advice


def test_2026_admits_no_qwen3_4b(release: Path) -> None:
    line = only(lines(Submission(release, DEPLOYED), "affine-2026"), "architecture")
    assert line.status is Status.FAIL
    assert "no Qwen3-4B" in line.advice
    (release / "config.json").write_text(json.dumps({"model_type": "qwen3_5_moe", "text_config": ADMITTED_2026}))
    assert only(lines(Submission(release, DEPLOYED), "affine-2026"), "architecture").status is Status.PASS


def test_2026_wants_the_hotkey_in_the_name(release: Path) -> None:
    for repo, status in (
        ("ada/Affine-x-5Hot", Status.PASS),
        ("ada/affine-5HOT", Status.PASS),
        ("ada/x-5Hot", Status.FAIL),
    ):
        submission = Submission(release, DEPLOYED | {"repo": repo}, hotkey="5Hot")
        assert only(lines(submission, "affine-2026"), "hotkey").status is status


def test_template_weights_and_quantisation(release: Path) -> None:
    template = (release / "chat_template.jinja").read_text()
    (release / "chat_template.jinja").write_text("{{ 'Action: x1=1' }}")
    assert only(lines(Submission(release, DEPLOYED)), "chat template").status is Status.FAIL
    (release / "chat_template.jinja").write_text(template + "{# " + "x" * 100_000 + " #}")
    assert "characters" in only(lines(Submission(release, DEPLOYED)), "chat template").advice
    (release / "chat_template.jinja").write_text(template)
    config = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    found = lines(Submission(release, DEPLOYED))
    assert only(found, "quantisation").status is Status.FAIL
    assert only(found, "complete").status is Status.FAIL


def test_commit_json_of_both_profiles(release: Path, tmp_path: Path) -> None:
    submission = Submission(release, DEPLOYED, chute_id="c-1")
    assert json.loads(commit_json(submission, "affine-2025")) == {
        "model": "ada/Affine-nano", "revision": "a" * 40, "chute_id": "c-1",
    }  # fmt: skip
    assert set(json.loads(commit_json(submission, "affine-2026"))) == {"model", "revision"}
    assert deployed_in(tmp_path) == {}


def test_empty_folder_and_unknown_profile(tmp_path: Path) -> None:
    found = lines(Submission(tmp_path, {}), "affine-2026")
    assert only(found, "complete").status is Status.FAIL
    assert only(found, "chat template").status is Status.FAIL
    with pytest.raises(AffineError, match="no profile affine-1999"):
        check_submission(Submission(tmp_path, {}), "affine-1999")  # type: ignore[arg-type]
