"""Stage `deploy`: publish the release. `--dry-run` prints what would be sent and sends nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from affine.params import load_params
from affine.release.hub import deploy
from affine.stage import main


def run(*arguments: str) -> None:
    unknown = set(arguments) - {"--dry-run"}
    if unknown:
        sys.exit(f"deploy: unknown argument {', '.join(sorted(unknown))} (known: --dry-run)")
    deploy(load_params(), Path.cwd(), dry_run="--dry-run" in arguments)


if __name__ == "__main__":
    main(run, *sys.argv[1:])
