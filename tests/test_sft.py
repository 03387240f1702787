"""SFT: packed rows are the sequences alone, the loss is the agent's, a killed run ends in the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
from collections.abc import Callable
from pathlib import Path

import killed
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import OUT_OF_MEMORY, make_tiny_base
from transformers import AutoModelForCausalLM, Trainer
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from affine.dataset.sequences import (
    Dataset,
    Demonstration,
    load_dataset,
    load_tokenizer,
    save_dataset,
    tokenizer_digest,
)
from affine.files import published
from affine.models.attention import AttentionError, choose_attention, choose_dtype
from affine.models.checkpoint import CheckpointError
from affine.models.lora import add_adapter, base_digest, load_adapter, load_base, save_adapter, trainable_parameters
from affine.params import LoraParams, Params, load_params
from affine.training import live, sft
from affine.training.packs import Packs
from affine.training.work import work_folder
from affine.types import ENVS

REPOSITORY = Path(__file__).parents[1]
CPU = torch.device("cpu")
LORA = LoraParams(rank=4, alpha=8, dropout=0.0, target_modules=("q_proj", "v_proj", "down_proj"))


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_base(tmp_path_factory.mktemp("model") / "models" / "base")


def rows(count: int, seed: int, shortest: int = 10, longest: int = 40) -> tuple[Demonstration, ...]:
    """Demonstrations in which the agent must answer with the token that the prompt began with."""
    rng = random.Random(seed)
    made = []
    for k in range(count):
        prompt = [rng.randrange(10, 100) for _ in range(rng.randint(shortest, longest))]
        mask = [0] * len(prompt) + [1, 1]
        made.append(Demonstration(ENVS[k % 2], f"0/{k}", (*prompt, prompt[0], 0), tuple(mask)))
    return tuple(made)


def load(base: Path, attention: str = "sdpa") -> torch.nn.Module:
    return load_base(base, attention=attention, dtype=torch.float32, device=CPU)


def collate(pack: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    return DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)([pack])


@pytest.mark.parametrize("attention", ["packed_sdpa", "packed_sdpa without boundaries", "sdpa", "eager"])
def test_packed_rows_are_the_sequences_alone(base: Path, attention: str) -> None:
    name = attention.partition(" ")[0]
    packed = AutoModelForCausalLM.from_pretrained(base, attn_implementation=name).eval()
    alone = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager").eval()
    data = rows(5, 1)
    inputs = collate(Packs(data, [range(5)])[0])
    inputs.pop("labels")
    if "without" in attention:
        inputs = {key: inputs[key] for key in ("input_ids", "position_ids")}
    with torch.no_grad():
        together = packed(**inputs, use_cache=False).logits[0].split([len(row) for row in data])
        for row, logits in zip(data, together, strict=True):
            expected = alone(torch.tensor([row.input_ids])).logits[0]
            torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)


def test_packed_sdpa_pads_and_caches_like_sdpa(base: Path) -> None:
    ours = AutoModelForCausalLM.from_pretrained(base, attn_implementation="packed_sdpa").eval()
    theirs = AutoModelForCausalLM.from_pretrained(base, attn_implementation="sdpa").eval()
    ids = torch.randint(10, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, :5] = 0  # left padding
    given = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 2, "eos_token_id": None}
    assert torch.equal(ours.generate(ids, **given), theirs.generate(ids, **given))


def test_the_loss_is_that_of_the_agents_tokens(base: Path) -> None:
    model = load(base)
    data = rows(4, 2)
    losses = sft.agent_loss(model, collate(Packs(data, [range(4)])[0]))
    expected = []
    for row in data:
        logprobs = model(torch.tensor([row.input_ids])).logits[0].log_softmax(-1)
        expected += [-logprobs[t - 1, row.input_ids[t]] for t in range(1, len(row)) if row.action_mask[t]]
    torch.testing.assert_close(losses, torch.stack(expected), atol=1e-5, rtol=1e-4)


def test_logits_exist_for_agent_tokens_only(base: Path) -> None:
    model = load(base)
    made: list[int] = []
    model.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[2].shape[1]))
    data = rows(4, 3)
    sft.agent_loss(model, collate(Packs(data, [range(4)])[0]))
    assert made == [sum(row.agent_tokens for row in data)]


def test_packs_are_filled_up_for_every_process_without_loss(base: Path) -> None:
    data = rows(3, 6)
    filled = Packs(data, [[0], [1], [2]], processes=2)
    assert len(filled) == 4
    assert len(Packs(data, [[0], [1], [2]])) == 3
    losses = sft.agent_loss(add_adapter(load(base), LORA, 0), collate(filled[3]))
    assert losses.shape == (0,)
    losses.sum().backward()  # as the last step of a process with nothing to learn from


def small(**changes: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["sft"] |= {
        "lora": {"rank": 4, "alpha": 8, "dropout": 0.1, "target_modules": ["q_proj", "v_proj", "down_proj"]},
        "epochs": 2,
        "learning_rate": 0.02,
        "batch_tokens": 128,
        "batch_sequences": 2,
        "log_every": 3,
        "evaluate_every": 4,
        "save_every": 5,
        "dtype": "float32",
    }
    data["sft"] |= changes
    data["dataset"]["max_length"] = 64
    return Params.model_validate(data)


def prepare(root: Path, base: Path, tokenizer: str | None = None) -> Path:
    (root / "models").mkdir(parents=True)
    (root / "models" / "base").symlink_to(base)
    (root / "data" / "dataset").mkdir(parents=True)
    digest = tokenizer or tokenizer_digest(load_tokenizer(base))
    save_dataset(Dataset(rows(40, 4), rows(8, 5), digest), root / "data" / "dataset")
    return root


def outputs(root: Path) -> dict[str, bytes]:
    folders = [root / "models" / "sft", root / "metrics"]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def in_child(root: Path, arrange: Callable[[], None] = lambda: None) -> int:
    return killed.in_child(lambda: sft.train_sft(small(), root), arrange)


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = prepare(tmp_path_factory.mktemp("trained") / "root", base)
    assert in_child(root) == 0
    return root


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def on_call(owner: object, name: str, number: int, action: Callable[..., None] = die) -> Callable[[], None]:
    """Arrange for `action` (by default death) in place of the call `number` of `owner.name`."""

    def arrange() -> None:
        original, calls = getattr(owner, name), itertools.count(1)

        def wrapped(*args: object, **kwargs: object) -> object:
            return action(*args, **kwargs) if next(calls) == number else original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return arrange


def tear_a_row(curves: live.Curves, *_: object) -> None:
    with (curves.folder / "plots/metrics/train/loss.tsv").open("a", encoding="utf-8") as file:
        file.write("9\t1.")
    die()


KILLS = {
    "before the first checkpoint": on_call(sft.SftTrainer, "training_step", 3),
    "in the middle of a step": on_call(sft.SftTrainer, "training_step", 14),
    "in the middle of the second checkpoint": on_call(Trainer, "_save_optimizer_and_scheduler", 2),
    "while a row of the curves is written": on_call(live.Curves, "log", 7, tear_a_row),
    "while the best adapter is written": on_call(sft, "save_adapter", 2),
    "before anything is published": on_call(sft, "_publish", 1),
    "between two outputs": on_call(sft, "write_json", 1),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_ends_in_the_same_bytes(trained: Path, base: Path, tmp_path: Path, moment: str) -> None:
    root = prepare(tmp_path / "root", base)
    assert in_child(root, KILLS[moment]) == signal.SIGKILL
    assert not (root / "models" / "sft").exists()
    assert in_child(root) == 0
    assert outputs(root) == outputs(trained)
    assert not list((root / "work").iterdir())


def test_it_learns_and_says_so(trained: Path) -> None:
    metrics = json.loads((trained / "metrics" / "sft.json").read_text(encoding="utf-8"))
    data = load_dataset(trained / "data" / "dataset")
    assert metrics["tokens"] == 2 * sum(len(row) for row in data.train)
    model = load(trained / "models" / "base")
    before = validation_loss(model, data)
    digest = base_digest(trained / "models" / "base")
    after = validation_loss(load_adapter(model, trained / "models" / "sft", digest), data)
    assert metrics["validation_loss"]["best"] == pytest.approx(after, rel=1e-4)
    assert after < before - 0.1
    assert metrics["validation_loss"]["best"] <= metrics["validation_loss"]["last"]


def validation_loss(model: torch.nn.Module, data: Dataset) -> float:
    packs = Packs(data.validation, [[k] for k in range(len(data.validation))])
    with torch.no_grad():
        losses = [sft.agent_loss(model, collate(packs[k])) for k in range(len(packs))]
    return float(torch.cat(losses).mean())


def test_curves_count_optimizer_steps(trained: Path) -> None:
    metrics = json.loads((trained / "metrics" / "sft.json").read_text(encoding="utf-8"))
    steps = metrics["steps"]
    curves = trained / "metrics" / "curves" / "sft"

    def logged(name: str) -> list[int]:
        lines = (curves / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        return [int(line.split("\t")[0]) for line in lines[1:]]

    evaluations = sorted({*range(4, steps, 4), steps})
    assert logged("validation/loss") == logged("validation/sat") == evaluations
    assert logged("train/loss") == sorted({*range(3, steps, 3), *range(5, steps, 5), *evaluations})
    assert not (curves / "validation" / "ded.tsv").exists()  # no demonstration of it


class Ticks:
    """A clock that is a second later at every look."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def monotonic(self) -> float:
        return float(next(self._seconds))


def test_tokens_per_second_count_every_token_once(trained: Path, base: Path, tmp_path: Path) -> None:
    root = prepare(tmp_path / "root", base)
    assert in_child(root, lambda: setattr(sft, "time", Ticks())) == 0
    assert outputs(root) == outputs(trained)  # whatever the clock says
    lines = (root / "logs" / "throughput" / "sft" / "tokens_per_second.tsv").read_text(encoding="utf-8").splitlines()
    curve = (trained / "metrics" / "curves" / "sft" / "train" / "loss.tsv").read_text(encoding="utf-8").splitlines()
    assert [line.split("\t")[0] for line in lines] == [line.split("\t")[0] for line in curve]
    # Each of its rows stands for a second, evaluations and checkpoints left out.
    metrics = json.loads((trained / "metrics" / "sft.json").read_text(encoding="utf-8"))
    assert sum(float(line.split("\t")[1]) for line in lines[1:]) == metrics["tokens"]


def test_no_machine_path_is_published(trained: Path) -> None:
    for name, content in outputs(trained).items():
        assert str(trained).encode() not in content, name
        assert str(REPOSITORY).encode() not in content, name
    config = json.loads((trained / "models" / "sft" / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == "models/base"


def test_a_dataset_of_another_tokenizer_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(sft.SftError, match="another tokenizer"):
        sft.train_sft(small(), prepare(tmp_path / "root", base, tokenizer="0" * 64))


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_a_quantised_base_is_refused_on_a_cpu(base: Path, tmp_path: Path, quantization: str) -> None:
    root = prepare(tmp_path / "root", base)
    refusal = rf"sft\.quantization {quantization} needs a CUDA device and the package bitsandbytes .*: set it to none"
    with pytest.raises(CheckpointError, match=refusal):
        sft.train_sft(small(quantization=quantization), root)
    assert not (root / "models" / "sft").exists()


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_out_of_memory_names_what_to_lower(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, checkpointing: bool
) -> None:
    root = prepare(tmp_path / "root", base)
    monkeypatch.setattr(Qwen3Model, "forward", OUT_OF_MEMORY[where])
    with pytest.raises(sft.SftError, match=r"^sft: out of memory; about .* GB are needed") as raised:
        sft.train_sft(small(gradient_checkpointing=checkpointing), root)
    text = str(raised.value)
    assert "sft.batch_tokens, now 128" in text
    assert "64 and twice the sft.batch_sequences" in text
    assert ("sft.gradient_checkpointing: true about" in text) is not checkpointing
    need, fixed, half = [float(number) for number in re.findall(r"([\d.e+-]+) GB", text)][:3]
    assert 0 < fixed < half < need
    assert not (root / "models" / "sft").exists()


def test_other_errors_are_not_taken_for_memory(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Qwen3Model, "forward", broken)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        sft.train_sft(small(), prepare(tmp_path / "root", base))


def test_a_loss_that_is_not_finite_stops_with_the_step(base: Path, tmp_path: Path) -> None:
    broken = make_tiny_base(tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    root = prepare(tmp_path / "root", broken)
    with pytest.raises(sft.SftError, match=r"the loss is not finite at step 1 \(tasks (sat|abd) 0/\d+, "):
        sft.train_sft(small(), root)
    assert not (root / "models" / "sft").exists()


def test_a_cut_base_is_named(tmp_path: Path) -> None:
    root = prepare(tmp_path / "root", make_tiny_base(tmp_path / "base"))
    weights = tmp_path / "base" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"models/base/model\.safetensors: "):
        sft.train_sft(small(), root)
    assert not (root / "models" / "sft").exists()


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    model = add_adapter(load(base), LORA, seed=0)
    with published(tmp_path / "adapter") as folder:
        save_adapter(model, folder, base_digest(base))
    other = make_tiny_base(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="another base"):
        load_adapter(load(other), tmp_path / "adapter", base_digest(other))
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no adapter_model\.safetensors"):
        load_adapter(load(base), tmp_path / "adapter", base_digest(base))


def test_a_new_adapter_changes_nothing_and_is_small(base: Path) -> None:
    ids = torch.arange(10, 40)[None]
    with torch.no_grad():
        before = load(base)(ids).logits
        model = add_adapter(load(base), LORA, seed=0)
        assert torch.equal(model(ids).logits, before)
    # rank * (in + out) for q (32 -> 32), v (32 -> 16) and down (64 -> 32), in two layers
    assert trainable_parameters(model) == 2 * 4 * ((32 + 32) + (32 + 16) + (64 + 32))


def test_a_target_module_that_is_not_there_is_named(base: Path) -> None:
    with pytest.raises(CheckpointError, match="no linear layer w_pack"):
        add_adapter(load(base), LORA.model_copy(update={"target_modules": ("w_pack",)}), seed=0)


def test_flash_attention_is_refused_on_a_cpu() -> None:
    with pytest.raises(AttentionError, match="set attention to auto or sdpa"):
        choose_attention("flash_attention_2", CPU)
    assert choose_attention("auto", CPU) == choose_attention("sdpa", CPU) == "packed_sdpa"
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16


def test_other_settings_inputs_or_contents_work_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "input"
    file.write_text("a", encoding="utf-8")
    first = work_folder(tmp_path, "sft", {"a": 1}, [file])
    assert work_folder(tmp_path, "sft", {"a": 1}, [file]) == first
    assert work_folder(tmp_path, "sft", {"a": 2}, [file]) != first
    assert work_folder(tmp_path, "ppo", {"a": 1}, [file]) != first
    file.write_text("b", encoding="utf-8")
    assert work_folder(tmp_path, "sft", {"a": 1}, [file]) != first


def test_what_fails_is_not_published(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def fail() -> None:
        with published(target) as folder:
            (folder / "half").touch()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not target.exists()
    with published(target) as folder:
        (folder / "whole").touch()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_curves_go_on_without_gaps_or_doubled_rows(tmp_path: Path) -> None:
    whole = live.Curves(tmp_path / "whole")
    begun = live.Curves(tmp_path / "cut")
    for step in range(1, 10):
        values = {"train/loss": 1 / step} | ({"late": float(step)} if step > 6 else {})
        whole.log(step, values)
        begun.log(step, values)
    resumed = live.Curves(tmp_path / "cut", resume_step=5)
    for step in range(6, 10):
        resumed.log(step, {"train/loss": 1 / step} | ({"late": float(step)} if step > 6 else {}))
    for curves in (whole, resumed):
        curves.publish(curves.folder / "out")
    files = {path.relative_to(whole.folder) for path in whole.folder.rglob("*") if path.is_file()}
    assert {path.relative_to(resumed.folder) for path in resumed.folder.rglob("*") if path.is_file()} == files
    for path in files:
        assert (whole.folder / path).read_bytes() == (resumed.folder / path).read_bytes(), path
