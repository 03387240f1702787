"""This repository as a fresh clone has it, without data or cache, and what DVC would run there after a change."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from affine.report.stale import stale_stages

ROOT = Path(__file__).parents[1]
OTHER = "0123456789abcdef0123456789abcdef"
"""A hash that nothing has."""


def clone(folder: Path) -> Path:
    """The files here that git keeps or would keep, in a repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)
    return folder


class Clone:
    """One that is changed in a place, asked, and set back. `before` is what is stale without any change."""

    def __init__(self, folder: Path) -> None:
        self.folder = clone(folder)
        self.before = stale_stages(folder)

    def blamed(self, path: str, change: Callable[[str], str]) -> dict[str, list[str]]:
        """Stage -> what is stale of it since the text of `path` was changed, and was not before."""
        file = self.folder / path
        old = file.read_text(encoding="utf-8") if file.exists() else None
        new = change(old or "")
        assert new != old, path
        file.write_text(new, encoding="utf-8")
        try:
            after = stale_stages(self.folder)
        finally:
            if old is None:
                file.unlink()
            else:
                file.write_text(old, encoding="utf-8")
        more = {name: [c for c in causes if c not in self.before.get(name, ())] for name, causes in after.items()}
        return {name: causes for name, causes in more.items() if causes}
