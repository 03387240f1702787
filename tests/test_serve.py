"""How the release is served: commands for engines, and a file for Chutes that its own rules would accept."""

from __future__ import annotations

import inspect
import re
import shlex
import tempfile
from pathlib import Path

import pytest
from tiny import make_tiny_base
from transformers.cli.serve import Serve
from transformers.cli.serving.model_manager import ModelManager

from affine.__main__ import main
from affine.files import write_json
from affine.release.chute import Chute, ChuteError, check_chute, read_chute, render_chute
from affine.release.lines import Status, Submission
from affine.release.on_disk import chute_file
from affine.release.serving import serve_commands

REPO, REVISION = "ada/Affine-nano", "0123456789" * 4


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "chute.py"
    path.write_text(render_chute("ada_l", REPO, REVISION, 8_045_000_000))
    return path


def test_every_engine_gets_the_model_and_the_revision() -> None:
    commands = serve_commands(REPO, REVISION)
    assert list(commands) == ["vLLM", "SGLang", "Transformers"]
    for command in commands.values():
        assert REPO in command
        assert REVISION in command
    assert all(REVISION not in command for command in serve_commands(REPO).values())
    assert shlex.split(serve_commands("my models/release")["vLLM"]) == ["vllm", "serve", "my models/release"]


def test_transformers_knows_the_command() -> None:
    """The argument and the form MODEL@REVISION, asked of the installed package."""

    assert next(name for name in inspect.signature(Serve.__init__).parameters if name != "self") == "force_model"
    model = shlex.split(serve_commands(REPO, REVISION)["Transformers"])[-1]
    assert ModelManager.process_model_name(model) == model
    assert ModelManager.process_model_name(REPO) == f"{REPO}@main"


def test_file_holds_what_was_deployed(file: Path) -> None:
    chute = read_chute(file)
    assert (chute.username, chute.model_name, chute.revision) == ("ada_l", REPO, REVISION)
    assert chute.node_selector.min_vram_gb_per_gpu == 17  # twice 8.045 GB of weights
    assert read_chute_of(8_000).node_selector.min_vram_gb_per_gpu == 16  # the least that Chutes knows
    assert read_chute_of(10**12).node_selector.min_vram_gb_per_gpu == 140
    assert check_chute(file, REPO, REVISION).startswith("by ")


def read_chute_of(size: int) -> Chute:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chute.py"
        path.write_text(render_chute("ada_l", REPO, REVISION, size))
        return read_chute(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("scaling_threshold", "scale_threshold", "scale_threshold: Extra inputs are not permitted"),  # the 2025 bug
        (f'    revision="{REVISION}",\n', "", "revision: Field required"),
        (f'revision="{REVISION}"', 'revision="main"', "revision: String should match"),
        ("concurrency=20", "concurrency=0", "concurrency: Input should be greater"),
        ("gpu_count=1", "gpu_count=9", "node_selector.gpu_count: Input should be less"),
        ("min_vram_gb_per_gpu=17", "min_vram_gb_per_gpu=8", "min_vram_gb_per_gpu: Input should be greater"),
        ("concurrency=20", 'engine_args="--Revision main"', "engine_args must not hold --revision"),
        (f'model_name="{REPO}"', 'model_name="ada/Other"', "model_name is ada/Other, deployed is ada/Affine-nano"),
        (REVISION, "f" * 40, "revision is ffff"),
        ('username="ada_l"', 'username=open("/etc/passwd").read()', "username must be written out"),
        ("chute = build_sglang_chute(", "chute = build_vllm_chute(", "one call of build_sglang_chute is expected"),
        ("chute = build", "chute = = build", "cannot be read"),
    ],
)
def test_what_chutes_would_refuse(file: Path, old: str, new: str, message: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(ChuteError, match=re.escape(message)):
        check_chute(file, REPO, REVISION)


def test_fields_are_those_of_the_package(file: Path) -> None:
    """Where the package is installed (extra `chutes`)."""
    pytest.importorskip("chutes")
    from chutes.chute import NodeSelector
    from chutes.chute.template.sglang import build_sglang_chute

    assert set(Chute.model_fields) == set(inspect.signature(build_sglang_chute).parameters)
    assert set(Chute.model_fields["node_selector"].annotation.model_fields) == set(NodeSelector.model_fields)
    assert check_chute(file, REPO, REVISION).startswith("by the package chutes ")


def test_bad_user_name() -> None:
    with pytest.raises(ChuteError, match="is no Chutes user name"):
        render_chute('ada"; import os', REPO, REVISION, 1)


def test_check_line(file: Path, tmp_path: Path) -> None:
    deployed = {"repo": REPO, "revision": REVISION}
    assert chute_file(Submission(tmp_path, deployed)).status is Status.UNKNOWN
    assert chute_file(Submission(tmp_path, {}, chute_file=file)).status is Status.UNKNOWN
    assert chute_file(Submission(tmp_path, deployed, chute_file=file)).status is Status.PASS
    line = chute_file(Submission(tmp_path, deployed | {"revision": "b" * 40}, chute_file=file))
    assert line.status is Status.FAIL
    assert "write the file anew" in line.advice


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["serve"]) == 1
    assert "make the release first" in capsys.readouterr().err
    make_tiny_base(tmp_path / "release")
    assert main(["serve"]) == 0
    assert "vllm serve release\n" in capsys.readouterr().out
    assert main(["serve", "--chutes", "ada_l"]) == 1
    assert "run `make deploy` first" in capsys.readouterr().err
    write_json(tmp_path / "deploy/deployed.json", {"repo": REPO, "revision": REVISION})
    assert main(["serve"]) == 0
    assert f"vllm serve {REPO} --revision {REVISION}\n" in capsys.readouterr().out
    assert main(["serve", "--chutes", "ada_l"]) == 0
    assert "cd deploy && chutes deploy chute:chute" in capsys.readouterr().out
    assert read_chute(Path("deploy/chute.py")).revision == REVISION
