"""`remote-check`: is everything that dvc.lock names on the remote, whole?"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from affine.remote import BAD, Finding, State, check_remote, heal

REMEDY = {
    True: "in this machine's cache: `python -m affine remote-check --heal` sends it again",
    False: "not in this machine's cache: run this where `dvc status` is clean, or make it again by `dvc repro --force"
    " --single-item {stage}`",
}


def run(arguments: list[str]) -> int:
    """1 where an object is missing or damaged and stays so. Raises RemoteError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine remote-check",
        description="Compare every object that dvc.lock names with the remote: present, size, checksum. `dvc status -c`"
        " and `dvc push` believe that a directory has arrived as soon as its list has.",
    )
    parser.add_argument("-r", "--remote", metavar="NAME", help="a remote of DVC's configuration (default: its default)")
    parser.add_argument("--deep", action="store_true", help="read every object, also where the remote has a checksum")
    parser.add_argument("--heal", action="store_true", help="send again what this machine's cache has")
    chosen = parser.parse_args(arguments)
    console = Console()
    root = Path.cwd()
    counts: Counter[State] = Counter()
    bad: list[Finding] = []
    with console.status("asking the remote") as status:
        for finding in check_remote(root, chosen.remote, deep=chosen.deep):
            counts[finding.state] += 1
            status.update(f"{counts.total()} objects; at {finding.object.path}")
            if finding.state in BAD:
                bad.append(finding)
    for finding in bad:
        console.print(f"[bold red]{finding.state}[/] {escape(finding.object.path)}: {escape(finding.detail)}")
        if not (chosen.heal and finding.cached):
            remedy = REMEDY[finding.cached].format(stage=finding.object.stage)
            console.print(f"  [cyan]-> {escape(remedy)}[/]", soft_wrap=True)
    console.print(f"{counts.total()} objects: " + ", ".join(f"{counts[state]} {state}" for state in State))
    if counts[State.UNPROVEN]:
        console.print("unproven: there, but the remote gives no checksum; --deep reads them")
    if chosen.heal and bad:
        bad = heal(root, bad, chosen.remote)
        for finding in bad:
            console.print(f"[bold red]still {finding.state}[/] {escape(finding.object.path)}: {escape(finding.detail)}")
        console.print("healed" if not bad else f"[bold red]{len(bad)} could not be healed from here[/]")
    return int(bool(bad))
