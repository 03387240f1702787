"""A deployment file for Chutes (Bittensor subnet 64), where the validators of 2025 asked for answers.

The settings are those with which miners deployed in 2025: one GPU, 20 requests at once, one instance. A file is
checked against the fields of `build_sglang_chute` as chutes 0.6.9 declares them, without running it; where the
package is installed (extra `chutes`), it is also run as `chutes deploy` would run it.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from affine.errors import AffineError

BUILDER, SELECTOR = "build_sglang_chute", "NodeSelector"


class ChuteError(AffineError):
    """A Chutes file cannot be made, or would be refused; says why."""


class Selector(BaseModel):
    """Fields of `NodeSelector`; memory in GB."""

    model_config = ConfigDict(extra="forbid", strict=True)

    gpu_count: int = Field(default=1, ge=1, le=8)
    min_vram_gb_per_gpu: int = Field(default=16, ge=16, le=140)
    max_hourly_price_per_gpu: float | None = Field(default=None, gt=0, lt=10)
    include: list[str] | None = None
    exclude: list[str] | None = None


class Chute(BaseModel):
    """Arguments of `build_sglang_chute`, of which the builder demands a revision outside of `engine_args`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    username: str = Field(pattern=r"^[a-zA-Z0-9_]{3,15}$")
    model_name: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    node_selector: Selector
    image: str = Field(default="", pattern=r"^([\w.-]+/[\w.-]+:[\w.-]+)?$")
    tagline: str = ""
    readme: str = ""
    concurrency: int = Field(default=32, ge=1)
    engine_args: str = ""
    max_instances: int = Field(default=1, ge=1)
    scaling_threshold: float = Field(default=0.75, gt=0, le=1)
    shutdown_after_seconds: int = Field(default=300, ge=1)
    allow_external_egress: bool = False
    tee: bool = False


def render_chute(username: str, repo: str, revision: str, weight_bytes: int) -> str:
    """The file's text for `repo` at `revision` (a full hash), with a GPU that holds its weights twice over.

    Raises ChuteError for a user name that Chutes does not have.
    """
    if not re.fullmatch(r"[a-zA-Z0-9_]{3,15}", username):
        raise ChuteError(f"{username!r} is no Chutes user name (3 to 15 letters, digits or underscores)")
    vram = min(140, max(16, math.ceil(2 * weight_bytes / 10**9)))
    environment = Environment(loader=PackageLoader("affine.release", ""), undefined=StrictUndefined, autoescape=False)  # noqa: S701 - Python, from our own words
    template = environment.get_template("chute.py.jinja")
    return str(template.render(username=username, repo=repo, revision=revision, vram=vram)) + "\n"


def check_chute(path: Path, repo: str, revision: str) -> str:
    """Check the file at `path`: valid, and for `repo` at `revision`. Returns how it was checked.

    Raises ChuteError naming the first thing that is wrong.
    """
    chute = read_chute(path)
    if "--revision" in chute.engine_args.lower():
        raise ChuteError(f"{path}: engine_args must not hold --revision; use revision=")
    for what, found, wanted in (("model_name", chute.model_name, repo), ("revision", chute.revision, revision)):
        if found != wanted:
            raise ChuteError(f"{path}: {what} is {found}, deployed is {wanted}; write the file anew")
    if importlib.util.find_spec("chutes") is None:
        return "by its fields (the package chutes is not installed)"
    made = _run(path)
    if made != {"name": repo, "revision": revision, "username": chute.username}:
        raise ChuteError(f"{path}: the package chutes makes {json.dumps(made)} of it, not {repo} at {revision}")
    return f"by the package chutes {importlib.metadata.version('chutes')}"


def read_chute(path: Path) -> Chute:
    """The one call of the builder in a Chutes file, with literal arguments; the file is not run.

    Raises ChuteError naming the argument that is unknown, missing or out of range.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError) as error:
        raise ChuteError(f"{path}: cannot be read: {error}") from None
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _name(node) == BUILDER]
    if len(calls) != 1:
        raise ChuteError(f"{path}: one call of {BUILDER} is expected, there are {len(calls)}")
    try:
        return Chute.model_validate(_arguments(calls[0]))
    except ValueError as error:
        reason = error
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}")
        raise ChuteError(f"{path}: {reason}") from None


def _name(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def _arguments(call: ast.Call) -> dict[str, Any]:
    """Keyword arguments as values; a nested `NodeSelector(...)` as a dictionary. Raises ValueError."""
    if call.args or any(keyword.arg is None for keyword in call.keywords):
        raise ValueError(f"{_name(call)} takes keyword arguments only")
    found = {}
    for keyword in call.keywords:
        value = keyword.value
        nested = isinstance(value, ast.Call) and _name(value) == SELECTOR
        try:
            found[str(keyword.arg)] = _arguments(value) if nested else ast.literal_eval(value)  # type: ignore[arg-type]
        except ValueError:
            raise ValueError(f"{keyword.arg} must be written out, not computed") from None
    return found


def _run(path: Path) -> dict[str, Any]:
    """What the package makes of the file, in a process of its own without an account. Raises ChuteError."""
    code = (
        "import json, runpy, sys; chute = runpy.run_path(sys.argv[1])['chute']; chute = getattr(chute, 'chute', chute);"
        "print(json.dumps({'name': chute.name, 'revision': chute.revision, 'username': chute._username}))"
    )
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | {"CHUTES_ALLOW_MISSING": "true", "CHUTES_CONFIG_PATH": f"{folder}/config.ini"}
        done = subprocess.run(
            [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False, env=environment
        )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChuteError(f"{path}: the package chutes refuses it: {last}")
    made: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return made
