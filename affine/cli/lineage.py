"""`lineage`: which data, code, parameters, versions and seeds made this output."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from affine.lineage import Lineage, Step, compare, lineage

SEEDS = ("seed", "tasks.seed")
VERSIONS = "tool.affine.training."
BASE = ("base.source", "base.path", "base.repo", "base.revision")


def run(arguments: list[str]) -> int:
    """Print it. Raises LineageError and ChangesError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine lineage",
        description="What made an output, from dvc.lock and git alone: stages, data, code, parameters, versions of the"
        " training libraries, the base's revision, seeds.",
    )
    parser.add_argument("output", help="such as models/ppo, release or metrics/pareto.json")
    parser.add_argument("--rev", metavar="COMMIT", help="as that commit has it (default: the files here)")
    parser.add_argument("--against", metavar="COMMIT", help="only what differs from that commit's")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    chosen = parser.parse_args(arguments)
    root, console = Path.cwd(), Console()
    found = lineage(root, chosen.output, chosen.rev)
    if chosen.against:
        other = lineage(root, chosen.output, chosen.against)
        changed = compare(found, other)
        if chosen.json:
            print(json.dumps({kind: [asdict(change) for change in some] for kind, some in changed.items()}, indent=2))
            return 0
        same = found.digest == other.digest
        console.print(f"[bold]{found.output}[/] of {found.commit} against {other.commit}: "
                      + ("the same bytes" if same else "other bytes"))  # fmt: skip
        for kind, some in changed.items():
            console.print(f"[bold]{kind}[/]: {'unchanged' if not some else ''}")
            for change in some:
                before, after = _short(change.before), _short(change.after)
                console.print(f"  {escape(change.key)}: {escape(before)} -> {escape(after)}", soft_wrap=True)
        return 0
    if chosen.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        _print(console, found)
    return 0


def _print(console: Console, found: Lineage) -> None:
    params = found.params()
    console.print(f"[bold]{found.output}[/] of {found.commit}, hash {found.digest}")
    rows = {
        "base": ", ".join(str(params[key]) for key in BASE if params.get(key)) or "none involved",
        "seeds": _pairs({key: params[key] for key in SEEDS if key in params}),
        "versions": _pairs({k.removeprefix(VERSIONS): v for k, v in params.items() if k.startswith(VERSIONS)}),
    }
    for name, text in rows.items():
        console.print(f"  {name}: {escape(text or 'none recorded')}", soft_wrap=True)
    for step in found.steps:
        _print_step(console, step)
    if found.strange:
        console.print("[yellow]not the code of this commit:[/] " + escape(", ".join(found.strange)), soft_wrap=True)
        console.print("  it was changed since without `dvc repro`; `git log -- FILE` finds what was run")
    else:
        console.print(f"all code, folders too, is that of {found.commit}")


def _print_step(console: Console, step: Step) -> None:
    console.print(f"[bold]{escape(step.stage)}[/]  {escape(step.command)}")
    lines = {
        "from": ", ".join(step.makers),
        "params": _pairs({k: v for k, v in step.params.items() if not k.startswith(VERSIONS)}),
        "code": f"{len(step.code)} files and folders",
        "data": _pairs({path: digest[:8] for path, digest in step.inputs.items()}),
        "made": _pairs({path: digest[:8] for path, digest in step.outputs.items()}),
    }
    for name, text in lines.items():
        if text:
            console.print(f"  {name}: {escape(text)}", soft_wrap=True, highlight=False)


def _pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in values.items())


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text[:8] if _hash(text) else text


def _hash(text: str) -> bool:
    return len(text.removesuffix(".dir")) == 32 and all(c in "0123456789abcdef" for c in text.removesuffix(".dir"))
