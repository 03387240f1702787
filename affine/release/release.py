"""Stage `release`: from the chosen adapter to a folder that others can load and believe."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from affine.files import published, write_json, write_text
from affine.models.checkpoint import PARTS, check_checkpoint, hash_files, read_json, shard_files, write_sums
from affine.params import Params
from affine.release.card import Sources, describe, made_with
from affine.release.check import Check, check_weights
from affine.release.choose import BASE, Choice, ReleaseError, choose
from affine.release.merge import load_adapter, merge, shard_bytes

ADAPTER_WEIGHTS = "adapter_model.safetensors"
GENERATION = "generation_config.json"


def make_release(params: Params, root: Path) -> None:
    """Write release/ and metrics/release.json under `root` from models/ and metrics/.

    Nothing is published that fails a check: the folder appears whole, checked and with its checksums, or not
    at all. Raises ReleaseError or CheckpointError.
    """
    sources = Sources(root)
    choice = choose(
        params.release.model,
        sources.json("metrics/evaluate.json"),
        sources.json("metrics/pareto.json"),
        allow_regression=params.release.allow_regression,
    )
    with published(root / "release") as folder:
        try:
            report = _fill(params, choice, sources, folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)  # it may be what filled the disk
            raise
    write_text(root / "metrics" / "release.json", report)


def _fill(params: Params, choice: Choice, sources: Sources, folder: Path) -> str:
    """Fill the empty `folder`; returns the content of metrics/release.json."""
    base = sources.root / "models" / BASE
    adapter = None if choice.model == BASE else sources.root / "models" / choice.model
    shard_size = shard_bytes(params.release.shard_size)
    merge(base, load_adapter(adapter, base) if adapter else None, folder, shard_size)
    for pattern in PARTS:
        for file in sorted(base.glob(pattern)):
            shutil.copyfile(file, folder / file.name)
    if not (folder / GENERATION).is_file():  # engines then stop where the model was trained to
        GenerationConfig.from_model_config(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    checks = check_weights(folder, base, adapter)
    failed = [check for check in checks if not check.passed]
    if failed:
        raise ReleaseError("; ".join(f"{check.name} failed: {check.detail}" for check in failed))
    if adapter is not None:
        _copy_adapter(params, adapter, folder / "adapter")
    report = json.dumps(_report(params, choice, folder, checks), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    for path in [*shard_files(base), *([adapter / ADAPTER_WEIGHTS] if adapter else [])]:
        sources.note(path.relative_to(sources.root).as_posix())
    write_json(folder / "settings.json", made_with(params, choice.model))
    for name, text in describe(params, choice, sources, report).items():
        write_text(folder / name, text)
    write_sums(folder)
    return report


def _copy_adapter(params: Params, source: Path, target: Path) -> None:
    """The adapter, naming a base that others can find (or this pipeline's shipped one)."""
    target.mkdir()
    shutil.copyfile(source / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    hub = params.base.source == "hub"
    config = read_json(source / "adapter_config.json")
    config["base_model_name_or_path"] = params.base.repo if hub else params.base.path
    config["revision"] = params.base.revision if hub else None
    write_text(target / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")


def _report(params: Params, choice: Choice, folder: Path, checks: list[Check]) -> dict[str, Any]:
    summary = check_checkpoint(folder)
    weights = hash_files(folder, shard_files(folder))
    return {
        "model": choice.model,
        "reason": choice.reason,
        "regressions": list(choice.regressions),
        "name": params.release.name,
        "parameters": summary.parameters,
        "dtype": summary.dtype,
        "weight_bytes": sum(file.size for file in weights),
        "weights": {file.path: file.sha256 for file in weights},
        "checks": {check.name: check.detail for check in checks},
    }
