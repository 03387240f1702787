"""Memory: what training and playing take, how its end is told from other errors, and that freed memory stays.

glibc gives every freed block of more than 32 MiB back to the kernel, which fills the next one with zeros
again: with a small model on a CPU that was 40 % of the processor time (90 million page faults in 500 steps).
"""

from __future__ import annotations

import ctypes
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Ask glibc to reuse large blocks; nothing happens where the C library is another one."""
    if not sys.platform.startswith("linux"):
        return
    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 64 * 2**20)


def out_of_memory(error: BaseException) -> bool:
    """Whether `error` is a device or the machine having run out of memory; a CPU's is a plain RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Gigabytes (1e9 bytes) that a LoRA training step holds at its peak: `fixed_gb` of weights, gradients and
    optimizer, `tokens_gb` of what is kept for the backward pass."""

    fixed_gb: float
    tokens_gb: float

    @property
    def total_gb(self) -> float:
        """Both together."""
        return self.fixed_gb + self.tokens_gb


def estimate_training(model: torch.nn.Module, tokens: int, *, checkpointing: bool) -> TrainingMemory:
    """An estimate for one packed row of `tokens` through a decoder laid out like Qwen3 with an adapter.

    A frozen weight counts its own bytes; a trained one 16 (itself, gradient, two moments in float32). Kept per token
    and layer, in activations of the computing format: residual stream and norms 6 E, queries, keys, values and the
    attention's output 3 H D + 4 K D, the MLP 4 I; with checkpointing the stream alone (E) and one layer at a time. The
    logits, where every fourth token is the agent's, take 3 V / 4 floats a token.
    """
    config: object = model.config
    size = {
        name: int(getattr(config, name))
        for name in ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    }
    key_heads = int(getattr(config, "num_key_value_heads", size["num_attention_heads"]))
    width = int(getattr(config, "head_dim", None) or size["hidden_size"] // size["num_attention_heads"])
    weights = list(model.parameters())
    fixed = sum(w.numel() * (16 if w.requires_grad else w.element_size()) for w in weights)
    each = next((w.element_size() for w in weights if not w.requires_grad), 4)
    layer = 6 * size["hidden_size"] + width * (3 * size["num_attention_heads"] + 4 * key_heads)
    layer += 4 * size["intermediate_size"]
    layers = size["num_hidden_layers"]
    kept = layers * size["hidden_size"] + layer if checkpointing else layers * layer
    logits = 3 * size["vocab_size"]  # floats of four bytes, of a quarter of the tokens
    return TrainingMemory(fixed / 1e9, tokens * (kept * each + logits) / 1e9)


@dataclass(frozen=True, slots=True)
class RolloutMemory:
    """Gigabytes (1e9 bytes) that one rollout worker holds: its copy of the weights and the cache of its slots."""

    weights_gb: float
    cache_gb: float

    @property
    def total_gb(self) -> float:
        """Both together."""
        return self.weights_gb + self.cache_gb


def estimate_rollout(base: Path, slots: int, context: int) -> RolloutMemory:
    """An estimate for a worker that plays the checkpoint in `base`: the weights as they are on disk, and a key and a
    value for every layer, key-value head and position of `slots` sequences of `context` tokens.

    A CPU's engine holds fused copies of the weights beside the model's, which are not counted twice here: what grows
    is the cache. Raises OSError, ValueError or KeyError where `base` is no checkpoint.
    """
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    heads = int(config["num_attention_heads"])
    width = int(config.get("head_dim") or config["hidden_size"] // heads)
    each = 2 if "16" in str(config.get("dtype") or config.get("torch_dtype")) else 4
    position = 2 * int(config["num_hidden_layers"]) * int(config.get("num_key_value_heads") or heads) * width * each
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    return RolloutMemory(weights / 1e9, slots * context * position / 1e9)
