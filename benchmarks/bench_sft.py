"""Our SFT step beside TRL's SFTTrainer: the same model, adapter, demonstrations and tokens per step.

    ours             stage `sft`: packed rows, causal attention within each sequence, logits for agent tokens alone
    trl-default      SFTTrainer with its defaults: padded batches
    trl-packed       packed rows without padding (packing, bfd), transformers' SDPA
    trl-grouped      padded batches of similar length, bfloat16 where the hardware has it
    trl-packed-ours  trl-packed with our attention (`packed_sdpa`)

Each runs in a process of its own, so that its peak of memory is its own. Rates count tokens of demonstrations, not
padding, over the steps after the first two.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from bench_rollout import checkpoint
from record import RESULTS, ROOT, conditions, save
from rich.console import Console

from affine.collect.play import play
from affine.dataset.sequences import Dataset, Demonstration, load_dataset, load_tokenizer
from affine.envs.env import make, task_rng
from affine.models.attention import choose_dtype
from affine.models.chat import Renderer
from affine.models.lora import add_adapter, load_base
from affine.models.memory import keep_freed_memory
from affine.models.quiet import quiet_transformers
from affine.params import Params, load_params
from affine.tasks import draw_tasks
from affine.types import Split

METHODS = ("ours", "trl-default", "trl-packed", "trl-grouped", "trl-packed-ours")
WARM = 2
"""Steps before the clock starts."""


def demonstrations(base: Path) -> list[Demonstration]:
    """Those of data/dataset; without one, of a few experts."""
    folder = ROOT / "data" / "dataset"
    if folder.is_dir():
        return list(load_dataset(folder).train)
    renderer = Renderer(load_tokenizer(base))
    rows = []
    for name in ("textcraft", "alfworld", "webshop"):
        env = make(name)
        for task in draw_tasks(env, 0, 0, {Split.TRAIN: 60}):
            tokens = renderer.trajectory(play(env, task, task_rng(name, 0, task.id, 0)))
            rows.append(Demonstration(name, f"0/{task.id}", tuple(tokens.ids), tuple(tokens.action_mask)))
        env.close()
    return rows


def clock() -> tuple[Any, dict[str, float]]:
    """A callback that notes when the first and the last timed step ended, and the notes."""
    from transformers import TrainerCallback

    notes: dict[str, float] = {}

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            notes["begun" if state.global_step == WARM else "ended"] = time.perf_counter()
            notes["steps"] = state.global_step - WARM

    return Clock(), notes


def ours(base: Path, rows: Sequence[Demonstration], params: Params, steps: int) -> tuple[float, int]:
    """Seconds of the timed steps and the tokens in them."""
    from affine.training import sft

    callback, notes = clock()
    with tempfile.TemporaryDirectory() as folder:
        trainer, _ = sft._trainer(params, base, Dataset(tuple(rows), tuple(rows[:1]), ""), Path(folder), 0)
        trainer.args.max_steps = steps
        trainer.callback_handler.callbacks.insert(0, callback)
        trainer.train()
    packs = trainer.train_dataset
    tokens = sum(len(packs.rows[k]) for part in packs.packs[WARM:steps] for k in part)
    return notes["ended"] - notes["begun"], tokens


def trl(base: Path, rows: Sequence[Demonstration], params: Params, steps: int, method: str) -> tuple[float, int]:
    """The same of TRL's trainer."""
    from datasets import Dataset as Table
    from trl import SFTConfig, SFTTrainer

    packed = method.startswith("trl-packed")
    mean = sum(map(len, rows)) / len(rows)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bf16 = method != "trl-default" and choose_dtype("auto", device) is torch.bfloat16
    model = load_base(base, attention="sdpa", dtype=torch.bfloat16 if bf16 else torch.float32, device=device)
    if method != "trl-packed-ours":
        model.set_attn_implementation("sdpa")
    settings: dict[str, Any] = {}
    if packed:
        settings = {"packing": True, "max_length": params.sft.batch_tokens}
    elif method == "trl-grouped":
        settings = {"train_sampling_strategy": "group_by_length"}
    callback, notes = clock()
    labelled = [
        {
            "input_ids": list(row.input_ids),
            "labels": [t if m else -100 for t, m in zip(row.input_ids, row.action_mask, strict=True)],
        }
        for row in rows
    ]
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=add_adapter(model, params.sft.lora, 0),
            args=SFTConfig(
                output_dir=folder,
                max_steps=steps,
                per_device_train_batch_size=1 if packed else max(1, round(params.sft.batch_tokens / mean)),
                learning_rate=params.sft.learning_rate,
                bf16=bf16,
                use_cpu=device.type == "cpu",
                gradient_checkpointing=params.sft.gradient_checkpointing,
                include_num_input_tokens_seen="non_padding",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_steps=steps,
                dataloader_pin_memory=False,
                **settings,
            ),
            train_dataset=Table.from_list(labelled),
            processing_class=load_tokenizer(base),
            callbacks=[callback],
        )
        seen: list[int] = []
        original = trainer.training_step

        def counted(model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            seen.append(int(mask.sum() if mask is not None else inputs["input_ids"].numel()))
            return original(model, inputs, *rest, **named)

        trainer.training_step = counted
        trainer.train()
    return notes["ended"] - notes["begun"], sum(seen[WARM:])


def run_one(method: str, steps: int, base: Path) -> dict[str, float]:
    """One method in this process."""
    keep_freed_memory()
    quiet_transformers()
    params = load_params(ROOT / "params.yaml")
    rows = demonstrations(base)
    settings = {"evaluate_every": 10**6, "save_every": 10**6, "batch_sequences": 1, "epochs": 100}
    params = params.model_copy(update={"sft": params.sft.model_copy(update=settings)})
    seconds, tokens = ours(base, rows, params, steps) if method == "ours" else trl(base, rows, params, steps, method)
    peak = (
        torch.cuda.max_memory_allocated() if torch.cuda.is_available() else
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )  # fmt: skip
    return {"tokens_per_s": tokens / seconds, "tokens": tokens, "seconds": seconds, "peak_gb": peak / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12, help=f"of which the first {WARM} are not timed (default 12)")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    parser.add_argument("--one", choices=METHODS, help=argparse.SUPPRESS)
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.steps <= WARM:
        parser.error(f"--steps must be more than {WARM}")
    torch.set_num_threads(chosen.threads)
    if chosen.one:
        print(json.dumps(run_one(chosen.one, chosen.steps, chosen.base)))
        return
    result: dict[str, Any] = conditions()
    console = Console()
    rates: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, name = checkpoint(Path(folder))
        for method in chosen.methods:
            command = [sys.executable, __file__, "--one", method, "--base", str(path), "--steps", str(chosen.steps)]
            command += ["--threads", str(chosen.threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{method} failed:\n{done.stderr[-2000:]}")
            rates[method] = json.loads(done.stdout.splitlines()[-1])
            console.print(
                f"{method:<16} {rates[method]['tokens_per_s']:8,.0f} tokens/s, peak {rates[method]['peak_gb']:.2f} GB"
            )
    result |= {"model": name, "device": "cuda" if torch.cuda.is_available() else "cpu", "threads": chosen.threads}
    result |= {"methods": rates}
    if "ours" in rates:
        result["ratio"] = {
            method: rates["ours"]["tokens_per_s"] / rate["tokens_per_s"]
            for method, rate in rates.items()
            if method != "ours"
        }
        for method, ratio in result["ratio"].items():
            console.print(f"ours / {method:<16} {ratio:5.2f} x")
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    console.print(str(save("sft", rounded, chosen.out)))


if __name__ == "__main__":
    main()
