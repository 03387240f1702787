"""`check`: what the subnet's validators would say about a release, as far as it can be known offline."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from affine.errors import AffineError
from affine.release.submission import PROFILES, Status, Submission, check_submission, commit_json, deployed_in

MARKS = {Status.PASS: "[green]pass[/]", Status.FAIL: "[bold red]FAIL[/]", Status.UNKNOWN: "[yellow]?[/]"}


def run(arguments: list[str]) -> int:
    """1 where a requirement fails. Raises AffineError where there is no release."""
    parser = argparse.ArgumentParser(
        prog="python -m affine check",
        description="Check a release against what the validators required: affine-2025 (October and November 2025)"
        " or affine-2026 (July 2026).",
    )
    parser.add_argument("release", nargs="?", type=Path, default=Path("release"), help="folder (default: release)")
    parser.add_argument("--profile", choices=PROFILES, default="affine-2025", help="default: affine-2025")
    parser.add_argument("--chute-id", default="", help="the chute that serves it (2025)")
    parser.add_argument("--hotkey", default="", help="the miner's SS58 address (2026)")
    parser.add_argument(
        "--against", type=Path, nargs="*", default=[], metavar="FOLDER", help="earlier models, to compare weights with"
    )
    chosen = parser.parse_args(arguments)
    if not chosen.release.is_dir():
        raise AffineError(f"{chosen.release}: no such folder; make the release first (`dvc repro release`)")
    submission = Submission(
        chosen.release, deployed_in(Path.cwd()), chosen.chute_id, chosen.hotkey, tuple(chosen.against)
    )
    lines = check_submission(submission, chosen.profile)
    table = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    table.add_column("status", no_wrap=True)
    table.add_column("requirement, and what was seen or what to do", overflow="fold")
    for line in lines:
        table.add_row(MARKS[line.status], f"[bold]{escape(line.name)}[/]\n{escape(line.advice)}")
    console = Console()
    console.print(table)
    counts = Counter(line.status for line in lines)
    console.print(
        f"{chosen.profile}: {counts[Status.PASS]} pass, {counts[Status.FAIL]} fail, "
        f"{counts[Status.UNKNOWN]} cannot be checked here (?)"
    )
    console.print(f"commit: {commit_json(submission, chosen.profile)}", markup=False, highlight=False, soft_wrap=True)
    return int(any(line.status is Status.FAIL for line in lines))
