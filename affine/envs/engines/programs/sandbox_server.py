"""The warm fork server ("zygote") behind `affine.envs.engines.programs.sandbox`: one forked, confined process per run.

Started as `python -s -S -P sandbox_server.py LEVEL PARENT_PID` with a socket as standard input and nothing
but PYTHONHASHSEED in its environment. It imports the standard library once and then only forks, waits
and kills; untrusted code runs in its children. It ends when its parent process ends (pidfd) or closes
the socket, and its running child ends with it (PR_SET_PDEATHSIG), also after kill -9 of either.

Protocol (native byte order): once `HELLO` length + UTF-8 text, empty when the level could be set up;
then for each request `REQUEST` + source + stdin the answer `ANSWER` + stdout + stderr.

Standard output and error are memory files under RLIMIT_FSIZE, so that a flood needs no reader; standard
input is one as well, so that reading never waits.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import math
import os
import random
import select
import signal
import socket
import struct
import sys
import sysconfig
import threading
import time
import traceback
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import NoReturn

HELLO = struct.Struct("=I")
REQUEST = struct.Struct("=ddQQII")  # wall s, CPU s, memory bytes, output bytes, len(source), len(stdin)
ANSWER = struct.Struct("=iiddII")  # exit code (-signal), timed out, wall s, CPU s, len(stdout), len(stderr)
# fmt: off
_COMMON_MODULES = (
    "bisect", "collections", "collections.abc", "copy", "functools", "heapq", "io", "itertools", "json", "math",
    "operator", "random", "re", "string", "time", "typing", "encodings.latin_1", "encodings.ascii",
)
# fmt: on
"""Imported before any fork. Few, because a fork copies the server's page tables."""
# fmt: off
_OTHER_MODULES = (
    "abc", "argparse", "array", "ast", "base64", "calendar", "cmath", "codecs", "contextlib", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "hashlib", "html", "keyword", "locale",
    "numbers", "pathlib", "pickle", "pprint", "queue", "secrets", "shlex", "statistics", "struct", "tempfile",
    "textwrap", "threading", "timeit", "tokenize", "traceback", "types", "unicodedata", "urllib.parse", "uuid",
    "zlib", "warnings", "weakref", "encodings.idna",
)
# fmt: on
"""Imported as well where programs cannot read the standard library themselves."""
_THREADS = 256  # a bound where the kernel counts for us (not for root, not beside a user's other processes)


def _load_confinement() -> ModuleType:
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "confinement.py")
    spec = importlib.util.spec_from_file_location("confinement", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


confinement = _load_confinement()


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use: seconds, seconds, bytes of address space, bytes of each output stream.

    The defaults are upstream's. Output beyond the limit fails inside the program (EFBIG). CPU seconds are
    rounded up to whole ones by the kernel.
    """

    wall: float = 30.0
    cpu: float = 10.0
    memory: int = 512 * 2**20
    output: int = 1_000_000


class Zygote:
    """Forks a confined child per request. `level` is one of `sandbox.LEVELS`."""

    def __init__(self, level: str, channel: socket.socket, parent: int) -> None:
        self.level = level
        self.channel = channel
        self.parent = os.pidfd_open(parent)
        self.poll = select.poll()
        for fd in (self.parent, channel.fileno()):
            self.poll.register(fd, select.POLLIN | select.POLLHUP | select.POLLERR)
        libraries = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]
        readable = list(dict.fromkeys([*libraries, os.path.join(sys.base_prefix, "lib"), "/usr/lib", "/lib", "/lib64"]))
        for name in (*_COMMON_MODULES, *(_OTHER_MODULES if level == "seccomp" else ())):
            importlib.import_module(name)
        traceback.format_exception(ValueError("warms the traceback machinery"))
        self.pid = os.getpid()
        self.ruleset = confinement.landlock_ruleset(readable) if level == "landlock" else None
        seccomp = level in ("landlock", "seccomp")
        self.filter = confinement.seccomp_filter(files=level == "landlock") if seccomp else None
        if level != "bubblewrap":
            confinement.drop_root(libraries)
        confinement.no_new_privileges()
        confinement.adopt_orphans()
        os.chdir("/")
        gc.collect()
        gc.freeze()  # children share these pages instead of touching them

    def serve(self) -> None:
        """Answer requests until the parent goes."""
        while True:
            header = self._receive(REQUEST.size)
            *limits, source_size, stdin_size = REQUEST.unpack(header)
            source, stdin = self._receive(source_size), self._receive(stdin_size)
            self.channel.sendall(self._run(source, stdin, Limits(*limits)))

    def _receive(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            if any(fd == self.parent for fd, _ in self.poll.poll()):
                sys.exit(0)
            part = self.channel.recv(size - len(data))
            if not part:
                sys.exit(0)
            data += part
        return bytes(data)

    def _run(self, source: bytes, stdin: bytes, limits: Limits) -> bytes:
        files = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
        try:
            if stdin:
                os.write(files[0], stdin)
                os.lseek(files[0], 0, os.SEEK_SET)
            started = time.monotonic()
            child = os.fork()
            if child == 0:
                self._child(source, files, limits)
            status, used, timed_out = self._wait(child, started + limits.wall)
            exit_code = os.waitstatus_to_exitcode(status)
            out, err = (os.pread(fd, limits.output, 0) for fd in files[1:])
        finally:
            for fd in files:
                os.close(fd)
        hard = exit_code == -signal.SIGKILL and used > limits.cpu / 2  # reported CPU time is coarse
        late = timed_out or exit_code == -signal.SIGXCPU or hard
        elapsed = time.monotonic() - started
        return ANSWER.pack(exit_code, int(late), elapsed, used, len(out), len(err)) + out + err

    def _wait(self, child: int, deadline: float) -> tuple[int, float, bool]:
        """Wait for `child` until `deadline`, then kill it: (wait status, CPU seconds, whether killed)."""
        pidfd = os.pidfd_open(child)
        self.poll.register(pidfd, select.POLLIN)
        ready = self.poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        finished = any(fd == pidfd for fd, _ in ready)
        if not finished:
            os.kill(child, signal.SIGKILL)
            if ready:  # the parent ended, or closed the socket in the middle of a run
                sys.exit(0)
            select.select([pidfd], [], [])
        self.poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(child, 0)
        if self.filter is None:
            confinement.kill_children()
        return status, usage.ru_utime + usage.ru_stime, not finished

    def _child(self, source: bytes, files: list[int], limits: Limits) -> NoReturn:
        code = 120
        try:
            confinement.die_with_parent(self.pid, signal.SIGKILL)
            for target, fd in enumerate(files):
                os.dup2(fd, target)
            if self.ruleset is not None:
                confinement.landlock_restrict(self.ruleset)
            os.closerange(3, 1024)
            processes = _THREADS if os.getuid() == 65534 or self.level == "bubblewrap" else None
            confinement.limit(limits.memory, math.ceil(limits.cpu), limits.output, processes)
            if self.filter is not None:
                confinement.seccomp_install(self.filter, os.getpid())
            code = _execute(source)
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)


def _execute(source: bytes) -> int:
    """Run `source` as `python program.py` would, in this process: its exit code, output flushed."""
    random.seed(0)  # a forked copy would reseed itself from the system: runs must repeat
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        errors = "backslashreplace" if name == "stderr" else "strict"
        stream = open(number, mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115 - for the run
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    sys.argv[:] = ["program.py"]
    main = ModuleType("__main__")
    main.__dict__.update(__file__="program.py", __builtins__=__builtins__)
    sys.modules["__main__"] = main
    code = 0
    try:
        program: CodeType = compile(source, "program.py", "exec", dont_inherit=True)
        exec(program, main.__dict__)  # noqa: S102 - this is what the sandbox is for
    except SystemExit as stop:
        code = _exit_code(stop.code)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None
        traceback.print_exception(type(error), error, trace)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as the interpreter does at its end
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    return code


def _exit_code(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    print(code, file=sys.stderr)
    return 1


def main() -> None:
    """Set up the level named on the command line, say hello, serve."""
    level = sys.argv[1]
    parent = os.getppid() if level == "bubblewrap" else int(sys.argv[2])  # it has a pid namespace of its own
    channel = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    try:
        zygote = Zygote(level, channel, parent)
    except OSError as error:
        reason = f"{error.strerror or error}".encode()
        channel.sendall(HELLO.pack(len(reason)) + reason)
        return
    channel.sendall(HELLO.pack(0))
    zygote.serve()


def _serve_until_left() -> None:
    """`main`, ending quietly when the parent goes while an answer is on its way."""
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        return


if __name__ == "__main__":
    _serve_until_left()
