"""A Qwen3 of a few thousand parameters with a real tokenizer, random adapters for it, and what fails in its place."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

from affine.models.lora import base_digest, save_adapter
from affine.models.nano import save_checkpoint, train_tokenizer

TEXTS = [
    "You are in a room. You see a red key and a locked door. Action: pick up the red key",
    "Goal: craft 1 oak planks. Action: craft 4 oak planks using 1 oak log",
    "Action: go to drawer 1\nYou open the drawer 1. Action: take mug 2 from drawer 1",
    "x1 and not x2 or x3. Action: x1=1 x2=0 x3=1",
    "Thought: I need the blue shirt. Action: search[blue shirt] Action: click[Buy Now]",
]


def _no_memory_on_cuda(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


def _no_memory_on_a_cpu(*_: object, **__: object) -> None:
    torch.empty(2**50, dtype=torch.uint8)  # more than there are addresses: the allocator's own error


OUT_OF_MEMORY = {"cuda": _no_memory_on_cuda, "cpu": _no_memory_on_a_cpu}
"""What stands in for a forward pass that runs out of memory, as CUDA and as a CPU say it."""


def make_tiny_base(path: Path, seed: int = 0, *, dtype: torch.dtype = torch.float32, tied: bool = True) -> Path:
    """Write a random `Qwen3ForCausalLM` (width 32, 2 layers) with tokenizer, chat template and generation
    settings to `path`, in the layout of the nano base."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(TEXTS * 3)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=64,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=2,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config).to(dtype)
    save_checkpoint(model, tokenizer, path)
    if not tied:
        config.tie_word_embeddings = False
        loose = Qwen3ForCausalLM(config).to(dtype)
        loose.save_pretrained(path)
    return path


def make_tiny_adapter(base: Path, path: Path, seed: int = 0, *, scale: float = 0.2, **lora: object) -> Path:
    """Write a LoRA adapter for the model at `base`, as the training stages do, whose matrices are random and
    not zero, so that it changes the logits; `lora` overrides `LoraConfig`'s arguments."""
    settings: dict[str, object] = {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        "task_type": "CAUSAL_LM",
    }
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), LoraConfig(**(settings | lora)))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, scale)
    path.mkdir(parents=True, exist_ok=True)
    save_adapter(model, path, base_digest(base))
    return path
