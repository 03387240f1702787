"""A real S3 server (rclone) on loopback, with its buckets in a folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

KEY, SECRET = "testkey", "testsecret-0123456789"
RCLONE = Path(sys.executable).with_name("rclone")


class S3:
    """A running server. `folder`/<bucket> holds the objects as files; environment variables that DVC needs to reach
    it are in `environment`."""

    def __init__(self, folder: Path, bucket: str = "affine") -> None:
        self.folder = folder
        (folder / bucket).mkdir(parents=True, exist_ok=True)
        self._start("127.0.0.1:0")

    def _start(self, address: str) -> None:
        log = self.folder.with_suffix(".log")
        with log.open("wb") as file:
            self._process = subprocess.Popen(
                [str(RCLONE), "serve", "s3", "--config", os.devnull, "--addr", address, "--dir-cache-time", "1s",
                 "--auth-key", f"{KEY},{SECRET}", str(self.folder)],
                stdout=subprocess.DEVNULL, stderr=file,
            )  # fmt: skip
        while self._process.poll() is None:
            if found := re.search(r"http://(127\.0\.0\.1:\d+)/", log.read_text()):
                self.address = found[1]
                return
            time.sleep(0.02)
        raise AssertionError(log.read_text())

    @property
    def environment(self) -> dict[str, str]:
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        self._start(self.address)
