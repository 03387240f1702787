"""What the subnet's validators would say about a release, as far as it can be known here.

Two dated profiles: `affine-2025` (the validators of October and November 2025: names, revision, chute, duplicate
weights; no rule about size or architecture) and `affine-2026` (July 2026: one architecture only). Each line says
pass, fail, or that it cannot be checked here, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from affine.errors import AffineError
from affine.models.checkpoint import read_json
from affine.release import on_disk, on_hub, on_template
from affine.release.lines import Line, Status, Submission

Profile = Literal["affine-2025", "affine-2026"]


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


def _chain(profile: Profile) -> Callable[[Submission], Line]:
    advice = {
        "affine-2025": "write it with a reveal of one block; the last commit of a hotkey counts",
        "affine-2026": "write it once: a second commit loses the hotkey for good",
    }[profile]

    def check(s: Submission) -> Line:
        text = commit_json(s, profile)
        status = Status.UNKNOWN if '"?"' in text else Status.PASS
        return Line("commit on the chain", status, f"{text}; {advice}")

    return check


PROFILES: dict[str, tuple[Callable[[Submission], Line], ...]] = {
    "affine-2025": (
        _chain("affine-2025"), on_hub.public, on_hub.gated, on_disk.chute_hot, on_disk.chute_file, on_hub.name_2025,
        on_hub.revision, on_disk.deployed_folder, on_disk.complete, on_disk.shared_shards, on_disk.same_weights,
        on_disk.unquantised, on_disk.architecture_2025, on_template.template_2025, on_disk.formats,
    ),
    "affine-2026": (
        _chain("affine-2026"), on_hub.name_2026, on_hub.public, on_hub.gated, on_hub.revision,
        on_disk.deployed_folder, on_disk.complete, on_disk.same_weights, on_disk.architecture_2026,
        on_disk.unquantised, on_hub.history, on_template.template_2026, on_disk.tokenizer, on_disk.formats,
    ),
}  # fmt: skip
"""Profile -> its requirements, in the validators' order."""
