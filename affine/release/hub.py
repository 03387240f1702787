"""Stage `deploy`: publish release/ on the Hub in one atomic commit, and read it back.

What has to change is found by comparing hashes with what lies there (`affine.release.plan`), so that a second run
uploads nothing. The commit names its parent: if somebody else has changed the repository in between, the Hub refuses
it. Only after the download compared equal is the commit recorded, and then tagged. With a release goes
`pipeline.json`, which says what made it.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from affine.files import write_json
from affine.models.checkpoint import SUMS, read_json, sha256, verify_sums
from affine.models.hub import FAULTS, endpoint, explain, open_api
from affine.params import DeployParams, Params
from affine.release.plan import DeployError, Plan, describe, foresee, is_placeholder, make_plan, unseen, unshown
from affine.release.provenance import ORIGIN, Provenance, provenance

RECORD = Path("deploy", "deployed.json")
"""Which commit holds the release that was deployed last; git keeps it."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is published: `revision` is the commit that holds exactly this release, of so many `files`;
    `release_sha256` is the hash of its SHA256SUMS, and so of all of it."""

    repo: str
    endpoint: str
    revision: str
    release_sha256: str
    tag: str
    private: bool
    uploaded: tuple[str, ...]
    deleted: tuple[str, ...]
    files: int


@dataclass(slots=True)
class Progress:
    """How far a deployment has come: the commit that holds the release, whether it read back equal and was
    recorded here, and what `main` was moved to while the Hub's answer was lost ("?" where nobody could be asked)."""

    committed: str = ""
    verified: bool = False
    recorded: bool = False
    perhaps: str = ""

    def words(self, settings: DeployParams) -> str:
        """The same for the user, after a fault: what is there now and what running again would do."""
        repo = settings.repo
        if self.verified:
            missing = f"the tag {settings.tag}" if self.recorded else f"the record of it in {RECORD}"
            return f"{repo} is published and verified at {self.committed}, only {missing} is missing; run again"
        if self.committed:
            return f"{repo} is published at {self.committed} but unverified; run again to read it back"
        if self.perhaps == "?":
            return f"{repo} may be published, its state could not be asked; running again is safe and finds out"
        if self.perhaps:
            return f"{repo} may be published at {self.perhaps}; running again is safe and finds out"
        return "nothing is published yet, and running again is safe"


def deploy(
    params: Params,
    root: Path,
    *,
    dry_run: bool = False,
    say: Callable[[str], None] = print,
    origin: Provenance | None = None,
) -> Deployment | None:
    """Publish `root`/release to `deploy.repo` and record it in `root`/deploy/deployed.json; `say` gets lines
    for the user. A dry run says what would be sent and changes nothing, here or there; it needs neither a token nor a
    connection. `origin` is what made the release, by default the pipeline in `root`.

    Raises DeployError (or CheckpointError for a damaged release/ or record).
    """
    settings = params.deploy
    url = endpoint(settings.endpoint)
    token = os.environ.get("HF_TOKEN", "")
    check(settings, dry_run=dry_run)
    folder = root / "release"
    sums = verify_sums(folder)
    sums[SUMS] = sha256(folder / SUMS)
    origin = origin or provenance(root, folder)
    recorded = _recorded(root, settings, url)
    api = open_api(url)
    progress = Progress()
    try:
        make = foresee if dry_run else make_plan
        plan = make(api, settings, folder, sorted(sums), origin, recorded=recorded)
        for line in [*describe(plan, settings, url, origin), *unseen(api, plan), *unshown(api, settings, plan)]:
            say(line)
        if dry_run:
            return None
        if plan.head is None:
            api.create_repo(settings.repo, private=settings.private, exist_ok=True)
            # Somebody may have made it meanwhile, or it was only hidden: it is looked at like any other.
            plan = make_plan(api, settings, folder, sorted(sums), origin, recorded=recorded)
        deployment = _publish(api, params, root, plan, progress, origin=origin)
        sent = {ORIGIN: hashlib.sha256(origin.content()).hexdigest()} if ORIGIN in plan.add else {}
        _read_back(api, settings.repo, deployment.revision, root / "work", sums | sent)
        progress.verified = True
        write_json(root / RECORD, asdict(deployment))
        progress.recorded = True
        _tag(api, settings, deployment.revision)
    except FAULTS as error:
        reason = f"{explain(error, settings.repo, url)}; {progress.words(settings)}"
        raise DeployError(reason.replace(token or "\0", "***")) from None
    say(f"published {url}/{deployment.repo} at {deployment.revision}; read back, {len(sums | sent)} files equal")
    say("next: `python -m affine check` (what validators would say), `python -m affine serve` (endpoints)")
    return deployment


def check(settings: DeployParams, *, dry_run: bool = False) -> None:
    """Refuse what cannot be published whatever the release, without asking anybody: before a graph is run for it.

    A dry run needs no token, and may leave the placeholder. Raises DeployError; it shows no part of the token.
    """
    try:
        validate_repo_id(settings.repo)
    except HFValidationError as error:
        raise DeployError(f"deploy.repo in params.yaml is no name on the Hub: {error}") from None
    if not dry_run and is_placeholder(settings):
        raise DeployError(f"set deploy.repo in params.yaml to a name of yours ({settings.repo} is a placeholder)")
    token = os.environ.get("HF_TOKEN", "")
    if not token and not dry_run:
        raise DeployError("HF_TOKEN is not set; export a token with write access (see .env.example)")
    if not re.fullmatch(r"[!-~]*", token):
        raise DeployError("HF_TOKEN holds a space, a line break or a letter that no token has; export it anew")


def _recorded(root: Path, settings: DeployParams, url: str) -> str:
    """The commit of the last deployment to this repository; empty where there was none. Raises CheckpointError."""
    record = read_json(root / RECORD) if (root / RECORD).is_file() else {}
    same = (record.get("repo"), record.get("endpoint")) == (settings.repo, url)
    return str(record.get("revision", "")) if same else ""


def _publish(
    api: HfApi, params: Params, root: Path, plan: Plan, progress: Progress, *, origin: Provenance
) -> Deployment:
    """Commit what `plan` says; `progress` learns of the commit as soon as there is one, or may be one."""
    settings, folder = params.deploy, root / "release"
    revision = plan.revision
    if plan.add or plan.delete:
        operations: list[Any] = [
            CommitOperationAdd(path, origin.content() if path == ORIGIN else folder / path) for path in plan.add
        ]
        operations += [CommitOperationDelete(path) for path in plan.delete]
        try:
            commit = api.create_commit(
                settings.repo,
                operations,
                commit_message=f"Release {params.release.name} {sha256(folder / SUMS)[:12]}",
                commit_description="\n".join(origin.lines()),
                parent_commit=plan.head,
            )
        except FAULTS as error:
            progress.perhaps = _moved(api, settings.repo, plan.head, error)
            raise
        revision = str(commit.oid)
    progress.committed = revision
    return Deployment(
        repo=settings.repo,
        endpoint=str(api.endpoint),
        revision=revision,
        release_sha256=sha256(folder / SUMS),
        tag=settings.tag,
        private=settings.private,
        uploaded=tuple(plan.add),
        deleted=plan.delete,
        files=len({*plan.add, *plan.same} - {ORIGIN}),
    )


def _moved(api: HfApi, repo: str, head: str | None, error: BaseException) -> str:
    """What `main` was moved to from `head` although the answer to our commit was lost; "?" where that cannot be
    asked, empty where it was not. A refusal is an answer."""
    if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
        return ""
    try:
        now = str(api.model_info(repo).sha)
    except FAULTS:
        return "?"
    return "" if now == head else now


def _read_back(api: HfApi, repo: str, revision: str, work: Path, sums: dict[str, str]) -> None:
    """Download the commit and compare every file. Raises DeployError naming the first that differs."""
    work.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix="read-back-") as place:
        snapshot_download(
            repo,
            revision=revision,
            local_dir=place,
            allow_patterns=list(sums),
            endpoint=api.endpoint,
            token=api.token,
        )
        for path, digest in sums.items():
            found = Path(place) / path
            if not found.is_file() or sha256(found) != digest:
                raise DeployError(f"{repo} at {revision}: {path} reads back differently; do not use this commit")


def _tag(api: HfApi, settings: DeployParams, revision: str) -> None:
    if settings.tag:
        api.create_tag(settings.repo, tag=settings.tag, revision=revision, exist_ok=True)
