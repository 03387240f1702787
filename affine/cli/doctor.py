"""`doctor`: what this machine can run, and what to do about the rest."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from affine.doctor import Finding, Status, examine

MARKS = {Status.OK: "[green]ok[/]", Status.NOTE: "[yellow]note[/]", Status.FAIL: "[bold red]FAIL[/]"}


def run(arguments: list[str]) -> int:
    """1 where something that the default run needs does not work."""
    parser = argparse.ArgumentParser(
        prog="python -m affine doctor",
        description="Try what this machine can run: Python, packages, git, DVC, torch, the sandbox, every engine"
        " (started once, one step played), memory, disk, and whether tokens are there (never what they are).",
    )
    parser.add_argument("--json", action="store_true", help="machine-readable")
    chosen = parser.parse_args(arguments)
    console = Console()
    findings: list[Finding] = []
    if chosen.json:
        findings = list(examine(Path.cwd()))
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        with console.status("looking") as status:
            for finding in examine(Path.cwd()):
                findings.append(finding)
                status.update(f"{finding.name}: {finding.status}")
        console.print(table(findings))
    failed = [finding.name for finding in findings if finding.status is Status.FAIL]
    if not chosen.json:
        console.print(
            f"[bold red]{len(failed)} to mend first:[/] {', '.join(failed)}" if failed else "[green]ready[/]: make all"
        )
    return int(bool(failed))


def table(findings: list[Finding]) -> Table:
    """The findings, each remedy under what it mends."""
    rows = Table(show_header=False, box=None, padding=(0, 1, 0, 0))
    rows.add_column("need", style="bold", no_wrap=True)
    rows.add_column("status", no_wrap=True)
    rows.add_column("found", overflow="fold")
    for finding in findings:
        rows.add_row(finding.name, MARKS[finding.status], escape(finding.found))
        if finding.remedy:
            rows.add_row("", "", f"[cyan]-> {escape(finding.remedy)}[/]")
    return rows
