"""What README, QUICKSTART and TRAINING_GUIDE tell a reader to type, and a repository to type it in."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

from pareto_episodes import write_evaluations
from tiny import make_tiny_base

from affine.files import write_json
from affine.models.checkpoint import write_sums
from affine.params import load_params
from affine.pareto.run import run_pareto
from affine.readme.rewrite import FILES

ROOT = Path(__file__).parents[1]
GUIDES = {name: (ROOT / name).read_text(encoding="utf-8") for name in FILES}

DIGEST = "0123456789abcdef" * 4
WORDS = {
    "ENV": "sat", "USERNAME": "ada_l", "NAME": "store", "s3://...": "s3://bucket/affine", "<commit>": "a" * 40,
    "policy_digest=...": f"policy_digest={DIGEST}",
}  # fmt: skip
"""What the tests put for the words that a reader replaces."""

STARTS = re.compile(r"(make|python -m|dvc|eval|git|play|AFFINE_\w+=\S+) ")
"""What a command begins with; `play` stands alone where the text has named the rest before."""


def commands() -> set[str]:
    """Whole lines of code blocks, and what stands in backticks within text."""
    lines, inline = [], []
    fences = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for text in GUIDES.values():
        for kind, block in fences.findall(text):
            if kind in ("", "sh"):
                whole = re.sub(r"\\\n *", "", block)  # a line that goes on in the next
                lines += [line.partition("  #")[0].strip() for line in whole.splitlines()]
        inline += re.findall(r"`([^`\n]+)`", fences.sub("", text))
    return {c for c in lines + inline if STARTS.match(c) and "…" not in c}


def words_of(command: str) -> list[str]:
    """The command's words as a shell would split them, `WORDS` replaced."""
    return [re.sub("|".join(map(re.escape, WORDS)), lambda m: WORDS[m[0]], word) for word in shlex.split(command)]


def dvc(arguments: list[str]) -> int:
    """Its exit status."""
    from dvc.cli import main as dvc_main

    return int(dvc_main(arguments))


def make_repository(target: Path) -> Path:
    """A clone with this tree's files, evaluations of made-up episodes, and a tiny release that was deployed."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)
    for arguments in (
        ["init", "-q"], ["config", "user.name", "t"], ["config", "user.email", "t@example.org"],
        ["add", "-A"], ["commit", "-qm", "start"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", str(target), *arguments], check=True)
    write_evaluations(target / "evaluations", tasks=40)
    run_pareto(load_params(target / "params.yaml"), target)
    make_tiny_base(target / "release")
    write_sums(target / "release")
    deployed = {"repo": "ada/Affine-nano", "revision": "a" * 40, "private": False, "endpoint": "http://127.0.0.1:9"}
    write_json(target / "deploy/deployed.json", deployed)
    return target
