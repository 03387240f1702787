"""The starting checkpoint: shipped, or one commit of a repository of the Hub."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants
from loopback_hub import LoopbackHub
from safetensors.torch import load_file, save_file
from tiny import make_tiny_base
from transformers import AutoModelForCausalLM

from affine.__main__ import main
from affine.models.base import make_base
from affine.models.checkpoint import CheckpointError, check_checkpoint, is_part, stored_tensors, verify_sums, write_sums
from affine.params import BaseParams, Params, load_params

ROOT = Path(__file__).parents[1]
REPO = "kiwikiw/Affine-0004"
TOKEN = "hf_loopback_reader"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # so that a small file comes in pieces, too
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits between tries
    with LoopbackHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        server.add_user(TOKEN, "reader")
        yield server


def with_base(**base: str) -> Params:
    params = load_params(ROOT / "params.yaml")
    return params.model_copy(update={"base": BaseParams.model_validate(params.base.model_dump() | base)})


def published(hub: LoopbackHub, tiny: Path, **settings: object) -> Params:
    files = {path.name: path.read_bytes() for path in tiny.iterdir()} | {"README.md": b"---\n---\n", "x.bin": b"0"}
    commit = hub.publish(REPO, files, **settings)
    return with_base(source="hub", repo=REPO, revision=commit.sha)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shipped_base_is_copied_and_described(tiny: Path, tmp_path: Path) -> None:
    make_base(with_base(source="shipped", path=str(tiny)), tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)
    manifest = json.loads((tmp_path / "metrics/base.json").read_text())
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "models/base")
    assert manifest["parameters"] == sum(p.numel() for p in model.parameters())
    assert manifest["vocabulary"] == model.get_input_embeddings().weight.shape[0]
    for file in manifest["files"]:
        assert file["sha256"] == hashlib.sha256((tiny / file["path"]).read_bytes()).hexdigest()


def test_hub_base_equals_what_was_published(hub: LoopbackHub, tiny: Path, tmp_path: Path) -> None:
    params = published(hub, tiny)
    hub.publish(REPO, {"config.json": b"{}"})  # main moves on: the pinned commit must not
    make_base(params, tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)  # no README, no pickle, no download records
    manifest = json.loads((tmp_path / "metrics/base.json").read_text())
    assert (manifest["repository"], manifest["revision"]) == (REPO, params.base.revision)
    assert not list((tmp_path / "work/base").iterdir())


def test_preset_takes_the_nano_model_under_the_name_of_the_full_one(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shipped model published as the preset's base, taken by the preset's own parameters, cut once on the way."""
    nano = ROOT / "pretrained/nano"
    commit = hub.publish(REPO, contents(nano))
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    assert main(["preset", "qwen3-4b", "-S", f"base.revision={commit.sha}"]) == 0
    params = load_params(tmp_path / "params.yaml")
    assert (params.base.source, params.base.repo, params.base.revision) == ("hub", REPO, commit.sha)
    hub.fail(r"GET .*/model\.safetensors", None, times=50)
    with pytest.raises(CheckpointError, match="no connection to"):
        make_base(params, tmp_path)
    hub.faults.clear()
    make_base(params, tmp_path)
    parts = {name: data for name, data in contents(nano).items() if is_part(name) or name == "model.safetensors"}
    assert contents(tmp_path / "models/base") == parts
    manifest = json.loads((tmp_path / "metrics/base.json").read_text())
    assert (manifest["repository"], manifest["revision"]) == (REPO, commit.sha)
    assert {file["path"]: file["sha256"] for file in manifest["files"]} == {
        name: hashlib.sha256(data).hexdigest() for name, data in parts.items()
    }
    assert "Fetching" in capsys.readouterr().err  # the client shows how far it is


def test_connection_cut_in_a_download_is_taken_up_again(hub: LoopbackHub, tiny: Path, tmp_path: Path) -> None:
    params = published(hub, tiny)
    hub.fail(r"GET .*/model\.safetensors", None, times=50)
    with pytest.raises(CheckpointError, match="no connection to"):
        make_base(params, tmp_path)
    assert not (tmp_path / "models/base").exists()
    assert hub.asked(r"GET .*/model\.safetensors bytes=[1-9]\d*-$")  # the client went on where it was cut
    hub.faults.clear()
    make_base(params, tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)
    for name in sorted(contents(tiny).keys() - {"model.safetensors"}):  # what had arrived is not fetched again
        assert len(hub.asked(rf"GET .*/{name}$")) == 1


def test_damaged_download_is_refused_and_fetched_again(hub: LoopbackHub, tiny: Path, tmp_path: Path) -> None:
    params = published(hub, tiny)
    digest = hub.repositories[REPO].commits[-1].files["model.safetensors"]
    good = hub.store[digest]
    hub.store[digest] = good[:-4] + b"\0\0\0\1"  # same size, other bytes
    with pytest.raises(CheckpointError, match=r"model\.safetensors arrived damaged"):
        make_base(params, tmp_path)
    assert not (tmp_path / "models/base").exists()
    hub.store[digest] = good
    make_base(params, tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)


def test_gated_repository_says_what_to_do(
    hub: LoopbackHub, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = published(hub, tiny, gated=True)
    with pytest.raises(CheckpointError, match=r"is gated: accept its terms on .*set HF_TOKEN"):
        make_base(params, tmp_path)
    hub.repositories[REPO].allowed.add("reader")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    make_base(params, tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)


def test_missing_private_and_unknown_revision(hub: LoopbackHub, tiny: Path, tmp_path: Path) -> None:
    params = published(hub, tiny, private=True)
    with pytest.raises(CheckpointError, match=r"does not exist .* or is private"):
        make_base(params, tmp_path)
    hub.repositories[REPO].private = False
    with pytest.raises(CheckpointError, match="no such revision; take the full commit hash"):
        make_base(with_base(source="hub", repo=REPO, revision="0" * 40), tmp_path)
    with pytest.raises(CheckpointError, match="kiwikiw/Nothing does not exist"):
        make_base(with_base(source="hub", repo="kiwikiw/Nothing", revision="0" * 40), tmp_path)


def test_wrong_token_is_named_but_not_shown(
    hub: LoopbackHub, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_and_secret")
    with pytest.raises(CheckpointError, match="does not accept HF_TOKEN") as caught:
        make_base(published(hub, tiny), tmp_path)
    assert "hf_wrong_and_secret" not in str(caught.value)


def test_repository_without_safetensors(hub: LoopbackHub, tmp_path: Path) -> None:
    commit = hub.publish("a/b", {"pytorch_model.bin": b"0", "config.json": b"{}"})
    with pytest.raises(CheckpointError, match="so no complete safetensors"):
        make_base(with_base(source="hub", repo="a/b", revision=commit.sha), tmp_path)


def test_only_the_shards_of_the_index_are_taken(hub: LoopbackHub, tiny: Path, tmp_path: Path) -> None:
    """Repositories keep the same weights in other files, too; those are neither fetched nor kept."""
    first, second = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
    tensors = load_file(tiny / "model.safetensors")
    names = sorted(tensors)
    for shard, part in ((first, names[:3]), (second, names[3:])):
        save_file({name: tensors[name] for name in part}, tmp_path / shard, {"format": "pt"})
    index = json.dumps({"weight_map": {name: first if name in names[:3] else second for name in names}}).encode()
    others = dict.fromkeys(("model.fp16.safetensors", "model_ema.safetensors", "model.safetensors"), b"0")
    files = {path.name: path.read_bytes() for path in tiny.iterdir() if path.suffix != ".safetensors"}
    shards = {shard: (tmp_path / shard).read_bytes() for shard in (first, second)}
    whole = files | shards | {"model.safetensors.index.json": index}
    commit = hub.publish(REPO, whole | others)
    make_base(with_base(source="hub", repo=REPO, revision=commit.sha), tmp_path / "root")
    assert contents(tmp_path / "root/models/base") == whole
    assert not [name for name in others if hub.asked(f"GET .*/resolve/.*/{name}$")]
    source = tmp_path / "source"
    source.mkdir()
    for name, data in (whole | others).items():
        (source / name).write_bytes(data)
    make_base(with_base(source="shipped", path=str(source)), tmp_path / "shipped")
    assert contents(tmp_path / "shipped/models/base") == whole
    lacking = hub.publish("a/b", {name: data for name, data in whole.items() if name != second})
    with pytest.raises(CheckpointError, match=f"holds no {second}"):
        make_base(with_base(source="hub", repo="a/b", revision=lacking.sha), tmp_path / "lacking")


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "", "..", "config.json"]
)
def test_an_index_names_no_file_elsewhere(hub: LoopbackHub, tiny: Path, tmp_path: Path, name: str) -> None:
    index = {"model.safetensors.index.json": json.dumps({"weight_map": {"a": name}}).encode()}
    commit = hub.publish(REPO, contents(tiny) | index)
    with pytest.raises(CheckpointError, match="weight_map must map tensors to files"):
        make_base(with_base(source="hub", repo=REPO, revision=commit.sha), tmp_path)
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_a_file_system_without_links_gets_copies(
    hub: LoopbackHub, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    params = published(hub, tiny)

    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("affine.models.base.os.link", refuse)
    make_base(params, tmp_path)
    assert contents(tmp_path / "models/base") == contents(tiny)


@pytest.mark.parametrize("revision", ["main", "A" * 40, "g" * 40, "0" * 39, "0" * 41, " " + "0" * 39, "0" * 40 + "\n"])
@pytest.mark.parametrize("source", ["hub", "shipped"])
def test_a_revision_is_a_whole_commit_hash(revision: str, source: str) -> None:
    with pytest.raises(ValueError, match="is no commit hash: take all 40 digits"):
        with_base(source=source, repo=REPO, revision=revision)


def test_no_hub_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CheckpointError, match=r"no connection to http://127\.0\.0\.1:9"):
        make_base(with_base(source="hub", repo="a/b", revision="0" * 40), tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", lambda data: data[:-10], "cut or corrupt"),
        ("model.safetensors", None, "no model.safetensors"),
        ("config.json", lambda data: data[:20], "not valid JSON"),
        ("config.json", lambda data: data.replace(b"377", b"400"), "vocabulary does not fit"),
        ("config.json", lambda data: data[:-2] + b', "quantization_config": {"bits": 4}}', "quantised"),
        ("chat_template.jinja", None, "no chat template"),
        ("tokenizer.json", lambda data: data.replace(b"<|im_start|>", b"<|start|>"), "no single tokens"),
    ],
)
def test_unusable_base_is_refused(tiny: Path, tmp_path: Path, name: str, change: object, message: str) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for file, data in contents(tiny).items():
        if file != name or change is not None:
            (source / file).write_bytes(change(data) if file == name and callable(change) else data)
    with pytest.raises(CheckpointError, match=message):
        make_base(with_base(source="shipped", path=str(source)), tmp_path)
    assert not (tmp_path / "models").exists()
    assert not (tmp_path / "metrics").exists()


def test_missing_shipped_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        make_base(with_base(source="shipped", path="pretrained/none"), tmp_path)


def test_headers_agree_with_the_loaded_model(tmp_path: Path) -> None:
    for tied in (True, False):
        folder = make_tiny_base(tmp_path / str(tied), tied=tied)
        model = AutoModelForCausalLM.from_pretrained(folder)
        found = check_checkpoint(folder)
        assert found.tied is tied
        assert found.parameters == sum(p.numel() for p in model.parameters())
        state = model.state_dict()
        assert all(tuple(state[name].shape) == tensor.shape for name, tensor in stored_tensors(folder).items())


def test_checksums_notice_every_change(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "sub/b").write_bytes(b"two")
    write_sums(tmp_path)
    assert set(verify_sums(tmp_path)) == {"a", "sub/b"}
    (tmp_path / "c").write_bytes(b"")
    with pytest.raises(CheckpointError, match="c is not listed"):
        verify_sums(tmp_path)
    (tmp_path / "c").unlink()
    (tmp_path / "a").write_bytes(b"onE")
    with pytest.raises(CheckpointError, match="a does not have the hash"):
        verify_sums(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(CheckpointError, match="a is missing"):
        verify_sums(tmp_path)
