"""The subnet's requirements, each met once and missed once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from tiny import make_tiny_base

from affine.errors import AffineError
from affine.models.checkpoint import write_sums
from affine.release.lines import Line, Page, Status, Submission, Tally
from affine.release.on_disk import ADMITTED_2026, signature
from affine.release.on_hub import ask, tokenizer_file, weight_hashes
from affine.release.submission import Profile, check_submission, commit_json, deployed_in
from affine.types import ENVS

DEPLOYED = {"repo": "ada/Affine-nano", "revision": "a" * 40, "private": False}
PAGE = Page(found=True, revision="a" * 40, titles=("Release", "initial commit"))


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
    hashes = {"other": weight_hashes(str(other))}
    known = Submission(
        release, DEPLOYED, chute_id="c", page=PAGE, weights_of=hashes, formats=dict.fromkeys(ENVS, Tally(4, 3))
    )
    found = lines(known)
    assert not [line for line in found.values() if line.status is Status.FAIL]
    assert {line.name for line in found.values() if line.status is Status.UNKNOWN} == {
        "chute is deployed and hot", "chute file is valid and names this release",
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


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(found=False), "public"),
        (Page(found=True, gated=True, revision="a" * 40), "gated"),
        (Page(found=True, revision="b" * 40), "full commit hash"),
        (Page(found=True, revision="a" * 40, titles=("x",) * 101), "history"),
        (Page(found=True, revision="a" * 40, titles=("x" * 201,)), "history"),
        (Page(found=True, revision="a" * 40, titles=("Duplicate from a/b",)), "history"),
    ],
)
def test_what_the_hub_says_counts(release: Path, page: Page, words: str) -> None:
    for profile in ("affine-2025", "affine-2026") if words != "history" else ("affine-2026",):
        found = lines(Submission(release, DEPLOYED, page=page), profile)  # type: ignore[arg-type]
        assert only(found, words).status is Status.FAIL


def test_the_hub_is_asked_as_a_stranger(monkeypatch: pytest.MonkeyPatch, release: Path, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_owner")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with LoopbackHub() as hub:
        hub.add_user("hf_owner", "ada")
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        files = {path.name: path.read_bytes() for path in release.iterdir()}
        commit = hub.publish("ada/Affine-nano", files, title="Release")
        page = ask("ada/Affine-nano", commit.sha, hub.url)
        assert page == Page(found=True, revision=commit.sha, titles=("Release",))
        assert ask("ada/Affine-nano", "f" * 40, hub.url) == Page(found=True)
        assert not any(hub.received)
        hub.repositories["ada/Affine-nano"].gated = True
        assert ask("ada/Affine-nano", commit.sha, hub.url).gated
        hub.repositories["ada/Affine-nano"].gated = False
        hub.repositories["ada/Affine-nano"].private = True
        assert ask("ada/Affine-nano", commit.sha, hub.url) == Page(found=False)
        # Earlier models are read with the token, if there is one: they may be ours.
        assert weight_hashes("ada/Affine-nano") == weight_hashes(str(release))
        assert weight_hashes(f"ada/Affine-nano@{commit.sha}") == weight_hashes(str(release))
        assert signature(tokenizer_file("ada/Affine-nano", tmp_path / "t")) == signature(release / "tokenizer.json")
        with pytest.raises(AffineError, match="bob/Nothing does not exist"):
            weight_hashes("bob/Nothing")
        hub.publish("ada/empty", {"README.md": b"---\n---\n"})
        with pytest.raises(AffineError, match="holds no safetensors"):
            weight_hashes("ada/empty")
    with pytest.raises(AffineError, match="no connection"):
        ask("ada/Affine-nano", commit.sha, "http://127.0.0.1:9")
    with pytest.raises(AffineError, match="neither a folder nor OWNER/NAME"):
        weight_hashes("nowhere")


def test_shared_weights(release: Path, tmp_path: Path) -> None:
    for model, status in ((release, Status.FAIL), (make_tiny_base(tmp_path / "other", seed=1), Status.PASS)):
        found = lines(Submission(release, DEPLOYED, weights_of={"earlier": weight_hashes(str(model))}))
        assert only(found, "nobody else's").status is status
    some = Submission(release, DEPLOYED, weights_of={"earlier": [*weight_hashes(str(release)), "0" * 64]})
    assert "some shards are those of earlier" in only(lines(some), "nobody else's").advice


def test_tokenizer_signature_is_about_the_mapping_alone(release: Path, tmp_path: Path) -> None:
    ours = release / "tokenizer.json"
    data = json.loads(ours.read_text())
    (tmp_path / "padded.json").write_text(json.dumps(data | {"padding": {"strategy": "BatchLongest"}}))
    assert signature(tmp_path / "padded.json") == signature(ours)
    data["model"]["merges"] = data["model"]["merges"][:-1]
    (tmp_path / "shorter.json").write_text(json.dumps(data))
    for file, status in ((ours, Status.PASS), (tmp_path / "shorter.json", Status.FAIL)):
        submission = Submission(release, DEPLOYED, champion=signature(file))
        assert only(lines(submission, "affine-2026"), "tokenizer").status is status


def test_formats_fail_where_no_turn_was_usable(release: Path) -> None:
    formats = {"sat": Tally(4, 1), "ded": Tally(4, 0)}
    line = only(lines(Submission(release, DEPLOYED, formats=formats)), "formats")
    assert line.status is Status.FAIL
    assert "no usable action in ded (usable turns of probes: sat 1/4, ded 0/4)" in line.advice


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
