"""`check`: what the subnet's validators would say about a release, as far as it can be known here."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from affine.cli.serve import CHUTE_FILE
from affine.envs.env import EnvError
from affine.errors import AffineError
from affine.models.checkpoint import CheckpointError, check_checkpoint
from affine.params import load_params
from affine.release.lines import Page, Status, Submission, Tally
from affine.release.on_disk import signature
from affine.release.on_hub import ask, tokenizer_file, weight_hashes
from affine.release.probes import probe_formats
from affine.release.submission import PROFILES, check_submission, commit_json, deployed_in
from affine.rollout.pool import RolloutError

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
        "--against",
        nargs="*",
        default=[],
        metavar="MODEL",
        help="earlier models to compare weights with: folders, or OWNER/NAME[@REVISION] on the Hub",
    )
    parser.add_argument("--champion", default="", metavar="MODEL", help="whose tokenizer must be equal (2026)")
    parser.add_argument("--offline", action="store_true", help="do not ask the Hub about the deployed repository")
    parser.add_argument("--no-probes", action="store_true", help="do not let the model play")
    chosen = parser.parse_args(arguments)
    if not chosen.release.is_dir():
        raise AffineError(f"{chosen.release}: no such folder; make the release first (`dvc repro release`)")
    submission = _gather(chosen)
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


def _gather(chosen: argparse.Namespace) -> Submission:
    """Everything that can be known about the submission here. Raises AffineError."""
    deployed = deployed_in(Path.cwd())
    champion = ""
    if chosen.champion:
        with tempfile.TemporaryDirectory() as place:
            champion = signature(tokenizer_file(chosen.champion, Path(place)))
    return Submission(
        chosen.release,
        deployed,
        chosen.chute_id,
        chosen.hotkey,
        _page(deployed) if deployed and not chosen.offline else None,
        {model: weight_hashes(model) for model in chosen.against},
        champion,
        {} if chosen.no_probes else _probes(chosen.release),
        CHUTE_FILE if CHUTE_FILE.is_file() else None,
    )


def _page(deployed: Mapping[str, Any]) -> Page | None:
    try:
        return ask(str(deployed.get("repo")), str(deployed.get("revision")), str(deployed.get("endpoint")))
    except AffineError as error:  # its lines then say that they could not be checked
        print(f"check: the Hub was not asked: {error}", file=sys.stderr)
        return None


def _probes(release: Path) -> dict[str, Tally]:
    try:
        check_checkpoint(release)
    except CheckpointError:  # the line about the weights says so
        return {}
    print("letting the model play a few tasks of each environment ...", file=sys.stderr)
    try:
        return probe_formats(load_params(), release, Path.cwd())
    except (EnvError, RolloutError) as error:  # an engine or a worker failed, which says nothing about the model
        print(f"check: the probes were not finished: {error}", file=sys.stderr)
        return {}
