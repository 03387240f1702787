"""Speed and memory of a full-size model with random weights of the real shape: SFT steps and rollouts.

SFT: LoRA on all linear layers, packed rows of 4,096 tokens. Model FLOPs per token are 4 N + 6 A + attention, where N
counts the frozen matrices (no gradient of their own), A the adapter, and attention is 3 x 4 x layers x heads x
head width x (mean sequence length / 2) for forward and backward under a causal mask; utilisation is against --peak.

Memory: the peaks of rows of 1,024 tokens and of --tokens give fixed and per-token bytes, and with them the largest row
for 24, 40, 80 and 141 GB (a tenth is left free).

Rollouts: --episodes episodes of --turns turns with observations and replies as long as ALFWorld's, on one engine.
Their text is random: what is measured is the engine, not the play.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, conditions, save
from rich.console import Console
from transformers import Qwen3Config, Qwen3ForCausalLM

from affine.models.attention import choose_attention, choose_dtype
from affine.models.lora import add_adapter, trainable_parameters
from affine.params import LoraParams
from affine.rollout.generator import make_generator
from affine.training.packs import IGNORED
from affine.training.sft import agent_loss

CARDS_GB = (24, 40, 80, 141)
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class Shape:
    """A Qwen3's sizes."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    mlp: int
    head_width: int = 128
    vocabulary: int = 151_936


SHAPES = {
    "qwen3-4b": Shape(2560, 36, 32, 8, 9728),
    "qwen3-0.6b": Shape(1024, 28, 16, 8, 3072),
    "nano": Shape(192, 4, 6, 2, 512, 32, 2048),
}


def config_of(shape: Shape) -> Qwen3Config:
    """The configuration of such a model."""
    return Qwen3Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.key_heads,
        intermediate_size=shape.mlp,
        head_dim=shape.head_width,
        max_position_embeddings=40_960,
        tie_word_embeddings=True,
    )


def build(shape: Shape, device: torch.device, dtype: torch.dtype, attention: str) -> Qwen3ForCausalLM:
    """The model with random weights, frozen."""
    config = config_of(shape)
    torch.manual_seed(0)
    with device:
        model = Qwen3ForCausalLM._from_config(config, dtype=dtype, attn_implementation=attention)
    return model.requires_grad_(False)


def packed_row(shape: Shape, tokens: int, length: int, device: torch.device) -> dict[str, Any]:
    """A packed row of sequences of `length`, a quarter of each the agent's."""
    generator = torch.Generator().manual_seed(tokens)
    ids = torch.randint(0, shape.vocabulary, (1, tokens), generator=generator)
    position = torch.arange(tokens) % length
    labels = torch.where(position < length * 3 // 4, IGNORED, ids[0])[None]
    row = {"input_ids": ids, "position_ids": position[None], "labels": labels}
    return {name: value.to(device) for name, value in row.items()}


def peak_bytes(device: torch.device) -> int:
    """The most memory held since the last reset (on a CPU since the process began)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def step_time(model: Any, optimizer: Any, row: dict[str, Any], steps: int, device: torch.device) -> tuple[float, int]:
    """Mean seconds of a step after two to warm up, and the peak of memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = 0.0
    for step in range(2 + steps):
        if step == 2:
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            started = time.perf_counter()
        agent_loss(model, row).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - started) / steps, peak_bytes(device)


def flops_per_token(shape: Shape, adapter: int, length: int) -> dict[str, float]:
    """The terms of the formula above, and their sum."""
    attention = shape.hidden * shape.head_width * (2 * shape.heads + 2 * shape.key_heads)
    frozen = shape.layers * (attention + 3 * shape.hidden * shape.mlp)
    # A quarter of the tokens get logits, by the tied embedding.
    frozen += shape.hidden * shape.vocabulary // 4
    parts = {
        "frozen": 4.0 * frozen,
        "adapter": 6.0 * adapter,
        "attention": 12.0 * shape.layers * shape.heads * shape.head_width * length / 2,
    }
    return {**parts, "total": sum(parts.values())}


def bench_sft(shape: Shape, chosen: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Tokens per second, utilisation and memory of SFT steps."""
    model: Any = build(shape, device, dtype, choose_attention("auto", device))
    if chosen.gradient_checkpointing:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model = add_adapter(
        model, LoraParams(rank=chosen.rank, alpha=2 * chosen.rank, dropout=0.0, target_modules=LINEAR), 0
    )
    model.train()
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-4)
    small = min(1024, chosen.tokens // 2)
    _, small_peak = step_time(model, optimizer, packed_row(shape, small, chosen.length, device), 1, device)
    row = packed_row(shape, chosen.tokens, chosen.length, device)
    seconds, peak = step_time(model, optimizer, row, chosen.steps, device)
    adapter = trainable_parameters(model)
    flops = flops_per_token(shape, adapter, chosen.length)
    rate = chosen.tokens / seconds
    per_token = (peak - small_peak) / (chosen.tokens - small)
    fixed = peak - per_token * chosen.tokens
    largest = (
        {f"{card}": int(max(0.9 * card * 1e9 - fixed, 0) / per_token) for card in CARDS_GB} if per_token > 0 else {}
    )
    return {
        "tokens_per_s": rate,
        "seconds_per_step": seconds,
        "trainable_parameters": adapter,
        "flops_per_token": flops,
        "utilisation": rate * flops["total"] / (chosen.peak * 1e12),
        "peak_gb": peak / 1e9,
        "fixed_gb": fixed / 1e9,
        "bytes_per_token": per_token,
        "largest_row_tokens": largest,
    }


def bench_rollout(shape: Shape, chosen: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Episodes through the engine: an opening, then turns of a reply sampled token by token and an observation."""
    model = build(shape, device, dtype, "sdpa").eval()
    context = chosen.opening + chosen.turns * (chosen.reply + chosen.observation)
    generator = make_generator(model, min(chosen.episodes, chosen.slots), context)
    rng = random.Random(0)

    def text(count: int) -> list[int]:
        return [rng.randrange(shape.vocabulary) for _ in range(count)]

    started = time.perf_counter()
    sampled = 0
    for first in range(0, chosen.episodes, generator.slots):
        slots = list(range(min(generator.slots, chosen.episodes - first)))
        pending = [text(chosen.opening) for _ in slots]
        for _ in range(chosen.turns):
            for _ in range(chosen.reply):
                logits = generator.extend(slots, pending)
                pending = [[token] for token in torch.multinomial(logits.softmax(-1), 1)[:, 0].tolist()]
                sampled += len(slots)
            pending = [new + text(chosen.observation) for new in pending]
        for slot in slots:
            generator.free(slot)
    seconds = time.perf_counter() - started
    return {
        "episodes": chosen.episodes,
        "turns": chosen.turns,
        "seconds": seconds,
        "sampled_tokens_per_s": sampled / seconds,
        "read_tokens": chosen.episodes * (chosen.opening + chosen.turns * chosen.observation),
        "peak_gb": peak_bytes(device) / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-4b", help="default qwen3-4b")
    parser.add_argument("--parts", nargs="+", choices=("sft", "rollout"), default=("sft", "rollout"))
    parser.add_argument("--rank", type=int, default=64, help="of the adapter (default 64)")
    parser.add_argument("--tokens", type=int, default=4096, help="of a packed row (default 4096)")
    parser.add_argument("--length", type=int, default=1024, help="of the sequences in it (default 1024)")
    parser.add_argument("--steps", type=int, default=10, help="timed SFT steps (default 10)")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--peak", type=float, default=989.0, help="TFLOP/s of the card (default 989: H100, H200 bf16)")
    parser.add_argument("--episodes", type=int, default=128)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--turns", type=int, default=30)
    parser.add_argument("--opening", type=int, default=600, help="tokens (default 600)")
    parser.add_argument("--observation", type=int, default=60, help="tokens a turn (default 60)")
    parser.add_argument("--reply", type=int, default=40, help="tokens a turn (default 40)")
    parser.add_argument("--allow-cpu", action="store_true", help="run where there is no GPU (for small shapes)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    if not torch.cuda.is_available() and not chosen.allow_cpu:
        sys.exit("bench_shape: no CUDA device here; --allow-cpu --shape nano tries the script itself")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = choose_dtype("auto", device) if device.type == "cuda" else torch.float32
    result: dict[str, Any] = conditions()
    settings = {name: value for name, value in vars(chosen).items() if name not in ("out", "parts", "allow_cpu")}
    result |= {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "settings": settings}
    for part in chosen.parts:
        bench = bench_sft if part == "sft" else bench_rollout
        result[part] = bench(SHAPES[chosen.shape], chosen, device, dtype)
        Console().print(part, result[part])
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    Console().print(str(save(f"shape-{chosen.shape}", rounded, chosen.out)))


if __name__ == "__main__":
    main()
