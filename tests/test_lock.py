"""The lock files: they meet pyproject.toml, name nothing of one machine, and leave both optional builds out."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(file: str) -> dict[str, Version]:
    lines = [line for line in (ROOT / file).read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found = [re.fullmatch(r"([a-z0-9-]+)==([\w.]+)", line) for line in lines]  # no index, path, hash or local build
    assert all(found), [line for line, match in zip(lines, found, strict=True) if not match]
    return {match[1]: Version(match[2]) for match in found if match}


LOCK = pins("requirements.lock")
ALFWORLD = pins("requirements-alfworld.lock")


OWN = re.compile(r"affine\[([a-z,]+)\]")
"""An extra that takes other extras in."""


def flat(texts: list[str]) -> list[str]:
    """Requirements with this project's own extras written out."""
    found = []
    for text in texts:
        own = OWN.fullmatch(text)
        found += flat([line for extra in own[1].split(",") for line in EXTRAS[extra]]) if own else [text]
    return found


@pytest.mark.parametrize("text", flat([*PROJECT["dependencies"], *EXTRAS["dev"], "setuptools>=77"]))
def test_every_dependency_is_locked_to_a_version_it_allows(text: str) -> None:
    needed = Requirement(text)
    assert needed.specifier.contains(LOCK[canonicalize_name(needed.name)], prereleases=True), text


@pytest.mark.parametrize("text", EXTRAS["alfworld"])
def test_the_alfworld_extra_has_a_lock_of_its_own(text: str) -> None:
    needed = Requirement(text)
    assert needed.specifier.contains(ALFWORLD[canonicalize_name(needed.name)])


def test_the_two_locks_do_not_overlap_and_hold_no_gpu_build() -> None:
    assert not set(LOCK) & set(ALFWORLD)
    assert EXTRAS["gpu"] == ["bitsandbytes", "flash-attn"]
    assert not set(EXTRAS["gpu"]) & set({**LOCK, **ALFWORLD})
    assert LOCK["torch"] == Version("2.13.0")
    assert LOCK["torch"].local is None


def test_locks_are_sorted_and_say_how_they_are_made() -> None:
    for file in ("requirements.lock", "requirements-alfworld.lock"):
        first, *rest = (ROOT / file).read_text(encoding="utf-8").splitlines()
        assert "make lock" in first
        names = [line.partition("==")[0] for line in rest]
        assert names == sorted(names)
