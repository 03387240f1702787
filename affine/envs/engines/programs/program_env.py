"""What ABD and DED share: the levels, upstream's executor, and one-reply episodes."""

from __future__ import annotations

import functools
import platform
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

from affine.envs.engines.programs.generator import Program, Scale, generate
from affine.envs.engines.programs.operations import OPERATIONS
from affine.envs.engines.programs.rows import Row, user_rows
from affine.envs.engines.programs.sandbox import TRAINING, UPSTREAM, Limits, RunResult, SandboxError, shared
from affine.envs.env import Env, EnvError, IdRange, Level, Mode, StepResult, Style, task_rng

_ALL = ("s", "n", "xs")
SCALES: dict[int, Scale] = {
    0: Scale(),
    1: Scale((2, 2), ("s", "n"), distinct=6, largest=60),
    2: Scale((2, 3), _ALL, distinct=7, largest=30),
    3: Scale((2, 3), _ALL, tier=2, hard=1, distinct=7, largest=30),
    4: Scale((3, 3), _ALL, tier=3, hard=1, inputs=2, distinct=7, largest=30),
    5: Scale((4, 5), _ALL, tier=3, hard=2, inputs=2, distinct=7, largest=40),
}
ROWS_LEVEL = 6
LEVELS: dict[int, Level] = {
    0: Level("one print statement on words or small numbers", 1),
    1: Level("two one-line operations on a word or number", 1),
    2: Level("two or three one-line operations, lists too", 1),
    3: Level("two or three operations, at least one a loop or branch with state", 1),
    4: Level("three operations on two inputs: nested loops, recursion, dictionaries, queues, stacks", 1),
    5: Level("four or five operations on two inputs, at least two of the hardest kind", 1),
    ROWS_LEVEL: Level("upstream's rl-python rows, id = row (needs AFFINE_RL_PYTHON)", 1),
}
LIMITS: dict[Mode, Limits] = {"upstream": UPSTREAM, "fixed": TRAINING}
_OVER = "The episode is over."
_TIERS = {operation.name: operation.tier for operation in OPERATIONS}
_HARDEST = {1: "one-line", 2: "branches and loops", 3: "nested loops, recursion, structures"}


def execute(source: str, stdin: str, limits: Limits, unsafe: bool) -> RunResult:
    """Run a program as upstream's executor does: one that printed nothing, defines `solve` and has no main
    guard is run again with a call of it appended. Raises EnvError where no sandbox is safe, unless `unsafe`."""
    try:
        result = shared(unsafe).run(source, stdin, limits)
        if not result.stdout.strip() and not result.stderr and not result.timed_out and _needs_caller(source):
            result = shared(unsafe).run(
                f"{source}\n\n_result = solve()\nif _result is not None:\n    print(_result)\n", stdin, limits
            )
    except SandboxError as error:
        raise EnvError(str(error)) from error
    return result


def _needs_caller(source: str) -> bool:
    return bool(re.search(r"^def solve\b", source, re.MULTILINE)) and "__main__" not in source


def execute_own(source: str, stdin: str, limits: Limits, unsafe: bool) -> RunResult:
    """`execute` for generated programs, which always do the same and so are run once per input; again where a run was
    too long, because that can be the machine's doing."""
    try:
        return execute_once(source, stdin, limits, unsafe)
    except _TooLong as late:
        return late.result


class _TooLong(Exception):  # noqa: N818 - keeps a result out of the cache
    def __init__(self, result: RunResult) -> None:
        super().__init__()
        self.result = result


@functools.lru_cache(maxsize=8192)
def execute_once(source: str, stdin: str, limits: Limits, unsafe: bool) -> RunResult:
    """`execute`, remembered. Raises _TooLong."""
    result = execute(source, stdin, limits, unsafe)
    if result.timed_out:
        raise _TooLong(result)
    return result


def tagged(text: str, name: str) -> Iterator[tuple[int, int, int, int]]:
    """The closed, non-overlapping <name>...</name> blocks of `text`, in any case: start and end of the
    opening tag, start and end of the closing one. Linear in the length of `text`."""
    opened: re.Match[str] | None = None
    for tag in re.finditer(rf"<(/?){name}>", text, re.IGNORECASE):
        if not tag[1]:
            opened = opened or tag
        elif opened is not None:
            yield opened.start(), opened.end(), tag.start(), tag.end()
            opened = None


class ProgramEnv(Env):
    """An environment about one program, answered by one reply."""

    levels: ClassVar[Mapping[int, Level]] = LEVELS
    id_ranges: ClassVar[Mapping[str, IdRange]] = {
        "affine-2025-11-16": IdRange(ROWS_LEVEL, 0, 239, "the validators' rows from 16 November 2025"),
        "affine-2025-12-26": IdRange(ROWS_LEVEL, 0, 23_302, "the validators' rows on 26 December 2025: all of them"),
    }
    _score = 0.0
    _over = False

    def size(self, level: int) -> int | None:
        """The number of the user's rows at the upstream level. Raises EnvError where there is no such file."""
        return len(user_rows()) if level == ROWS_LEVEL else None

    def task_type(self, level: int, id: int, seed: int) -> str:
        program = None if level == ROWS_LEVEL else self.generated(level, id, seed)
        if program is None or not program.gives:
            return ""
        tiers = [_TIERS[name] for name in program.structure]
        return f"{len(tiers)} operations, {_HARDEST[max(tiers)]}"

    def engine(self) -> Mapping[str, str]:
        """The Python version: it decides what a program prints."""
        return {"python": ".".join(platform.python_version_tuple()[:2])}

    def conditions(self) -> Mapping[str, str]:
        """The sandbox's level, after its self-test. Raises EnvError where nothing safe is available."""
        try:
            return {"sandbox": shared(self.settings.unsafe).start()}
        except SandboxError as error:
            raise EnvError(str(error)) from error

    def format_reply(self, thought: str, answer: str, style: Style) -> str:
        """`answer`, after the thought where the style has one."""
        return f"{thought}\n{answer}" if style == "thought" and thought else answer

    def score(self) -> float:
        """1.0 after a right reply, else 0.0."""
        return self._score

    def solved(self) -> bool:
        """Whether the reply was right."""
        return self._score == 1.0

    @property
    def limits(self) -> Limits:
        """What one run may use: upstream's limits in mode "upstream", tighter ones in mode "fixed"."""
        return LIMITS[self.settings.mode]

    def begin(self) -> None:
        """Forget the last episode."""
        self._score, self._over = 0.0, False

    def step(self, reply: str) -> StepResult:
        """Judge `reply`: the only one of the episode."""
        if self._over:
            return StepResult(_OVER, 0.0, done=True, valid=False)
        self._over = True
        observation, right, valid = self.judge(reply)
        self._score = float(right)
        return StepResult(observation, self._score, done=True, valid=valid)

    @abstractmethod
    def judge(self, reply: str) -> tuple[str, bool, bool]:
        """What to answer to `reply`, whether it is right, and whether it holds an answer at all."""

    def generated(self, level: int, id: int, seed: int) -> Program | None:
        """The generated program of a task; None where the generator found none."""
        return generate(SCALES[level], task_rng(self.name, level, id, seed))

    def row(self, id: int) -> Row | None:
        """The user's row of that number; None past the end."""
        rows = user_rows()
        return rows[id] if 0 <= id < len(rows) else None
