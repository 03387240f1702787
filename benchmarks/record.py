"""What every benchmark writes beside its numbers: machine, versions, commit."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from affine.cli.report import commit_of
from affine.files import write_json

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "minigrid",
    "scienceworld",
    "python-sat",
    "tantivy",
    "textworld",
    "requests",
)


def conditions() -> dict[str, Any]:
    """Machine, versions and commit; the load average says whether the machine was quiet. Call it first."""
    return {
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
            "load": round(os.getloadavg()[0], 2),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "commit": commit_of(ROOT),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def save(name: str, result: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Write `folder`/<name>.json."""
    path = folder / f"{name}.json"
    write_json(path, result)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
