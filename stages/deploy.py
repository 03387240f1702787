"""Stage `deploy`: publish the release. `--dry-run` prints what would be sent and sends nothing; `--check` only refuses
what cannot be published whatever the release, so that nobody waits for a graph first, and a look at a release that was
never made, for which nobody expects to wait at all."""

from __future__ import annotations

import sys
from pathlib import Path

from affine.params import load_params
from affine.release.hub import check, deploy
from affine.release.plan import DeployError
from affine.stage import main

KNOWN = ("--check", "--dry-run")


def run(*arguments: str) -> None:
    unknown = set(arguments) - set(KNOWN)
    if unknown:
        sys.exit(f"deploy: unknown argument {', '.join(sorted(unknown))} (known: {', '.join(KNOWN)})")
    params, dry_run = load_params(), "--dry-run" in arguments
    if "--check" in arguments:
        check(params.deploy, dry_run=dry_run)
        if dry_run and not Path("release").is_dir():
            raise DeployError("there is no release/ to look at yet; run `make all` (the whole graph) first")
    else:
        deploy(params, Path.cwd(), dry_run=dry_run)


if __name__ == "__main__":
    main(run, *sys.argv[1:])
