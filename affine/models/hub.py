"""What both directions of traffic with the Hub need: who we are, what lies there, and errors worth reading.

The token comes from the environment variable HF_TOKEN only (no saved login), and appears in no message.
"""

from __future__ import annotations

import errno
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, RepoFile
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RevisionNotFoundError

from affine.models.checkpoint import sha256

PUBLIC_HUB = "https://huggingface.co"

FAULTS = (HfHubHTTPError, httpx2.HTTPError, RuntimeError, OSError)
"""What huggingface_hub raises for an answer or a connection that went wrong (RuntimeError: while uploading)."""

UNANSWERED = (HfHubHTTPError, httpx2.HTTPError, ConnectionError, LocalEntryNotFoundError)
"""Of these what can only be the connection or the other side, and no disk of ours."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository at one commit. Large files have a SHA-256, all have a git object id."""

    path: str
    size: int
    sha256: str | None
    git_oid: str


def endpoint(configured: str = "") -> str:
    """The Hub to talk to: as configured, else HF_ENDPOINT, else the public one."""
    return (configured or os.environ.get("HF_ENDPOINT") or PUBLIC_HUB).rstrip("/")


def open_api(url: str) -> HfApi:
    """A client for the Hub at `url` with the token of HF_TOKEN, or none."""
    return HfApi(endpoint=url, token=os.environ.get("HF_TOKEN") or False, library_name="affine")


def remote_files(api: HfApi, repo: str, revision: str) -> dict[str, RemoteFile]:
    """Every file of `repo` at `revision`, by path. Raises what huggingface_hub raises."""
    found = {}
    for entry in api.list_repo_tree(repo, recursive=True, revision=revision):
        if isinstance(entry, RepoFile):
            digest = entry.lfs.sha256 if entry.lfs else None
            found[entry.path] = RemoteFile(entry.path, entry.size, digest, entry.blob_id)
    return dict(sorted(found.items()))


def same_content(local: Path, remote: RemoteFile) -> bool:
    """Whether the local file is the remote one, by size and hash."""
    if local.stat().st_size != remote.size:
        return False
    if remote.sha256 is not None:
        return sha256(local) == remote.sha256
    data = local.read_bytes()  # not stored as a large file, so small
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == remote.git_oid


def explain(error: BaseException, repo: str, url: str) -> str:
    """What went wrong with `repo` at the Hub `url` and what to do, in a line or two."""
    cause: BaseException | None = error
    while isinstance(cause, RuntimeError | LocalEntryNotFoundError) and cause.__cause__ is not None:
        cause = cause.__cause__  # the fault behind "Error while uploading ..." and "cannot find in the cache"
    if isinstance(cause, HfHubHTTPError):
        return _explain_answer(cause, repo, url)
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"the disk is full ({cause.strerror}); free some space and run again"
    if isinstance(cause, httpx2.HTTPError | ConnectionError | LocalEntryNotFoundError):
        reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
        return f"no connection to {url} ({reason}); check the network and run again"
    return " ".join(str(error).split())[:300]


def _explain_answer(error: HfHubHTTPError, repo: str, url: str) -> str:
    page = f"{url}/{repo}"
    if isinstance(error, GatedRepoError):
        return f"{repo} is gated: accept its terms on {page} with your account, then set HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{repo} has no such revision; take the full commit hash from {page}/commits/main"
    status = error.response.status_code
    known = bool(os.environ.get("HF_TOKEN"))
    advice = {
        401: f"{url} does not accept HF_TOKEN for {repo}: it is wrong or expired, or there is no such repository"
        if known
        else f"{repo} does not exist on {url} or is private; in that case set HF_TOKEN",
        403: f"HF_TOKEN may not do this with {repo}: use a token with write access to {repo.partition('/')[0]!r},"
        " and a name that is yours",
        404: f"{repo} does not exist on {url}"
        + (", or HF_TOKEN may not see it" if known else ", or is private: set HF_TOKEN"),
        412: f"somebody else changed {repo} in the meantime; look at {page}/commits/main, then run again",
        413: f"{url} refuses a file of {repo} as too large; make release.shard_size smaller",
        429: f"{url} limits how often we may ask; wait a few minutes and run again",
        507: f"{url} has no room left for {repo}; free some of the account's storage",
    }
    said = error.server_message or error.response.headers.get("X-Error-Message") or ""
    text = advice.get(status, f"{url} answered {status} for {repo}; if it is a 5xx, try again later")
    return f"{text}{f' (it says: {said.strip()[:200]})' if said else ''}"
