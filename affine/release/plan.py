"""What a deployment would change: the release compared by hashes with what lies in the repository."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from affine.errors import AffineError
from affine.models.checkpoint import SUMS, read_sums
from affine.models.hub import UNANSWERED, RemoteFile, explain, remote_files, same_content
from affine.params import DeployParams
from affine.release.provenance import ORIGIN, Provenance
from affine.release.results import EVAL_RESULTS, benchmark

PLACEHOLDER = "your-name"
"""The owner in the default `deploy.repo`."""

HUB_OWN = (".gitattributes",)
"""Files that the Hub itself puts into a repository."""

BLANK = ("README.md", "LICENSE*")
"""What its pages offer to put into a new one."""


class DeployError(AffineError):
    """The release was not published, or not wholly; says what is there now and what to do."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment would change: paths to add or replace (with their sizes in bytes), paths of the last
    release to delete, paths that are there already. `head` is the commit it starts from, None for a
    repository that is not there yet. `ORIGIN` is among `add` whenever anything else changes, and only then.
    `unasked`: why the Hub could not say what lies there, so that `add` is everything (dry runs only).
    `revision`: where nothing changes, the commit that holds this release."""

    head: str | None
    add: dict[str, int]
    delete: tuple[str, ...]
    same: tuple[str, ...]
    unasked: str = ""
    revision: str = ""


def is_placeholder(settings: DeployParams) -> bool:
    """Whether `deploy.repo` still is the one that the repository comes with."""
    return settings.repo.partition("/")[0] == PLACEHOLDER


def foresee(
    api: HfApi, settings: DeployParams, folder: Path, paths: list[str], origin: Provenance, *, recorded: str
) -> Plan:
    """`make_plan` for a dry run: where nobody can be asked what lies there, everything, and the reason."""
    if is_placeholder(settings):
        reason = f"{settings.repo} is a placeholder; set deploy.repo in params.yaml to a name of yours"
        return _whole(folder, paths, origin, reason)
    try:
        return make_plan(api, settings, folder, paths, origin, recorded=recorded)
    except UNANSWERED as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:  # an answer, and a refusal
            raise
        reason = explain(error, settings.repo, str(api.endpoint))
        return _whole(folder, paths, origin, reason.replace(str(api.token or "\0"), "***"))


def _whole(folder: Path, paths: list[str], origin: Provenance, unasked: str = "") -> Plan:
    """The plan for a repository that holds nothing."""
    sizes = {path: (folder / path).stat().st_size for path in paths}
    return Plan(None, sizes | {ORIGIN: len(origin.content())}, (), (), unasked)


def make_plan(
    api: HfApi, settings: DeployParams, folder: Path, paths: list[str], origin: Provenance, *, recorded: str
) -> Plan:
    """Compare `paths` of `folder` with the repository's main branch; `recorded` is the commit that the last
    deployment to it made, empty where there was none.

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
    foreign = sorted(path for path in set(remote) - set(HUB_OWN) - set(last) if not _is_blank(path))
    if not last and foreign:
        raise DeployError(
            f"{settings.repo} holds something else ({', '.join(foreign[:3])}, ...) and no release of this"
            " pipeline; choose another deploy.repo"
        )
    same = tuple(path for path in paths if path in remote and same_content(folder / path, remote[path]))
    add = {path: (folder / path).stat().st_size for path in paths if path not in same}
    delete = tuple(sorted((set(last) & set(remote)) - set(paths)))
    tagged = _tagged(api, settings)
    revision = ""
    if add or delete:
        add[ORIGIN] = len(origin.content())
    else:
        candidates = (commit for commit in (tagged, recorded) if commit)
        content = {path: remote[path] for path in paths}
        revision = next((commit for commit in candidates if _holds(api, settings.repo, commit, content)), head)
    if tagged and tagged != revision:
        raise DeployError(f"{settings.repo}: tag {settings.tag} names another commit; choose a new deploy.tag")
    return Plan(head, add, delete, same, revision=revision)


def _is_blank(path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in BLANK)


def _holds(api: HfApi, repo: str, revision: str, content: Mapping[str, RemoteFile]) -> bool:
    """Whether a commit holds these very files: what others put on top of it later moves no release."""
    try:
        held = remote_files(api, repo, revision)
    except RevisionNotFoundError:  # a repository made anew
        return False
    return all(held.get(path) == file for path, file in content.items())


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


def _tagged(api: HfApi, settings: DeployParams) -> str:
    """The commit that the tag names; empty where there is no such tag, or none is wanted."""
    tags = api.list_repo_refs(settings.repo).tags if settings.tag else ()
    return next((str(tag.target_commit) for tag in tags if tag.name == settings.tag), "")


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


def unseen(api: HfApi, plan: Plan) -> list[str]:
    """A remark where a repository that seems missing may only be hidden from us."""
    if plan.head is None and not plan.unasked and not api.token:
        return ["note: without HF_TOKEN a private repository of that name cannot be seen; what it holds is not known"]
    return []


def unshown(api: HfApi, settings: DeployParams, plan: Plan) -> list[str]:
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
