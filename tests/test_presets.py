"""Presets: valid, merged with every comment kept, all or nothing, and the same by way of `dvc exp run -S`."""

from __future__ import annotations

import difflib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import LOADERS as DVC_READS
from peft import LoraConfig, get_peft_model
from ruamel.yaml import YAML
from transformers import AutoModelForCausalLM, Qwen3Config

from affine.__main__ import main
from affine.cli.preset import Change, compare, names, override
from affine.envs.env import env_class
from affine.models.memory import estimate_rollout, estimate_training
from affine.params import Params, load_params
from affine.tasks import draw_tasks
from affine.training.policy import PARTS
from affine.types import ENVS, Split

ROOT = Path(__file__).parents[1]
REVISION = "0a1b2c3d4e5f60718293a4b5c6d7e8f901234567"
NAMES = sorted(path.stem for path in (ROOT / "presets").glob("*.yaml"))


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "presets", tmp_path / "presets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(name: str) -> list[str]:
    return ["preset", name] + (["-S", f"base.revision={REVISION}"] if name.startswith("qwen3") else [])


def load(path: Path) -> Any:
    return YAML(typ="safe").load(path)


def leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix[:-1]: value}
    return {key: leaf for name, part in value.items() for key, leaf in leaves(part, f"{prefix}{name}.").items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_sets_its_values_and_nothing_else(repository: Path, name: str) -> None:
    before = leaves(load(repository / "params.yaml"))
    assert main(arguments(name)) == 0
    after = leaves(load(repository / "params.yaml"))
    wanted = leaves(load(repository / "presets" / f"{name}.yaml"))
    if "base.revision" in wanted:
        wanted["base.revision"] = REVISION
    assert after == before | wanted
    load_params(repository / "params.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_comments_and_untouched_lines_stay(repository: Path, name: str) -> None:
    before = (repository / "params.yaml").read_text()
    assert main(arguments(name)) == 0
    after = (repository / "params.yaml").read_text()
    comments = [line.partition("#")[2] for line in before.splitlines() if "#" in line]
    assert [line.partition("#")[2] for line in after.splitlines() if "#" in line] == comments
    changed = {
        change.key.rpartition(".")[2]
        for change in compare(load(Path("presets") / f"{name}.yaml"), load(ROOT / "params.yaml"))
    }
    spaced = (
        [" ".join(line.split()) for line in before.splitlines()],
        [" ".join(line.split()) for line in after.splitlines()],
    )
    for line in difflib.ndiff(*spaced):
        if line[:2] in ("- ", "+ "):
            assert any(f"{key}:" in line for key in changed), line


def test_twice_is_once_and_showing_writes_nothing(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (repository / "params.yaml").read_bytes()
    assert main(["preset", "smoke", "--show"]) == 0
    assert main(["preset", "smoke", "--args"]) == 0
    assert (repository / "params.yaml").read_bytes() == before
    assert main(["preset", "smoke"]) == 0
    merged = (repository / "params.yaml").read_bytes()
    capsys.readouterr()
    assert main(["preset", "smoke"]) == 0
    assert capsys.readouterr().out == "params.yaml already is as smoke has it\n"
    assert (repository / "params.yaml").read_bytes() == merged


def test_show_lists_the_difference(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset", "smoke", "--show", "-S", "release.license=apache-2.0", "-S", "seed=0"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert f"ppo.iterations: {load_params().ppo.iterations} -> 2" in lines
    assert 'release.license: (default) -> "apache-2.0"' in lines
    assert not any(line.startswith("seed:") for line in lines)
    assert last == f"{len(lines)} values differ; nothing was written"


@pytest.mark.parametrize("name", NAMES)
def test_dvcs_own_overrides_lead_to_the_same_parameters(
    repository: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments(name), "--args"]) == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[::2] == ["-S"] * (len(words) // 2)
    shutil.copy("params.yaml", "by_dvc.yaml")
    apply_overrides("by_dvc.yaml", words[1::2])
    assert main(arguments(name)) == 0
    assert load(Path("by_dvc.yaml")) == load(Path("params.yaml"))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain-1.0", "k=plain-1.0"),
        ("it's, [odd]: a=b", r"k='it\'s, [odd]: a=b'"),
        ("true", "k='true'"),
        ("nan", "k='nan'"),
        ("", "k=''"),
        ([1, "a b"], "k=[1,'a b']"),
        (True, "k=true"),
        (0.5, "k=0.5"),
    ],
)
def test_values_survive_dvcs_grammar(tmp_path: Path, value: Any, text: str) -> None:
    assert override(Change("k", 0, value, known=True)) == text
    file = tmp_path / "params.yaml"
    file.write_text("k: 0\n")
    apply_overrides(file, [text])
    assert load(file) == {"k": value}


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (["-S", "ppo.kll=1"], "unknown key ppo.kll"),
        (["-S", "ppo=1"], "ppo"),
        (["-S", "ppo.clip=2"], "ppo.clip"),
        (["-S", "ppo.clip.x=2"], "ppo.clip"),
        (["-S", "seed.x=1"], "seed"),
        (["-S", "seed"], "expected KEY=VALUE"),
        (["-S", "ppo..kl=1"], "expected KEY=VALUE"),
        (["-S", "base.repo=[a"], "-S base.repo=[a: not valid YAML"),
        (["-S", "base.repo=null"], "base.repo"),
        (["-S", "base.repo=[1]"], "base.repo"),
        (["-S", "seed='1'"], "seed"),
        (["-S", "seed=2026-13-41"], "-S seed=2026-13-41: not valid YAML"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    repository: Path, change: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (repository / "params.yaml").read_bytes()
    assert main(["preset", "smoke", *change]) == 1
    assert text in capsys.readouterr().err
    assert (repository / "params.yaml").read_bytes() == before
    assert sorted(path.name for path in repository.iterdir()) == ["params.yaml", "presets"]


@pytest.mark.parametrize("content", ["ppo:\n  kll: 1\n", "- a\n", "a: [\n", "nothing:\n  x: 1\n"])
def test_a_wrong_preset_file_is_refused(repository: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (repository / "presets" / "mine.yaml").write_text(content)
    before = (repository / "params.yaml").read_bytes()
    assert main(["preset", "mine"]) == 1
    assert "mine" in capsys.readouterr().err
    assert (repository / "params.yaml").read_bytes() == before


def test_the_hub_base_must_be_pinned_by_the_user(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("qwen3-4b", "qwen3-4b-h200"):
        assert main(["preset", name]) == 1
        error = capsys.readouterr().err
        assert "'revision' (the full 40-digit commit hash)" in error
        assert "-S KEY=VALUE" in error


@pytest.mark.parametrize(
    "commit",
    [
        "1234567890123456789012345678901234567890",
        "0012345678901234567890123456789012345678",
        "12345e6789012345678901234567890123456789",
        "1e10111111111111111111111111111111111111",
        "cdbee75f17c01a7cc42f958dc650907174af0554",
    ],
)
def test_a_commit_that_looks_like_a_number_stays_the_hash_it_is(
    repository: Path, commit: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["preset", "qwen3-4b", "-S", f"base.revision={commit}"]
    assert main([*words, "--args"]) == 0
    overrides = shlex.split(capsys.readouterr().out)[1::2]
    shutil.copy("params.yaml", "by_dvc.yaml")
    apply_overrides("by_dvc.yaml", overrides)
    assert main(words) == 0
    for path in (Path("by_dvc.yaml"), Path("params.yaml")):
        assert load_params(path).base.revision == commit
        assert load(path)["base"]["revision"] == commit
    assert DVC_READS[".yaml"]("params.yaml") == DVC_READS[".yaml"]("by_dvc.yaml")


def test_text_that_yaml_reads_as_something_else_is_text(repository: Path) -> None:
    given = ["-S", "deploy.tag=2026-07-24", "-S", "base.repo='1'", "-S", "sft.learning_rate=1e-05"]
    assert main(["preset", "smoke", *given]) == 0
    params = load_params()
    assert (params.deploy.tag, params.base.repo, params.sft.learning_rate) == ("2026-07-24", "1", 1e-05)


def test_presets_are_listed_with_a_line_each(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preset"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES == names()
    assert all(len(line.split()) > 4 for line in lines)
    assert main(["preset", "nope"]) == 1
    assert f"presets: {NAMES[0]}, " in capsys.readouterr().err


def preset(repository: Path, name: str) -> Params:
    assert main(arguments(name)) == 0
    return load_params(repository / "params.yaml")


@pytest.mark.parametrize("name", NAMES)
def test_every_level_exists_and_demonstrations_can_be_had(repository: Path, name: str) -> None:
    params = preset(repository, name)
    for env in ENVS:
        tasks = getattr(params.tasks, env)
        assert set(tasks.levels) <= set(env_class(env).levels)
        assert getattr(params.collect, env).episodes <= 4 * tasks.train
    assert params.dataset.max_length <= params.rollout.context


def test_smoke_has_all_environments_and_few_tasks(repository: Path) -> None:
    params = preset(repository, "smoke")
    for env in ENVS:
        tasks = getattr(params.tasks, env)
        assert tasks.train + tasks.validation + tasks.test < 40
        assert getattr(params.collect, env).episodes <= tasks.train
    assert params.ppo.iterations * params.ppo.episodes <= 64


def test_full_size_finite_levels_have_as_many_tasks_as_asked(repository: Path) -> None:
    params = preset(repository, "qwen3-4b-h200")
    for env in ("textcraft", "sciworld"):
        settings = getattr(params.tasks, env)
        share = len(settings.levels)
        wanted = {Split.TRAIN: settings.train // share, Split.TEST: settings.test // share}
        for level in settings.levels:
            assert len(draw_tasks(env_class(env)(), level, 0, dict(wanted))) == sum(wanted.values())


def test_full_size_is_qwen3_4b_by_lora_of_rank_64(repository: Path) -> None:
    for name in ("qwen3-4b", "qwen3-4b-h200"):
        params = preset(repository, name)
        lora = params.sft.lora
        assert (params.base.repo, params.base.revision) == ("kiwikiw/Affine-0004", REVISION)
        assert (lora.rank, lora.alpha, len(lora.target_modules)) == (64, 128, 7)
        assert (params.envs.prompts, params.sft.dtype, params.release.license) == ("full", "bfloat16", "apache-2.0")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("qwen3")])
def test_a_preset_fits_the_card_it_names(repository: Path, name: str) -> None:
    """By the estimates that errors give, for Qwen3-4B's shape: PPO, which holds a trainer and a worker at once, and SFT
    leave a seventh of the card free."""
    assert main(arguments(name)) == 0
    params = load_params(repository / "params.yaml")
    assert params.rollout.workers == 1
    assert params.ppo.dtype == params.sft.dtype == "bfloat16"
    head = (ROOT / "presets" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    card = max(int(number) for number in re.findall(r"(\d+) GB", head))
    config = Qwen3Config(
        vocab_size=151_936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32,
        num_key_value_heads=8, head_dim=128, tie_word_embeddings=True, dtype="bfloat16",
    )  # fmt: skip
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        weights = sum(weight.numel() * 2 for weight in base.parameters()) / 1e9
        lora = params.sft.lora
        adapted = get_peft_model(
            base, LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.target_modules))
        )
    assert weights == pytest.approx(8.04, abs=0.3)
    tokens = max(params.ppo.minibatch_tokens // PARTS, params.rollout.context)
    ppo = estimate_training(adapted, tokens, checkpointing=params.ppo.gradient_checkpointing).total_gb
    config.save_pretrained(repository)  # a checkpoint's configuration, without the weights
    cache = estimate_rollout(repository, params.rollout.slots, params.rollout.context).cache_gb
    sft = estimate_training(adapted, params.sft.batch_tokens, checkpointing=params.sft.gradient_checkpointing).total_gb
    assert ppo + weights + cache < card * 6 / 7
    assert sft < card * 6 / 7
