"""Stage `sft`: LoRA on the token-exact dataset; loss on the agent's tokens only.

The trainer is transformers' (and through it accelerate's: one process or many), the collator TRL's
padding-free one. TRL's SFTTrainer itself is left out for three reasons: its loss without Triton projects
every position onto the vocabulary, masked ones included, where here only the positions before an agent's
token are (`logits_to_keep`); its packing sorts by length, which in our data sorts by environment; and the
means it logs aren't in its checkpoints, so a resumed run would write other curves. Measured with the nano
model on one core (bfloat16, packs of 4,096 tokens): 10.8 k tokens/s here, 6.0 k in SFTTrainer with
`packed_sdpa`, 1.5 k in SFTTrainer with transformers' SDPA.

A run that is killed goes on from its last complete checkpoint and ends in the same bytes (CPU): the packs
of all epochs are drawn beforehand, and curves and the best adapter are functions of the steps alone.
"""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch.nn.functional import cross_entropy
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from affine.dataset.sequences import Dataset, load_dataset, load_tokenizer, tokenizer_digest
from affine.errors import AffineError
from affine.files import published, write_json
from affine.logs import log_root
from affine.models.attention import choose_dtype
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import (
    adapter_tensors,
    add_adapter,
    base_digest,
    base_files,
    load_base,
    save_adapter,
    trainable_parameters,
)
from affine.models.memory import estimate_training, keep_freed_memory, out_of_memory
from affine.models.quiet import quiet_transformers
from affine.params import Params, SftParams
from affine.training.live import Curves
from affine.training.packs import IGNORED, Packs, by_env, epochs
from affine.training.track import THROUGHPUT
from affine.training.work import work_folder
from affine.types import ENVS

log = logging.getLogger(__name__)

COMPLETE = "complete"
"""A checkpoint holds a file of this name once it is whole."""

CURVES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/learning_rate"}
CURVES |= {"eval_loss": "validation/loss"} | {f"eval_{env}": f"validation/{env}" for env in ENVS}
"""The trainer's names -> the curves'."""


class SftError(AffineError):
    """Training can't start or go on; says where it stopped and what to change."""


class SftTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """transformers' Trainer on packed rows: the loss, and a validation loss per environment."""

    control: Any

    def __init__(self, validation: tuple[Packs, list[int]], **kwargs: Any) -> None:
        super().__init__(eval_dataset=validation[0], **kwargs)
        self.validation_envs = validation[1]
        self.model_accepts_loss_kwargs = True  # count the agent's tokens over the whole optimizer step

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The summed loss of this pack's agent tokens, over their number in the whole step.

        Raises SftError where it isn't finite.
        """
        assert not return_outputs, "logits of a packed row are made for agent tokens only"
        assert num_items_in_batch is not None
        loss: torch.Tensor = agent_loss(model, inputs).sum() / num_items_in_batch
        if not torch.isfinite(loss):
            self.stop_not_finite("the loss")
        # num_items_in_batch counts all processes' tokens, and the gradients are averaged over them.
        return loss * int(self.accelerator.num_processes)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Mean validation loss per agent token: over all (`eval_loss`) and per environment."""
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        packs = self.eval_dataset
        sums = torch.zeros(len(ENVS), 2, dtype=torch.float64, device=self.args.device)
        self.model.eval()
        for k in range(rank, -(-len(packs) // processes) * processes, processes):
            inputs = self._prepare_inputs(self.data_collator([packs[min(k, len(packs) - 1)]]))
            with torch.no_grad():
                losses = agent_loss(self.model_wrapped, inputs)
            if k < len(packs):  # beyond, a process only keeps step with the others
                sums[self.validation_envs[k]] += torch.stack([losses.double().sum(), sums.new_tensor(len(losses))])
        sums = self.accelerator.reduce(sums, "sum").cpu()
        total, count = sums.sum(0).tolist()
        metrics = {"eval_loss": total / count}
        metrics |= {f"eval_{env}": s / n for env, (s, n) in zip(ENVS, sums.tolist(), strict=True) if n}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def stop_not_finite(self, what: str) -> None:
        """Raise SftError naming the step and its tasks."""
        step = self.state.global_step
        packs_a_step = packs_per_step(self.args)
        tasks = self.train_dataset.tasks(step * packs_a_step, (step + 1) * packs_a_step)
        raise SftError(
            f"sft: {what} is not finite at step {step + 1} (tasks {', '.join(tasks[:8])}{' …' * (len(tasks) > 8)});"
            " the last checkpoint is intact. Lower sft.learning_rate or check these demonstrations"
        )


def agent_loss(model: torch.nn.Module, inputs: Mapping[str, Any]) -> torch.Tensor:
    """The loss (nats) of each agent token in one packed row, (N,), in float32.

    Logits are made for the N positions before these tokens and for no others.
    """
    labels = inputs["labels"][0, 1:]
    keep = (labels != IGNORED).nonzero().flatten()
    given = {name: value for name, value in inputs.items() if name != "labels"}
    logits = model(**given, logits_to_keep=keep, use_cache=False).logits[0]
    return cross_entropy(logits.float(), labels[keep], reduction="none")


class Bookkeeping(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Curves, the best adapter, complete checkpoints: everything written beside the trainer's own files."""

    def __init__(self, folder: Path, base: str, resume_step: int) -> None:
        self.folder = folder
        self.base = base
        self.resume_step = resume_step
        self.curves: Curves | None = None
        self.trainer: SftTrainer | None = None
        self._timed_step, self._timed_since = resume_step, 0.0

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.curves = Curves(self.folder / "live", self.resume_step)
        self._timed_since = time.monotonic()

    def on_pre_optimizer_step(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        weights = (w for w in kwargs["model"].parameters() if w.grad is not None)
        if self.trainer and not all(bool(torch.isfinite(w.grad).all()) for w in weights):
            self.trainer.stop_not_finite("a gradient")

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_evaluate = True
        if control.should_save or control.should_evaluate:
            control.should_log = True  # a mean over steps before a checkpoint can't be resumed after it

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, float], **_: Any) -> None:
        if self.curves is not None:
            values = {curve: logs[name] for name, curve in CURVES.items() if name in logs}
            if values:
                self.curves.log(state.global_step, values)
            if "loss" in logs:
                self._log_throughput(args, state.global_step)

    def _log_throughput(self, args: TrainingArguments, step: int) -> None:
        """Tokens per second, over all processes, of the steps since the last call."""
        if self.curves is None or self.trainer is None:
            return
        tokens = tokens_between(self.trainer.train_dataset, args, self._timed_step, step)
        self.curves.log_throughput(step, {"tokens_per_second": tokens / (time.monotonic() - self._timed_since)})
        self._timed_step, self._timed_since = step, time.monotonic()

    def on_evaluate(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        if best_evaluation(state.log_history)["step"] == state.global_step:
            tensors = adapter_tensors(kwargs["model"])  # every process has its part in it
            if state.is_world_process_zero:
                with published(self.folder / f"best-{state.global_step}") as folder:
                    save_adapter(kwargs["model"], folder, self.base, tensors=tensors)
        self._timed_since = time.monotonic()  # what isn't training is not in its tokens per second

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        if self.trainer:
            self.trainer.accelerator.wait_for_everyone()  # every process has written its random state
        if state.is_world_process_zero:
            (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            best = f"best-{best_evaluation(state.log_history)['step']}" if _evaluations(state.log_history) else ""
            for folder in self.folder.glob("best-*"):
                if folder.name != best:
                    shutil.rmtree(folder)
        self._timed_since = time.monotonic()


def _evaluations(history: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [entry for entry in history if "eval_loss" in entry]


def best_evaluation(history: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The entry of the lowest validation loss, the earliest of equals."""
    return min(_evaluations(history), key=lambda entry: (entry["eval_loss"], entry["step"]))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`; incomplete ones are removed."""
    complete = []
    for checkpoint in folder.glob("checkpoint-*"):
        if (checkpoint / COMPLETE).is_file():
            complete.append(checkpoint)
        else:
            shutil.rmtree(checkpoint)
    return max(complete, key=_step, default=None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def train_sft(params: Params, root: Path) -> None:
    """Write models/sft/, metrics/sft.json and metrics/curves/sft/ under `root`, resuming what was begun. With no epochs
    the new adapter, which changes nothing yet, is what is written.

    Raises SftError (not finite, out of memory, a dataset of another tokenizer), CheckpointError,
    DatasetError, AttentionError.
    """
    started = time.monotonic()
    keep_freed_memory()
    quiet_transformers()
    base = root / "models" / "base"
    check_checkpoint(base)
    dataset = load_dataset(root / "data" / "dataset")
    if dataset.tokenizer != tokenizer_digest(load_tokenizer(base)):
        raise SftError(
            f"data/dataset was made with another tokenizer ({dataset.tokenizer[:12]}) than the one in models/base;"
            " run `dvc repro dataset`"
        )
    state = PartialState(cpu=not torch.cuda.is_available())
    settings = {"sft": params.sft.model_dump(mode="json"), "seed": params.seed}
    if state.num_processes > 1:  # a checkpoint holds each process's random state
        settings["processes"] = state.num_processes
    files = [root / "data" / "dataset" / f"{part}.parquet" for part in ("train", "validation")]
    folder = work_folder(root, "sft", settings, [*base_files(base), *files])
    with state.main_process_first():  # the first clears away what is incomplete
        checkpoint = last_checkpoint(folder / "checkpoints")
    resume_step = _step(checkpoint) if checkpoint else 0
    trainer, books = _trainer(params, base, dataset, folder, resume_step)
    try:
        if params.sft.epochs:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        else:
            books.on_train_begin(trainer.args, trainer.state, trainer.control)
            trainer.evaluate()
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise SftError(_memory_advice(params.sft, trainer.model)) from None
    if trainer.is_world_process_zero() and books.curves is not None:
        _publish(root, folder, trainer, books.curves)
        steps = trainer.state.global_step - resume_step
        _print_time(steps, time.monotonic() - started, trainer)
        shutil.rmtree(folder)


def _memory_advice(sft: SftParams, model: torch.nn.Module) -> str:
    """What to lower, with an estimate of what it takes."""
    need = estimate_training(model, sft.batch_tokens, checkpointing=sft.gradient_checkpointing)
    half = estimate_training(model, sft.batch_tokens // 2, checkpointing=sft.gradient_checkpointing)
    advice = (
        f"sft: out of memory; about {need.total_gb:.2g} GB are needed ({need.fixed_gb:.2g} GB of weights and optimizer,"
        f" the rest grows with sft.batch_tokens, now {sft.batch_tokens}). {sft.batch_tokens // 2} and twice the"
        f" sft.batch_sequences need about {half.total_gb:.2g} GB"
    )
    if not sft.gradient_checkpointing:
        spared = estimate_training(model, sft.batch_tokens, checkpointing=True)
        advice += f", sft.gradient_checkpointing: true about {spared.total_gb:.2g} GB"
    return advice


def packs_per_step(arguments: TrainingArguments) -> int:
    """The packed rows of one optimizer step, over all processes."""
    return int(arguments.gradient_accumulation_steps * arguments.world_size)


def tokens_between(packs: Packs, arguments: TrainingArguments, first: int, last: int) -> int:
    """The tokens of the steps after `first` up to and including `last`, over all processes."""
    size = packs_per_step(arguments)
    return sum(len(packs.rows[k]) for part in packs.packs[first * size : last * size] for k in part)


def _accumulation(sft: SftParams, processes: int) -> int:
    """How many of a step's packed rows each process computes, so that the step is the same whatever their number."""
    if sft.batch_sequences % processes:
        raise SftError(
            f"sft.batch_sequences ({sft.batch_sequences}) does not divide among {processes} processes; make it a"
            " multiple"
        )
    return sft.batch_sequences // processes


def _trainer(
    params: Params, base: Path, dataset: Dataset, folder: Path, resume_step: int
) -> tuple[SftTrainer, Bookkeeping]:
    sft = params.sft
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype(sft.dtype, device)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        num_train_epochs=1,  # of packs that hold all epochs
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=_accumulation(sft, PartialState().num_processes),
        learning_rate=sft.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=sft.warmup,
        weight_decay=sft.weight_decay,
        max_grad_norm=sft.max_grad_norm,
        logging_steps=sft.log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps",
        eval_steps=sft.evaluate_every,
        save_strategy="steps",
        save_steps=sft.save_every,
        save_total_limit=2,
        bf16=dtype is torch.bfloat16,
        use_cpu=device.type == "cpu",
        activation_checkpointing=sft.gradient_checkpointing,
        remove_unused_columns=False,
        disable_tqdm=not sys.stderr.isatty(),
        report_to=[],
        seed=params.seed,
        dataloader_pin_memory=device.type == "cuda",
        ddp_find_unused_parameters=False,  # every adapter matrix takes part in every step
    )
    model = load_base(
        base, attention=sft.attention, dtype=dtype, device=arguments.device, quantization=sft.quantization
    )
    if sft.gradient_checkpointing:
        model.enable_input_require_grads()  # the base is frozen, and checkpointing needs a path to the adapter
    model = add_adapter(model, sft.lora, params.seed)
    books = Bookkeeping(folder, base_digest(base), resume_step)
    trainer = SftTrainer(
        by_env(dataset.validation, sft.batch_tokens),
        model=model,
        args=arguments,
        train_dataset=epochs(dataset.train, sft, params.seed, PartialState().num_processes),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True),
        callbacks=[books],
    )
    trainer.remove_callback(PrinterCallback)
    books.trainer = trainer
    return trainer, books


def _publish(root: Path, folder: Path, trainer: SftTrainer, curves: Curves) -> None:
    """Outputs from the work folder to their places; the adapter last, since it is what others read."""
    history = trainer.state.log_history
    best, last = best_evaluation(history), _evaluations(history)[-1]
    packs: Packs = trainer.train_dataset
    trained = [packs.rows[k] for part in packs.packs for k in part]
    losses = [entry["loss"] for entry in history if "loss" in entry]  # none without an epoch
    metrics = {
        "steps": trainer.state.global_step,
        "tokens": sum(len(row) for row in trained),
        "agent_tokens": sum(row.agent_tokens for row in trained),
        "trainable_parameters": trainable_parameters(trainer.model),
        **({"train_loss": losses[-1]} if losses else {}),
        "best_step": best["step"],
        "validation_loss": {"best": best["eval_loss"], "last": last["eval_loss"]},
        "validation": {env: best[f"eval_{env}"] for env in ENVS if f"eval_{env}" in best},
    }
    curves.publish(root / "metrics" / "curves" / "sft")
    curves.publish_throughput(log_root(root) / THROUGHPUT / "sft")
    write_json(root / "metrics" / "sft.json", metrics)
    with published(root / "models" / "sft") as target:
        for file in sorted((folder / f"best-{best['step']}").iterdir()):
            shutil.copyfile(file, target / file.name)


def _print_time(steps: int, seconds: float, trainer: SftTrainer) -> None:
    """A line for the terminal and the log; times aren't metrics, since they never repeat."""
    end = trainer.state.global_step
    tokens = tokens_between(trainer.train_dataset, trainer.args, end - steps, end)
    line = {
        "steps": steps,
        "seconds": round(seconds, 1),
        "tokens_per_second": round(tokens / seconds),
        "attention": trainer.model.config._attn_implementation,
        "dtype": "bfloat16" if trainer.args.bf16 else "float32",
        "device": trainer.args.device.type,
    }
    best = best_evaluation(trainer.state.log_history)
    print(f"sft: {json.dumps(line)}; validation loss {best['eval_loss']:.4f} at step {best['step']}", file=sys.stderr)
