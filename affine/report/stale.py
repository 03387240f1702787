"""Does dvc.lock fit what lies here? Asked of each stage's command, code, parameters, inputs and outputs, without data.

`dvc repro --dry` stops where an output of a stale stage is missing, and `dvc status` calls everything changed that a
fresh clone doesn't have. Where an input is not here, its hash in the lock is compared with that of the stage which made
it: a lock that was merged or edited by hand is found so.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine.errors import AffineError

PIPELINE = "dvc.yaml"


class StaleError(AffineError):
    """dvc.yaml or dvc.lock cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Fit:
    """`stale`: stage -> what no longer fits its entry in dvc.lock. What follows from a stale stage isn't listed:
    whether it changes is known when that has run. `unproven`: inputs that are files of an output folder, where neither
    its list in the cache nor all of its files' hashes in the lock are at hand to compare them with."""

    stale: Mapping[str, list[str]]
    unproven: tuple[str, ...]


def stale_stages(root: Path) -> dict[str, list[str]]:
    """Stage -> what no longer fits its entry in dvc.lock, as `fit` finds it. Raises StaleError."""
    return dict(fit(root).stale)


def fit(root: Path) -> Fit:
    """Compare dvc.lock with the pipeline in `root`. Raises StaleError."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    stale: dict[str, list[str]] = {}
    unproven: set[str] = set()
    try:
        with Repo(str(root)) as repo:
            stages = [stage for stage in repo.index.stages if stage.path_in_repo == PIPELINE]
            made = _Made(stages)
            for stage in stages:
                causes = ["command"] if stage.changed_stage() else []
                for dep in stage.deps:
                    maker = made.of(dep)
                    if (maker is None or Path(dep.fs_path).exists()) and (status := dep.status()):
                        causes += _causes(status)
                    elif maker is not None and (same := made.as_locked(dep, maker)) is not True:
                        if same is None:
                            unproven.add(str(dep))
                        else:
                            causes.append(str(dep))
                causes += [cause for out in stage.outs for cause in _output(out)]
                if causes:
                    stale[str(stage.name)] = list(dict.fromkeys(causes))
    except DvcException as error:
        raise StaleError(f"dvc.yaml or dvc.lock cannot be used: {' '.join(str(error).split())}") from None
    return Fit(stale, tuple(sorted(unproven)))


class _Made:
    """What the lock says of the outputs, and of single files in them."""

    def __init__(self, stages: list[Any]) -> None:
        self._outs = {Path(out.fs_path): out for stage in stages for out in stage.outs}
        named: defaultdict[Path, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        for dep in (dep for stage in stages for dep in stage.deps):
            out = self.of(dep)
            if out is not None and out.fs_path != dep.fs_path and dep.hash_info and not dep.hash_info.isdir:
                folder = Path(out.fs_path)
                named[folder][Path(dep.fs_path).relative_to(folder).as_posix()].add(str(dep.hash_info.value))
        self._lists = {folder: _list(self._outs[folder], files) for folder, files in named.items()}

    def of(self, dep: Any) -> Any:
        """The output that `dep` is or lies in; None where no stage makes it."""
        path = Path(dep.fs_path)
        return next((self._outs[at] for at in (path, *path.parents) if at in self._outs), None)

    def as_locked(self, dep: Any, out: Any) -> bool | None:
        """Did the stage that reads it get what `out`'s stage made, by their entries in the lock? None: who knows."""
        if not dep.hash_info or not out.hash_info:
            return False
        folder, path = Path(out.fs_path), Path(dep.fs_path)
        if folder == path:
            return bool(dep.hash_info == out.hash_info)
        files = self._lists.get(folder)
        if files is None or dep.hash_info.isdir:
            return None
        return files.get(path.relative_to(folder).as_posix()) == str(dep.hash_info.value)


def _list(out: Any, named: Mapping[str, set[str]]) -> Mapping[str, str] | None:
    """The files of an output folder -> hash: from its list in the cache; else, if the lock names as many files as the
    folder has, as that of their combinations whose list hashes to the folder's hash (empty where none does); else
    None."""
    from dvc_data.hashfile.tree import Tree

    tree = out.get_obj() if out.hash_info else None
    if tree is not None:
        return {"/".join(key): str(hash_info.value) for key, _, hash_info in tree}
    if not out.meta or out.meta.nfiles != len(named):
        return None
    for hashes in itertools.product(*(sorted(named[name]) for name in named)):
        files = dict(zip(named, hashes, strict=True))
        tree = Tree.from_list([{"relpath": name, "md5": md5} for name, md5 in files.items()], hash_name="md5")
        tree.digest()
        if tree.hash_info.value == out.hash_info.value:
            return files
    return {}


def _output(out: Any) -> Iterator[str]:
    """What is wrong with an output: no entry in the lock; or, of what git keeps, other content than the lock says."""
    if not out.hash_info:
        yield f"{out} (not in dvc.lock)"
    elif not out.use_cache:
        yield from (f"{path} ({state})" for path, state in out.workspace_status().items())


def _causes(status: Mapping[str, Any]) -> list[str]:
    """File names, or the keys of a parameter file, from DVC's status."""
    return [
        name
        for file, state in status.items()
        for name in (sorted(state) if isinstance(state, Mapping) else [str(file)])
    ]
