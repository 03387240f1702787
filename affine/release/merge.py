"""Merge a LoRA adapter into its base as a stream: one tensor in memory at a time, whatever the model's size.

Every weight matrix the adapter touches becomes W + (alpha / rank) B A, computed in float32 and rounded once
to the base's own dtype. Nothing else changes: names, shapes and dtypes stay, so shards are planned from
headers alone and their headers are written before the first tensor is read.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from affine.files import write_json
from affine.models.checkpoint import (
    EMBEDDING,
    INDEX,
    WEIGHTS,
    CheckpointError,
    Tensor,
    read_json,
    stored_tensors,
)
from affine.models.lora import base_digest, check_adapter

BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the dtypes that weights may have (safetensors' names)."""

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9}

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


class MergeError(CheckpointError):
    """An adapter cannot be merged into this base; says why."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA matrices by the name of the weight they add to: A is [rank, in], B is [out, rank]."""

    scale: float
    a: dict[str, torch.Tensor]
    b: dict[str, torch.Tensor]

    def delta(self, name: str) -> torch.Tensor:
        """What is added to the weight `name`, in float32."""
        return self.scale * (self.b[name].float() @ self.a[name].float())


def shard_bytes(text: str) -> int:
    """Bytes from "4GB", "500MB", "64KB" (powers of ten, as the Hub counts)."""
    return int(text[:-2]) * UNITS[text[-2:]]


def load_adapter(folder: Path, base: Path) -> Adapter:
    """Read the adapter in `folder`, trained on `base`.

    Raises MergeError for anything that is not plain LoRA on linear layers, and CheckpointError for an
    adapter that is incomplete or belongs to another base.
    """
    check_adapter(folder, base_digest(base))
    config = read_json(folder / "adapter_config.json")
    odd = [k for k in ("use_dora", "lora_bias", "fan_in_fan_out", "alpha_pattern", "rank_pattern") if config.get(k)]
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or odd:
        what = ", ".join(odd) or f"{config.get('peft_type')} with bias {config.get('bias')}"
        raise MergeError(f"{folder}: only plain LoRA can be merged, this adapter has {what}")
    rank = int(config["r"])
    scale = config["lora_alpha"] / (math.sqrt(rank) if config.get("use_rslora") else rank)
    found: dict[str, dict[str, torch.Tensor]] = {"A": {}, "B": {}}
    for key, matrix in load_file(folder / "adapter_model.safetensors").items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise MergeError(f"{folder}: only plain LoRA can be merged, this adapter also trained {key}")
        found[match[2]][f"{match[1]}.weight"] = matrix
    if found["A"].keys() != found["B"].keys() or not found["A"]:
        raise MergeError(f"{folder}: A and B matrices do not pair up; train the adapter again")
    return Adapter(scale, found["A"], found["B"])


def merge(base: Path, adapter: Adapter | None, out: Path, shard_size: int) -> None:
    """Write the weights of `base` with `adapter` merged into them to `out`, in files of at most `shard_size`
    bytes of tensors (a larger tensor has a file of its own) and an index; one file needs none.

    Peak memory is about three times the largest tensor in float32. Raises MergeError.
    """
    tensors = stored_tensors(base)
    if adapter is not None:
        _check_fits(adapter, tensors, tied=bool(read_json(base / "config.json").get("tie_word_embeddings")))
    for name, tensor in tensors.items():
        if tensor.dtype not in BYTES:
            raise MergeError(f"{base}: {name} has dtype {tensor.dtype}; weights must be F32, F16 or BF16")
    shards = _plan(tensors, shard_size)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(out / file, {name: tensors[name] for name in names}, adapter)
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        total = sum(_size(tensor) for tensor in tensors.values())
        count = sum(tensor.parameters for tensor in tensors.values())
        metadata = {"total_parameters": count, "total_size": total}
        write_json(out / INDEX, {"metadata": metadata, "weight_map": weight_map})


def _check_fits(adapter: Adapter, tensors: dict[str, Tensor], *, tied: bool) -> None:
    for name, a in adapter.a.items():
        if name not in tensors:
            raise MergeError(f"the adapter changes {name}, which the base does not have")
        if tied and name in (EMBEDDING, "lm_head.weight"):
            raise MergeError(
                f"the adapter changes {name}, which is tied in the base: merged, it would change both ends"
            )
        shape = (adapter.b[name].shape[0], a.shape[1])
        if shape != tensors[name].shape or adapter.b[name].shape[1] != a.shape[0]:
            raise MergeError(f"the adapter's {name} is {shape}, the base's is {tensors[name].shape}")


def _size(tensor: Tensor) -> int:
    return tensor.parameters * BYTES[tensor.dtype]


def _plan(tensors: dict[str, Tensor], shard_size: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if shards[-1] and filled + _size(tensor) > shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _size(tensor)
    return shards


def _write_shard(path: Path, tensors: dict[str, Tensor], adapter: Adapter | None) -> None:
    """One safetensors file: 8 bytes of header length, the header (JSON, padded with spaces to 8 bytes), the
    tensors' bytes one after another. https://github.com/huggingface/safetensors#format"""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + _size(tensor)
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            with safe_open(tensor.file, framework="pt") as source:
                weight = source.get_tensor(name)
            if adapter is not None and name in adapter.a:
                weight = (weight.float() + adapter.delta(name)).to(weight.dtype)
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().data)
