"""ABD's expert: the input that made the output, with the reason read off the program."""

from __future__ import annotations

import random
from typing import ClassVar

from affine.envs.abd import Abd
from affine.envs.engines.programs.statements import WORDS
from affine.envs.env import Env, Expert, Move

SUCCESS: dict[int, float] = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
"""Share of tasks solved, by level: 100 % by construction, and played."""
_LONGEST_THOUGHT = 20


class AbdExpert(Expert):
    """Knows the input from the task's construction (privileged), explains it from what is shown."""

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
        tried = ", then ".join(stdin.splitlines())
        thought = f"Try {tried}: {'; '.join(program.trace(stdin))}. That is the output."
        if len(thought.split()) > _LONGEST_THOUGHT:
            return f"Going through {len(program.gives)} steps from {tried} ends in the output."
        return thought


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, Abd)
    return AbdExpert(env)
