"""`serve`: how to serve the release, by an engine of one's own or on Chutes."""

from __future__ import annotations

import argparse
from pathlib import Path

from affine.errors import AffineError
from affine.files import write_text
from affine.models.checkpoint import shard_files
from affine.release.chute import check_chute, render_chute
from affine.release.serving import serve_commands
from affine.release.submission import deployed_in

CHUTE_FILE = Path("deploy/chute.py")


def run(arguments: list[str]) -> int:
    """0. Raises AffineError where there is no release, and for Chutes no deployment."""
    parser = argparse.ArgumentParser(
        prog="python -m affine serve",
        description="Print the commands that serve the deployed revision (before a deployment: the folder) with an"
        " OpenAI-compatible endpoint, or write a deployment file for Chutes.",
    )
    parser.add_argument("release", nargs="?", type=Path, default=Path("release"), help="folder (default: release)")
    parser.add_argument("--chutes", metavar="USERNAME", default="", help=f"write {CHUTE_FILE} for this Chutes account")
    chosen = parser.parse_args(arguments)
    if not chosen.release.is_dir():
        raise AffineError(f"{chosen.release}: no such folder; make the release first (`dvc repro release`)")
    deployed = deployed_in(Path.cwd())
    repo, revision = str(deployed.get("repo", "")), str(deployed.get("revision", ""))
    if not chosen.chutes:
        for engine, command in serve_commands(repo or str(chosen.release), revision).items():
            print(f"{engine:<14}{command}")
        return 0
    if not revision:
        raise AffineError("Chutes serves a published revision: run `make deploy` first")
    size = sum(file.stat().st_size for file in shard_files(chosen.release))
    write_text(CHUTE_FILE, render_chute(chosen.chutes, repo, revision, size))
    print(f"wrote {CHUTE_FILE} for {repo} at {revision}, checked {check_chute(CHUTE_FILE, repo, revision)}")
    print(f"next: cd {CHUTE_FILE.parent} && chutes deploy {CHUTE_FILE.stem}:chute --accept-fee")
    return 0
