"""ABD's expert: the input that made the output, with the reason read off the program."""

from __future__ import annotations

import difflib
import random
from typing import ClassVar

from affine.envs.abd import Abd
from affine.envs.engines.programs.generator import Program, hit_rate, output_of
from affine.envs.engines.programs.statements import WORDS
from affine.envs.env import Env, EnvError, Expert, Move, digest, task_rng
from affine.types import Task

SUCCESS: dict[int, float] = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
"""Share of tasks solved, by level, which the tests hold as a floor: 100 % by construction."""
_LONGEST_THOUGHT = 40
"""Words."""
_CANDIDATES = 24
"""Random inputs that are tried before the answer; a thought shows the two that come nearest to the output."""
_GUESSES = 2_000
"""Random inputs behind an estimate of `chance`."""


class AbdExpert(Expert):
    """Knows the input from the task's construction (privileged). Its reason is a search that the program alone
    allows: random inputs traced through the shown program, nearer and nearer to the output, the answer last."""

    privileged: ClassVar[bool] = True

    def __init__(self, env: Abd) -> None:
        self._problem = env.problem

    def act(self) -> Move:
        """The input that made the output."""
        stdin = self._problem.stdin
        return Move(self._thought(), stdin.rstrip("\n"))

    def wander(self, rng: random.Random) -> Move:
        """As many lines of the right types, drawn at random."""
        program = self._problem.program
        if program is None:
            return Move("I guess.", "\n".join(str(rng.randint(0, 20)) for _ in self._problem.stdin.splitlines()))
        lines = []
        for variable in program.reads:
            count = rng.randint(3, 7) if variable == "xs" else 1
            word = variable in ("s", "t")
            drawn = [rng.choice(WORDS) if word else str(rng.randint(0, program.scale.largest)) for _ in range(count)]
            lines.append(" ".join(drawn))
        return Move("I guess.", "\n".join(lines))

    def _thought(self) -> str:
        program, stdin = self._problem.program, self._problem.stdin
        if program is None:
            return "Running the program on this input gives the output."
        if program.reason:
            values = dict(zip(program.reads, stdin.splitlines(), strict=False))
            printed = self._problem.output.strip()
            return program.reason.format(**values, out=printed, tail=printed.split()[-1])
        right = f"{_traced(program, stdin)}: that is the output."
        for failed in (self._failed(program), self._failed(program)[1:]):
            tries = [f"{_traced(program, tried)}: not yet." for tried in failed]
            thought = " ".join([*tries, right])
            if len(thought.split()) <= _LONGEST_THOUGHT:
                return thought
        if len(right.split()) <= _LONGEST_THOUGHT:
            return right
        return f"Going through {len(program.gives)} steps from {_shown(stdin)} ends in the output."

    def _failed(self, program: Program) -> list[str]:
        """Two inputs that give another output, the nearer one last. Drawn by the program's own hash: the episode's
        random stream stays as it is."""
        rng = random.Random(digest("abd/candidates", program.source, self._problem.output))
        nearness: dict[str, float] = {}
        for _ in range(_CANDIDATES):
            stdin = program.draw_input(rng)
            got = output_of(program, stdin)
            if got is not None and got != self._problem.output:
                nearness[stdin] = difflib.SequenceMatcher(None, got, self._problem.output, autojunk=False).ratio()
        return sorted(nearness, key=lambda stdin: (nearness[stdin], stdin))[-2:]


def _shown(stdin: str) -> str:
    return ", then ".join(stdin.splitlines())


def _traced(program: Program, stdin: str) -> str:
    return f"Try {_shown(stdin)}: {'; '.join(program.trace(stdin))}"


def chance(env: Env, task: Task) -> float:
    """The share of random inputs for which the program of `task` prints its output: what guessing is worth."""
    assert isinstance(env, Abd)
    env.reset(task)
    program = env.problem.program
    if program is None:
        raise EnvError("abd: random inputs are known for generated programs only, not for upstream's rows")
    rng = task_rng(task.env, task.level, task.id, task.seed, "chance")
    return hit_rate(program, env.problem.output, rng, _GUESSES)


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, Abd)
    return AbdExpert(env)
