"""Requirements on the release folder, and on the Chutes file beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from affine.models.checkpoint import (
    SUMS,
    CheckpointError,
    check_checkpoint,
    hash_files,
    read_json,
    sha256,
    shard_files,
    verify_sums,
)
from affine.release.chute import ChuteError, check_chute
from affine.release.lines import Line, Status, Submission, line
from affine.types import ENVS

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

LEAST_USABLE = 0.2
"""Share of a probe's turns that must hold an action which the environment understood and could do. A model that keeps
the format and plays poorly stays above it (it tries what cannot be done, too); one that does not know the format has
next to none."""

_REMEDY = "demonstrate the format in SFT, and raise rollout.reply where replies are cut"


def complete(s: Submission) -> Line:
    name = "weights are complete, merged safetensors"
    try:
        verify_sums(s.release)
        found = check_checkpoint(s.release)
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    return Line(name, Status.PASS, f"{found.architecture}, {found.parameters:,} parameters")


def shared_shards(s: Submission) -> Line:
    """The rule until 6 November 2025: one shard in common with an earlier commit was enough."""
    name = "no shard is somebody else's (rule until 2025-11-06)"
    return _compared(s, name, lambda ours, theirs: bool(set(ours) & set(theirs)), "shares shards with")


def same_weights(s: Submission) -> Line:
    """The rule since: only the whole set of shards, all of them equal, makes a copy."""
    name = "the weights are not somebody else's (rule since 2025-11-06)"
    return _compared(s, name, lambda ours, theirs: sorted(ours) == sorted(theirs), "has all shards of")


def _compared(s: Submission, name: str, copied: Callable[[list[str], Sequence[str]], bool], verb: str) -> Line:
    if not s.weights_of:
        return Line(name, Status.UNKNOWN, "name earlier models with --against (the base first) to compare weights")
    try:
        ours = [file.sha256 for file in hash_files(s.release, shard_files(s.release))]
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    same = [model for model, theirs in s.weights_of.items() if copied(ours, theirs)]
    remedy = f"it {verb} {', '.join(same)}: the later commit is dropped"
    return line(name, not same, f"compared with {', '.join(s.weights_of)}", remedy)


def unquantised(s: Submission) -> Line:
    found = "quantization_config" in _config(s)
    return line("no quantisation config", not found, "none", "remove quantization_config: release unquantised weights")


def architecture_2025(s: Submission) -> Line:
    seen = str(_config(s).get("model_type", "?"))
    return Line("architecture and size", Status.PASS, f"{seen}: there was no rule in 2025 beyond the GPU of the chute")


def architecture_2026(s: Submission) -> Line:
    config = _config(s)
    text = config.get("text_config")
    text = text if isinstance(text, dict) else {}
    good = config.get("model_type") == "qwen3_5_moe" and all(text.get(k) == v for k, v in ADMITTED_2026.items())
    seen = f"{config.get('model_type', '?')} of width {config.get('hidden_size', text.get('hidden_size', '?'))}"
    remedy = (
        f"{seen}: only Qwen3.6-35B-A3B is admitted; no Qwen3-4B and nothing smaller can be submitted in 2026."
        " Take it as an offline model, or as a 2025 one"
    )
    return line("architecture is admitted", good, "Qwen3.6-35B-A3B", remedy)


def signature(file: Path) -> str:
    """A hash of what a tokenizer.json maps text to: vocabulary, merges and added tokens; other settings may
    differ. Raises CheckpointError where the file is missing or no JSON."""
    data = read_json(file)
    model = data.get("model")
    if not isinstance(model, dict):
        raise CheckpointError(f"{file}: holds no model of a tokenizer; fetch or make it again")
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
    played = {env: tally for env, tally in s.formats.items() if tally.turns}
    seen = f"usable turns of probes, at least {LEAST_USABLE:.0%} wanted: " + ", ".join(
        f"{env} {tally.words()}" for env, tally in s.formats.items()
    )
    dumb = [env for env, tally in played.items() if tally.usable < LEAST_USABLE * tally.turns]
    if dumb:
        return Line(name, Status.FAIL, f"too few usable actions in {', '.join(dumb)} ({seen}): {_REMEDY}")
    missing = [env for env in ENVS if env not in played]
    if missing:
        return Line(name, Status.UNKNOWN, f"not probed in {', '.join(missing)} ({seen})")
    return Line(name, Status.PASS, seen)


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


def deployed_folder(s: Submission) -> Line:
    """Everything else here is about the folder: it must be what lies at the revision that is submitted."""
    name = "this folder is what was deployed"
    if not s.deployed.get("revision"):
        return Line(name, Status.UNKNOWN, "not deployed yet: run `make deploy`, then check again")
    if not s.deployed.get("release_sha256"):
        return Line(
            name, Status.UNKNOWN, "deploy/deployed.json does not say: run `make deploy` again (it sends nothing)"
        )
    if not (s.release / SUMS).is_file():
        return Line(name, Status.FAIL, f"{s.release} holds no {SUMS}: make the release anew")
    good = sha256(s.release / SUMS) == s.deployed["release_sha256"]
    remedy = f"{s.release} is another release than {s.deployed['revision']}: run `make deploy`, then check again"
    return line(name, good, f"by the hash of {SUMS}", remedy)


def chute_hot(s: Submission) -> Line:
    known = f"chute {s.chute_id}" if s.chute_id else "give --chute-id once it is deployed"
    return Line("chute is deployed and hot", Status.UNKNOWN, f"{known}; look at it on chutes.ai")


def _config(s: Submission) -> dict[str, Any]:
    try:
        return read_json(s.release / "config.json")
    except CheckpointError:
        return {}
