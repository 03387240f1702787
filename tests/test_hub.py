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

from affine.models.checkpoint import SUMS, CheckpointError, sha256, verify_sums, write_sums
from affine.params import DeployParams, Params, load_params
from affine.release.hub import DeployError, deploy
from affine.release.provenance import ORIGIN, provenance, public_url
from affine.release.results import EVAL_RESULTS

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
    """Without what the Hub and the deployment add."""
    own = (".gitattributes", ORIGIN)
    return {path: data for path, data in hub.content(REPO, revision).items() if path not in own}


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
    assert deployment.uploaded == ("README.md", SUMS, ORIGIN)
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
    wanted = {**release_content(root), ORIGIN: provenance(root, root / "release").content()}
    assert {path: int(size.replace(",", "")) for path, size in sent.items()} == {
        path: len(data) for path, data in wanted.items()
    }
    assert "to be created, private" in lines[0]
    assert any("without HF_TOKEN a private repository of that name cannot be seen" in line for line in lines)
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
    assert tuple(re.findall(r"send +(\S+)", "\n".join(lines))) == deployment.uploaded == ("README.md", SUMS, ORIGIN)


@pytest.mark.parametrize(
    ("fault", "settings", "reason"),
    [
        (None, {}, "no connection to"),
        (503, {}, "answered 503"),
        (None, {"repo": "your-name/Affine-nano"}, "your-name/Affine-nano is a placeholder"),
    ],
)
def test_dry_run_without_an_answer_lists_everything_and_says_so(
    hub: LoopbackHub, root: Path, fault: int | None, settings: dict[str, Any], reason: str
) -> None:
    deploy(params_for(hub), root, say=quiet)
    (root / "deploy/deployed.json").unlink()
    hub.fail("GET /api/models/", fault, 99)
    lines: list[str] = []
    assert deploy(params_for(hub, **settings), root, dry_run=True, say=lines.append) is None
    text = "\n".join(lines)
    assert set(re.findall(r"send +(\S+)", text)) == {*release_content(root), ORIGIN}
    total = sum(int(size.replace(",", "")) for size in re.findall(r"send .* ([\d,]+) bytes", text))
    assert f"  {len(release_content(root)) + 1} files, {total:,} bytes to send, less what is there already" in lines
    assert f"note: the Hub could not be asked what that is: {reason}" in text.replace(hub.url + " ", "")
    assert "to be created" not in text
    assert TOKEN not in text
    assert not (root / "deploy/deployed.json").exists()


def test_dry_run_with_a_refused_token_is_an_error(
    hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknown_and_secret")
    with pytest.raises(DeployError, match="does not accept HF_TOKEN") as caught:
        deploy(params_for(hub), root, dry_run=True, say=quiet)
    assert "secret" not in str(caught.value)


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
        ("hf_secret\n", "HF_TOKEN holds a space, a line break"),
        ("hf_sécret_secret", "or a letter that no token has"),
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


@pytest.mark.parametrize("status", [None, 504, 500])
@pytest.mark.parametrize("asked", [True, False])
def test_an_answer_to_the_commit_that_is_lost(
    hub: LoopbackHub, root: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, *, asked: bool
) -> None:
    """The commit is made, and the client is not told: it must not say that nothing is published."""
    hub.fail("POST .*/commit/", status, late=True)
    send = HfApi.create_commit

    def then_silent(self: HfApi, *arguments: Any, **options: Any) -> Any:
        try:
            return send(self, *arguments, **options)
        finally:
            if not asked:
                hub.fail("GET /api/models/", None, 99)

    with monkeypatch.context() as patch:
        patch.setattr(HfApi, "create_commit", then_silent)
        with pytest.raises(DeployError) as caught:
            deploy(params_for(hub, tag="v1"), root, say=quiet)
    made = hub.repositories[REPO].commits[-1].sha
    assert published_content(hub) == release_content(root)
    assert "nothing is published" not in str(caught.value)
    where = f"may be published at {made}" if asked else "may be published, its state could not be asked"
    assert where in str(caught.value)
    assert not (root / "deploy").exists()
    hub.faults.clear()
    deployment = deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert deployment is not None
    assert (deployment.revision, deployment.uploaded) == (made, ())
    assert hub.repositories[REPO].tags == {"v1": made}


@pytest.mark.parametrize("status", [None, 503, 403])
def test_a_tag_that_fails_is_all_that_is_missing(hub: LoopbackHub, root: Path, status: int | None) -> None:
    hub.fail("POST .*/tag/", status, times=99)
    with pytest.raises(DeployError, match=r"is published and verified at [0-9a-f]{40}, only the tag v1 is missing"):
        deploy(params_for(hub, tag="v1"), root, say=quiet)
    made = hub.repositories[REPO].commits[-1].sha
    assert json.loads((root / "deploy/deployed.json").read_text())["revision"] == made
    hub.faults.clear()
    deployment = deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert deployment is not None
    assert deployment.uploaded == ()
    assert hub.repositories[REPO].tags == {"v1": made}


def test_what_others_add_later_moves_no_release(hub: LoopbackHub, root: Path) -> None:
    """Neither the record nor the tag, and without a record the tag says which commit it is."""
    for tag in ("", "v1"):
        first = deploy(params_for(hub, tag=tag), root, say=quiet)
        assert first is not None
        hub.publish(REPO, {"NOTES.md": b"somebody's, beside " + tag.encode()})
        again = deploy(params_for(hub, tag=tag), root, say=quiet)
        assert again is not None
        assert (again.revision, again.uploaded) == (first.revision, ())
        assert json.loads((root / "deploy/deployed.json").read_text())["revision"] == first.revision
    (root / "deploy/deployed.json").unlink()
    unrecorded = deploy(params_for(hub, tag="v1"), root, say=quiet)
    assert unrecorded is not None
    assert unrecorded.revision == hub.repositories[REPO].tags["v1"]
    # A record of a commit that is no longer there, and one that holds something else, count for nothing.
    head = hub.repositories[REPO].commits[-1].sha
    for other in ("f" * 40, hub.repositories[REPO].commits[0].sha):
        record = json.loads((root / "deploy/deployed.json").read_text()) | {"revision": other}
        (root / "deploy/deployed.json").write_text(json.dumps(record))
        found = deploy(params_for(hub), root, say=quiet)
        assert found is not None
        assert found.revision == head


def test_the_record_knows_the_folder_by_its_hash(hub: LoopbackHub, root: Path) -> None:
    deploy(params_for(hub), root, say=quiet)
    record = json.loads((root / "deploy/deployed.json").read_text())
    assert record["release_sha256"] == sha256(root / "release" / SUMS)


def test_a_new_repository_with_a_readme_and_a_licence_is_fine(hub: LoopbackHub, root: Path) -> None:
    hub.publish(REPO, {"README.md": b"---\n---\n", "LICENSE": b"MIT", ".gitattributes": b""}, private=True)
    deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == release_content(root) | {"LICENSE": b"MIT"}


@pytest.mark.parametrize(
    ("files", "private", "message"),
    [
        ({"model.safetensors": b"somebody's"}, True, "holds something else"),
        ({"README.md": b"---\n---\n"}, False, "is public; change that"),
    ],
)
def test_a_repository_that_appears_meanwhile_is_looked_at(
    hub: LoopbackHub,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, bytes],
    private: bool,
    message: str,
) -> None:
    create = HfApi.create_repo

    def late(self: HfApi, *arguments: Any, **options: Any) -> Any:
        hub.publish(REPO, files, private=private)
        return create(self, *arguments, **options)

    monkeypatch.setattr(HfApi, "create_repo", late)
    with pytest.raises(DeployError, match=message):
        deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == files


def test_a_hub_without_room(hub: LoopbackHub, root: Path) -> None:
    hub.fail("PUT /lfs/", 507, 99)
    with pytest.raises(DeployError, match=r"has no room left for ada/Affine-nano.*; nothing is published yet"):
        deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == {}
    assert not (root / "deploy").exists()
    hub.faults.clear()
    deploy(params_for(hub), root, say=quiet)
    assert published_content(hub) == release_content(root)


def test_unverified_is_said_and_not_tagged(hub: LoopbackHub, root: Path) -> None:
    hub.fail(r"GET .*/resolve/.*/model\.safetensors", 500, times=99)
    with pytest.raises(DeployError, match=r"is published at [0-9a-f]{40} but unverified"):
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


@pytest.mark.parametrize("repo", ["ada/Affine--nano", "ada/-Affine", "ada/Affine.git", "adä/Affine", "ada/" + "A" * 99])
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_name_that_no_hub_takes(hub: LoopbackHub, root: Path, repo: str, *, dry_run: bool) -> None:
    with pytest.raises(DeployError, match=r"deploy\.repo in params\.yaml is no name on the Hub"):
        deploy(params_for(hub, repo=repo), root, dry_run=dry_run, say=quiet)
    assert not hub.requests


def make_deploy(root: Path, repo: str, token: str | None, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make deploy` in `root`, with these tools but a `dvc` that only says that it was called."""
    shutil.copyfile(ROOT / "Makefile", root / "Makefile")
    for name in ("affine", "stages"):
        (root / name).symlink_to(ROOT / name)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("your-name/Affine-nano", repo))
    bin_ = root / ".venv/bin"
    bin_.mkdir(parents=True)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.installed"):
        (root / name).touch()
    for name, body in (("python", f'exec {sys.executable} "$@"'), ("dvc", 'echo "dvc $*"')):
        (bin_ / name).write_text(f"#!/bin/sh\n{body}\n")
        (bin_ / name).chmod(0o755)
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in ("HF_TOKEN", "MAKEFLAGS", "MAKELEVEL", "MFLAGS", "DRY")
    }
    environment |= {"HF_ENDPOINT": "http://127.0.0.1:9"} | ({} if token is None else {"HF_TOKEN": token})
    return subprocess.run(
        ["make", "deploy", *arguments], cwd=root, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("repo", "token", "arguments", "message"),
    [
        (REPO, None, (), "deploy: HF_TOKEN is not set; export a token"),
        ("your-name/Affine-nano", TOKEN, (), "deploy: set deploy.repo in params.yaml"),
        ("Affine-nano", TOKEN, (), "deploy.repo"),
        ("''", TOKEN, ("DRY=1",), "deploy.repo"),
    ],
)
def test_refusals_come_before_the_graph(
    root: Path, repo: str, token: str | None, arguments: tuple[str, ...], message: str
) -> None:
    done = make_deploy(root, repo, token, *arguments)
    assert done.returncode != 0
    assert "dvc" not in done.stdout
    said = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(said) <= 2, done.stderr
    assert message in done.stderr
    assert TOKEN not in done.stdout + done.stderr


def test_dry_run_by_make_needs_neither_token_nor_connection(root: Path) -> None:
    done = make_deploy(root, "your-name/Affine-nano", None, "DRY=1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dvc repro\n")
    assert set(re.findall(r"send +(\S+)", done.stdout)) == {*release_content(root), ORIGIN}
    assert "the Hub could not be asked" in done.stdout


def test_a_dry_run_without_a_release_runs_no_graph(root: Path) -> None:
    shutil.rmtree(root / "release")
    done = make_deploy(root, REPO, None, "DRY=1")
    assert done.returncode != 0
    assert "there is no release/ to look at yet; run `make all`" in done.stderr
    assert "dvc" not in done.stdout
    shutil.rmtree(root / ".venv")
    for name in ("affine", "stages"):
        (root / name).unlink()
    asked = make_deploy(root, REPO, TOKEN)  # publishing makes what is to be published
    assert asked.stdout.startswith("dvc repro\n")


@pytest.fixture
def pipeline(root: Path) -> str:
    """`root` as a git repository with a remote; its commit."""
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    (root / "dvc.lock").write_text("schema: '2.0'\n")
    (root / ".gitignore").write_text("/release/\n/work/\n")
    for arguments in (
        ["init", "-q"],
        ["add", "-A"],
        ["commit", "-q", "-m", "x"],
        ["remote", "add", "origin", f"https://ada:{TOKEN}@git.example.org/ada/affine.git"],
    ):
        subprocess.run([*git, *arguments], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def origin_of(hub: LoopbackHub) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(hub.content(REPO)[ORIGIN])
    return found


def test_a_release_is_published_with_the_commit_that_made_it(hub: LoopbackHub, root: Path, pipeline: str) -> None:
    lines: list[str] = []
    deploy(params_for(hub), root, say=lines.append)
    found = origin_of(hub)
    assert found == {
        "commit": pipeline,
        "repository": "https://git.example.org/ada/affine.git",
        "uncommitted": [],
        "dvc_lock_sha256": sha256(root / "dvc.lock"),
        "release_sha256": sha256(root / "release" / SUMS),
    }
    description = hub.repositories[REPO].commits[-1].description
    assert f"pipeline commit: {pipeline} of https://git.example.org/ada/affine.git\n" in description
    assert f"dvc.lock sha256: {found['dvc_lock_sha256']}" in description
    assert all(any(line in said for said in lines) for line in description.splitlines())
    assert not any(word in line for line in lines for word in ("warning", TOKEN))


def test_what_was_not_committed_is_said(hub: LoopbackHub, root: Path, pipeline: str) -> None:
    """A changed file and a new one; what a deployment wrote itself is neither."""
    deploy(params_for(hub), root, say=quiet)
    (root / "dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    (root / "own.py").write_text("")
    lines: list[str] = []
    deploy(params_for(hub), root, say=lines.append)
    assert not any("warning" in line for line in lines)  # nothing to send: what lies there is from another commit
    assert origin_of(hub)["uncommitted"] == []
    change_release(root)
    deploy(params_for(hub), root, say=lines.append)
    assert f"warning: dvc.lock, own.py differ from git commit {pipeline[:12]}; commit first" in "\n".join(lines)
    assert origin_of(hub)["uncommitted"] == ["dvc.lock", "own.py"]
    assert "with uncommitted changes in dvc.lock, own.py" in hub.repositories[REPO].commits[-1].description


def test_without_git_that_is_said(hub: LoopbackHub, root: Path) -> None:
    lines: list[str] = []
    deploy(params_for(hub), root, say=lines.append)
    assert any("no git repository" in line for line in lines)
    assert origin_of(hub)["commit"] == ""


@pytest.mark.parametrize(
    ("remote", "shown"),
    [
        ("https://ada:secret@example.org/ada/x.git", "https://example.org/ada/x.git"),
        ("https://secret@example.org:8443/x", "https://example.org:8443/x"),
        ("https://example.org/x?token=secret", "https://example.org/x"),
        ("ssh://git@example.org/x.git", "ssh://example.org/x.git"),
        ("git@example.org:ada/x.git", "git@example.org:ada/x.git"),
        ("/home/ada/secret/x", ""),
        ("file:///home/ada/secret/x", ""),
        ("", ""),
    ],
)
def test_a_remotes_name_holds_no_secret(remote: str, shown: str) -> None:
    assert public_url(remote) == shown


def test_a_benchmark_that_is_not_there_is_said(hub: LoopbackHub, root: Path) -> None:
    (root / "release" / EVAL_RESULTS).parent.mkdir()
    (root / "release" / EVAL_RESULTS).write_text("[]\n")
    write_sums(root / "release")
    lines: list[str] = []
    deploy(params_for(hub), root, dry_run=True, say=lines.append)
    assert any("only once there is a benchmark data set ada/affine-tasks" in line for line in lines)
    lines.clear()
    hub.datasets.add("ada/affine-tasks")
    hub.fail("GET /api/datasets/", 503, 1)
    for _ in range(2):  # the Hub that does not say, and the one that has it
        deploy(params_for(hub), root, dry_run=True, say=lines.append)
    assert lines
    assert not any("benchmark" in line for line in lines)


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
