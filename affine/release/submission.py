"""What the subnet's validators would say about a release, as far as it can be known offline.

Two dated profiles: `affine-2025` (the validators of October and November 2025: names,
revision, chute, duplicate weights; no rule about size or architecture) and `affine-2026` (July 2026: one
architecture only). Each line says pass, fail, or that it cannot be checked here, and what to do.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

from transformers import AutoTokenizer

from affine.errors import AffineError
from affine.models.checkpoint import (
    CheckpointError,
    check_checkpoint,
    hash_files,
    read_json,
    shard_files,
    verify_sums,
)

Profile = Literal["affine-2025", "affine-2026"]

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


class Status(StrEnum):
    """A line's outcome."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNKNOWN = "not checkable here"


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement; `advice` says what was seen or what to do."""

    name: str
    status: Status
    advice: str


@dataclass(frozen=True, slots=True)
class Submission:
    """What is to be submitted: the release folder, and what is known beyond it. `deployed` is
    deploy/deployed.json, empty before a deployment; `against` are folders of models that came earlier."""

    release: Path
    deployed: Mapping[str, Any]
    chute_id: str = ""
    hotkey: str = ""
    against: Sequence[Path] = ()


def check_submission(submission: Submission, profile: Profile) -> list[Line]:
    """Every requirement of `profile`, in the order in which validators look. Raises AffineError for a
    profile that does not exist."""
    if profile not in PROFILES:
        raise AffineError(f"no profile {profile} (there are {', '.join(PROFILES)})")
    return [check(submission) for check in PROFILES[profile]]


def deployed_in(root: Path) -> dict[str, Any]:
    """`root`/deploy/deployed.json, or nothing where no deployment was made. Raises CheckpointError."""
    path = root / "deploy" / "deployed.json"
    return read_json(path) if path.is_file() else {}


def commit_json(submission: Submission, profile: Profile) -> str:
    """What the miner writes on the chain, with "?" for what is not known yet."""
    commit = {
        "model": submission.deployed.get("repo", "?"),
        "revision": submission.deployed.get("revision", "?"),
    }
    if profile == "affine-2025":
        commit["chute_id"] = submission.chute_id or "?"
    return json.dumps(commit)


def _line(name: str, good: bool, seen: str, remedy: str) -> Line:
    return Line(name, Status.PASS if good else Status.FAIL, seen if good else remedy)


def _deploy_first(name: str) -> Line:
    return Line(name, Status.UNKNOWN, "not deployed yet: run `make deploy`, then check again")


def _name_2025(s: Submission) -> Line:
    name, repo = "repository name starts with Affine", str(s.deployed.get("repo", ""))
    if not repo:
        return _deploy_first(name)
    good = repo.partition("/")[2].lower().startswith("affine")
    return _line(name, good, repo, f"{repo}: rename it, or set deploy.repo to OWNER/Affine-...")


def _name_2026(s: Submission) -> Line:
    name, repo = "repository name holds affine and ends with the hotkey", str(s.deployed.get("repo", ""))
    if not repo:
        return _deploy_first(name)
    if not s.hotkey:
        return Line(name, Status.UNKNOWN, "give the hotkey (its SS58 address) to check the end of the name")
    good = "affine" in repo.lower() and repo.lower().endswith(s.hotkey.lower())
    return _line(name, good, repo, f"{repo}: deploy to OWNER/Affine-...-{s.hotkey}")


def _revision(s: Submission) -> Line:
    name, revision = "revision is a full commit hash", str(s.deployed.get("revision", ""))
    if not revision:
        return _deploy_first(name)
    good = re.fullmatch(r"[0-9a-f]{40}", revision) is not None
    return _line(name, good, revision, f"{revision!r} is a branch or a short hash; take the 40 digits")


def _public(s: Submission) -> Line:
    name = "repository is public"
    if "private" not in s.deployed:
        return _deploy_first(name)
    return _line(name, not s.deployed["private"], "as deployed", "it is private: set deploy.private to false")


def _gated(_: Submission) -> Line:
    return Line("repository is not gated", Status.UNKNOWN, "look at the repository's settings: no access requests")


def _complete(s: Submission) -> Line:
    name = "weights are complete, merged safetensors"
    try:
        verify_sums(s.release)
        found = check_checkpoint(s.release)
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    return Line(name, Status.PASS, f"{found.architecture}, {found.parameters:,} parameters")


def _unquantised(s: Submission) -> Line:
    found = "quantization_config" in _config(s)
    return _line("no quantisation config", not found, "none", "remove quantization_config: release unquantised weights")


def _architecture_2025(s: Submission) -> Line:
    seen = str(_config(s).get("model_type", "?"))
    return Line("architecture and size", Status.PASS, f"{seen}: there was no rule in 2025 beyond the GPU of the chute")


def _architecture_2026(s: Submission) -> Line:
    config = _config(s)
    text = config.get("text_config") or {}
    good = config.get("model_type") == "qwen3_5_moe" and all(text.get(k) == v for k, v in ADMITTED_2026.items())
    seen = f"{config.get('model_type', '?')} of width {config.get('hidden_size', text.get('hidden_size', '?'))}"
    remedy = (
        f"{seen}: only Qwen3.6-35B-A3B is admitted; no Qwen3-4B and nothing smaller can be submitted in 2026."
        " Take it as an offline model, or as a 2025 one"
    )
    return _line("architecture is admitted", good, "Qwen3.6-35B-A3B", remedy)


def _template(s: Submission) -> Line:
    name = "chat template loads without remote code and is sane"
    try:
        tokenizer = AutoTokenizer.from_pretrained(s.release, local_files_only=True, trust_remote_code=False)
        template = str(tokenizer.chat_template or "")
        chat = [{"role": "user", "content": "the question"}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    except (OSError, ValueError) as error:
        return Line(name, Status.FAIL, f"it does not load: {str(error).splitlines()[0]}")
    if len(template) > LONGEST_TEMPLATE:
        return Line(name, Status.FAIL, f"{len(template)} characters; at most {LONGEST_TEMPLATE} are allowed")
    good = "the question" in text and len(text) < 1000
    return _line(name, good, f"{len(template)} characters", "it drops the question or adds text of its own")


def _tokenizer(s: Submission) -> Line:
    file = s.release / "tokenizer.json"
    name = "tokenizer signature equals the champion's"
    if not file.is_file():
        return Line(name, Status.FAIL, "there is no tokenizer.json")
    signature = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    return Line(name, Status.UNKNOWN, f"sha256 {signature}... here; compare it with the champion's tokenizer.json")


def _duplicates(s: Submission) -> Line:
    name = "weights are nobody else's"
    if not s.against:
        return Line(name, Status.UNKNOWN, "name folders of earlier models (the base first) to compare shard hashes")
    try:
        ours = {file.sha256 for file in hash_files(s.release, shard_files(s.release))}
        for folder in s.against:
            theirs = {file.sha256 for file in hash_files(folder, shard_files(folder))}
            if ours & theirs:
                how = "all" if ours == theirs else "some"
                return Line(name, Status.FAIL, f"{how} shards are those of {folder}: the later commit is dropped")
    except CheckpointError as error:
        return Line(name, Status.FAIL, str(error))
    return Line(name, Status.PASS, f"no shard shared with {len(s.against)} named models")


def _formats(_: Submission) -> Line:
    advice = "see `invalid` per environment in metrics/plots/scores.csv: the share of turns without a usable action"
    return Line("answers keep the environments' formats", Status.UNKNOWN, advice)


def _chute(s: Submission) -> Line:
    known = f"chute {s.chute_id}" if s.chute_id else "no chute id given"
    advice = f"{known}: its name must equal the repository's, its revision the commit's, and it must be hot"
    return Line("chute is deployed and hot", Status.UNKNOWN, advice)


def _json(profile: Profile) -> Callable[[Submission], Line]:
    def check(s: Submission) -> Line:
        text = commit_json(s, profile)
        status = Status.UNKNOWN if '"?"' in text else Status.PASS
        return Line("commit on the chain", status, f"{text}; the last commit of a hotkey counts, and 2026 allows one")

    return check


def _config(s: Submission) -> dict[str, Any]:
    try:
        return read_json(s.release / "config.json")
    except CheckpointError:
        return {}


PROFILES: dict[str, tuple[Callable[[Submission], Line], ...]] = {
    "affine-2025": (
        _json("affine-2025"), _public, _gated, _chute, _name_2025, _revision, _complete, _duplicates, _unquantised,
        _architecture_2025, _template, _formats,
    ),
    "affine-2026": (
        _json("affine-2026"), _name_2026, _public, _gated, _revision, _complete, _duplicates, _architecture_2026,
        _unquantised, _template, _tokenizer, _formats,
    ),
}  # fmt: skip
"""Profile -> its requirements, in the validators' order."""
