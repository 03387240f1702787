"""`readme`: make the generated sections of the guides anew, or check that they are as they should be."""

from __future__ import annotations

import argparse
from pathlib import Path

from affine.files import write_text
from affine.readme.rewrite import FILES, ReadmeError, rewritten
from affine.readme.sections import SECTIONS


def run(arguments: list[str]) -> int:
    """Rewrite the guides, or with --check raise ReadmeError naming those that differ."""
    parser = argparse.ArgumentParser(
        prog="python -m affine readme",
        description=f"Make the generated sections of {', '.join(FILES)} from metrics/, params.yaml and the code.",
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a section is out of date")
    check: bool = parser.parse_args(arguments).check
    root = Path.cwd()
    stale = []
    for name in FILES:
        text = _read(root / name)
        new = rewritten(text, name, root, SECTIONS)
        if new == text:
            continue
        stale.append(name)
        if not check:
            write_text(root / name, new)
    if check and stale:
        raise ReadmeError(f"out of date: {', '.join(stale)}; run `python -m affine readme` and commit the result")
    print(f"written: {', '.join(stale)}" if stale else "everything is up to date")
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ReadmeError(f"{path}: no such file; run from the repository's root") from None
