"""Publishing as a user does it: the stage through DVC, and the demonstration on loopback."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback_hub import LoopbackHub
from release_inputs import ROOT
from small_graph import git
from tiny import make_tiny_base

from affine.models.checkpoint import SUMS, write_sums

REPO = "ada/Affine-nano"
TOKEN = "hf_this_is_the_secret_of_ada"
STAGE = ["dvc", "repro", "--force", "--single-item", "deploy/dvc.yaml:deploy"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tiny_base(tmp_path_factory.mktemp("tiny") / "release")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Affine-nano\n")
    write_sums(folder)
    return folder


@pytest.fixture
def clone(tiny: Path, tmp_path: Path) -> Path:
    """The pipeline as a repository of its own, with a release and a name to deploy to."""
    target = tmp_path / "clone"
    for name in ("affine", "stages", "deploy", "endpoint", ".dvc"):
        ignored = shutil.ignore_patterns("__pycache__", "cache", "tmp", "deployed.json", "dvc.lock")
        shutil.copytree(ROOT / name, target / name, ignore=ignored)
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore"):
        shutil.copyfile(ROOT / name, target / name)
    text = (target / "params.yaml").read_text().replace("your-name/Affine-nano", REPO)
    (target / "params.yaml").write_text(text)
    git(target, "init", "-q")
    git(target, "config", "user.name", "t")
    git(target, "config", "user.email", "t@example.org")
    git(target, "add", "-A")
    git(target, "commit", "-qm", "start")
    shutil.copytree(tiny, target / "release")
    return target


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as server:
        server.add_user(TOKEN, "ada")
        yield server


def run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    kept = {key: value for key, value in os.environ.items() if key not in ("HF_TOKEN", "HF_ENDPOINT", "PYTHONPATH")}
    return subprocess.run(
        command,
        cwd=folder,
        env=kept | {"PATH": path, "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_deploy_through_dvc_twice(clone: Path, hub: LoopbackHub) -> None:
    """What `make deploy` runs after the graph. The stage has no outputs, so that DVC itself never skips it."""
    known = {"HF_TOKEN": TOKEN, "HF_ENDPOINT": hub.url, "HF_HOME": str(clone.parent / "home")}
    first = run(STAGE, clone, **known)
    assert first.returncode == 0, first.stderr
    assert f"published {hub.url}/{REPO} at " in first.stdout
    size = (clone / "release/model.safetensors").stat().st_size
    assert re.search(rf"send +model\.safetensors +{size:,} bytes", first.stdout)
    sending, fetching, _ = first.stderr.partition("Fetching ")  # one bar for each file sent, then one for reading back
    assert "model.safetensors: 100%" in sending, first.stderr
    assert fetching
    record = json.loads((clone / "deploy/deployed.json").read_text())
    made = hub.repositories[REPO].commits[-1].sha
    assert record["revision"] == made
    hub.requests.clear()
    again = run(STAGE, clone, **known)
    assert again.returncode == 0, again.stderr
    assert "nothing to send" in again.stdout
    assert not hub.asked("^(POST|PUT) ")
    assert "model.safetensors: 100%" not in again.stderr.partition("Fetching ")[0]
    assert hub.repositories[REPO].commits[-1].sha == made
    # Publishing makes no output of the graph, and no change that would be published the next time.
    assert {line[3:] for line in git(clone, "status", "--porcelain", "-uall").splitlines()} == {
        "deploy/deployed.json",
        "deploy/dvc.lock",
    }
    for text in (first, again):
        assert TOKEN not in text.stdout + text.stderr
    for path in clone.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_a_refused_deployment_fails_the_stage(clone: Path, hub: LoopbackHub) -> None:
    done = run(STAGE, clone, HF_TOKEN="hf_somebody_elses", HF_ENDPOINT=hub.url)
    assert done.returncode != 0
    assert "does not accept HF_TOKEN" in done.stderr
    assert not hub.repositories
    assert not (clone / "deploy/deployed.json").exists()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HTTP_PROXY": "http://127.0.0.1:9",
            "http_proxy": "http://127.0.0.1:9",
            "ALL_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "example.org",
        },
    ],
    ids=["plain", "offline-behind-a-proxy"],
)
def test_demo_deploys_to_loopback_and_loads_back(tiny: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    """`make deploy-demo`, with neither token nor network, in a process of its own."""
    demo = [sys.executable, "-m", "scripts.deploy_demo", str(tiny)]
    done = run(demo, ROOT, **environment)
    assert done.returncode == 0, done.stderr
    first, again = re.findall(r"(\d+|nothing)(?: files, [\d,]+ bytes)? to send", done.stdout)[1:]
    listed = len((tiny / SUMS).read_text().splitlines())
    assert (int(first), again) == (listed + 2, "nothing")  # and the list itself, and pipeline.json
    assert "Qwen3ForCausalLM" in done.stdout
    assert not list(tmp_path.iterdir())


def test_demo_without_a_release_says_what_to_run(tmp_path: Path) -> None:
    missing = run([sys.executable, "-m", "scripts.deploy_demo", str(tmp_path / "nothing")], ROOT)
    assert missing.returncode == 1
    assert "run `make all` first" in missing.stderr
