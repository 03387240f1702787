"""Every object that `dvc.lock` names, looked up on the remote: is it there, has it its size, has it its content?

`dvc status -c` does not ask that: where a directory's list of files has arrived it takes the files for arrived, and it
never looks at content. A remote's own checksum is trusted where it is the hash in dvc.lock (S3's ETag of a file that
was sent in one part, unless the bucket encrypts with a key service). Where it looks like an MD5 and is another, the
object is read before it is called damaged; a folder is hashed; anything else is read only when `deep` is set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from affine.errors import AffineError

JOBS = 16
"""Requests under way at once."""


class RemoteError(AffineError):
    """There is no remote, or it does not answer."""


class State(StrEnum):
    """What became of one object."""

    GOOD = "good"
    UNPROVEN = "unproven"
    """There and of the right size, but the remote gives no checksum; `deep` reads it."""
    MISSING = "missing"
    DAMAGED = "damaged"


BAD = (State.MISSING, State.DAMAGED)


@dataclass(frozen=True, slots=True)
class Object:
    """One object: the stage and path it belongs to, its hash, its size in bytes where dvc.lock tells."""

    stage: str
    path: str
    oid: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What the remote has of an object; `cached` says whether the local cache could send it again."""

    object: Object
    state: State
    detail: str
    cached: bool


def check_remote(root: Path, remote: str | None = None, *, deep: bool = False) -> Iterator[Finding]:
    """A finding for every object of the files that this commit's dvc.lock names, in the order of dvc.yaml.

    `remote` is a name from DVC's configuration; None takes the default. Raises RemoteError.
    """
    with Repo(str(root)) as repo:
        odb = _open(repo, remote)
        _probe(odb)
        local = repo.cache.local
        for stage, path, hash_info, size in _outputs(repo):
            oid = hash_info.value
            whole = Object(stage, path, oid, None if hash_info.isdir else size)
            if not hash_info.isdir:
                yield _finding(odb, local, whole, deep=deep)
                continue
            listed = _finding(odb, local, whole, deep=True)
            yield listed
            content = _content(odb if listed.state is State.GOOD else local, oid)
            if content is not None:
                yield from _check_all(odb, local, _members(whole, content), deep=deep)


def heal(root: Path, findings: Iterable[Finding], remote: str | None = None) -> list[Finding]:
    """Send again what is missing or damaged and lies in the local cache, checked against its hash before, and look at
    it again; what could not be sent, or did not arrive whole, is returned. Raises RemoteError."""
    left = []
    with Repo(str(root)) as repo:
        odb = _open(repo, remote)
        local = repo.cache.local
        # Lists of directories go last, so that a reader never sees a list without its files.
        for finding in sorted(findings, key=lambda f: f.object.oid.endswith(".dir")):
            source = local.oid_to_path(finding.object.oid)
            if not finding.cached or _md5_of_file(source) != finding.object.oid.partition(".")[0]:
                left.append(finding)
                continue
            try:
                odb.fs.put_file(source, odb.oid_to_path(finding.object.oid))
            except Exception as error:
                raise RemoteError(_said(error, odb)) from None
            again = _finding(odb, local, finding.object, deep=False)
            if again.state in BAD:
                left.append(again)
    return left


def _open(repo: Any, remote: str | None) -> Any:
    try:
        return repo.cloud.get_remote_odb(name=remote, command="remote-check")
    except DvcException as error:
        said = " ".join(str(error).split()).partition(" Create a default remote")[0].rstrip(".")
        raise RemoteError(f"{said}; `.dvc/config` has a template, `dvc remote list` shows what there is") from None


def _probe(odb: Any) -> None:
    """Without its bucket or folder every object is missing, and none can be sent."""
    s3 = odb.fs.protocol == "s3"
    place = odb.path.partition("/")[0] if s3 else odb.path
    if not s3 and odb.fs.protocol != "local":
        return  # others have no such thing, or no common way to ask for it
    try:
        odb.fs.info(place)
    except FileNotFoundError:
        remedy = "create it" if s3 else "mount or create it"
        lost = f"no {'bucket' if s3 else 'folder'} {place}; {remedy}, and `dvc push` fills it again"
        raise RemoteError(f"{odb.fs.unstrip_protocol(odb.path)}: {lost}") from None
    except PermissionError:
        return  # a key may be good for the objects alone; the first of them tells
    except Exception as error:
        raise RemoteError(_said(error, odb)) from None


def _outputs(repo: Any) -> Iterator[tuple[str, str, Any, int | None]]:
    for stage in repo.index.stages:
        for out in stage.outs:
            if out.use_cache and out.can_push:
                if not out.hash_info:
                    raise RemoteError(f"dvc.lock has no hash for {out} ({stage.addressing}); run `dvc repro` first")
                yield stage.addressing, str(out), out.hash_info, out.meta.size if out.meta else None


def _members(whole: Object, content: bytes) -> list[Object]:
    return [
        Object(whole.stage, f"{whole.path}/{entry['relpath']}", entry["md5"], entry.get("size"))
        for entry in json.loads(content)
    ]


def _check_all(odb: Any, local: Any, objects: list[Object], *, deep: bool) -> Iterator[Finding]:
    with ThreadPoolExecutor(JOBS) as pool:
        yield from pool.map(lambda one: _finding(odb, local, one, deep=deep), objects)


def _finding(odb: Any, local: Any, wanted: Object, *, deep: bool) -> Finding:
    cached = Path(local.oid_to_path(wanted.oid))
    state, detail = _look(odb, wanted, deep=deep, cached=cached)
    return Finding(wanted, state, detail, cached.is_file())


def _look(odb: Any, wanted: Object, *, deep: bool, cached: Path) -> tuple[State, str]:
    path = odb.oid_to_path(wanted.oid)
    try:
        info = odb.fs.info(path)
    except FileNotFoundError:
        return State.MISSING, "not there"
    except Exception as error:  # every remote has its own; the message names the remote
        raise RemoteError(_said(error, odb)) from None
    size = wanted.size if wanted.size is not None else cached.stat().st_size if cached.is_file() else None
    if size is not None and info["size"] != size:
        return State.DAMAGED, f"{info['size']:,} bytes in place of {size:,}"
    md5 = wanted.oid.partition(".")[0]
    etag = str(info.get("ETag", "")).strip('"')
    if etag == md5 and not deep:
        return State.GOOD, ""
    # Under SSE-KMS an ETag looks like an MD5 and is none.
    if deep or odb.fs.protocol == "local" or (len(etag) == len(md5) and "-" not in etag):
        found = _md5(odb, path)
        return (State.GOOD, "") if found == md5 else (State.DAMAGED, f"its content hashes to {found}")
    return State.UNPROVEN, "of the right size" if size is not None else "there"


def _md5(odb: Any, path: str) -> str:
    try:
        with odb.fs.open(path, "rb") as file:
            return _digest(file)
    except Exception as error:
        raise RemoteError(_said(error, odb)) from None


def _md5_of_file(path: str) -> str:
    with Path(path).open("rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.md5(usedforsecurity=False)  # DVC's hash
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _content(odb: Any, oid: str) -> bytes | None:
    try:
        with odb.fs.open(odb.oid_to_path(oid), "rb") as file:
            content: bytes = file.read()
            return content
    except FileNotFoundError:
        return None


def _said(error: Exception, odb: Any) -> str:
    return f"{odb.fs.unstrip_protocol(odb.path)}: {' '.join(str(error).split()) or type(error).__name__}"
