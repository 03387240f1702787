"""Merging an adapter into a base of the real shape, random weights in both: seconds, and the peak of memory.

The merge runs in a process of its own, so that its peak is not that of making the weights. The base and the merged
model lie in --folder while it runs: twice the base's size on disk (16 GB for qwen3-4b).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from bench_shape import LINEAR, SHAPES, Shape, config_of
from record import RESULTS, conditions, save
from safetensors.torch import save_file
from transformers import Qwen3ForCausalLM

from affine.files import write_json
from affine.models.checkpoint import shard_files
from affine.models.lora import base_digest
from affine.release.merge import load_adapter, merge, shard_bytes

SHARD = "4GB"
BLOCK = 2**20
"""So many random numbers fill a matrix over and over: making four billion would take longer than merging them."""


def random_tensor(size: torch.Size, scale: float, dtype: torch.dtype) -> torch.Tensor:
    """Normal numbers, repeated after `BLOCK` of them."""
    count = size.numel()
    block = (torch.randn(min(count, BLOCK)) * scale).to(dtype)
    return block.repeat(-(-count // len(block)))[:count].view(size)


def make_base(shape: Shape, folder: Path) -> dict[str, torch.Size]:
    """A bfloat16 checkpoint with a shard a layer; the sizes of its matrices by name."""
    config = config_of(shape)
    config.dtype, config.architectures = "bfloat16", ["Qwen3ForCausalLM"]
    with torch.device("meta"):
        sizes = {name: weight.shape for name, weight in Qwen3ForCausalLM(config).named_parameters()}
    folder.mkdir()
    config.save_pretrained(folder)
    parts: dict[str, list[str]] = {}
    for name in sizes:
        layer = name.split(".")[2] if ".layers." in name else "rest"
        parts.setdefault(f"model-{layer}.safetensors", []).append(name)
    for file, names in parts.items():
        tensors = {name: random_tensor(sizes[name], 0.02, torch.bfloat16) for name in names}
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {name: file for file, names in parts.items() for name in names}
    total = 2 * sum(size.numel() for size in sizes.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})
    return sizes


def make_adapter(sizes: dict[str, torch.Size], rank: int, base: Path, folder: Path) -> None:
    """A LoRA adapter of all linear layers, as SFT writes one."""
    tensors = {}
    for name, size in sizes.items():
        if name.split(".")[-2] in LINEAR:
            layer = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{layer}.lora_A.weight"] = random_tensor(torch.Size((rank, size[1])), 0.02, torch.float32)
            tensors[f"{layer}.lora_B.weight"] = random_tensor(torch.Size((size[0], rank)), 0.002, torch.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    described = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(LINEAR)}
    write_json(folder / "adapter_config.json", described)
    write_json(folder / "manifest.json", {"base": base_digest(base)})


def merged(base: Path, adapter: Path, out: Path, answer: Connection) -> None:
    """Merge, and say what it took: seconds, and bytes at the peak before and after."""
    weights = load_adapter(adapter, base)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    out.mkdir()
    started = time.perf_counter()
    merge(base, weights, out, shard_bytes(SHARD))
    answer.send((time.perf_counter() - started, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))


def measure(shape: Shape, rank: int, folder: Path) -> dict[str, Any]:
    """Make base and adapter in `folder`, merge them there."""
    torch.manual_seed(0)
    sizes = make_base(shape, folder / "base")
    make_adapter(sizes, rank, folder / "base", folder / "adapter")
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=merged, args=(folder / "base", folder / "adapter", folder / "out", theirs))
    process.start()
    theirs.close()  # a death is then an end of file here
    seconds, before, peak = ours.recv()
    process.join()
    return {
        "base_gb": sum((folder / "base" / file).stat().st_size for file in shard_files(folder / "base")) / 1e9,
        "shards": len(shard_files(folder / "out")),
        "seconds": seconds,
        "peak_gb": peak / 1e9,
        "peak_before_gb": before / 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="qwen3-4b")
    parser.add_argument("--rank", type=int, default=64, metavar="N")
    parser.add_argument("--folder", type=Path, default=None, help="where the weights lie meanwhile (default: /tmp)")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR")
    chosen = parser.parse_args()
    result = conditions()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        measured = measure(SHAPES[chosen.shape], chosen.rank, Path(folder))
    result |= {"shape": chosen.shape, "rank": chosen.rank, **measured}
    save("merge", result, chosen.out)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
