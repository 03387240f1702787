"""The sandbox: does what `python program.py` does for honest programs, and stops every attack."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from affine.envs.engines.programs import confinement
from affine.envs.engines.programs import sandbox as sandbox_module
from affine.envs.engines.programs.sandbox import TRAINING, Limits, Sandbox, SandboxError, shared

QUICK = Limits(wall=1.0, cpu=1.0, memory=256 * 2**20, output=100_000)


@pytest.fixture(scope="module", params=["landlock", "seccomp"])
def box(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    box = Sandbox(QUICK, levels=(request.param,), unsafe=False)
    try:
        box.start()
    except SandboxError as error:
        if "self-test failed" in str(error):
            raise  # the kernel has it, and it does not hold
        pytest.skip(str(error))
    yield box
    box.close()


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition, seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


HONEST = {
    "echo": "print(input())",
    "nothing": "",
    "last line without end": "import sys\nsys.stdout.write('x')",
    "both streams": "import sys\nprint(1)\nprint(2, file=sys.stderr)",
    "exit code": "import sys\nprint(1)\nsys.exit(3)",
    "exit text": "raise SystemExit('bye')",
    "traceback": "def f(): return 1 / 0\nf()",
    "syntax error": "print(",
    "null byte": "print(1)\0",
    "end of file": "input()\ninput()\ninput()\ninput()",
    "main guard": "if __name__ == '__main__':\n    print(__name__)",
    "classes": "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\nprint(A(2))",
    "all input": "import sys\nprint(sys.stdin.read().split())",
    "modules": "import heapq, collections, math\nprint(collections.Counter('aab'), math.gcd(4, 6))",
    "unicode": "print('žluť', '\\u2208')",
    "surrogate": "print('\\ud800')",
    "deep recursion": "def f(n): return f(n + 1)\nf(0)",
    "thread": "import threading\nt = threading.Thread(target=print, args=('in a thread',))\nt.start()",
    "at exit": "import atexit\natexit.register(print, 'end')\nprint('begin')",
    "abort": "import os\nos.abort()",
    "flags of a pipe": (
        "import fcntl, os\nr, w = os.pipe()\n"
        "fcntl.fcntl(r, fcntl.F_SETFL, fcntl.fcntl(r, fcntl.F_GETFL) | os.O_NONBLOCK)\n"
        "fcntl.fcntl(os.dup(w), fcntl.F_SETFD, 0)\nprint(fcntl.fcntl(r, fcntl.F_GETFL), os.get_inheritable(w))"
    ),
    "signal to itself": "import os, signal\nos.kill(os.getpid(), signal.SIGTERM)",
}


@pytest.mark.parametrize("name", HONEST)
def test_same_as_python_itself(box: Sandbox, name: str, tmp_path: Path) -> None:
    stdin = "one\ntwo 2\n\n"
    path = tmp_path / "program.py"
    path.write_text(HONEST[name], encoding="utf-8")
    command = [sys.executable, "-I", "-X", "utf8", str(path)]
    real = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, encoding="utf-8")
    got = box.run(HONEST[name], stdin)
    assert got.stdout == real.stdout
    assert got.exit_code == real.returncode
    last_lines = [text.strip().splitlines()[-1:] for text in (got.stderr, real.stderr)]
    errors = [line[0].split(":")[0] if line else "" for line in last_lines]
    assert errors[0] == errors[1]
    assert not got.timed_out


def test_network(box: Sandbox) -> None:
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        tcp.settimeout(0.2)
        udp.settimeout(0.2)
        box.run(f"import socket\nsocket.create_connection(('127.0.0.1', {tcp.getsockname()[1]}))")
        box.run(f"import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {udp.getsockname()!r})")
        for raw in (41, 53, 425):  # socket, socketpair, io_uring_setup on x86-64
            code = f"import ctypes\nprint(ctypes.CDLL(None).syscall({raw}, 2, 1, 0, 0) >= 0)"
            assert "True" not in box.run(code).stdout
        with pytest.raises(TimeoutError):
            tcp.accept()
        with pytest.raises(TimeoutError):
            udp.recv(1)


def test_files(box: Sandbox, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    secret = tmp_path / "secret.txt"
    secret.write_text("the secret")
    secret.chmod(0o666)
    attacks = [
        f"print(open({str(secret)!r}).read())",
        f"open({str(secret)!r}, 'w').write('x')",
        f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"import os\nos.remove({str(secret)!r})",
        f"import os\nos.rename({str(secret)!r}, {str(secret)!r} + '2')",
        f"import os\nos.chmod({str(secret)!r}, 0)",
        f"import os\nos.symlink('/etc', {str(tmp_path / 'link')!r})",
        f"import os\nos.truncate({str(secret)!r}, 0)",
        f"import os\nprint(os.listdir({str(tmp_path)!r}))",
        "print(open('/etc/passwd').read())",
        "print(open('/proc/self/environ').read())",
        "print(open('/proc/1/cmdline').read())",
        "import os\nprint(os.listdir('/proc'))",
        "import os\nprint([os.readlink(f'/proc/self/fd/{i}') for i in range(9)])",
        "open('/dev/shm/x', 'w')",
        "import tempfile\ntempfile.TemporaryFile()",
        "import os\nos.memfd_create('x')",
    ]
    for attack in attacks:
        result = box.run(attack)
        assert result.stdout == "", attack
        assert result.stderr, attack
    assert sorted(p.name for p in tmp_path.iterdir()) == ["secret.txt"]
    assert secret.read_text() == "the secret"


def test_processes_and_privileges(box: Sandbox, tmp_path: Path) -> None:
    server = box._server
    assert server is not None
    mark = tmp_path / "mark"
    attacks = [
        "import os\nwhile True: os.fork()",
        f"import os, time\nif os.fork() == 0:\n    os.setsid()\n    open({str(mark)!r}, 'w')\n    time.sleep(60)",
        "import subprocess\nsubprocess.run(['/bin/true'])",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os\nos.posix_spawn('/bin/true', ['true'], {})",
        "import multiprocessing\np = multiprocessing.Process(target=print)\np.start()",
        "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
        f"import os, signal\nos.kill({os.getpid()}, signal.SIGTERM)",
        "import os\nos.kill(-1, 9)",
        "import os\nos.setsid()",
        "import os\nos.setuid(0) or os.setuid(65533)",
        "import os\nos.nice(-5)",
        "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (10**6, 10**6))",
        "import os\nos.sched_setaffinity(0, [0])",
        f"import ctypes\nassert ctypes.CDLL(None).ptrace(16, {os.getpid()}, 0, 0) == 0, 'stopped'",
        "import ctypes\nassert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0, 'stopped'",
        "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0, 'stopped'",  # forget the parent's death
        "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0, 'stopped'",
        "import ctypes\nassert ctypes.CDLL(None).mount(b'x', b'/', b'tmpfs', 0, 0) == 0, 'stopped'",
    ]
    for attack in attacks:
        result = box.run(attack)
        assert result.stderr, attack
        assert result.exit_code not in (0, -signal.SIGKILL), attack
    assert box._server is server  # nobody ended it
    assert server.poll() is None
    assert descendants(server.pid) == []
    assert not mark.exists()


SIGNAL_BY_A_PIPE = """
import contextlib, fcntl, os, struct
r, w = os.pipe()
F_SETOWN_EX, F_SETSIG, O_ASYNC, SIGKILL = 15, 10, 0x2000, 9
FIOASYNC, FIOSETOWN, SIOCSPGRP = 0x5452, 0x8901, 0x8902
server = os.getppid()
steps = (
    lambda: fcntl.fcntl(r, fcntl.F_SETOWN, server),
    lambda: fcntl.fcntl(r, F_SETOWN_EX, struct.pack("ii", 1, server)),
    lambda: fcntl.fcntl(r, F_SETSIG, SIGKILL),
    lambda: fcntl.fcntl(r, fcntl.F_SETFL, O_ASYNC | os.O_NONBLOCK),
    lambda: fcntl.ioctl(r, FIOASYNC, struct.pack("i", 1)),
    lambda: fcntl.ioctl(r, FIOSETOWN, struct.pack("i", server)),
    lambda: fcntl.ioctl(r, SIOCSPGRP, struct.pack("i", server)),
    lambda: fcntl.fcntl(r, fcntl.F_NOTIFY, 0x80000002),
)
for step in steps:
    try:
        step()
        print("done")
    except OSError as error:
        print(error.errno)
os.write(w, b"x")
"""
"""A pipe told to send SIGKILL to the server when something is written; each step says what stopped it."""


def stopped_by_seccomp(box: Sandbox) -> None:
    server = box._server
    assert server is not None
    result = box.run(SIGNAL_BY_A_PIPE)
    assert result.stdout.split() == ["1", "1", "1", "1", "13", "13", "13", "1"]  # EPERM, and EACCES for ioctl
    assert box._server is server
    assert server.poll() is None


def test_no_file_sends_signals(box: Sandbox) -> None:
    stopped_by_seccomp(box)


_OLD_KERNEL = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("sandbox_server", {server!r})
server = sys.modules["sandbox_server"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)
server.confinement.landlock_abi = lambda: 4
server.main()
"""


@pytest.mark.skipif(confinement.landlock_abi() < 1, reason="this kernel has no Landlock")
def test_no_file_sends_signals_where_landlock_does_not_scope_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Landlock's ABI 4 leaves signals alone; what the kernel's own says would hide what seccomp lets through."""
    script = tmp_path / "server.py"
    script.write_text(_OLD_KERNEL.format(server=str(sandbox_module._SERVER)), encoding="utf-8")
    monkeypatch.setattr(sandbox_module, "_SERVER", script)
    with contextlib.closing(Sandbox(QUICK, levels=("landlock",), unsafe=False)) as box:
        assert box.start() == "landlock"
        stopped_by_seccomp(box)


def test_memory_is_bounded(box: Sandbox) -> None:
    for bomb in ("x = bytearray(2 * 10**9)", "x = []\nwhile True: x.append(bytearray(10**7))", "x = 'a' * 10**10"):
        result = box.run(bomb)
        assert "MemoryError" in result.stderr
        assert not result.timed_out


ENDLESS = {
    "sleep": "import time\ntime.sleep(100)",
    "catches all": "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    "thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(100,)).start()",
    "threads": """
import threading, time
while True:
    try: threading.Thread(target=time.sleep, args=(9,)).start()
    except BaseException: pass
""",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_wall_time_is_bounded(box: Sandbox, name: str) -> None:
    result = box.run(ENDLESS[name], limits=Limits(wall=0.5, cpu=5))
    assert result.timed_out
    assert result.exit_code == -signal.SIGKILL
    assert result.wall_seconds < 5


def test_cpu_time_is_bounded(box: Sandbox) -> None:
    """By RLIMIT_CPU, the same at every level: SIGXCPU after one second, SIGKILL after two. That is 3 s of CPU time in
    all, and as much wall time as a busy machine takes for it; the wall limit is out of reach, because it ends a
    program with SIGKILL too."""
    wall = 100.0
    stubborn = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    for source, ended_by in (("while True: pass", signal.SIGXCPU), (stubborn, signal.SIGKILL)):
        result = box.run(source, limits=Limits(wall=wall, cpu=1))
        assert result.timed_out
        assert result.exit_code == -ended_by
        assert result.wall_seconds < wall
        assert 0.3 < result.cpu_seconds < 3


def test_output_is_bounded(box: Sandbox) -> None:
    for stream in ("stdout", "stderr"):
        result = box.run(f"import sys\nwhile True: print('x' * 1000, file=sys.{stream})")
        assert 0 < len(result.stdout if stream == "stdout" else result.stderr) <= QUICK.output
        assert result.exit_code != 0


def test_threads_are_allowed_and_share_the_limits(box: Sandbox) -> None:
    many = """
    import threading
    total, lock = [], threading.Lock()
    def work(i):
        with lock: total.append(i)
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    print(sum(total))
    """
    assert box.run(textwrap.dedent(many)).stdout == "28\n"


def test_runs_do_not_see_each_other_and_repeat(box: Sandbox) -> None:
    box.run("import builtins, math\nbuiltins.print = None\nmath.pi = 3")
    assert box.run("import math\nprint(math.pi)").stdout.startswith("3.14159")
    code = "import random\nprint(set('abcdef'), hash('x'), random.random())"
    with contextlib.closing(Sandbox(QUICK, unsafe=False)) as other:
        assert box.run(code).stdout == box.run(code).stdout == other.run(code).stdout


def test_a_dead_or_hung_server_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "_GRACE_SECONDS", 0.5)
    monkeypatch.setattr(sandbox_module, "_STOP_SECONDS", 0.1)
    with contextlib.closing(Sandbox(QUICK, unsafe=False)) as box:
        for how in (signal.SIGKILL, signal.SIGSTOP):
            assert box.run("print(1)").stdout == "1\n"
            old = box._server
            assert old is not None
            os.kill(old.pid, how)
            assert box.run("print(2)").stdout == "2\n"
            assert box._server is not old
            assert not alive(old.pid)


def test_no_process_survives_its_parent(tmp_path: Path) -> None:
    code = """
    import sys, threading, time
    from affine.envs.engines.programs.sandbox import Limits, Sandbox
    box = Sandbox(Limits(wall=60, cpu=60), unsafe=False)
    box.start()
    threading.Thread(target=box.run, args=("while True: pass",)).start()
    time.sleep(0.3)
    print(box._server.pid, flush=True)
    time.sleep(60)
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    server = int(parent.stdout.readline())
    assert wait_until(lambda: len(descendants(server)) == 1)
    family = [server, *descendants(server)]
    parent.kill()
    parent.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in family)), "the server or its child outlived the parent"


@pytest.mark.parametrize("answer_pending", [False, True])
def test_a_server_ends_without_a_word_when_its_parent_is_gone(answer_pending: bool) -> None:
    """A parent that is terminated leaves a request without a reader, or an answer unread."""
    ours, theirs = socket.socketpair()
    server = [sys.executable, "-s", "-S", "-P", str(sandbox_module._SERVER), "seccomp", str(os.getpid())]
    with theirs:
        process = subprocess.Popen(server, stdin=theirs, stderr=subprocess.PIPE)
    request = sandbox_module.REQUEST.pack(5.0, 5.0, 2**29, 1000, 8, 0) + b"print(1)"
    ours.sendall(request)
    if answer_pending:
        while len(ours.recv(1000, socket.MSG_PEEK)) <= sandbox_module.HELLO.size:
            time.sleep(0.01)
        ours.sendall(request * 10)
    ours.close()
    assert process.communicate()[1] == b""


def test_a_run_ends_with_its_server() -> None:
    box = Sandbox(Limits(wall=30, cpu=30), unsafe=False)
    box.start()
    server = box._server
    assert server is not None
    sleeper = subprocess.Popen(["sleep", "0"])  # unrelated processes stay untouched
    sleeper.wait()
    assert box._channel is not None
    program = b"while True: pass"
    box._channel.sendall(sandbox_module.REQUEST.pack(30, 30, 2**29, 1000, len(program), 0) + program)
    assert wait_until(lambda: len(descendants(server.pid)) == 1)
    child = descendants(server.pid)[0]
    server.kill()
    assert wait_until(lambda: not alive(child))
    box.close()


def test_a_forked_process_gets_its_own_server() -> None:
    mine = shared()
    assert mine.run("print(1)").stdout == "1\n"
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            own = shared()
            os.write(writer, f"{own is not mine} {own.run('print(2)').stdout}".encode())
            own.close()
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "True 2\n"
    os.waitpid(pid, 0)
    assert mine.run("print(3)").stdout == "3\n"


def test_refuses_without_a_safe_level() -> None:
    with pytest.raises(SandboxError, match=r"sandbox\.unsafe"):
        Sandbox(levels=()).run("print(1)")


def test_a_level_that_fails_its_self_test_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox_module, "ATTACKS", {"breathing": "pass"})
    box = Sandbox(QUICK, levels=("landlock", "seccomp"), unsafe=False)
    with pytest.raises(SandboxError, match="self-test failed: breathing"):
        box.start()
    assert list(box.refused) == ["landlock", "seccomp"]


def test_falls_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    attempted: list[str] = []
    real = Sandbox._start

    def start(self: Sandbox, level: str) -> None:
        attempted.append(level)
        if level == "landlock":
            raise SandboxError("this kernel has none")
        real(self, level)

    monkeypatch.setattr(Sandbox, "_start", start)
    with contextlib.closing(Sandbox(QUICK, unsafe=False)) as box:
        assert box.start() == "seccomp"
        assert attempted == ["landlock", "seccomp"]
        assert box.refused == {"landlock": "this kernel has none"}


def test_unsafe_is_only_used_when_asked_for_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with contextlib.closing(Sandbox(QUICK, unsafe=True)) as box:
        assert box.start() in sandbox_module.LEVELS  # something safe is there: it is preferred
    with caplog.at_level(logging.WARNING), contextlib.closing(Sandbox(QUICK, levels=(), unsafe=True)) as box:
        assert box.run("print(1)").stdout == "1\n"
        assert box.level == "unsafe"
        assert box.run("while True: pass").timed_out
    assert "UNSAFE" in caplog.text


def test_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    box = Sandbox(QUICK, levels=("bubblewrap",), unsafe=False)
    try:
        box.start()
    except SandboxError as error:
        pytest.skip(str(error))  # as root with an interpreter below a closed home, or without user namespaces
    assert box.run("print(input())", "hello\n").stdout == "hello\n"
    daemon = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(60)"
    box.run(daemon)
    assert box.run("import os\nprint(len([p for p in os.listdir('/proc') if p.isdigit()]))").stdout == "3\n"
    box.close()


def test_training_limits_are_within_upstreams() -> None:
    assert TRAINING.wall <= Limits().wall == 30
    assert TRAINING.cpu <= Limits().cpu == 10
    assert Limits().memory == 512 * 2**20
