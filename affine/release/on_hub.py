"""Requirements on the repository: asked of the Hub without a token, as a stranger sees it."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from affine.errors import AffineError
from affine.models.checkpoint import hash_files, shard_files
from affine.models.hub import FAULTS, endpoint, explain, open_api, remote_files
from affine.release.lines import Line, Page, Status, Submission, line

MOST_COMMITS, LONGEST_TITLE = 100, 200
"""Limits on a repository's history, 2026."""

_SILENT = {
    True: "was not asked whether it still is there: check again with a connection, and without --offline",
    False: "does not show it to strangers",
}


def ask(repo: str, revision: str, url: str) -> Page:
    """What the Hub at `url` tells a stranger about `repo` at `revision`. Raises AffineError where it cannot be
    reached."""
    api = HfApi(endpoint=url, token=False)
    try:
        info = api.model_info(repo)
        try:
            sha = str(api.model_info(repo, revision=revision).sha)
        except RevisionNotFoundError:
            return Page(found=True, gated=bool(info.gated))
        titles = tuple(commit.title for commit in api.list_repo_commits(repo, revision=sha))
        return Page(found=True, gated=bool(info.gated), revision=sha, titles=titles)
    except GatedRepoError:
        return Page(found=True, gated=True)
    except RepositoryNotFoundError:
        return Page(found=False)
    except FAULTS as error:
        raise AffineError(explain(error, repo, url)) from None


def weight_hashes(model: str) -> list[str]:
    """SHA-256 of the weight files of an earlier model: a folder, or OWNER/NAME[@REVISION] on the Hub.

    Raises AffineError where it is neither or holds no safetensors.
    """
    if Path(model).is_dir():
        return [file.sha256 for file in hash_files(Path(model), shard_files(Path(model)))]
    repo, revision, url = _named(model)
    try:
        files = remote_files(open_api(url), repo, revision)
    except FAULTS as error:
        raise AffineError(explain(error, repo, url)) from None
    found = [file.sha256 for path, file in files.items() if path.endswith(".safetensors") and file.sha256]
    if not found:
        raise AffineError(f"{model}: holds no safetensors to compare with")
    return found


def tokenizer_file(model: str, place: Path) -> Path:
    """The tokenizer.json of a folder, or of OWNER/NAME[@REVISION], then downloaded into `place`.

    Raises AffineError where there is none.
    """
    if (Path(model) / "tokenizer.json").is_file():
        return Path(model) / "tokenizer.json"
    repo, revision, url = _named(model)
    try:
        api = open_api(url)
        return Path(api.hf_hub_download(repo, "tokenizer.json", revision=revision, local_dir=place))
    except FAULTS as error:
        raise AffineError(explain(error, repo, url)) from None


def _named(model: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", model)
    if not found:
        raise AffineError(f"{model}: neither a folder nor OWNER/NAME[@REVISION]")
    return found[1], found[2] or "main", endpoint()


def deploy_first(name: str) -> Line:
    return Line(name, Status.UNKNOWN, "not deployed yet: run `make deploy`, then check again")


def name_2025(s: Submission) -> Line:
    name, repo = "repository name starts with Affine", str(s.deployed.get("repo", ""))
    if not repo:
        return deploy_first(name)
    good = repo.partition("/")[2].lower().startswith("affine")
    return line(name, good, repo, f"{repo}: rename it, or set deploy.repo to OWNER/Affine-...")


def name_2026(s: Submission) -> Line:
    name, repo = "repository name holds affine and ends with the hotkey", str(s.deployed.get("repo", ""))
    if not repo:
        return deploy_first(name)
    if not s.hotkey:
        return Line(name, Status.UNKNOWN, "give the hotkey (its SS58 address) to check the end of the name")
    good = "affine" in repo.lower() and repo.lower().endswith(s.hotkey.lower())
    return line(name, good, repo, f"{repo}: deploy to OWNER/Affine-...-{s.hotkey}")


def revision(s: Submission) -> Line:
    name, sha = "revision is a full commit hash", str(s.deployed.get("revision", ""))
    if not sha:
        return deploy_first(name)
    if not re.fullmatch(r"[0-9a-f]{40}", sha):
        return Line(name, Status.FAIL, f"{sha!r} is a branch or a short hash; take the 40 digits")
    if s.page is None or not s.page.found:
        return Line(name, Status.UNKNOWN, f"{sha} was deployed; the Hub {_SILENT[s.page is None]}")
    return line(name, s.page.revision == sha, f"{sha}, and the Hub has it", f"the Hub has no {sha}: deploy again")


def public(s: Submission) -> Line:
    name, remedy = "repository is public", "set deploy.private to false and change it on the repository's page"
    if "private" not in s.deployed:
        return deploy_first(name)
    if s.page is not None:
        return line(name, s.page.found, "the Hub shows it to strangers", f"the Hub hides it from strangers: {remedy}")
    if s.deployed["private"]:
        return Line(name, Status.FAIL, f"it was deployed as private: {remedy}")
    return Line(name, Status.UNKNOWN, f"it was deployed as public; the Hub {_SILENT[True]}")


def gated(s: Submission) -> Line:
    name = "repository is not gated"
    if s.page is None or not s.page.found:
        return Line(name, Status.UNKNOWN, "look at the repository's settings: no access requests")
    return line(name, not s.page.gated, "no access requests", "it asks for access requests: switch them off")


def history(s: Submission) -> Line:
    name = "history of the repository is short and its own"
    if s.page is None or not s.page.titles:
        return Line(name, Status.UNKNOWN, f"at most {MOST_COMMITS} commits, none titled 'Duplicate from ...'")
    long = [title for title in s.page.titles if len(title) > LONGEST_TITLE]
    copied = [title for title in s.page.titles if title.startswith("Duplicate from")]
    good = len(s.page.titles) <= MOST_COMMITS and not long and not copied
    seen = f"{len(s.page.titles)} commits"
    return line(name, good, seen, f"{seen}, {len(long)} titles too long, {len(copied)} copied: use a new repository")
