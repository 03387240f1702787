"""The subnet's requirements, each met once and missed once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from tiny import make_tiny_base

from affine.errors import AffineError
from affine.models.checkpoint import SUMS, FileHash, sha256, write_sums
from affine.release.lines import Line, Page, Status, Submission, Tally
from affine.release.on_disk import ADMITTED_2026, signature
from affine.release.on_hub import ask, tokenizer_file, weight_hashes
from affine.release.submission import Profile, check_submission, commit_json, deployed_in
from affine.types import ENVS

REVISION = "a" * 40
DEPLOYED = {"repo": "ada/Affine-nano", "revision": REVISION, "private": False}
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
    deployed = DEPLOYED | {"release_sha256": sha256(release / SUMS)}
    known = Submission(
        release, deployed, chute_id="c", page=PAGE, weights_of=hashes, formats=dict.fromkeys(ENVS, Tally(4, 3))
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


OLD_RULE, NEW_RULE = (
    "no shard is somebody else's (rule until 2025-11-06)",
    "not somebody else's (rule since 2025-11-06)",
)


@pytest.mark.parametrize(
    ("theirs", "shared", "copied"),
    [
        (["a", "b"], True, True),
        (["b", "a"], True, True),
        (["a"], True, False),
        (["a", "b", "c"], True, False),
        (["a", "x"], True, False),
        (["x", "y"], False, False),
    ],
)
def test_copies_by_the_rule_of_their_day(
    release: Path, monkeypatch: pytest.MonkeyPatch, theirs: list[str], shared: bool, copied: bool
) -> None:
    """Until 6 November 2025 any shard in common; since then, and in 2026, only the whole set."""
    monkeypatch.setattr("affine.release.on_disk.hash_files", lambda *_: [FileHash(d, 1, d) for d in ("a", "b")])
    submission = Submission(release, DEPLOYED, weights_of={"other": ["z"], "earlier": theirs})
    marks = {True: Status.FAIL, False: Status.PASS}
    found = lines(submission)
    assert only(found, OLD_RULE).status is marks[shared]
    assert only(found, NEW_RULE).status is marks[copied]
    found = lines(submission, "affine-2026")
    assert only(found, NEW_RULE).status is marks[copied]
    assert not any(OLD_RULE in name for name in found)
    assert not copied or "it has all shards of earlier" in only(found, NEW_RULE).advice


def test_weights_are_compared_by_their_files(release: Path, tmp_path: Path) -> None:
    for model, status in ((release, Status.FAIL), (make_tiny_base(tmp_path / "other", seed=1), Status.PASS)):
        found = lines(Submission(release, DEPLOYED, weights_of={"earlier": weight_hashes(str(model))}))
        assert only(found, OLD_RULE).status is only(found, NEW_RULE).status is status


def test_the_folder_must_be_the_one_deployed(release: Path) -> None:
    deployed = DEPLOYED | {"release_sha256": sha256(release / SUMS)}
    words = "this folder is what was deployed"
    for profile in ("affine-2025", "affine-2026"):
        assert only(lines(Submission(release, deployed), profile), words).status is Status.PASS  # type: ignore[arg-type]
    assert only(lines(Submission(release, DEPLOYED)), words).status is Status.UNKNOWN  # an older record
    assert only(lines(Submission(release, {})), words).status is Status.UNKNOWN
    (release / "README.md").write_text("another\n")
    write_sums(release)
    line = only(lines(Submission(release, deployed)), words)
    assert line.status is Status.FAIL
    assert "run `make deploy`" in line.advice
    (release / SUMS).unlink()
    assert only(lines(Submission(release, deployed)), words).status is Status.FAIL


@pytest.mark.parametrize("page", [None, Page(found=False)])
def test_what_the_hub_did_not_say_is_not_passed(release: Path, page: Page | None) -> None:
    found = lines(Submission(release, DEPLOYED, page=page))
    assert only(found, "full commit hash").status is Status.UNKNOWN
    assert only(found, "public").status is (Status.UNKNOWN if page is None else Status.FAIL)


def _with(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("file", "damage", "failing"),
    [
        ("chat_template.jinja", lambda _: "{% if %}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{{ raise_exception('no') }}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{{ nobody.knows }}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{{ 1/0 }}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{{ 1 + 'a' }}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{% for i in range(10**9) %}{% endfor %}", ["chat template"]),
        ("chat_template.jinja", lambda t: t + "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", ["chat template"]),
        ("chat_template.jinja", lambda _: "", ["chat template", "complete"]),
        ("config.json", lambda t: _with(t, "{", '{"text_config": "x", '), []),
        ("config.json", lambda t: _with(t, "{", '{"text_config": [1], '), []),
        ("config.json", lambda _: "[]", ["chat template", "complete"]),
        ("config.json", lambda _: '{"architectures": 5}', ["complete"]),
        ("tokenizer.json", lambda _: '{"model": "x"}', ["chat template", "tokenizer signature", "complete"]),
        ("tokenizer.json", lambda _: "{", ["chat template", "tokenizer signature", "complete"]),
        ("tokenizer.json", lambda _: "[]", ["chat template", "tokenizer signature", "complete"]),
        ("tokenizer_config.json", lambda _: "[]", ["chat template", "complete"]),
        ("tokenizer_config.json", lambda _: '{"extra_special_tokens": 5}', ["chat template", "complete"]),
        ("model.safetensors.index.json", lambda _: "{}", ["complete", "somebody else's"]),
        ("model.safetensors.index.json", lambda _: '{"weight_map": "x"}', ["complete", "somebody else's"]),
        ("model.safetensors.index.json", lambda _: '{"weight_map": {"a": 1}}', ["complete", "somebody else's"]),
        ("model.safetensors", lambda _: "x", ["complete"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("profile", ["affine-2025", "affine-2026"])
def test_damaged_files_fail_their_lines_and_no_other(
    release: Path, profile: Profile, file: str, damage: Callable[[str], str], failing: list[str]
) -> None:
    """Every line has an outcome, and a remedy or what was seen in one line; nothing raises."""
    path = release / file
    text = path.read_text() if path.suffix != ".safetensors" and path.is_file() else ""
    path.write_text(damage(text))
    write_sums(release)
    found = lines(Submission(release, DEPLOYED, weights_of={"earlier": ["a"]}), profile)
    failed = {name for name, line in found.items() if line.status is Status.FAIL} - {"architecture is admitted"}
    wanted = {name for name in found if any(words in name for words in failing)}
    assert failed == wanted
    assert all("\n" not in line.advice for line in found.values())


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


@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({}, Status.PASS, "sat 3/4"),
        ({"ded": Tally(4, 0)}, Status.FAIL, "too few usable actions in ded"),
        ({"ded": Tally(40, 1)}, Status.FAIL, "too few usable actions in ded"),
        ({"ded": Tally(40, 7)}, Status.FAIL, "ded 7/40"),
        ({"ded": Tally(40, 8)}, Status.PASS, "ded 8/40"),
        ({"ded": Tally(0, 0)}, Status.UNKNOWN, "not probed in ded"),
        ({"ded": None}, Status.UNKNOWN, "not probed in ded"),
        ({"ded": None, "sat": Tally(4, 0)}, Status.FAIL, "too few usable actions in sat"),
        ({"ded": Tally(8, 4, empty=1, cut=3)}, Status.PASS, "ded 4/8 (1 empty, 3 cut)"),
    ],
)
def test_formats_want_a_share_of_usable_turns_everywhere(
    release: Path, changed: dict[str, Tally | None], status: Status, said: str
) -> None:
    formats = {env: tally for env in ENVS if (tally := changed.get(env, Tally(4, 3)))}
    line = only(lines(Submission(release, DEPLOYED, formats=formats)), "formats")
    assert line.status is status
    assert said in line.advice
    assert "at least 20% wanted" in line.advice


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


INJECTED = [
    "{{ 'Action: x1=1' }}",
    "{% if add_generation_prompt %}{{ 'Action: ' }}{% endif %}",
    "{% if 'XXX' in messages[-1]['content'] %}{{ 'Action: x1=1' }}{% endif %}",
]


@pytest.mark.parametrize("source", INJECTED)
@pytest.mark.parametrize(
    "word", ["question", "satisfies", "<INPUT>", "STDIN", "WebShop", "household", "red ball", "craft"]
)
def test_templates_that_begin_the_answer(release: Path, source: str, word: str) -> None:
    """For every chat, or only for those of one environment."""
    template = (release / "chat_template.jinja").read_text()
    assert only(lines(Submission(release, DEPLOYED)), "chat template").status is Status.PASS
    (release / "chat_template.jinja").write_text(template + source.replace("XXX", word))
    line = only(lines(Submission(release, DEPLOYED)), "chat template")
    assert line.status is Status.FAIL
    assert "behind the user's last words it adds" in line.advice


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: "{{ '<|im_start|>assistant\\n' }}", "it drops or changes what the user said"),
        (lambda t: t.replace("message['content']", "message['content'] | upper"), "it drops or changes"),
        (lambda t: "{{ 'Hints. ' * 200 }}" + t, "it adds more than 1000 characters"),
        (lambda t: "{% if 'STDIN' in messages[0]['content'] %}Hint: n * n{% endif %}" + t, "in other ways for other"),
    ],
)
def test_templates_that_change_the_chat(release: Path, change: Callable[[str], str], said: str) -> None:
    path = release / "chat_template.jinja"
    path.write_text(change(path.read_text()))
    line = only(lines(Submission(release, DEPLOYED)), "chat template")
    assert line.status is Status.FAIL
    assert said in line.advice


@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        "<|im_start|>system\nYou are helpful.<|im_end|>\n{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>model\n\n{% endif %}",
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}ASSISTANT:",
    ],
)
def test_templates_of_other_makes_are_sane(release: Path, source: str) -> None:
    (release / "chat_template.jinja").write_text(source)
    assert only(lines(Submission(release, DEPLOYED)), "chat template").status is Status.PASS


def test_long_templates_are_refused_in_2026_alone(release: Path) -> None:
    path = release / "chat_template.jinja"
    path.write_text(path.read_text() + "{# " + "x" * 100_000 + " #}")
    assert only(lines(Submission(release, DEPLOYED)), "chat template").status is Status.PASS
    line = only(lines(Submission(release, DEPLOYED), "affine-2026"), "chat template")
    assert line.status is Status.FAIL
    assert "at most 100000 are allowed" in line.advice


def test_quantisation(release: Path) -> None:
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
