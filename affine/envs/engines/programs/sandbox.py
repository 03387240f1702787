"""Runs untrusted Python programs: a warm fork server, one confined process per program.

    result = shared().run("print(int(input()) + 1)", "41\\n")     # RunResult(stdout="42\\n", ...)

Levels of protection, best first; the first one whose self-test of attacks passes is used (`Sandbox.level`):

    landlock    fork server + rlimits + Landlock + seccomp: reads the standard and system libraries, nothing else
    seccomp     the same without Landlock (older kernels): no path can be opened at all, so only modules that
                the server has imported already can be imported
    bubblewrap  fork server in namespaces of its own made by `bwrap`, + rlimits (kernels without seccomp)
    unsafe      rlimits only; never chosen unless asked for (parameter `sandbox.unsafe`)

A program can use threads (the memory and CPU limits hold for all of them together), but no process,
network, other file, signal to others, or change of its limits. Runs repeat:
string hashing and `random` have a fixed seed. Programs end with their server, and the server ends with
the process that started it, also after kill -9. Linux only.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from affine.envs.engines.programs import sandbox_server
from affine.envs.engines.programs.sandbox_server import ANSWER, HELLO, REQUEST, Limits
from affine.errors import AffineError

__all__ = ["ATTACKS", "LEVELS", "TRAINING", "UPSTREAM", "Limits", "RunResult", "Sandbox", "SandboxError", "shared"]

LEVELS = ("landlock", "seccomp", "bubblewrap")
UNSAFE = "unsafe"
_SERVER = Path(sandbox_server.__file__).resolve()
_START_SECONDS, _STOP_SECONDS, _GRACE_SECONDS = 60.0, 2.0, 20.0
_log = logging.getLogger(__name__)


class SandboxError(AffineError):
    """Nothing safe is available, or the server cannot be kept alive; the message says which."""


UPSTREAM = Limits()
TRAINING = Limits(wall=4.0, cpu=2.0)
"""Tighter, because thousands of a young model's programs loop for ever."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """How a program ended. `exit_code` is minus the signal's number where one killed it."""

    stdout: str
    stderr: str
    exit_code: int
    timed_out: bool
    wall_seconds: float
    cpu_seconds: float


ATTACKS: Mapping[str, str] = {
    "tcp": "import socket\nsocket.create_connection(('127.0.0.1', 9), 1)",
    "socket": "import socket\nsocket.socket()",
    "udp": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
    "read a secret": "print(open({secret!r}).read())",
    "write outside": "open({secret!r}, 'a').write('x')",
    "make a file": "open({secret!r} + '.new', 'w')",
    "fork": "import os\nif os.fork() == 0: os._exit(0)",
    "exec": "import os\nos.execv('/bin/sh', ['sh', '-c', 'echo breach'])",
    "signal the server": "import os\nos.kill(os.getppid(), 0)",
    "signal by a pipe": "import fcntl, os\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    "ptrace": "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
    "/proc": "print(open('/proc/1/status').read())",
    "memory bomb": "x = bytearray(4 * 2**30)",
}
"""Programs that print "breach" unless they are stopped; `{secret}` is a file anybody may read."""
_CONTAINED = {
    "bubblewrap": ("socket", "udp", "fork", "exec", "signal the server", "signal by a pipe", "ptrace", "/proc")
}
"""Attacks that a level lets happen inside its own namespaces, where they reach nothing."""


class Sandbox:
    """Runs programs under `limits`; one server process, started at the first run, replaced if it dies.

    Thread-safe (one run at a time). Not to be shared with forked processes: use `shared`. `levels` are
    tried in order.
    """

    def __init__(self, limits: Limits = UPSTREAM, *, unsafe: bool = False, levels: Sequence[str] = LEVELS) -> None:
        self.limits = limits
        self.level: str | None = None
        """The level in use; None before the first run."""
        self.refused: dict[str, str] = {}
        """Levels that were tried and why they were not used."""
        self._levels = (*levels, UNSAFE) if unsafe else tuple(levels)
        self._server: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lock = threading.Lock()

    def start(self) -> str:
        """Start the server and attack it, if that was not done yet; the level in use.

        Raises SandboxError where no level holds.
        """
        with self._lock:
            return self._ready()

    def run(self, source: str, stdin: str = "", limits: Limits | None = None) -> RunResult:
        """Run `source` as `python program.py < stdin`. Raises SandboxError, never for what `source` does."""
        with self._lock:
            self._ready()
            return self._run_replacing(source, stdin, limits or self.limits)

    def close(self) -> None:
        """End the server. Safe to call twice; a later run starts another one."""
        with self._lock:
            self._stop()

    def _ready(self) -> str:
        if self.level is not None:
            return self.level
        if sys.platform != "linux":
            raise SandboxError(f"sandbox: needs Linux, this is {sys.platform}; run ABD and DED in a Linux container")
        for level in self._levels:
            try:
                self._start(level)
                breached = [] if level == UNSAFE else self._attack(level)
            except (OSError, SandboxError) as error:
                self.refused[level] = str(error)
            else:
                if not breached:
                    self.level = level
                    break
                self.refused[level] = f"self-test failed: {', '.join(breached)}"
            self._stop()
        if self.level is None:
            reasons = "; ".join(f"{level}: {reason}" for level, reason in self.refused.items())
            raise SandboxError(
                f"sandbox: no safe level on this machine ({reasons}). Use a kernel with seccomp and Landlock, install "
                "bubblewrap, or accept the risk with sandbox.unsafe: true in params.yaml"
            )
        if self.level == UNSAFE:
            _log.warning("SANDBOX IS UNSAFE: model-written programs run with this user's rights (%s)", self.refused)
        return self.level

    def _attack(self, level: str) -> list[str]:
        """Names of the self-test's attacks that were not stopped."""
        if self._exchange("print(input())", "alive\n", self.limits).stdout != "alive\n":
            return ["a harmless program does not run"]
        small = Limits(wall=10.0, cpu=5.0, memory=min(self.limits.memory, 2**30))
        breached = []
        with tempfile.NamedTemporaryFile() as secret:
            os.chmod(secret.name, 0o666)  # noqa: S103 - only the sandbox shall stand before it
            for name, attack in ATTACKS.items():
                source = attack.replace("{secret!r}", repr(secret.name)) + "\nprint('breach')"
                if "breach" in self._exchange(source, "", small).stdout and name not in _CONTAINED.get(level, ()):
                    breached.append(name)
        return breached

    def _start(self, level: str) -> None:
        self._stop()
        ours, theirs = socket.socketpair()
        command = [os.path.realpath(sys.executable), "-s", "-S", "-P", str(_SERVER), level, str(os.getpid())]
        user: int | None = None
        if level == "bubblewrap":
            command = [*_bubblewrap(), *command]
            user = 65534 if os.geteuid() == 0 else None  # the kernel counts no processes of root
        with theirs:
            self._server = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env={"PYTHONHASHSEED": "0"},
                user=user,
                group=user,
                extra_groups=None if user is None else (),
                start_new_session=True,
            )
        self._channel = ours
        ours.settimeout(_START_SECONDS)
        try:
            reason = self._receive(HELLO.unpack(self._receive(HELLO.size))[0]).decode()
        except BaseException:
            self._stop()
            raise
        if reason:
            raise SandboxError(reason)

    def _stop(self) -> None:
        channel, server, self._channel, self._server = self._channel, self._server, None, None
        if channel is not None:
            channel.close()
        if server is not None:
            try:
                server.wait(_STOP_SECONDS)  # it ends when its socket closes, unless it hangs
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()

    def _run_replacing(self, source: str, stdin: str, limits: Limits) -> RunResult:
        """One run; a server that died or hangs is replaced. A program during which this happens twice, while
        the server starts well in between, counts as having ended it."""
        assert self.level is not None
        for attempt in (1, 2):
            if self._channel is None:
                try:
                    self._start(self.level)
                except OSError as error:
                    raise SandboxError(f"sandbox: the server does not start again: {error}") from error
            try:
                return self._exchange(source, stdin, limits)
            except OSError as error:
                _log.warning("sandbox: replacing the server (try %d): %s", attempt, error)
        return RunResult("", "sandbox: the program ended its server", -int(signal.SIGKILL), False, 0.0, 0.0)

    def _exchange(self, source: str, stdin: str, limits: Limits) -> RunResult:
        """Send one request and read its answer. Raises OSError where the server is gone or hangs; then,
        and when interrupted, it is stopped, because a late answer must not meet the next request."""
        assert self._channel is not None
        program, data = source.encode(errors="replace"), stdin.encode(errors="replace")
        header = REQUEST.pack(limits.wall, limits.cpu, limits.memory, limits.output, len(program), len(data))
        try:
            self._channel.settimeout(limits.wall + _GRACE_SECONDS)
            self._channel.sendall(header + program + data)
            code, late, wall, cpu, out_size, err_size = ANSWER.unpack(self._receive(ANSWER.size))
            out = self._receive(out_size).decode(errors="replace")
            err = self._receive(err_size).decode(errors="replace")
        except BaseException:
            self._stop()
            raise
        return RunResult(out, err, code, bool(late), wall, cpu)

    def _receive(self, size: int) -> bytes:
        assert self._channel is not None
        data = bytearray()
        while len(data) < size:
            part = self._channel.recv(size - len(data))
            if not part:
                raise ConnectionError("the server closed its socket")
            data += part
        return bytes(data)


def _bubblewrap() -> list[str]:
    """The `bwrap` command line: every namespace its own, the interpreter's files read-only, nothing else."""
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bwrap is not installed")
    command = [program, "--unshare-all", "--unshare-user", "--uid", "65534", "--gid", "65534", "--die-with-parent"]
    for path in dict.fromkeys(["/usr", "/lib", "/lib64", sys.base_prefix]):
        command += ["--ro-bind-try", path, path]
    for file in (_SERVER, _SERVER.with_name("confinement.py")):
        command += ["--ro-bind", str(file), str(file)]
    return [
        *command,
        "--proc",
        "/proc",
        "--dev-bind",
        "/dev/null",
        "/dev/null",
        "--remount-ro",
        "/",
        "--chdir",
        "/",
        "--",
    ]


_shared: dict[tuple[int, bool], Sandbox] = {}


def shared(unsafe: bool = False) -> Sandbox:
    """This process's sandbox; a forked process gets its own. `unsafe` as in `Sandbox`."""
    key = (os.getpid(), unsafe)
    if key not in _shared:
        _shared[key] = Sandbox(unsafe=unsafe)
        atexit.register(_close_quietly, _shared[key], os.getpid())
    return _shared[key]


def _close_quietly(sandbox: Sandbox, owner: int) -> None:
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            sandbox.close()
