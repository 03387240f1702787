"""`report`: write the run in this folder as one HTML file."""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from affine.files import write_text
from affine.params import load_params
from affine.report.gather import gather
from affine.report.page import render


def run(arguments: list[str]) -> int:
    """Write the page. Raises ReportError, FileError, GraphError, ParamsError."""
    parser = argparse.ArgumentParser(prog="python -m affine report", description="The run as one HTML file.")
    parser.add_argument(
        "--out", type=Path, default=Path("report.html"), help="where to write it (default: %(default)s)"
    )
    out: Path = parser.parse_args(arguments).out
    root = Path.cwd()
    results = gather(root, load_params(root / "params.yaml").pareto.confidence)
    write_text(out, render(results, commit_of(root)))
    episodes = (
        f"{results.packed.episodes:,} episodes" if results.packed else "no episodes (`dvc pull evaluate` gets them)"
    )
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {episodes}; open it in a browser")
    return 0


def commit_of(root: Path) -> str:
    """The short commit of `root`, with a + where tracked files differ from it; "" outside git."""
    git = shutil.which("git")
    if git is None:
        return ""

    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([git, *arguments], cwd=root, capture_output=True, text=True, check=False)

    head = ask("rev-parse", "--short=10", "HEAD")
    if head.returncode != 0:
        return ""
    return head.stdout.strip() + ("+" if ask("diff", "--quiet", "HEAD").returncode else "")
