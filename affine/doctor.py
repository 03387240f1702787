"""What this machine can run: one line per need, and what to do where it is not met.

Nothing is assumed to be installed: what is missing is what a line says. No line holds a secret's value.
"""

from __future__ import annotations

import os
import platform
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from affine.errors import AffineError
from affine.types import ENVS, Split, Task

REINSTALL = "reinstall the locked packages: make all"
PYTHONS = ((3, 11), (3, 14))
"""The first version that will do, and the first that will not."""
MEMORY = (3.0, 6.0)
"""GB available: below the first the default run will not fit, below the second it is tight."""
DISK = (2.0, 10.0)
"""GB free, likewise."""
GB = 1e9


class Status(StrEnum):
    """`NOTE`: works, but slower, or without something optional. `FAIL`: the default run will not work."""

    OK = "ok"
    NOTE = "note"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line. `remedy` is empty where nothing needs to be done."""

    name: str
    status: Status
    found: str
    remedy: str = ""


def examine(root: Path) -> Iterator[Finding]:
    """Every line, in the order in which a person would mend things; engines are started once each."""
    checks: list[tuple[str, Callable[[], Finding]]] = [
        ("python", python),
        ("packages", lambda: packages(root / "requirements.lock")),
        ("git", lambda: git(root)),
        ("dvc", lambda: dvc(root)),
        ("make", make_tool),
        ("torch", torch_device),
        ("attention", attention),
        ("bfloat16", bfloat16),
        ("memory", lambda: memory(available_memory())),
        ("disk", lambda: disk(shutil.disk_usage(root).free)),
        ("sandbox", lambda: sandbox(_unsafe(root))),
        *[(env, lambda env=env: engine(env, _unsafe(root))) for env in ENVS],
        ("textworld", textworld),
        ("hugging face", hugging_face),
        ("s3", s3),
    ]
    for name, check in checks:
        yield _safely(name, check)


def _safely(name: str, check: Callable[[], Finding]) -> Finding:
    """A check that breaks is a finding, whatever broke: that is what a doctor is for."""
    try:
        return check()
    except ModuleNotFoundError as error:
        return Finding(name, Status.FAIL, f"the package {error.name} is missing", REINSTALL)
    except AffineError as error:
        return Finding(name, Status.FAIL, str(error), "see the message; " + REINSTALL)
    except Exception as error:
        return Finding(name, Status.FAIL, f"{type(error).__name__}: {error}".splitlines()[0], REINSTALL)


def python() -> Finding:
    """The interpreter's version."""
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if PYTHONS[0] <= sys.version_info[:2] < PYTHONS[1]:
        return Finding("python", Status.OK, found)
    return Finding(
        "python", Status.FAIL, found, "take Python 3.11, 3.12 or 3.13: rm -r .venv; make PYTHON=python3.12 all"
    )


def packages(lock: Path) -> Finding:
    """Whether what `lock` names is installed, in that version."""
    if not lock.is_file():
        return Finding("packages", Status.NOTE, f"no {lock.name} here", "run it from the repository's root")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    missing, other = [], []
    for name, wanted in pins.items():
        try:
            if version(name).partition("+")[0] != wanted:
                other.append(f"{name} {version(name)} instead of {wanted}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", Status.FAIL, f"missing: {_few(missing)}", REINSTALL)
    if other:
        return Finding("packages", Status.NOTE, _few(other), f"results may differ; {REINSTALL}")
    return Finding("packages", Status.OK, f"all {len(pins)} as locked")


def _few(items: list[str]) -> str:
    return ", ".join(items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def git(root: Path) -> Finding:
    """git, and that it takes `root` for a repository."""
    program = shutil.which("git")
    if program is None:
        return Finding("git", Status.FAIL, "not installed", "install git; on Debian: apt install git")
    asked = _ask(program, "-C", str(root), "rev-parse", "--show-toplevel")
    if asked.returncode:
        reason = (asked.stderr.strip() or "no repository").splitlines()[0]
        owner = "dubious ownership" in asked.stderr
        remedy = f"git config --global --add safe.directory {root.resolve()}" if owner else "clone it with git"
        return Finding("git", Status.FAIL, reason, remedy)
    return Finding("git", Status.OK, _ask(program, "--version").stdout.strip().removeprefix("git version "))


def dvc(root: Path) -> Finding:
    """DVC, and that `root` is one of its projects."""
    found = version("dvc")
    if not (root / ".dvc").is_dir():
        return Finding("dvc", Status.FAIL, f"{found}, but no .dvc here", "run it from the repository's root")
    return Finding("dvc", Status.OK, found)


def make_tool() -> Finding:
    """make, which only shortens commands."""
    program = shutil.which("make")
    if program is None:
        return Finding("make", Status.NOTE, "not installed", "install make, or run what the Makefile says by hand")
    return Finding("make", Status.OK, _ask(program, "--version").stdout.partition("\n")[0])


def torch_device() -> Finding:
    """torch and what it would compute on."""
    import torch

    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        found = f"{torch.cuda.device_count()} x {card.name}, {card.total_memory / GB:.0f} GB"
    else:
        found = f"CPU, {len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"
    return Finding("torch", Status.OK, f"{torch.__version__} on {found}")


def attention() -> Finding:
    """The attention kernel that `sft.attention: auto` takes."""
    import torch

    from affine.models.attention import choose_attention

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    taken = choose_attention("auto", device)
    if device.type == "cuda" and find_spec("flash_attn") is None:
        return Finding("attention", Status.NOTE, taken, "for FlashAttention (needs nvcc): pip install -e '.[gpu]'")
    return Finding("attention", Status.OK, taken)


def bfloat16() -> Finding:
    """Whether `sft.dtype: auto` takes bfloat16."""
    import torch

    from affine.models.attention import choose_dtype

    taken = choose_dtype("auto", torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    if taken == torch.bfloat16:
        return Finding("bfloat16", Status.OK, "in hardware")
    return Finding("bfloat16", Status.NOTE, "not in hardware", "float32 is taken instead: nothing to do, only slower")


def available_memory() -> float:
    """Bytes that can still be used: the machine's, or the container's where that is less."""
    machine = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
    free = float(machine.group(1)) * 1024 if machine else float("inf")
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and (most := limit.read_text(encoding="ascii").strip()).isdigit():
        free = min(free, float(most) - float(used.read_text(encoding="ascii")))
    return free


def memory(available: float) -> Finding:
    """Enough of it for the default run (two rollout workers, each with a Java process)."""
    return _amount("memory", available, MEMORY, "available", "close other programs, or set rollout.workers to 1")


def disk(free: float) -> Finding:
    """Enough of it for the default run's outputs and DVC's cache."""
    return _amount("disk", free, DISK, "free", "make room: dvc gc --workspace deletes what this commit doesn't use")


def _amount(name: str, amount: float, limits: tuple[float, float], word: str, remedy: str) -> Finding:
    least, comfortable = limits
    found = f"{amount / GB:.1f} GB {word}"
    if amount < least * GB:
        return Finding(name, Status.FAIL, f"{found}; the default run needs {least:.0f}", remedy)
    return Finding(
        name,
        Status.OK if amount >= comfortable * GB else Status.NOTE,
        found,
        "" if amount >= comfortable * GB else remedy,
    )


def _unsafe(root: Path) -> bool:
    from affine.params import unsafe_allowed

    return unsafe_allowed(root)


def sandbox(unsafe: bool = False) -> Finding:
    """What stands between model-written programs and this machine; found by attacking it."""
    from affine.envs.engines.programs.sandbox import UNSAFE, shared

    level = shared(unsafe).start()
    refused = "; ".join(f"{name}: {reason}" for name, reason in shared(unsafe).refused.items())
    if level == UNSAFE:
        remedy = "set sandbox.unsafe to false unless you trust every program the model may write"
        return Finding("sandbox", Status.NOTE, f"UNSAFE, as asked for ({refused})", remedy)
    if refused:
        return Finding(
            "sandbox", Status.NOTE, f"{level} ({refused})", "safe; a newer kernel would be faster or stricter"
        )
    return Finding("sandbox", Status.OK, f"{level}: its self-test's attacks were all stopped")


def engine(name: str, unsafe: bool = False) -> Finding:
    """Start one environment and play one step of its first task with its expert."""
    from affine.envs.env import EnvSettings, make, make_expert

    start = time.perf_counter()
    env = make(name, EnvSettings(unsafe=unsafe))
    try:
        id = next(id for id in range(1000) if env.content(0, id, 0) is not None)
        env.reset(Task(name, 0, id, 0, Split.TRAIN))
        move = make_expert(env, random.Random(0)).act()
        result = env.step(env.format(move.thought, move.action, "action"))
        versions = ", ".join(f"{part} {number}" for part, number in sorted(env.engine().items()))
    finally:
        env.close()
    if not result.valid:
        return Finding(name, Status.FAIL, f"refused its own expert's move {move.action!r}", REINSTALL)
    return Finding(name, Status.OK, f"{versions}: one step in {time.perf_counter() - start:.1f} s")


def textworld() -> Finding:
    """The real ALFWorld engine, which only tests and comparisons use."""
    if find_spec("textworld") and find_spec("alfworld"):
        return Finding("textworld", Status.OK, f"textworld {version('textworld')}, alfworld {version('alfworld')}")
    remedy = "optional, needs a C/C++ compiler: .venv/bin/pip install -r requirements-alfworld.lock"
    return Finding("textworld", Status.NOTE, "not installed: ALFWorld is played by the native engine", remedy)


def hugging_face() -> Finding:
    """Whether a token is there; not what it is."""
    from huggingface_hub.constants import HF_TOKEN_PATH

    if os.environ.get("HF_TOKEN"):
        return Finding("hugging face", Status.OK, "HF_TOKEN is set")
    if Path(HF_TOKEN_PATH).is_file():
        remedy = "only for publishing and gated bases: export HF_TOKEN as in .env.example"
        return Finding("hugging face", Status.NOTE, "a saved login, which is not used", remedy)
    remedy = "only for publishing and gated bases: export HF_TOKEN as in .env.example"
    return Finding("hugging face", Status.NOTE, "no token", remedy)


def s3() -> Finding:
    """Whether credentials for an S3 remote are there; not what they are."""
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        return Finding("s3", Status.OK, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are set")
    if (Path.home() / ".aws" / "credentials").is_file():
        return Finding("s3", Status.OK, "~/.aws/credentials is there")
    return Finding("s3", Status.NOTE, "no credentials", "only for a DVC remote on S3: see .env.example")


def _ask(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
