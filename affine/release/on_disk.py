"""Requirements on the release folder, and on the Chutes file beside it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from affine.models.checkpoint import (
    CheckpointError,
    check_checkpoint,
    hash_files,
    read_json,
    shard_files,
    verify_sums,
)
from affine.release.chute import ChuteError, check_chute
from affine.release.lines import Line, Status, Submission, line

ADMITTED_2026 = {
    "hidden_size": 2048,
    "num_hidden_layers": 40,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "vocab_size": 248320,
    "num_experts": 256,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 512,
}
"""`text_config` of Qwen3.6-35B-A3B (model_type qwen3_5_moe), the one architecture admitted in July 2026."""

LONGEST_TEMPLATE = 100_000
"""Characters of a chat template, 2026."""


def complete(s: Submission) -> Line:
    name = "weights are complete, merged safetensors"
    try:
        verify_sums(s.release)
        found = check_checkpoint(s.release)
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    return Line(name, Status.PASS, f"{found.architecture}, {found.parameters:,} parameters")


def duplicates(s: Submission) -> Line:
    name = "weights are nobody else's"
    if not s.weights_of:
        return Line(name, Status.UNKNOWN, "name earlier models with --against (the base first) to compare weights")
    try:
        ours = {file.sha256 for file in hash_files(s.release, shard_files(s.release))}
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    for model, hashes in s.weights_of.items():
        if ours & set(hashes):
            how = "all" if ours == set(hashes) else "some"
            return Line(name, Status.FAIL, f"{how} shards are those of {model}: the later commit is dropped")
    return Line(name, Status.PASS, f"no shard shared with {', '.join(s.weights_of)}")


def unquantised(s: Submission) -> Line:
    found = "quantization_config" in _config(s)
    return line("no quantisation config", not found, "none", "remove quantization_config: release unquantised weights")


def architecture_2025(s: Submission) -> Line:
    seen = str(_config(s).get("model_type", "?"))
    return Line("architecture and size", Status.PASS, f"{seen}: there was no rule in 2025 beyond the GPU of the chute")


def architecture_2026(s: Submission) -> Line:
    config = _config(s)
    text = config.get("text_config") or {}
    good = config.get("model_type") == "qwen3_5_moe" and all(text.get(k) == v for k, v in ADMITTED_2026.items())
    seen = f"{config.get('model_type', '?')} of width {config.get('hidden_size', text.get('hidden_size', '?'))}"
    remedy = (
        f"{seen}: only Qwen3.6-35B-A3B is admitted; no Qwen3-4B and nothing smaller can be submitted in 2026."
        " Take it as an offline model, or as a 2025 one"
    )
    return line("architecture is admitted", good, "Qwen3.6-35B-A3B", remedy)


def template(s: Submission) -> Line:
    name = "chat template loads without remote code and is sane"
    try:
        tokenizer = AutoTokenizer.from_pretrained(s.release, local_files_only=True, trust_remote_code=False)
        source = str(tokenizer.chat_template or "")
        chat = [{"role": "user", "content": "the question"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except (OSError, ValueError) as error:
        return Line(name, Status.FAIL, f"it does not load: {str(error).splitlines()[0]}")
    if len(source) > LONGEST_TEMPLATE:
        return Line(name, Status.FAIL, f"{len(source)} characters; at most {LONGEST_TEMPLATE} are allowed")
    good = "the question" in text and len(text) < 1000
    return line(name, good, f"{len(source)} characters", "it drops the question or adds text of its own")


def signature(file: Path) -> str:
    """A hash of what a tokenizer.json maps text to: vocabulary, merges and added tokens; other settings may
    differ. Raises CheckpointError where the file is missing or no JSON."""
    data = read_json(file)
    model = data.get("model") or {}
    parts = [model.get("vocab"), model.get("merges"), data.get("added_tokens")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def tokenizer(s: Submission) -> Line:
    name = "tokenizer signature equals the champion's"
    try:
        ours = signature(s.release / "tokenizer.json")
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    if not s.champion:
        return Line(name, Status.UNKNOWN, f"{ours[:16]}... here; name the champion's model with --champion")
    remedy = f"{ours[:16]}... here, {s.champion[:16]}... there: train from a base with the champion's tokenizer"
    return line(name, ours == s.champion, f"{ours[:16]}...", remedy)


def formats(s: Submission) -> Line:
    name = "answers keep the environments' formats"
    if not s.formats:
        return Line(name, Status.UNKNOWN, "not probed: give complete weights, and no --no-probes")
    seen = ", ".join(f"{env} {tally.usable}/{tally.turns}" for env, tally in s.formats.items())
    dumb = [env for env, tally in s.formats.items() if not tally.usable]
    remedy = f"no usable action in {', '.join(dumb)} (usable turns of probes: {seen}): demonstrate the format in SFT"
    return line(name, not dumb, f"usable turns of probes: {seen}", remedy)


def chute_file(s: Submission) -> Line:
    name = "chute file is valid and names this release"
    if s.chute_file is None:
        return Line(name, Status.UNKNOWN, "none: `python -m affine serve --chutes USERNAME` writes deploy/chute.py")
    if not s.deployed.get("revision"):
        return Line(name, Status.UNKNOWN, "not deployed yet: run `make deploy`, then write the file anew")
    try:
        how = check_chute(s.chute_file, str(s.deployed["repo"]), str(s.deployed["revision"]))
    except ChuteError as error:
        return Line(name, Status.FAIL, str(error))
    return Line(name, Status.PASS, f"{s.chute_file}, checked {how}")


def chute_hot(s: Submission) -> Line:
    known = f"chute {s.chute_id}" if s.chute_id else "give --chute-id once it is deployed"
    return Line("chute is deployed and hot", Status.UNKNOWN, f"{known}; look at it on chutes.ai")


def _config(s: Submission) -> dict[str, Any]:
    try:
        return read_json(s.release / "config.json")
    except CheckpointError:
        return {}
