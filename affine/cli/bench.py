"""`bench`: measure speed on this machine, beside references, into benchmarks/results/."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from affine.errors import AffineError

ANYWHERE = ("envs", "rollout", "grpo", "sft", "ppo", "verdict", "graph")
BENCHMARKS = (*ANYWHERE, "merge", "shape")
"""`merge` wants 16 GB of disk and `shape` a GPU, so they run only when they are asked for."""


class BenchError(AffineError):
    """A benchmark is not here or failed."""


def run(arguments: list[str]) -> int:
    """Run the chosen benchmarks (all by default), each in a process of its own. Raises BenchError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine bench",
        description="Measure speed on this machine, beside references, and write benchmarks/results/NAME.json.",
        epilog="Options after the name go to the benchmark: python -m affine bench envs --help",
    )
    parser.add_argument("name", nargs="?", choices=BENCHMARKS, help="one benchmark (default: all but merge and shape)")
    chosen, options = parser.parse_known_args(arguments)
    for name in (chosen.name,) if chosen.name else ANYWHERE:
        script = Path("benchmarks") / f"bench_{name}.py"
        if not script.is_file():
            raise BenchError(f"{script}: no such file; run from the repository's root")
        code = subprocess.run([sys.executable, str(script), *options], check=False).returncode
        if code:
            raise BenchError(f"{script} failed with exit code {code}")
    return 0
