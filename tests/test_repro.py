"""Stages side by side: the order holds, the lock comes out as DVC alone writes it, failures stop and are named."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
from dvc.cli import main as dvc_main
from dvc.repo import Repo
from rich.console import Console

from affine.__main__ import main
from affine.cli.repro import ReproError, graph, schedule
from tests import small_graph

# Two stages that each wait for the other to have begun: only side by side can they end.
MEET = "touch at-$$ && for i in $(seq 600); do [ $(ls at-* | wc -l) -ge 2 ] && break; sleep 0.1; done && [ $i -lt 600 ]"


def test_independent_stages_run_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = small_graph.make(tmp_path / "side", wait=MEET)
    small_graph.enter(folder, monkeypatch)
    assert main(["repro", "-j", "2"]) == 0
    assert "3 of 3 stages run" in capsys.readouterr().err
    assert sorted(path.name for path in folder.glob("*") if path.name in ("left", "right", "adapter")) == [
        "adapter", "left", "right"
    ]  # fmt: skip
    with Repo(str(folder)) as repo:
        assert repo.status() == {}
    assert main(["repro"]) == 0
    assert "0 of 3 stages run" in capsys.readouterr().err
    # The lock names what DVC alone would name:
    lock = (folder / "dvc.lock").read_text()
    (folder / "dvc.lock").unlink()
    assert dvc_main(["commit", "--force", "--quiet"]) == 0
    assert sorted(lock.splitlines()) == sorted((folder / "dvc.lock").read_text().splitlines())


def test_the_graph_is_dvcs(tmp_path: Path) -> None:
    assert graph(small_graph.make(tmp_path / "graph")) == {"left": set(), "right": set(), "ppo": {"left", "right"}}
    with pytest.raises(ReproError, match="repository's root"):
        graph(tmp_path)


def process(code: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-S", "-c", code], stdout=output, stderr=subprocess.STDOUT)


def test_a_failure_stops_what_follows_and_nothing_else() -> None:
    upstream = {"a": set(), "b": set(), "c": {"a"}, "d": {"b"}}
    begun: list[str] = []

    def start(stage: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        begun.append(stage)
        fails = "import sys; print('out of eggs'); sys.exit(3)"
        return process(fails if stage == "a" else "import time; time.sleep(0.5)", output)

    console = Console(quiet=True)
    with pytest.raises(ReproError, match=r"^a failed"):
        schedule(upstream, 2, lambda _: True, start, console)
    assert begun == ["a", "b"]  # b ended by itself; nothing was begun after the failure


def test_order_jobs_and_what_need_not_run() -> None:
    upstream = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b", "c"}, "e": set()}
    begun: list[str] = []

    def start(stage: str, output: IO[bytes]) -> subprocess.Popen[bytes]:
        begun.append(stage)
        return process("pass", output)

    ran = schedule(upstream, 1, lambda stage: stage != "c", start, Console(quiet=True))
    assert set(ran) == {"a", "b", "d", "e"}
    assert begun.index("a") < begun.index("b") < begun.index("d")
    assert begun == ran  # one job at a time


@pytest.mark.timeout(60)
def test_a_stage_that_says_much_ends_and_is_heard(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe holds some 64 kB; a stage that writes a megabyte must not wait for a reader."""
    noisy = "import sys; sys.stdout.write('x' * 1_000_000 + '\\nlast words'); sys.exit({code})"

    def start(code: int) -> Callable[[str, IO[bytes]], subprocess.Popen[bytes]]:
        return lambda _, output: process(noisy.format(code=code), output)

    assert schedule({"a": set()}, 1, lambda _: True, start(0), Console(quiet=True)) == ["a"]
    with pytest.raises(ReproError, match=r"^a failed"):
        schedule({"a": set()}, 1, lambda _: True, start(3), Console(stderr=True))
    said = capsys.readouterr().err
    assert said.count("x") >= 1_000_000
    assert "last words" in said
