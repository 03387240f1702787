"""Rewrite what stands between the markers of a Markdown file.

    <!-- generated: NAME ARGUMENT -->
    anything here is replaced
    <!-- end -->

`NAME` is a section of `affine.readme.sections`, `ARGUMENT` (optional) is handed to it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from affine.errors import AffineError

FILES = ("README.md", "QUICKSTART.md", "TRAINING_GUIDE.md")
"""The guides with generated sections."""

Section = Callable[[Path, str], str]
"""(root, argument) -> Markdown without a newline at the end."""

_BEGIN = re.compile(r"<!-- generated: ([\w-]+) ?([\w-]*) -->")
_END = "<!-- end -->"


class ReadmeError(AffineError):
    """A guide's markers are wrong, or its generated sections are out of date."""


def rewritten(text: str, name: str, root: Path, sections: Mapping[str, Section]) -> str:
    """`text` (of the file `name`, for errors) with every section made anew. Raises ReadmeError naming the line
    of a marker without its partner or of an unknown section."""
    out: list[str] = []
    opened = ""
    for number, line in enumerate(text.splitlines(), 1):
        found = _BEGIN.fullmatch(line)
        if opened:
            if found:
                raise ReadmeError(f"{name}, line {number}: a section begins inside another; end that with {_END}")
            if line == _END:
                out.append(line)
                opened = ""
            continue
        out.append(line)
        if line == _END:
            raise ReadmeError(f"{name}, line {number}: {_END} without a section before it")
        if found:
            section, argument = found.groups()
            if section not in sections:
                known = ", ".join(sorted(sections))
                raise ReadmeError(f"{name}, line {number}: no section {section!r} (known: {known})")
            out += ["", sections[section](root, argument), ""]
            opened = line
    if opened:
        raise ReadmeError(f"{name}: {opened} has no {_END}")
    return "\n".join(out) + "\n"
