"""`make remote-demo`, run whole in a small repository of its own."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo

from tests import small_graph
from tests.loopback_s3 import RCLONE

ROOT = Path(__file__).parents[1]


def demo(folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT), "COLUMNS": "200",
    }  # fmt: skip
    return subprocess.run(
        [str(ROOT / "scripts" / "remote_demo.sh")], cwd=folder, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


@pytest.mark.skipif(not RCLONE.is_file(), reason="rclone is not installed (the dev extra has it)")
@pytest.mark.timeout(240)
def test_the_demo_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_graph.make(tmp_path / "repository")
    small_graph.enter(folder, monkeypatch)
    shutil.copy(ROOT / ".dvc" / "s3.ini", folder / ".dvc")
    with Repo(str(folder)) as repo:
        repo.reproduce()
    small_graph.git(folder, "add", "-A")
    small_graph.git(folder, "commit", "-qm", "run")
    config = (folder / ".dvc" / "config").read_text()
    done = demo(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    said = re.split(r"\n\x1b\[1m(\d)\. .*\x1b\[0m\n", done.stdout)
    part = dict(zip(said[1::2], said[2::2], strict=True))
    assert "3 files pushed" in part["1"]
    assert part["2"].splitlines()[-1] == "Data and pipelines are up to date."
    lines = part["3"].splitlines()
    assert lines[0].endswith("Cache and remote 'store' are in sync.")
    assert lines[1].endswith("Everything is up to date.")
    assert re.fullmatch(r"damaged (left|right|adapter): its content hashes to [0-9a-f]{32}", lines[3])
    assert lines[-1] == "3 objects: 2 good, 0 unproven, 0 missing, 1 damaged"
    healed = part["4"].splitlines()
    assert healed[:2] == ["healed", "3 objects: 3 good, 0 unproven, 0 missing, 0 damaged"]
    # Where it is run nothing has changed, and no server is left.
    assert (folder / ".dvc" / "config").read_text() == config
    assert not (folder / ".dvc" / "config.local").exists()
    server = (folder / ".s3" / "server.log").read_text()
    port = re.search(r"127\.0\.0\.1:(\d+)", server)
    assert port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port[1])), timeout=5)
    # Without the data it stops at once and says what to do.
    shutil.rmtree(folder / ".dvc" / "cache")
    late = demo(folder)
    assert late.returncode == 1
    assert "run make all and commit it first" in late.stdout + late.stderr
