"""Stage `deploy`: publish release/ on the Hub in one atomic commit, and read it back.

What has to change is found by comparing hashes with what lies there, so that a second run uploads nothing.
The commit names its parent: if somebody else has changed the repository in between, the Hub refuses it. The
tag is set last, after the download compared equal. With a release goes `pipeline.json`, which says what made it.
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
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

from affine.errors import AffineError
from affine.files import write_json
from affine.models.checkpoint import SUMS, read_sums, sha256, verify_sums
from affine.models.hub import (
    FAULTS,
    UNANSWERED,
    RemoteFile,
    endpoint,
    explain,
    open_api,
    remote_files,
    same_content,
)
from affine.params import DeployParams, Params
from affine.release.provenance import ORIGIN, Provenance, provenance
from affine.release.results import EVAL_RESULTS, benchmark

PLACEHOLDER = "your-name"
"""The owner in the default `deploy.repo`."""

HUB_OWN = (".gitattributes",)
"""Files that the Hub itself puts into a repository."""


class DeployError(AffineError):
    """The release was not published, or not wholly; says what is there now and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment would change: paths to add or replace (with their sizes in bytes), paths of the last
    release to delete, paths that are there already. `head` is the commit it starts from, None for a
    repository that is not there yet. `ORIGIN` is among `add` whenever anything else changes, and only then.
    `unasked`: why the Hub could not say what lies there, so that `add` is everything (dry runs only)."""

    head: str | None
    add: dict[str, int]
    delete: tuple[str, ...]
    same: tuple[str, ...]
    unasked: str = ""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What is published: `revision` is the commit that holds exactly this release, of so many `files`."""

    repo: str
    endpoint: str
    revision: str
    tag: str
    private: bool
    uploaded: tuple[str, ...]
    deleted: tuple[str, ...]
    files: int


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

    Raises DeployError (or CheckpointError for a damaged release/).
    """
    settings = params.deploy
    url = endpoint(settings.endpoint)
    token = os.environ.get("HF_TOKEN", "")
    check(settings, dry_run=dry_run)
    folder = root / "release"
    sums = verify_sums(folder)
    sums[SUMS] = sha256(folder / SUMS)
    origin = origin or provenance(root, folder)
    api = open_api(url)
    published: list[str] = []
    try:
        make = _foresee if dry_run else make_plan
        plan = make(api, settings, folder, sorted(sums), origin)
        for line in [*describe(plan, settings, url, origin), *_unseen(api, plan), *_benchmark(api, settings, plan)]:
            say(line)
        if dry_run:
            return None
        deployment = _publish(api, params, root, plan, published, origin=origin)
        sent = {ORIGIN: hashlib.sha256(origin.content()).hexdigest()} if ORIGIN in plan.add else {}
        _read_back(api, settings.repo, deployment.revision, root / "work", sums | sent)
        _tag(api, settings, deployment.revision)
    except FAULTS as error:
        state = (
            f"{settings.repo} is at {published[0]} but unverified"
            if published
            else "nothing is published yet, and running again is safe"
        )
        reason = explain(error, settings.repo, url)
        raise DeployError((f"{reason}; {state}").replace(token or "\0", "***")) from None
    write_json(root / "deploy" / "deployed.json", asdict(deployment))
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
    if not dry_run and _is_placeholder(settings):
        raise DeployError(f"set deploy.repo in params.yaml to a name of yours ({settings.repo} is a placeholder)")
    token = os.environ.get("HF_TOKEN", "")
    if not token and not dry_run:
        raise DeployError("HF_TOKEN is not set; export a token with write access (see .env.example)")
    if not re.fullmatch(r"[!-~]*", token):
        raise DeployError("HF_TOKEN holds a space, a line break or a letter that no token has; export it anew")


def _is_placeholder(settings: DeployParams) -> bool:
    return settings.repo.partition("/")[0] == PLACEHOLDER


def _foresee(api: HfApi, settings: DeployParams, folder: Path, paths: list[str], origin: Provenance) -> Plan:
    """`make_plan` for a dry run: where nobody can be asked what lies there, everything, and the reason."""
    if _is_placeholder(settings):
        reason = f"{settings.repo} is a placeholder; set deploy.repo in params.yaml to a name of yours"
        return _whole(folder, paths, origin, reason)
    try:
        return make_plan(api, settings, folder, paths, origin)
    except UNANSWERED as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:  # an answer, and a refusal
            raise
        reason = explain(error, settings.repo, str(api.endpoint))
        return _whole(folder, paths, origin, reason.replace(str(api.token or "\0"), "***"))


def _whole(folder: Path, paths: list[str], origin: Provenance, unasked: str = "") -> Plan:
    """The plan for a repository that holds nothing."""
    sizes = {path: (folder / path).stat().st_size for path in paths}
    return Plan(None, sizes | {ORIGIN: len(origin.content())}, (), (), unasked)


def make_plan(api: HfApi, settings: DeployParams, folder: Path, paths: list[str], origin: Provenance) -> Plan:
    """Compare `paths` of `folder` with the repository's main branch.

    Files that neither this release nor the last one lists (somebody's notes) are left alone. Raises
    DeployError where the repository holds something that no release of this pipeline put there, where its
    visibility is another than `deploy.private`, and where the tag is taken by another commit.
    """
    try:
        info = api.model_info(settings.repo)
    except HfHubHTTPError as error:
        if error.response.status_code not in (401, 404) or _token_refused(error):
            raise
        return _whole(folder, paths, origin)
    if bool(info.private) is not settings.private:
        is_now = "private" if info.private else "public"
        raise DeployError(f"{settings.repo} is {is_now}; change that on its page, or deploy.private in params.yaml")
    head = str(info.sha)
    remote = remote_files(api, settings.repo, head)
    last = _last_release(api, settings.repo, head, remote)
    foreign = set(remote) - set(HUB_OWN) - set(last)
    if not last and foreign - {"README.md"}:
        raise DeployError(
            f"{settings.repo} holds something else ({', '.join(sorted(foreign)[:3])}, ...) and no release of this"
            " pipeline; choose another deploy.repo"
        )
    same = tuple(path for path in paths if path in remote and same_content(folder / path, remote[path]))
    add = {path: (folder / path).stat().st_size for path in paths if path not in same}
    delete = tuple(sorted((set(last) & set(remote)) - set(paths)))
    if add or delete:
        add[ORIGIN] = len(origin.content())
    _check_tag(api, settings, head if not add and not delete else None)
    return Plan(head, add, delete, same)


def _token_refused(error: HfHubHTTPError) -> bool:
    """Whether a 401 is about the token and not about a repository that is missing or hidden."""
    return "credentials" in (error.response.headers.get("X-Error-Message") or "")


def _last_release(api: HfApi, repo: str, head: str, remote: dict[str, RemoteFile]) -> dict[str, str]:
    """The checksums that the last release left there; empty where there was none."""
    if SUMS not in remote:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = api.hf_hub_download(repo, SUMS, revision=head, local_dir=folder)
            return read_sums(Path(path).read_text(encoding="utf-8")) | {SUMS: ""}
        except (EntryNotFoundError, ValueError):
            return {}


def _check_tag(api: HfApi, settings: DeployParams, revision: str | None) -> None:
    """`revision`: the commit that the tag will name; None where it is still to be made."""
    for tag in api.list_repo_refs(settings.repo).tags if settings.tag else ():
        if tag.name == settings.tag and tag.target_commit != revision:
            raise DeployError(f"{settings.repo}: tag {settings.tag} names another commit; choose a new deploy.tag")


def describe(plan: Plan, settings: DeployParams, url: str, origin: Provenance) -> list[str]:
    """The plan as lines: exactly what would be sent."""
    visibility = "private" if settings.private else "public"
    state = f"on top of {plan.head}" if plan.head else f"to be created, {visibility}"
    lines = [f"{url}/{settings.repo} ({'what lies there is not known' if plan.unasked else state})"]
    width = max((len(path) for path in (*plan.add, *plan.delete)), default=0)
    lines += [f"  send    {path:<{width}}  {size:>14,} bytes" for path, size in plan.add.items()]
    lines += [f"  delete  {path}" for path in plan.delete]
    total = f"{len(plan.add)} files, {sum(plan.add.values()):,} bytes" if plan.add or plan.delete else "nothing"
    if plan.unasked:
        lines.append(f"  {total} to send, less what is there already")
        lines.append(f"note: the Hub could not be asked what that is: {plan.unasked}")
    else:
        lines.append(f"  {total} to send, {len(plan.same)} files are there already")
    if settings.tag:
        lines.append(f"  tag     {settings.tag}")
    if ORIGIN in plan.add:
        lines += [f"  {line}" for line in origin.lines()]
        lines += [origin.warning()] if origin.warning() else []
    return lines


def _unseen(api: HfApi, plan: Plan) -> list[str]:
    """A remark where a repository that seems missing may only be hidden from us."""
    if plan.head is None and not plan.unasked and not api.token:
        return ["note: without HF_TOKEN a private repository of that name cannot be seen; what it holds is not known"]
    return []


def _benchmark(api: HfApi, settings: DeployParams, plan: Plan) -> list[str]:
    """A remark where the scores for machines would be shown nowhere, because the benchmark they name is not there."""
    if EVAL_RESULTS not in plan.add or plan.unasked:
        return []
    name = benchmark(settings)
    try:
        api.dataset_info(name)
    except RepositoryNotFoundError:
        return [f"note: the Hub shows {EVAL_RESULTS} only once there is a benchmark data set {name}"]
    except UNANSWERED:  # not known, and no reason to stop
        return []
    return []


def _publish(
    api: HfApi, params: Params, root: Path, plan: Plan, published: list[str], *, origin: Provenance
) -> Deployment:
    """Create the repository if need be and commit; `published` gets the commit as soon as there is one."""
    settings, folder = params.deploy, root / "release"
    head = plan.head
    if head is None:
        api.create_repo(settings.repo, private=settings.private, exist_ok=True)
        head = str(api.model_info(settings.repo).sha)
    revision = head
    if plan.add or plan.delete:
        operations: list[Any] = [
            CommitOperationAdd(path, origin.content() if path == ORIGIN else folder / path) for path in plan.add
        ]
        operations += [CommitOperationDelete(path) for path in plan.delete]
        commit = api.create_commit(
            settings.repo,
            operations,
            commit_message=f"Release {params.release.name} {sha256(folder / SUMS)[:12]}",
            commit_description="\n".join(origin.lines()),
            parent_commit=head,
        )
        revision = str(commit.oid)
    published.append(revision)
    return Deployment(
        repo=settings.repo,
        endpoint=str(api.endpoint),
        revision=revision,
        tag=settings.tag,
        private=settings.private,
        uploaded=tuple(plan.add),
        deleted=plan.delete,
        files=len({*plan.add, *plan.same} - {ORIGIN}),
    )


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
