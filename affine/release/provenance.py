"""Which commit of the pipeline a release is published from: known when publishing, not when the card is written.

The release's own bytes say nothing of git, so that the same inputs always make the same release. `make deploy` adds
the file `pipeline.json` to what it sends.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from affine.models.checkpoint import SUMS, sha256

ORIGIN = "pipeline.json"
"""The file's place in the repository."""

OWN = ("deploy/deployed.json", "deploy/dvc.lock", "deploy/chute.py")
"""What publishing itself writes: it does not make a tree differ from its commit."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The pipeline's git commit (empty where there is no git), where its repository lies (empty where that is a folder
    on this machine), the tracked or new files that differ from the commit, and SHA-256 of dvc.lock (empty without one)
    and of the release's list of checksums."""

    commit: str
    repository: str
    uncommitted: tuple[str, ...]
    dvc_lock_sha256: str
    release_sha256: str

    def lines(self) -> list[str]:
        """The same for people: lines of a commit's description."""
        found = [f"pipeline commit: {self.commit}"] if self.commit else []
        if self.commit and self.repository:
            found[0] += f" of {self.repository}"
        if self.uncommitted:
            found[0] += f", with uncommitted changes in {_some(self.uncommitted)}"
        return found + ([f"dvc.lock sha256: {self.dvc_lock_sha256}"] if self.dvc_lock_sha256 else [])

    def warning(self) -> str:
        """What keeps others from making this release again; empty where nothing does."""
        if not self.commit:
            return "warning: this folder is no git repository, so nobody can check out what made this release"
        if self.uncommitted:
            what = _some(self.uncommitted)
            return (
                f"warning: {what} differ from git commit {self.commit[:12]}; commit first, so that others can repeat it"
            )
        return ""

    def content(self) -> bytes:
        """The file `ORIGIN`."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


def provenance(root: Path, release: Path) -> Provenance:
    """What is known of the pipeline in the folder `root`, from which `release` is published."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "-z", "--no-renames", "--", ".", *(f":!{path}" for path in OWN))
    return Provenance(
        commit=commit.strip(),
        repository=public_url(_git(root, "remote", "get-url", "origin").strip()) if commit else "",
        uncommitted=tuple(sorted(entry[3:] for entry in changed.split("\0") if entry)) if commit else (),
        dvc_lock_sha256=sha256(root / "dvc.lock") if (root / "dvc.lock").is_file() else "",
        release_sha256=sha256(release / SUMS),
    )


def public_url(remote: str) -> str:
    """A git remote without what is nobody's business: no password or token, and no folder of this machine."""
    if re.fullmatch(r"[\w.-]+@[\w.-]+:[\w./~-]+", remote):  # git@github.com:owner/name.git
        return remote
    parts = urlsplit(remote)
    if parts.scheme not in ("http", "https", "ssh", "git") or not parts.hostname:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def _git(root: Path, *arguments: str) -> str:
    """A git command's output; empty where it fails."""
    try:
        command = ["git", "-C", str(root), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git here
        return ""
    return done.stdout if done.returncode == 0 else ""


def _some(paths: tuple[str, ...]) -> str:
    shown = ", ".join(paths[:3])
    return f"{shown} and {len(paths) - 3} more" if len(paths) > 3 else shown
