"""Versions of the libraries that training computes with, as stages see them.

`requirements.lock` names some 160 packages, and a stage that depended on it would train anew for a new linter. The
table `tool.affine.training` of pyproject.toml repeats the versions that decide what training computes, the
training stages name that table in their `params`, and `python -m affine deps` holds the two files equal.
"""

from __future__ import annotations

from pathlib import Path

import tomlkit

from affine.errors import AffineError
from affine.files import write_text

LOCK = "requirements.lock"
PROJECT = "pyproject.toml"


class PinsError(AffineError):
    """requirements.lock or pyproject.toml does not hold the versions that training stages depend on."""


def read_pins(root: Path) -> dict[str, str]:
    """Library -> version, as pyproject.toml repeats it. Raises PinsError."""
    try:
        table = tomlkit.parse((root / PROJECT).read_text(encoding="utf-8"))["tool"]["affine"]["training"]
    except FileNotFoundError:
        raise PinsError(f"{PROJECT}: no such file; run from the repository's root") from None
    except KeyError:
        raise PinsError(f"{PROJECT}: no table tool.affine.training with the versions that training uses") from None
    return {str(name): str(version) for name, version in table.items()}


def locked(root: Path, names: list[str]) -> dict[str, str]:
    """The versions of `names` in requirements.lock. Raises PinsError for one that isn't there."""
    try:
        lines = (root / LOCK).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PinsError(f"{LOCK}: no such file; run from the repository's root") from None
    versions = dict(line.split("==", 1) for line in lines if "==" in line)
    if absent := [name for name in names if name not in versions]:
        raise PinsError(f"{LOCK} has no {', '.join(absent)}, named in {PROJECT}'s tool.affine.training; `make lock`")
    return {name: versions[name] for name in names}


def stale_pins(root: Path) -> dict[str, tuple[str, str]]:
    """Library -> (version in pyproject.toml, version in requirements.lock), where they differ."""
    pins = read_pins(root)
    lock = locked(root, list(pins))
    return {name: (pins[name], lock[name]) for name in pins if pins[name] != lock[name]}


def write_pins(root: Path) -> list[str]:
    """Bring pyproject.toml's table up to requirements.lock, comments kept; what changed, a line each."""
    stale = stale_pins(root)
    if stale:
        document = tomlkit.parse((root / PROJECT).read_text(encoding="utf-8"))
        for name, (_, version) in stale.items():
            document["tool"]["affine"]["training"][name] = version
        write_text(root / PROJECT, tomlkit.dumps(document))
    return [f"{PROJECT}: {name} {old} -> {new}" for name, (old, new) in stale.items()]
