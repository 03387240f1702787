"""LoRA adapters on a frozen base, by peft: one base in memory, adapters beside each other.

A saved adapter is peft's own format (`adapter_model.safetensors`, `adapter_config.json` without machine
paths) and a `manifest.json` with the hash of the base that it belongs to. Equal adapters are equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel

from affine.files import write_json
from affine.models.attention import Attention, choose_attention
from affine.models.checkpoint import CheckpointError, read_json, sha256, shard_files
from affine.params import LoraParams

Quantization = Literal["none", "int8", "nf4"]

BASE_NAME = "models/base"
"""How adapters name their base: relative to the repository's root."""


def base_files(folder: Path) -> list[Path]:
    """The files that make the model: config and weights, in order. Raises CheckpointError."""
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder}: no config.json; run `dvc repro base`")
    return [folder / "config.json", *shard_files(folder)]


def base_digest(folder: Path) -> str:
    """The SHA-256 (hex) that identifies a base: over the hashes of its config and weights."""
    return hashlib.sha256("".join(sha256(path) for path in base_files(folder)).encode()).hexdigest()


def load_base(
    folder: Path,
    *,
    attention: Attention,
    dtype: torch.dtype,
    device: torch.device,
    quantization: Quantization = "none",
) -> PreTrainedModel:
    """The base, frozen, in evaluation mode, on `device`.

    Its weights are kept in `dtype` on CUDA (linear layers in 8 or 4 bits with `quantization`), in float32 on a CPU
    (where products in bfloat16 are autocast's business and memory isn't scarce). Raises CheckpointError (also where
    it cannot be quantised), AttentionError.
    """
    base_files(folder)
    if quantization != "none":
        return _load_quantised(folder, choose_attention(attention, device), dtype, device, quantization)
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype if device.type == "cuda" else torch.float32,
        attn_implementation=choose_attention(attention, device),
        local_files_only=True,
        trust_remote_code=False,
    )
    return model.to(device).requires_grad_(False).eval()


def _load_quantised(
    folder: Path, attention: str, dtype: torch.dtype, device: torch.device, quantization: Quantization
) -> PreTrainedModel:
    if device.type != "cuda" or find_spec("bitsandbytes") is None:
        raise CheckpointError(
            f"sft.quantization {quantization} needs a CUDA device and the package bitsandbytes (extra `gpu`); this is"
            f" {device.type}: set it to none"
        )
    if quantization == "int8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:  # as QLoRA has it (Dettmers et al., 2023, arXiv 2305.14314): normal floats, their scales quantised too
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=dtype,
        attn_implementation=attention,
        quantization_config=config,
        device_map={"": device},
        local_files_only=True,
        trust_remote_code=False,
    )
    return model.requires_grad_(False).eval()


def add_adapter(model: PreTrainedModel, lora: LoraParams, seed: int) -> PeftModel:
    """`model` with a new adapter that changes nothing yet (B is zero). `seed` draws A.

    Raises CheckpointError if the base lacks a target module.
    """
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    for target in lora.target_modules:
        if target not in names:
            raise CheckpointError(
                f"sft.lora.target_modules: the base has no linear layer {target} (it has {', '.join(sorted(names))})"
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.target_modules),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def trainable_parameters(model: torch.nn.Module) -> int:
    """How many numbers training changes."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def adapter_tensors(model: PeftModel, adapter: str = "default") -> dict[str, torch.Tensor]:
    """The adapter's matrices on the CPU, by peft's names. Sharded ones are gathered, so under FSDP every process must
    call this."""
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    whole = {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in sorted(state.items())}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in whole.items()}


def save_adapter(
    model: PeftModel,
    folder: Path,
    base: str,
    adapter: str = "default",
    tensors: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the adapter called `adapter` to `folder` (which exists); `base` is its base's digest, `tensors` its
    matrices where they are at hand already."""
    tensors = adapter_tensors(model, adapter) if tensors is None else tensors
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = model.peft_config[adapter].to_dict()
    config = {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}
    config |= {"base_model_name_or_path": BASE_NAME, "inference_mode": True}
    text = json.dumps(config, indent=2, sort_keys=True, allow_nan=False)
    (folder / "adapter_config.json").write_text(text + "\n", encoding="utf-8")
    write_json(folder / "manifest.json", {"base": base})


def check_adapter(folder: Path, base: str) -> None:
    """Raises CheckpointError unless `folder` holds a whole adapter for the base with the digest `base`."""
    for name in ("adapter_config.json", "adapter_model.safetensors", "manifest.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: no {name}; the adapter is incomplete, make it again with `dvc repro`")
    made_for = read_json(folder / "manifest.json").get("base")
    if made_for != base:
        raise CheckpointError(
            f"{folder} was trained on another base ({str(made_for)[:12]}) than {BASE_NAME} ({base[:12]});"
            " train it again with `dvc repro`"
        )


def load_adapter(
    model: PreTrainedModel, folder: Path, base: str, *, adapter: str = "default", trainable: bool = False
) -> PeftModel:
    """`model` with the adapter saved in `folder`, under the name `adapter`. `base` is the digest of the
    model's own files. Raises CheckpointError for an adapter of another base."""
    check_adapter(folder, base)
    return PeftModel.from_pretrained(model, folder, adapter_name=adapter, is_trainable=trainable)
