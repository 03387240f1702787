"""From adapter to a folder that others can load and believe."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from card_inputs import NUMBER, check_numbers
from huggingface_hub import ModelCard, parse_eval_result_entries
from peft import PeftModel
from release_inputs import ROOT, make_inputs, release_params
from safetensors.torch import load_file, save_file
from tiny import make_tiny_adapter, make_tiny_base
from transformers import AutoModelForCausalLM, GenerationConfig

from affine.files import write_json
from affine.models.checkpoint import INDEX, CheckpointError, read_json, verify_sums
from affine.models.lora import base_digest
from affine.release.check import Check, check_weights
from affine.release.choose import ReleaseError, choose
from affine.release.lineage import OUTPUTS, folder_hash
from affine.release.merge import MergeError, load_adapter, merge, shard_bytes
from affine.release.release import make_release
from affine.release.results import EVAL_RESULTS
from affine.types import ENVS


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def released(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("released") / "root"
    shutil.copytree(inputs, root)
    make_release(release_params(), root)
    return root


@pytest.fixture
def root(inputs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(inputs, tmp_path / "root"))


def state(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


# Choosing


def scores(**overall: float) -> dict[str, Any]:
    return {model: {"overall": value} for model, value in overall.items()}


def worse(**envs: str) -> dict[str, Any]:
    return {f"{model}_vs_base": {"worse": named} for model, named in envs.items()}


def test_best_is_the_highest_that_is_nowhere_worse() -> None:
    evaluate = scores(base=0.2, sft=0.4, ppo=0.5)
    assert choose("best", evaluate, worse(sft="none", ppo="none"), allow_regression=False).model == "ppo"
    choice = choose("best", evaluate, worse(sft="none", ppo="sat, ded"), allow_regression=False)
    assert choice.model == "sft"
    assert "ppo scores 0.50 but is worse than base in sat, ded" in choice.reason
    assert choose("best", evaluate, worse(sft="abd", ppo="sat"), allow_regression=False).model == "base"


def test_a_lower_score_or_a_tie_is_no_reason_to_take_the_later_model() -> None:
    fine = worse(sft="none", ppo="none")
    assert choose("best", scores(base=0.2, sft=0.5, ppo=0.4), fine, allow_regression=False).model == "sft"
    assert choose("best", scores(base=0.2, sft=0.5, ppo=0.5), fine, allow_regression=False).model == "sft"
    assert choose("best", scores(base=0.6, sft=0.5, ppo=0.5), fine, allow_regression=False).model == "base"


def test_regression_needs_permission() -> None:
    evaluate, pareto = scores(base=0.2, sft=0.4, ppo=0.5), worse(sft="none", ppo="sat")
    with pytest.raises(ReleaseError, match=r"ppo is significantly worse than its base in sat; .*allow_regression"):
        choose("ppo", evaluate, pareto, allow_regression=False)
    assert choose("ppo", evaluate, pareto, allow_regression=True).regressions == ("sat",)
    assert choose("best", evaluate, pareto, allow_regression=True).model == "ppo"
    assert choose("sft", evaluate, pareto, allow_regression=False).regressions == ()


def test_a_model_that_was_not_evaluated_is_not_released() -> None:
    with pytest.raises(ReleaseError, match="ppo was not evaluated"):
        choose("ppo", scores(base=0.2, sft=0.4), worse(sft="none"), allow_regression=False)
    with pytest.raises(ReleaseError, match="nothing about sft against base"):
        choose("best", scores(base=0.2, sft=0.4), {}, allow_regression=False)


# Merging


@pytest.mark.parametrize("lora", [{}, {"use_rslora": True}, {"r": 3, "lora_alpha": 5, "target_modules": ["o_proj"]}])
def test_merged_weights_equal_pefts_own_merge(tmp_path: Path, lora: dict[str, Any]) -> None:
    base = make_tiny_base(tmp_path / "base")
    adapter = make_tiny_adapter(base, tmp_path / "adapter", **lora)
    out = tmp_path / "out"
    out.mkdir()
    merge(base, load_adapter(adapter, base), out, shard_bytes("1MB"))
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter).merge_and_unload()
    wanted, got = peft.state_dict(), state(out)
    assert got.keys() == wanted.keys() - {"lm_head.weight"}  # tied: stored once
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tied"), [(torch.bfloat16, True), (torch.float16, False), (torch.float32, False)])
def test_other_dtypes_and_untied_heads_pass_all_checks(tmp_path: Path, dtype: torch.dtype, tied: bool) -> None:
    base = make_tiny_base(tmp_path / "base", dtype=dtype, tied=tied)
    adapter = make_tiny_adapter(base, tmp_path / "adapter")
    out = tmp_path / "out"
    shutil.copytree(base, out, ignore=shutil.ignore_patterns("*.safetensors"))
    merge(base, load_adapter(adapter, base), out, shard_bytes("16KB"))
    assert all(check.passed for check in check_weights(out, base, adapter))
    assert {tensor.dtype for tensor in state(out).values()} == {dtype}
    assert ("lm_head.weight" in state(out)) is not tied


def test_shards_hold_the_limit_and_every_tensor_once(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    whole = state(base)
    for size in ("1KB", "20KB", "60KB", "1GB"):
        out = tmp_path / size
        out.mkdir()
        merge(base, None, out, shard_bytes(size))
        files = sorted(out.glob("*.safetensors"))
        names = [name for file in files for name in load_file(file)]
        assert sorted(names) == sorted(whole)
        assert all(torch.equal(tensor, whole[name]) for name, tensor in state(out).items())
        for file in files:
            held = load_file(file)
            assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= shard_bytes(size)
        if len(files) > 1:
            index = read_json(out / INDEX)
            assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in whole.values())
            assert all(name in load_file(out / file) for name, file in index["weight_map"].items())
    assert [file.name for file in (tmp_path / "1GB").iterdir()] == ["model.safetensors"]


def test_merging_takes_little_memory(tmp_path: Path) -> None:
    """192 MB of weights in bfloat16, the largest tensor of them 8 MB: the peak must hang on the tensor."""
    base, adapter, out = (tmp_path / name for name in ("base", "adapter", "out"))
    for folder in (base, adapter, out):
        folder.mkdir()
    weights = {f"model.layers.{i}.mlp.up_proj.weight": torch.full((2048, 2048), 0.01).bfloat16() for i in range(24)}
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    write_json(base / "config.json", {})
    pairs = {}
    for name in weights:
        for letter, shape in (("A", (8, 2048)), ("B", (2048, 8))):
            pairs[f"base_model.model.{name.removesuffix('.weight')}.lora_{letter}.weight"] = torch.ones(shape)
    save_file(pairs, adapter / "adapter_model.safetensors", {"format": "pt"})
    write_json(adapter / "adapter_config.json", {"peft_type": "LORA", "r": 8, "lora_alpha": 8})
    write_json(adapter / "manifest.json", {"base": base_digest(base)})
    code = (
        "import sys; from pathlib import Path; from resource import RUSAGE_SELF, getrusage;"
        "from affine.release.merge import load_adapter, merge, shard_bytes;"
        "base, adapter, out = map(Path, sys.argv[1:]); before = getrusage(RUSAGE_SELF).ru_maxrss;"
        "merge(base, load_adapter(adapter, base), out, shard_bytes('1GB'));"
        "print((getrusage(RUSAGE_SELF).ru_maxrss - before) * 1024)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(base), str(adapter), str(out)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    largest, everything = 2048 * 2048 * 4, 24 * 2048 * 2048 * 2
    assert int(done.stdout) < 6 * largest < everything
    merged = load_file(out / "model.safetensors")
    assert all(bool((tensor == torch.tensor(8.01).bfloat16()).all()) for tensor in merged.values())


def edit_adapter(adapter: Path, **config: Any) -> None:
    path = adapter / "adapter_config.json"
    write_json(path, read_json(path) | config)


def test_what_is_not_plain_lora_is_refused(tmp_path: Path) -> None:
    base = make_tiny_base(tmp_path / "base")
    adapter = make_tiny_adapter(base, tmp_path / "adapter")
    for config in ({"use_dora": True}, {"bias": "all"}, {"peft_type": "IA3"}, {"rank_pattern": {"q_proj": 2}}):
        changed = tmp_path / "changed"
        shutil.copytree(adapter, changed, dirs_exist_ok=True)
        edit_adapter(changed, **config)
        with pytest.raises(MergeError, match="only plain LoRA can be merged"):
            load_adapter(changed, base)
    extra = load_file(adapter / "adapter_model.safetensors") | {"base_model.model.lm_head.weight": torch.zeros(2, 2)}
    save_file(extra, adapter / "adapter_model.safetensors")
    with pytest.raises(MergeError, match=r"also trained base_model\.model\.lm_head\.weight"):
        load_adapter(adapter, base)


def test_an_adapter_of_another_base_or_shape_is_refused(tmp_path: Path) -> None:
    base, other = make_tiny_base(tmp_path / "base"), make_tiny_base(tmp_path / "other", seed=1)
    adapter = make_tiny_adapter(base, tmp_path / "adapter")
    with pytest.raises(CheckpointError, match="trained on another base"):
        load_adapter(adapter, other)
    loaded = load_adapter(adapter, base)
    name = next(iter(loaded.a))
    loaded.a[name] = loaded.a[name][:, 1:]
    with pytest.raises(MergeError, match="the base's is"):
        merge(base, loaded, tmp_path, shard_bytes("1GB"))
    loaded.a["model.layers.9.weight"] = loaded.a.pop(name)
    loaded.b["model.layers.9.weight"] = loaded.b.pop(name)
    with pytest.raises(MergeError, match="which the base does not have"):
        merge(base, loaded, tmp_path, shard_bytes("1GB"))


# Checking


def failures(checks: list[Check]) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_checks_notice_what_is_wrong(released: Path, tmp_path: Path) -> None:
    base, adapter = released / "models/base", released / "models/ppo"
    wrong = Path(shutil.copytree(released / "release", tmp_path / "wrong"))
    assert failures(check_weights(wrong, base, adapter)) == set()
    file = sorted(wrong.glob("model-*.safetensors"))[1]
    good = load_file(file)
    name = next(name for name in good if "proj" in name)
    for change, noticed in [
        (good[name] * math.nan, {"weights are finite", "logits as base + adapter"}),
        (good[name] * 1.5, {"logits as base + adapter"}),
        (good[name].half(), {"weights are complete"}),
    ]:
        save_file(good | {name: change}, file, {"format": "pt"})
        assert failures(check_weights(wrong, base, adapter)) >= noticed
    save_file(good, file, {"format": "pt"})
    template = (base / "chat_template.jinja").read_text().replace("assistant\\n", "assistant\\n<think>\\n")
    (wrong / "chat_template.jinja").write_text(template)
    assert failures(check_weights(wrong, base, adapter)) == {"chat template agrees with training"}


def test_an_adapter_without_effect_is_no_release(root: Path) -> None:
    path = root / "models/ppo/adapter_model.safetensors"
    save_file({name: torch.zeros_like(tensor) for name, tensor in load_file(path).items()}, path)
    with pytest.raises(ReleaseError, match="weight files differ from the base's failed"):
        make_release(release_params(shard_size="4GB"), root)
    assert not (root / "release").exists()
    assert not (root / "metrics/release.json").exists()


# The whole stage


def test_release_is_complete_and_loads_by_its_snippet(released: Path) -> None:
    folder = released / "release"
    listed = verify_sums(folder)
    assert {
        "README.md",
        "config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
        INDEX,
    } <= set(listed)
    card = (folder / "README.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert '"ada/Affine-nano"' in snippet
    space: dict[str, Any] = {}
    torch.manual_seed(0)
    exec(snippet.replace("ada/Affine-nano", str(folder)), space)  # prints the reply
    assert space["output"].shape[1] > space["inputs"]["input_ids"].shape[1]


def test_a_base_without_generation_settings_gets_them(root: Path) -> None:
    (root / "models/base/generation_config.json").unlink()
    make_release(release_params(model="base"), root)
    settings = GenerationConfig.from_pretrained(root / "release")
    assert settings.eos_token_id == read_json(root / "release/config.json")["eos_token_id"]


def test_released_adapter_loads_on_the_base_and_gives_the_merged_model(released: Path) -> None:
    folder = released / "release"
    base = AutoModelForCausalLM.from_pretrained(released / "models/base")
    with_adapter = PeftModel.from_pretrained(base, folder / "adapter")
    merged = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.arange(3, 40)[None]
    torch.testing.assert_close(merged(ids).logits, with_adapter(ids).logits, rtol=1e-4, atol=1e-4)
    assert read_json(folder / "adapter/adapter_config.json")["base_model_name_or_path"] == "pretrained/nano"


def test_metrics_say_what_was_released(released: Path) -> None:
    metrics = read_json(released / "metrics/release.json")
    assert metrics["model"] == "ppo"
    model = AutoModelForCausalLM.from_pretrained(released / "release")
    assert metrics["parameters"] == sum(p.numel() for p in model.parameters())
    for name, digest in metrics["weights"].items():
        data = (released / "release" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
    assert len(metrics["checks"]) == 9


def test_no_path_of_this_machine_is_published(released: Path) -> None:
    for path in (released / "release").rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert str(released).encode() not in data
            assert str(ROOT).encode() not in data
            assert str(Path.home()).encode() + b"/" not in data


def test_same_bytes_again_in_another_process(released: Path, root: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from pathlib import Path; from release_inputs import release_params;"
        "from affine.release.release import make_release; make_release(release_params(), Path(sys.argv[2]))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "17", "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code, str(ROOT / "tests"), str(root)], check=True, env=environment)
    assert verify_sums(root / "release") == verify_sums(released / "release")
    assert (root / "metrics/release.json").read_bytes() == (released / "metrics/release.json").read_bytes()


def test_base_alone_can_be_released(root: Path) -> None:
    make_release(release_params(model="base"), root)
    whole = state(root / "models/base")
    assert all(torch.equal(tensor, whole[name]) for name, tensor in state(root / "release").items())
    assert not (root / "release/adapter").exists()
    card = (root / "release/README.md").read_text()
    assert "The starting checkpoint" in card
    assert "## Training" not in card
    check_numbers(card, root, release_params(model="base"))


@contextmanager
def small_files() -> Iterator[None]:
    """Not a fixture: between a fixture and its test pytest writes to a terminal that may be a file, and a large one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_the_last_release_alone(root: Path) -> None:
    (root / "release").mkdir()
    (root / "release/last").write_text("the last one")
    with small_files(), pytest.raises(OSError, match="File too large"):
        make_release(release_params(), root)
    assert [path.name for path in (root / "release").iterdir()] == ["last"]
    assert not list(root.glob(".release*"))


def test_missing_metrics_name_the_file(root: Path) -> None:
    (root / "metrics/pareto.json").unlink()
    with pytest.raises(ReleaseError, match=r"metrics/pareto\.json: no such file; run"):
        make_release(release_params(), root)
    shutil.copyfile(root / "metrics/evaluate.json", root / "metrics/pareto.json")
    with pytest.raises(ReleaseError, match="nothing about"):
        make_release(release_params(), root)
    assert not (root / "release").exists()


# The card


def test_every_number_on_the_card_is_the_measured_one(released: Path) -> None:
    check_numbers((released / "release/README.md").read_text(), released, release_params())


def table(card: str, heading: str) -> dict[str, list[str]]:
    lines = card[card.index(heading) :].splitlines()[2:]
    rows = {}
    for line in lines:
        if not line.startswith("|"):
            break
        first, *rest = (cell.strip().strip("*") for cell in line.strip("|").split("|"))
        rows[first] = rest
    return rows


def test_tables_show_each_number_in_its_place(released: Path) -> None:
    card = (released / "release/README.md").read_text()
    scored = {(r["model"], r["env"]): r for r in csv.DictReader((released / "metrics/plots/scores.csv").open())}
    effects = {
        r["env"]: r
        for r in csv.DictReader((released / "metrics/plots/differences.csv").open())
        if r["pair"] == "ppo_vs_base"
    }
    rows = table(card, "| environment | base |")
    assert list(rows) == [*ENVS, "overall"]
    for env, cells in rows.items():
        for model, cell in zip(("base", "sft", "ppo"), cells, strict=False):
            row = scored[model, env]
            assert [float(x) for x in NUMBER.findall(cell)] == [
                round(float(row[key]), 2) for key in ("score", "low", "high")
            ]
        assert [float(x) for x in NUMBER.findall(cells[3])] == [
            round(float(effects[env][key]), 2) for key in ("difference", "low", "high")
        ]
        assert cells[3].endswith(effects[env]["decision"].replace("open", "undecided"))
    trained = read_json(released / "metrics/ppo.json")
    kept = re.search(r"after iteration (\d+) of ppo.*\(([\d.]+); the\nadapter that ppo started from ([\d.]+);", card)
    assert kept
    assert int(kept[1]) == trained["kept_iteration"]
    wanted = (trained["validation_score"], trained["validation"]["00"])
    assert [float(kept[2]), float(kept[3])] == [round(score, 2) for score in wanted]
    data = read_json(released / "metrics/dataset.json")
    levels = yaml.safe_load((ROOT / "params.yaml").read_text())["tasks"]
    for env, cells in table(card, "| environment | levels").items():
        assert cells[0] == ", ".join(map(str, levels[env]["levels"]))
        assert cells[2:4] == [f"{data['envs'][env][key]:,}" for key in ("demonstrations", "tokens")]
        assert float(cells[4]) == round(read_json(released / f"metrics/collect/{env}.json")["success"], 2)
    for env, cells in table(card, "| environment | failed").items():
        keys = ("stop_failed", "stop_turn_limit", "stop_context_limit", "invalid")
        assert [float(cell) for cell in cells] == [round(float(scored["ppo", env][key]), 2) for key in keys]


def test_numbers_of_one_kind_have_equally_many_decimals(released: Path) -> None:
    """Scores, shares and differences have two wherever they stand, and no column mixes."""
    card = (released / "release/README.md").read_text()
    for heading in ("| environment | base |", "| environment | levels", "| environment | failed"):
        columns = zip(*table(card, heading).values(), strict=True)
        decimals = [{len(x.partition(".")[2]) for cell in column for x in NUMBER.findall(cell)} for column in columns]
        assert any(found == {2} for found in decimals)
        assert all(found in (set(), {0}, {2}) for found in decimals), heading
    summary = card[card.index("| released |") : card.index("## Use")]
    assert re.findall(r"score \(([\d.]+)\)", summary)
    assert {len(x.partition(".")[2]) for x in re.findall(r"\d+\.\d+", summary)} == {2}


def test_card_is_a_valid_model_card(released: Path) -> None:
    card = ModelCard((released / "release/README.md").read_text())
    assert card.data.license == "mit"
    by_env = {result.dataset_name: result.metric_value for result in card.data.eval_results}
    scored = {
        r["env"]: r for r in csv.DictReader((released / "metrics/plots/scores.csv").open()) if r["model"] == "ppo"
    }
    assert by_env == {env: float(row["score"]) for env, row in scored.items()}


def test_scores_for_machines_are_the_measured_ones(released: Path) -> None:
    """Parsed as the Hub's own client parses them, against metrics/evaluate.json, from which they aren't made."""
    entries = parse_eval_result_entries(yaml.safe_load((released / "release" / EVAL_RESULTS).read_text()))
    summary = read_json(released / "metrics/evaluate.json")["ppo"]
    assert {entry.task_id: entry.value for entry in entries} == summary["env"] | {"overall": summary["overall"]}
    for entry in entries:
        low, high = (float(x) for x in re.findall(r"interval (\S+) to ([^;\s]+)", entry.notes)[0])
        assert low <= entry.value <= high
        assert entry.dataset_id.startswith("ada/")
    assert EVAL_RESULTS in verify_sums(released / "release")


def test_outputs_have_the_names_that_dvc_gives_them(released: Path, tmp_path: Path) -> None:
    """Against DVC itself, on a folder with a subfolder."""
    shutil.copytree(released / "models/ppo", tmp_path / "ppo")
    shutil.copytree(released / "data", tmp_path / "ppo/deeper")
    for arguments in (["init", "--no-scm", "-q"], ["add", "-q", "--no-commit", "ppo"]):
        subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=tmp_path, check=True)
    (out,) = yaml.safe_load((tmp_path / "ppo.dvc").read_text())["outs"]
    assert folder_hash(tmp_path / "ppo") == out["md5"]
    card = (released / "release/README.md").read_text()
    assert f"| `models/ppo` | `{folder_hash(released / 'models/ppo')}` |" in card
    with pytest.raises(ReleaseError, match="no such folder; run"):
        folder_hash(tmp_path / "nothing")


def test_release_depends_on_every_output_that_its_card_names() -> None:
    deps = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["release"]["deps"]
    assert set(OUTPUTS) <= set(deps)


def test_card_names_its_files_with_their_hashes(released: Path) -> None:
    card = (released / "release/README.md").read_text()
    rows = table(card, "| file | SHA-256 |")
    for path, (digest,) in rows.items():
        assert hashlib.sha256((released / path.strip("`")).read_bytes()).hexdigest() == digest.strip("`")
    assert {"`metrics/evaluate.json`", "`models/ppo/adapter_model.safetensors`", "`metrics/release.json`"} <= set(rows)


def test_a_released_regression_is_said_on_the_card(tmp_path: Path) -> None:
    root = make_inputs(tmp_path, {"base": 0.6, "sft": 0.3, "ppo": 0.2})
    with pytest.raises(ReleaseError, match="significantly worse"):
        make_release(release_params(model="sft"), root)
    params = release_params(model="sft", allow_regression=True)
    make_release(params, root)
    assert "**Worse than its base in sat" in (root / "release/README.md").read_text()
    make_release(release_params(), root)
    assert read_json(root / "metrics/release.json")["model"] == "base"
