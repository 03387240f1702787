"""Stage `base`: put the starting checkpoint into models/base and say in metrics/base.json what it is.

    shipped    the nano model that comes with the repository
    pretrain   the nano model, made anew from seed and code by the stage of that name
    hub        a repository of the Hub at one commit

The manifest in metrics/base.json (repository, commit, files, sizes, hashes) is small, so git tracks it.
"""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from affine.files import published, write_json
from affine.models.checkpoint import (
    INDEX,
    CheckpointError,
    check_checkpoint,
    hash_files,
    is_part,
    shard_files,
    shard_names,
)
from affine.models.hub import FAULTS, RemoteFile, endpoint, explain, open_api, remote_files, same_content
from affine.params import BaseParams, Params

UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)
"""Why a file system makes no hard link: another device, not allowed, not known, too many of them."""


def make_base(params: Params, root: Path) -> None:
    """Write models/base and metrics/base.json under `root`.

    What is half fetched or half made stays in the work folder (AFFINE_WORK, else `root`/work) and is taken
    up again by the next run.
    Raises CheckpointError, in a line or two, for a source that is missing, refused, cut or unusable.
    """
    source = params.base
    work = Path(os.environ.get("AFFINE_WORK") or root / "work") / "base"
    if source.source == "hub":
        folder = download(source, work / f"{source.repo.replace('/', '--')}-{source.revision}")
    else:
        folder = root / source.path
    summary = check_checkpoint(folder)
    out = root / "models" / "base"
    with published(out) as partial:
        parts = [file for file in folder.iterdir() if file.is_file() and is_part(file.name)]
        for file in sorted([*parts, *shard_files(folder)]):
            _place(file, partial / file.name, linked=source.source == "hub")
    hashes = hash_files(out)
    manifest = {
        "source": source.source,
        "repository": source.repo if source.source == "hub" else "",
        "revision": source.revision if source.source == "hub" else "",
        **asdict(summary),
        "bytes": sum(file.size for file in hashes),
        "files": [asdict(file) for file in hashes],
    }
    write_json(root / "metrics" / "base.json", manifest)
    if source.source == "hub":
        shutil.rmtree(folder)


def download(source: BaseParams, folder: Path) -> Path:
    """Fetch the checkpoint's files of `source.repo` at `source.revision` into `folder` and verify each one
    against the hash the Hub gives for it; what `folder` already holds of them is not fetched again.

    Raises CheckpointError.
    """
    url = endpoint()
    api = open_api(url)
    try:
        listed = remote_files(api, source.repo, source.revision)
        wanted = {path: file for path, file in listed.items() if is_part(path)}
        if INDEX in listed:  # it says which weights there are
            _fetch(api, source, folder, {INDEX: listed[INDEX]})
        for name in shard_names(folder):
            if name not in listed:
                at = f"{source.repo} at {source.revision[:8]}"
                raise CheckpointError(f"{at} holds no {name}, so no complete safetensors; take another base")
            wanted[name] = listed[name]
        _fetch(api, source, folder, wanted)
    except FAULTS as error:
        raise CheckpointError(explain(error, source.repo, url)) from None
    return folder


def _fetch(api: HfApi, source: BaseParams, folder: Path, wanted: dict[str, RemoteFile]) -> None:
    snapshot_download(
        source.repo,
        revision=source.revision,
        local_dir=folder,
        allow_patterns=list(wanted),
        endpoint=api.endpoint,
        token=api.token,
    )
    for path, remote in wanted.items():
        if not (folder / path).is_file() or not same_content(folder / path, remote):
            (folder / path).unlink(missing_ok=True)
            raise CheckpointError(f"{source.repo}: {path} arrived damaged and was dropped; run again to fetch it")


def _place(file: Path, target: Path, *, linked: bool) -> None:
    """Copy the contents (a source may be read-only); what was fetched is linked, so that 8 GB stay 8 GB and
    a kill here costs no second download."""
    if not linked:
        shutil.copyfile(file, target)
        return
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in UNLINKABLE:
            raise
        shutil.copyfile(file, target)
