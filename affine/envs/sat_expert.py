"""SAT's expert: a solver for the answer, unit propagation for the reasoning."""

from __future__ import annotations

import random

from affine.envs.engines.sat.formula import Clause, Formula, assignment_text, clause_text, propagate, solve
from affine.envs.env import Env, Expert, Move
from affine.envs.sat import Sat

SUCCESS: dict[int, float] = dict.fromkeys(Sat.levels, 1.0)
"""By construction: every formula is satisfiable and the solver complete (50 variables take under 1 ms)."""

MAX_WORDS = 14


class SatExpert(Expert):
    """Answers in the order of deduction, so that each value follows from those already written."""

    def __init__(self, formula: Formula, variables: list[int]) -> None:
        self.formula = formula
        self.variables = variables

    def act(self) -> Move:
        steps = propagate(self.formula)
        deduced = [literal for literal, _ in steps]
        model = solve(self.formula)
        assert model is not None, "the generators make satisfiable formulas only"
        chosen = [literal for literal in model if literal not in deduced and abs(literal) in self.variables]
        thought = self._deduction(steps) if steps else self._decisions(chosen)
        return Move(thought, assignment_text(deduced + chosen))

    @staticmethod
    def _deduction(steps: list[tuple[int, Clause]]) -> str:
        """Which clause forces which value, as far as `MAX_WORDS` words go."""
        parts: list[str] = []
        for literal, clause in steps:
            part = f"{clause_text(clause)}: {assignment_text([literal])}"
            if len(" ".join([*parts, part]).split()) > MAX_WORDS:
                return "; ".join(parts) + "; and so on."
            parts.append(part)
        return "; ".join(parts) + "."

    def _decisions(self, model: list[int]) -> str:
        """The decisions after which propagation does the rest, the first two by name."""
        decisions: list[int] = []
        known: set[int] = set()
        for literal in model:
            if literal not in known:
                decisions.append(literal)
                known.add(literal)
                known.update(deduced for deduced, _ in propagate(self.formula, known))
        more = f" and {len(decisions) - 2} more" if len(decisions) > 2 else ""
        rest = len(model) - len(decisions)
        return f"Try {assignment_text(decisions[:2])}{more}; propagation sets the other {rest}; all clauses hold."

    def wander(self, rng: random.Random) -> Move:
        guess = [variable if rng.random() < 0.5 else -variable for variable in self.variables]
        return Move("I guess.", assignment_text(guess))


def expert(env: Env, rng: random.Random) -> SatExpert:
    """The expert for the task `env` was last reset to."""
    assert isinstance(env, Sat)
    return SatExpert(env.formula, env.variables)
