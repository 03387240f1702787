"""Resolve pyproject.toml anew and write the lock files: `python scripts/lock.py` (or `make lock`).

    requirements.lock            what the package and its extra `dev` need, exactly
    requirements-alfworld.lock   what the extra `alfworld` needs beyond that (built with a C/C++ compiler)

Nothing is installed: pip only says what it would take. Only names and versions are kept, so that the files
work with any index; a local build of torch ("2.13.0+cpu") is written as the release it is built from.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name
from packaging.version import Version

from affine.pins import write_pins

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make lock` from pyproject.toml; edit that instead.\n"


def resolve(extras: str, *constraints: str) -> dict[str, str]:
    """Canonical package name -> version for this project with `extras`, as pip resolves it here and now."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    command += ["--report", "-", *constraints, "-e", f".[{extras}]"]
    answer = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    report: dict[str, Any] = json.loads(answer[answer.index("{") :])
    found = {canonicalize_name(p["metadata"]["name"]): Version(p["metadata"]["version"]) for p in report["install"]}
    return {name: version.public for name, version in sorted(found.items()) if name != "affine"}


def write(path: Path, pins: dict[str, str]) -> None:
    """Write pins, one a line."""
    path.write_text(HEADER + "".join(f"{name}=={version}\n" for name, version in pins.items()), encoding="utf-8")
    print(f"{path.name}: {len(pins)} packages")


def main() -> None:
    """Write both lock files, the second resolved under the first, and the versions that training depends on."""
    lock = ROOT / "requirements.lock"
    write(lock, pins := resolve("dev"))
    more = resolve("dev,alfworld", "--constraint", str(lock))
    write(ROOT / "requirements-alfworld.lock", {name: v for name, v in more.items() if name not in pins})
    for line in write_pins(ROOT):
        print(line)


if __name__ == "__main__":
    main()
