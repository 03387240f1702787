"""Checks of merged weights after they were written, against the base and the adapter they came from.

They read the files again and load them as a stranger would: `AutoModelForCausalLM`, offline, no remote code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from affine.models.chat import Renderer
from affine.models.checkpoint import check_checkpoint, sha256, shard_files, stored_tensors
from affine.models.quiet import quiet_transformers
from affine.types import Message

TOLERANCE = {"F32": 1e-4, "F16": 2e-2, "BF16": 5e-2}
"""How far merged logits may lie from base + adapter, as a share of their norm, by the weights' dtype: several times
what rounding each merged weight once did to the nano model with a PPO adapter (1e-6, 2e-3, 1.3e-2). A wrong
scale or a lost layer is off by tenths."""

PROBES = (
    (Message("user", "Goal: get to the red ball. You see a wall 2 steps forward. Answer with Action: ..."),),
    (
        Message("user", "Find x with (x1 or not x2) and (x2 or x3)."),
        Message("assistant", "Action: x1=1 x2=1 x3=0"),
        Message("user", "What does the program print for 7 3?"),
    ),
)
"""Chats on which models are compared."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check's outcome; `detail` says what was seen."""

    name: str
    passed: bool
    detail: str


def check_weights(release: Path, base: Path, adapter: Path | None) -> list[Check]:
    """All checks of the model in `release`, made from `base` and `adapter` (None: the base as it is).

    Raises CheckpointError where `release` is not even a checkpoint.
    """
    summary = check_checkpoint(release)
    fits = f"{summary.tokens} tokens, {summary.vocabulary} rows in the embedding"
    checks = [
        _same_layout(release, base),
        _finite(release),
        Check("vocabulary fits the embedding", True, fits),
        _chat_template(release),
    ]
    if adapter is not None:
        checks.append(_new_files(release, base))
    return checks + _logits(release, base, adapter, TOLERANCE[summary.dtype], tied=summary.tied)


def _same_layout(release: Path, base: Path) -> Check:
    """Every tensor of the base is there, with its shape and dtype, and no other."""
    ours, theirs = ({n: (t.dtype, t.shape) for n, t in stored_tensors(f).items()} for f in (release, base))
    different = sorted(n for n in ours.keys() | theirs.keys() if ours.get(n) != theirs.get(n))
    detail = f"differs: {', '.join(different[:3])}" if different else f"{len(ours)} tensors as in the base"
    return Check("weights are complete", not different, detail)


def _finite(release: Path) -> Check:
    bad = []
    for name, tensor in stored_tensors(release).items():
        with safe_open(tensor.file, framework="pt") as opened:  # anew for each tensor: pages of the last are let go
            ends = opened.get_tensor(name).aminmax()  # NaN if any element is; no temporary tensor is made
        if not all(math.isfinite(end) for end in ends):
            bad.append(name)
    detail = f"NaN or Inf in {', '.join(bad[:3])}" if bad else "no NaN, no Inf"
    return Check("weights are finite", not bad, detail)


def _new_files(release: Path, base: Path) -> Check:
    """No weight file is one of the base's: validators drop a model that shares files with an earlier one."""
    theirs = {sha256(file): file.name for file in shard_files(base)}
    shared = [file.name for file in shard_files(release) if sha256(file) in theirs]
    detail = f"same bytes as in the base: {', '.join(shared)}" if shared else "no file is one of the base's"
    return Check("weight files differ from the base's", not shared, detail)


def _chat_template(release: Path) -> Check:
    """The template that strangers use makes the tokens that the model was trained on."""
    tokenizer = AutoTokenizer.from_pretrained(release, local_files_only=True)
    renderer = Renderer(tokenizer)
    name = "chat template agrees with training"
    for probe in PROBES:
        chat = [{"role": m.role, "content": m.content} for m in probe]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        if tokenizer.encode(text, add_special_tokens=False) != renderer.opening(probe):
            return Check(name, False, f"another token sequence for {text[:60]!r}")
    return Check(name, True, f"the same tokens on {len(PROBES)} chats")


def _load(folder: Path) -> PreTrainedModel:
    quiet_transformers()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", local_files_only=True, trust_remote_code=False
    )
    return model.eval()


@torch.no_grad()
def _probe(model: torch.nn.Module, chats: list[list[int]]) -> torch.Tensor:
    """Logits at every position of every chat, each position's mean taken off, in one row: [positions, vocab]."""
    logits = torch.cat([model(input_ids=torch.tensor([ids])).logits[0].float() for ids in chats])
    return logits - logits.mean(dim=-1, keepdim=True)


def _logits(release: Path, base: Path, adapter: Path | None, tolerance: float, *, tied: bool) -> list[Check]:
    """Loads one model at a time: the base, with its adapter on top, then the release."""
    renderer = Renderer(AutoTokenizer.from_pretrained(base, local_files_only=True))
    chats = [renderer.opening(probe) for probe in PROBES]
    model: torch.nn.Module = _load(base)
    plain = wanted = _probe(model, chats)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).eval()
        wanted = _probe(model, chats)
    del model
    merged = _load(release)
    got = _probe(merged, chats)
    away = float((got - wanted).norm() / wanted.norm())
    effect = float((wanted - plain).norm() / plain.norm())
    # Rounded up to a power of ten: the digits are the machine's. NaN (bad weights) stays and passes nothing.
    bound = 10.0 ** math.ceil(math.log10(max(away, 1e-9))) if math.isfinite(away) else away
    checks = [
        Check("loads offline", True, f"{type(merged).__name__} by AutoModelForCausalLM, no remote code"),
        Check("logits as base + adapter", away <= tolerance, f"they differ by less than {bound:.0e} of their norm"),
    ]
    if adapter is not None:
        checks.append(
            Check("adapter changes the logits", effect > 2 * away, f"it moves them by {effect:.1g} of their norm")
        )
    if tied:
        same = merged.get_input_embeddings().weight is merged.get_output_embeddings().weight
        checks.append(Check("tied weights stay tied", same, "one matrix for input and output embedding"))
    return checks
