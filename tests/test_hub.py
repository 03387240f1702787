"""Publishing a release: against a Hub on loopback, with everything that can go wrong on the way."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from loopback_hub import LoopbackHub
from release_inputs import ROOT
from tiny import make_tiny_adapter, make_tiny_base

from affine.models.checkpoint import SUMS, CheckpointError, verify_sums, write_sums
from affine.params import DeployParams, Params, load_params
from affine.release.hub import DeployError, deploy

REPO = "ada/Affine-nano"
TOKEN = "hf_this_is_the_secret_of_ada"
CARD = "---\nlicense: mit\n---\n# Affine-nano\n"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "release")
    make_tiny_adapter(folder, folder / "adapter")
    (folder / "README.md").write_text(CARD)
    write_sums(folder)
    return folder


@pytest.fixture
def root(tiny: Path, tmp_path: Path) -> Path:
    shutil.copytree(tiny, tmp_path / "release")
    return tmp_path


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between tries
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with LoopbackHub() as server:
        server.add_user(TOKEN, "ada")
        yield server


def params_for(hub: LoopbackHub, **settings: Any) -> Params:
    params = load_params(ROOT / "params.yaml")
    section = DeployParams.model_validate({"repo": REPO, "endpoint": hub.url} | settings)
    return params.model_copy(update={"deploy": section})


def release_content(root: Path) -> dict[str, bytes]:
    folder = root / "release"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def published_content(hub: LoopbackHub, revision: str = "main") -> dict[str, bytes]:
    return {path: data for path, data in hub.content(REPO, revision).items() if path != ".gitattributes"}


def change_release(root: Path) -> None:
    (root / "release/README.md").write_text(CARD + "Changed.\n")
    write_sums(root / "release")


def quiet(_: str) -> None:
    pass


def test_deploys_one_commit_with_everything(hub: LoopbackHub, root: Path) -> None:
    deployment = deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert deployment is not None
    repository = hub.repositories[REPO]
    assert published_content(hub) == release_content(root)
    assert [c.title for c in repository.commits][:1] == ["initial"]
    assert len(repository.commits) == 2
    assert repository.private
    assert repository.tags == {"v1": deployment.revision}
    assert json.loads((root / "deploy/deployed.json").read_text())["revision"] == repository.commits[-1].sha
    assert not list((root / "work").iterdir())


def test_again_with_nothing_changed_sends_nothing(hub: LoopbackHub, root: Path) -> None:
    first = deploy(params_for(hub), root, say=quiet)
    hub.requests.clear()
    again = deploy(params_for(hub), root, say=quiet)
    assert first is not None
    assert again is not None
    assert again.revision == first.revision
    assert again.uploaded == ()
    assert not hub.asked("^(POST|PUT) ")
    assert len(hub.repositories[REPO].commits) == 2


def test_only_what_changed_is_sent_and_what_is_gone_is_deleted(hub: LoopbackHub, root: Path) -> None:
    deploy(params_for(hub), root, say=quiet)
    hub.publish(REPO, {"NOTES.md": b"somebody's own file"})
    shutil.rmtree(root / "release/adapter")
    change_release(root)
    hub.requests.clear()
    deployment = deploy(params_for(hub), root, say=quiet)
    assert deployment is not None
    assert deployment.uploaded == ("README.md", SUMS)
    assert all(path.startswith("adapter/") for path in deployment.deleted)
    assert not hub.asked("^PUT ")
    assert published_content(hub) == release_content(root) | {"NOTES.md": b"somebody's own file"}


def test_dry_run_says_what_would_be_sent_and_sends_nothing(
    hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    lines: list[str] = []
    assert deploy(params_for(hub), root, dry_run=True, say=lines.append) is None
    sent = dict(re.findall(r"send +(\S+) +([\d,]+) bytes", "\n".join(lines)))
    assert {path: int(size.replace(",", "")) for path, size in sent.items()} == {
        path: len(data) for path, data in release_content(root).items()
    }
    assert "to be created, private" in lines[0]
    assert not hub.repositories
    assert not hub.asked("^(POST|PUT) ")
    assert not (root / "deploy").exists()


def test_dry_run_of_an_update_matches_what_is_then_sent(hub: LoopbackHub, root: Path) -> None:
    deploy(params_for(hub), root, say=quiet)
    change_release(root)
    lines: list[str] = []
    deploy(params_for(hub), root, dry_run=True, say=lines.append)
    deployment = deploy(params_for(hub), root, say=quiet)
    assert deployment is not None
    assert tuple(re.findall(r"send +(\S+)", "\n".join(lines))) == deployment.uploaded == ("README.md", SUMS)


def test_somebody_elses_commit_in_between(hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(params_for(hub), root, say=quiet)
    change_release(root)
    send = HfApi.create_commit

    def late(self: HfApi, *arguments: Any, **options: Any) -> Any:
        hub.publish(REPO, {"config.json": b"{}"}, title="somebody else's")
        return send(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "create_commit", late)
        with pytest.raises(DeployError, match=r"somebody else changed ada/Affine-nano in the meantime.*nothing is pub"):
            deploy(params_for(hub), root, say=quiet)
    assert hub.repositories[REPO].commits[-1].title == "somebody else's"
    deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == release_content(root)


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("", "HF_TOKEN is not set"),
        ("hf_unknown_and_secret", "does not accept HF_TOKEN"),
        ("hf_reader_and_secret", "use a token with write access to 'ada'"),
        ("hf_of_somebody_else", "use a token with write access to 'ada'"),
    ],
)
def test_tokens_that_will_not_do(
    hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch, token: str, message: str
) -> None:
    hub.add_user("hf_reader_and_secret", "ada", write=False)
    hub.add_user("hf_of_somebody_else", "bob")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(DeployError, match=message) as caught:
        deploy(params_for(hub), root, say=quiet)
    assert "secret" not in str(caught.value)
    assert not hub.repositories
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == release_content(root)


def test_a_name_that_is_taken(hub: LoopbackHub, root: Path) -> None:
    hub.publish(REPO, {"model.safetensors": b"another model", "config.json": b"{}"}, private=True)
    with pytest.raises(DeployError, match="holds something else"):
        deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == {"model.safetensors": b"another model", "config.json": b"{}"}
    hub.publish("bob/Affine-nano", {"README.md": b"---\n---\n"})
    with pytest.raises(DeployError, match="use a token with write access to 'bob'"):
        deploy(params_for(hub, repo="bob/Affine-nano", private=False), root, say=quiet)
    assert len(hub.repositories["bob/Affine-nano"].commits) == 1


def test_visibility_is_never_changed_in_passing(hub: LoopbackHub, root: Path) -> None:
    deploy(params_for(hub, private=False), root, say=quiet)
    assert not hub.repositories[REPO].private
    change_release(root)
    with pytest.raises(DeployError, match=r"is public; change that on its page, or deploy\.private"):
        deploy(params_for(hub, private=True), root, say=quiet)
    assert len(hub.repositories[REPO].commits) == 2


@pytest.mark.parametrize(
    ("pattern", "times"),
    [("PUT /lfs/", 99), ("POST .*/preupload/", 99), ("POST .*/commit/", 1), ("POST /api/repos/create", 99)],
)
def test_connection_cut_while_uploading(hub: LoopbackHub, root: Path, pattern: str, times: int) -> None:
    hub.fail(pattern, None, times)
    with pytest.raises(DeployError, match=r"no connection to .*; nothing is published yet, and running again is safe"):
        deploy(params_for(hub), root, say=quiet)
    if REPO in hub.repositories:
        assert published_content(hub) == {}
    assert not (root / "deploy").exists()
    hub.faults.clear()
    deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == release_content(root)


def test_what_was_uploaded_is_not_sent_twice(hub: LoopbackHub, root: Path) -> None:
    hub.fail("POST .*/commit/", 503)
    with pytest.raises(DeployError, match="answered 503"):
        deploy(params_for(hub), root, say=quiet)
    hub.requests.clear()
    deploy(params_for(hub), root, say=quiet)
    assert not hub.asked("^PUT ")
    assert published_content(hub) == release_content(root)


def test_unverified_is_said_and_not_tagged(hub: LoopbackHub, root: Path) -> None:
    hub.fail(r"GET .*/resolve/.*/model\.safetensors", 500, times=99)
    with pytest.raises(DeployError, match=r"is at [0-9a-f]{40} but unverified"):
        deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert not hub.repositories[REPO].tags
    assert not (root / "deploy").exists()
    hub.faults.clear()
    deployment = deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert deployment is not None
    assert deployment.uploaded == ()
    assert hub.repositories[REPO].tags == {"v1": deployment.revision}


def test_a_disk_that_fills_while_reading_back(hub: LoopbackHub, root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(DeployError, match=r"the disk is full .* but unverified"):
            deploy(params_for(hub), root, say=quiet)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list((root / "work").iterdir())
    assert deploy(params_for(hub), root, say=quiet) is not None


def test_content_that_reads_back_differently(hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deploy(params_for(hub), root, say=quiet)
    digest = hub.repositories[REPO].commits[-1].files["config.json"]
    hub.store[digest] = hub.store[digest].replace(b"2", b"3", 1)
    # The repaired file is sent again because its hash differs; break it once more on the way back.
    keep = LoopbackHub.keep

    def corrupt(self: LoopbackHub, data: bytes) -> str:
        kept = keep(self, data)
        if data.startswith(b"{"):
            self.store[kept] = data.replace(b"2", b"3", 1)
        return kept

    monkeypatch.setattr(LoopbackHub, "keep", corrupt)
    with pytest.raises(DeployError, match=r"config\.json reads back differently; do not use this commit"):
        deploy(params_for(hub, tag="v2"), root, say=quiet)
    assert not hub.repositories[REPO].tags


def test_a_tag_is_never_moved(hub: LoopbackHub, root: Path) -> None:
    first = deploy(params_for(hub, tag="v1"), root, say=quiet)
    deploy(params_for(hub, tag="v1"), root, say=quiet)  # the same commit: nothing to do
    change_release(root)
    with pytest.raises(DeployError, match="tag v1 names another commit; choose a new"):
        deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert first is not None
    assert hub.repositories[REPO].tags == {"v1": first.revision}
    assert len(hub.repositories[REPO].commits) == 2


def test_damaged_or_missing_release_is_not_published(hub: LoopbackHub, root: Path) -> None:
    (root / "release/config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"config\.json does not have the hash"):
        deploy(params_for(hub), root, say=quiet)
    shutil.rmtree(root / "release")
    with pytest.raises(CheckpointError, match="no SHA256SUMS"):
        deploy(params_for(hub), root, say=quiet)
    assert not hub.requests


def test_the_placeholder_is_not_a_name(hub: LoopbackHub, root: Path) -> None:
    with pytest.raises(DeployError, match=r"set deploy\.repo in params\.yaml"):
        deploy(params_for(hub, repo="your-name/Affine-nano"), root, say=quiet)
    assert not hub.requests


def test_the_commit_names_the_pipelines_commit(hub: LoopbackHub, root: Path) -> None:
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    for arguments in (["init", "-q"], ["add", "dvc.lock"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *arguments], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    deploy(params_for(hub), root, say=quiet)
    description = hub.repositories[REPO].commits[-1].description
    assert f"pipeline commit: {head} with uncommitted changes" in description  # release/ is not ignored here
    assert "dvc.lock sha256: " in description


def test_token_goes_to_the_hub_and_nowhere_else(
    hub: LoopbackHub, root: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    hub.fail("POST .*/commit/", 500)
    with pytest.raises(DeployError) as caught:
        deploy(params_for(hub), root)
    deploy(params_for(hub), root)
    assert f"Bearer {TOKEN}" in hub.received
    shown = capfd.readouterr()
    for text in (shown.out, shown.err, caplog.text, str(caught.value)):
        assert TOKEN not in text
    for path in root.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_stage_end_to_end_and_from_pretrained(hub: LoopbackHub, root: Path) -> None:
    """The stage's script in a process of its own, then a stranger who only knows the name."""
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("your-name/Affine-nano", REPO).replace("private: true", "private: false")
    (root / "params.yaml").write_text(text)
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(root / "home")}
    script = [sys.executable, str(ROOT / "stages/deploy.py")]
    done = subprocess.run(script, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "read back" in done.stdout
    assert TOKEN not in done.stdout + done.stderr
    del environment["HF_TOKEN"]
    code = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer;"
        f"model = AutoModelForCausalLM.from_pretrained('{REPO}'); tokenizer = AutoTokenizer.from_pretrained('{REPO}');"
        "print(sum(p.numel() for p in model.parameters()), len(tokenizer))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=root
    )
    assert loaded.stdout.split()[1] == "377"
    bad = subprocess.run([*script, "--dry"], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert bad.returncode != 0
    assert "unknown argument --dry" in bad.stderr
    assert verify_sums(root / "release")
