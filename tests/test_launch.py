"""Under `accelerate launch` with two processes (gloo) the stages give what one process gives."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from test_sft import prepare, small
from tiny import make_tiny_base
from torch.distributed.fsdp import OffloadPolicy, StateDictType

from affine.envs.env import make
from affine.files import read_json, read_records, write_records
from affine.launch import OPTIONS, Place, place
from affine.models.lora import add_adapter, load_base
from affine.params import Params
from affine.tasks import draw_tasks
from affine.types import ENVS, Split, episode_from_json

REPOSITORY = Path(__file__).parents[1]
COUNTS = {"sat": 3, "textcraft": 2, "babyai": 2}
TWO = f"--config_file {REPOSITORY / 'launch' / 'cpu.yaml'}"


def params() -> Params:
    data = small(lora={"rank": 4, "alpha": 8, "dropout": 0.0, "target_modules": ["q_proj", "v_proj"]}).model_dump(
        mode="json"
    )
    data["rollout"] |= {"context": 300, "reply": 8, "slots": 4, "workers": 1}
    return Params.model_validate(data)


def stage(root: Path, name: str, *arguments: str, options: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", OPTIONS: options}
    return subprocess.run(
        [sys.executable, "-m", f"stages.{name}", *arguments],
        cwd=root, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same pipeline twice, run by one process and by two."""
    folder = tmp_path_factory.mktemp("launch")
    base = make_tiny_base(folder / "models" / "base")
    made = []
    for name, options in (("one", ""), ("two", TWO)):
        root = prepare(folder / name, base)
        (root / "params.yaml").write_text(yaml.safe_dump(params().model_dump(mode="json")), encoding="utf-8")
        for env in ENVS:
            count = COUNTS.get(env, 0)
            write_records(
                root / "data" / "tasks" / env / "test.jsonl",
                draw_tasks(make(env), 0, 0, {Split.TEST: count}) if count else [],
            )
        for arguments in (("sft",), ("evaluate", "sft")):
            done = stage(root, *arguments, options=options)
            assert done.returncode == 0, done.stderr[-2000:]
        made.append(root)
    return made[0], made[1]


def test_sft_takes_the_same_steps(roots: tuple[Path, Path]) -> None:
    one, two = roots
    metrics = [read_json(root / "metrics" / "sft.json") for root in roots]
    assert metrics[0].keys() == metrics[1].keys()
    for key in ("steps", "tokens", "agent_tokens", "best_step", "trainable_parameters"):
        assert metrics[0][key] == metrics[1][key]
    assert metrics[1]["validation_loss"]["best"] == pytest.approx(metrics[0]["validation_loss"]["best"], abs=1e-4)
    ours, theirs = (load_file(root / "models" / "sft" / "adapter_model.safetensors") for root in (two, one))
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-3)
    assert not list((two / "work").iterdir())  # finished: nothing left over, by any process


def test_every_episode_is_played_once_and_alike(roots: tuple[Path, Path]) -> None:
    for env, count in COUNTS.items():
        played = [
            list(read_records(root / "evaluations" / "sft" / f"{env}.jsonl", episode_from_json)) for root in roots
        ]
        assert [(e.trajectory.task, e.sample) for e in played[0]] == [(e.trajectory.task, e.sample) for e in played[1]]
        assert len(played[1]) == count * params().evaluate.samples
        for one, two in zip(*played, strict=True):
            for a, b in zip(one.trajectory.turns, two.trajectory.turns, strict=True):
                assert a.token_ids == b.token_ids
                assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)
    fingerprints = [(root / "evaluations" / "sft" / "evaluator.json").read_bytes() for root in roots]
    assert fingerprints[0] == fingerprints[1]


def test_a_step_that_does_not_divide_is_refused_by_name(roots: tuple[Path, Path], tmp_path: Path) -> None:
    root = prepare(tmp_path / "root", roots[0] / "models" / "base")
    data = params().model_dump(mode="json")
    data["sft"]["batch_sequences"] = 3
    (root / "params.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    done = stage(root, "sft", options=TWO)
    assert done.returncode != 0
    assert "sft.batch_sequences (3) does not divide among 2 processes" in done.stderr
    assert not (root / "models" / "sft").exists()


def test_a_process_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert place() == Place(0, 1, 0)
    assert place().first
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place() == Place(5, 8, 1)
    assert not place().first


def launcher(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[argparse.Namespace, dict[str, str]]:
    """What `accelerate launch` makes of launch/NAME.yaml: its settings, and the environment of every process."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_multi_gpu_env

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["--config_file", str(REPOSITORY / "launch" / f"{name}.yaml"), *options, "-m", "stages.sft"]
    settings, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
    return settings, prepare_multi_gpu_env(settings)


@pytest.mark.parametrize("name", ["cpu", "ddp", "fsdp2"])
def test_accelerate_reads_the_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every key is one that its loader knows (an unknown one is an error there), and options count before the file."""
    config = load_config_from_file(str(REPOSITORY / "launch" / f"{name}.yaml"))
    assert str(config.distributed_type.value) == ("FSDP" if name == "fsdp2" else "MULTI_GPU")
    settings, environment = launcher(name, monkeypatch)
    assert (settings.num_processes, settings.num_machines, settings.module) == (2, 1, True)
    assert (settings.use_cpu, settings.use_fsdp) == (name == "cpu", name == "fsdp2")
    assert environment["ACCELERATE_MIXED_PRECISION"] == "no"  # the stages choose their format themselves
    assert environment.get("ACCELERATE_USE_FSDP", "false") == ("true" if name == "fsdp2" else "false")
    more, _ = launcher(
        name, monkeypatch, "--num_processes", "8", "--num_machines", "2", "--machine_rank", "1",
        "--main_process_ip", "10.0.0.1", "--main_process_port", "29500",
    )  # fmt: skip
    assert (more.num_processes, more.num_machines, more.machine_rank) == (8, 2, 1)


def test_fsdp2_wraps_the_layers_of_our_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a base, with and without an adapter; nothing is offloaded, weights are loaded by every process."""
    _, environment = launcher("fsdp2", monkeypatch)
    for key, value in environment.items():
        if key.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(key, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward) == (2, True)
    assert not plugin.cpu_ram_efficient_loading
    assert not plugin.activation_checkpointing
    assert type(plugin.cpu_offload) is OffloadPolicy
    assert plugin.state_dict_type is StateDictType.SHARDED_STATE_DICT
    base = make_tiny_base(tmp_path / "base")
    for adapted in (False, True):
        model = load_base(base, attention="sdpa", dtype=torch.float32, device=torch.device("cpu"))
        model = add_adapter(model, params().sft.lora, 0) if adapted else model
        plugin = FullyShardedDataParallelPlugin()
        plugin.set_auto_wrap_policy(model)
        wrapped = [
            module for module in model.modules()
            if plugin.auto_wrap_policy(module=module, recurse=False, nonwrapped_numel=0)
        ]  # fmt: skip
        assert [type(module).__name__ for module in wrapped] == ["Qwen3DecoderLayer"] * 2
