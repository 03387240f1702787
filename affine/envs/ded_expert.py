"""DED's expert: the program that the specification was made from."""

from __future__ import annotations

import random
from typing import ClassVar

from affine.envs.ded import Ded
from affine.envs.engines.programs.generator import guess
from affine.envs.env import Env, Expert, GaveUp, Move

SUCCESS: dict[int, float] = {0: 1.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0}
"""Share of tasks solved, by level, which the tests hold as a floor: 100 % by construction."""
_LONGEST_THOUGHT = 45
"""Words."""
_CUT = 6
"""Words that are quoted of each step where a thought would be longer."""


class DedExpert(Expert):
    """Knows the program from the task's construction (privileged). Its reason is the specification, step by step."""

    privileged: ClassVar[bool] = True

    def __init__(self, env: Ded) -> None:
        self._problem = env.problem

    def act(self) -> Move:
        """The program. Raises GaveUp for upstream's rows without one."""
        if not self._problem.answer:
            raise GaveUp("the row holds no program")
        return Move(self._thought(), self._problem.answer)

    def wander(self, rng: random.Random) -> Move:
        """A random program of the level that reads the same kinds of input, at level 0 over the constants in
        the specification."""
        own = self._problem.program
        if own is None:
            return Move("I guess.", "print(input())")
        guessed = guess(own, rng)
        if guessed is None:
            raise GaveUp("no random program of this kind was found")
        return Move("I guess.", guessed.source)

    def _thought(self) -> str:
        program = self._problem.program
        if program is None:
            return "This program does what is asked."
        steps = program.spec.removesuffix(".").split(". ")
        if sum(len(step.split()) for step in steps) > _LONGEST_THOUGHT:
            steps = [_cut(step) for step in steps]
        first, *others = steps
        return f"{'; '.join([first, *(step[0].lower() + step[1:] for step in others)])}."


def _cut(step: str) -> str:
    words = step.split()
    return step if len(words) <= _CUT else f"{' '.join(words[:_CUT])} ..."


def expert(env: Env, rng: random.Random) -> Expert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, Ded)
    return DedExpert(env)
