"""SAT: find an assignment that makes every clause of a formula true."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import ClassVar

from affine.envs.engines.sat.formula import (
    Clause,
    Formula,
    chained,
    clause_text,
    formula_key,
    formula_text,
    planted,
    structure_key,
    uniform,
)
from affine.envs.env import Content, Env, IdRange, Level, Prompt, StepResult, Style, digest, task_rng
from affine.types import Message, Task

_ASSIGNMENT = re.compile(r"x(\d+)=(True|False|1|0)")
MAX_DIGITS = 9
"""No formula has variables with longer numbers, and `int` refuses huge ones."""


def assignments(text: str) -> dict[int, bool]:
    """Every `xN=True|False|1|0` in `text`, exact case and no spaces; a later one overrides an earlier one."""
    return {
        int(number): value in ("True", "1") for number, value in _ASSIGNMENT.findall(text) if len(number) <= MAX_DIGITS
    }


def answer_line(reply: str) -> str:
    """The last line that assigns a variable, once closed <think> and <thinking> blocks are removed; else ""."""
    lines = _without_thinking(reply).splitlines()
    return next((line for line in reversed(lines) if _ASSIGNMENT.search(line)), "")


def _without_thinking(text: str) -> str:
    """`text` without closed blocks (a regular expression takes quadratic time on many unclosed ones)."""
    for tag in ("think", "thinking"):
        parts, position = [], 0
        while (start := text.find(f"<{tag}>", position)) >= 0 and (end := text.find(f"</{tag}>", start)) >= 0:
            parts.append(text[position:start])
            position = end + len(f"</{tag}>")
        text = "".join([*parts, text[position:]])
    return text


def falsified(formula: Formula, assigned: Mapping[int, bool]) -> Clause | None:
    """The first clause without an assigned, true literal; None where there is none."""
    for clause in formula:
        if not any(assigned.get(abs(literal)) is (literal > 0) for literal in clause):
            return clause
    return None


def _uniform(variables: int) -> Level:
    summary = f"3-SAT at the hardest ratio, {variables} variables"
    return Level(summary, 1, {"family": "uniform", "variables": variables, "width": 3})


class Sat(Env):
    """SAT, one formula and one answer.

    Description
        A formula in conjunctive normal form is given; the agent answers with an assignment that makes
        every clause true.
    Task
        A satisfiable formula, by family. "chained": short clauses whose solution unit propagation finds
        (settings: ranges of `variables`, `determined` and `clauses`, at most `premises` + 2 literals). "uniform":
        random 3-SAT at 4.26 clauses per variable, drawn until satisfiable. "planted": the validators'
        instance; its id is the seed of the generator, as theirs was, and the task's seed plays no part. The
        key ignores the order of clauses and literals, the group also names and signs of variables.
    Observation
        The formula on one line: clauses in parentheses joined by ∧, literals by ∨, negation ¬, variables
        x1 to xN. After the answer (the episode is over then): "Every clause is true.", "Not true: CLAUSE" or
        "No assignment found.".
    Actions
        `xN=True` or `xN=False` (also 1 and 0), separated by commas. A later assignment of a variable overrides
        an earlier one; variables may be missing as long as each clause has an assigned, true literal. UNSAT
        or anything else scores 0.
    Reward
        1 where every clause is true, else 0; the score is that reward.
    Episode end
        After one reply.
    Expert
        MiniSat 2.2 (python-sat) for the answer, unit propagation for the thought; not privileged.
    Upstream
        Affine's SAT: the last level (n 15, k 10, 63 clauses) and the checker. With ten literals a clause, any
        complete assignment passes with probability (1 - 2^-10)^63 = 0.94, so that level measures format; the
        "uniform" levels are the honest ones. Mode "upstream" reads assignments anywhere in the reply, so that
        values tried while thinking aloud count too; mode "fixed" removes closed <think> and <thinking> blocks
        and reads only the last line that assigns a variable.
    """

    name: ClassVar[str] = "sat"
    version: ClassVar[str] = "1"
    levels: ClassVar[Mapping[int, Level]] = {
        0: Level(
            "unit propagation, 3 or 4 variables",
            1,
            {"family": "chained", "variables": (3, 4), "determined": (2, 3), "clauses": (3, 5), "premises": 1},
        ),
        1: Level(
            "unit propagation, 5 to 7 variables",
            1,
            {"family": "chained", "variables": (5, 7), "determined": (3, 5), "clauses": (7, 11), "premises": 2},
        ),
        2: _uniform(5),
        3: _uniform(10),
        4: _uniform(20),
        5: _uniform(35),
        6: _uniform(50),
        7: Level("the validators' instance", 1, {"family": "planted", "variables": 15, "width": 10}),
    }
    id_ranges: ClassVar[Mapping[str, IdRange]] = {
        "affine-2025-11-16": IdRange(7, 0, 499, "the validators' seeds from 16 November 2025"),
    }
    prompts: ClassVar[Mapping[str, Prompt]] = {
        "brief": Prompt("Make every clause true. Answer like x1=True, x2=False."),
        "full": Prompt(
            "Below is a Boolean formula over the variables x1 to x{variables}: clauses in parentheses, all of "
            "which must be true (∧ means and, ∨ means or, ¬ means not). Find values of the variables that make "
            "the whole formula true. Write them on the last line of your answer, separated by commas and without "
            "spaces around the equals sign, like x1=True, x2=False; or answer UNSAT if there are none."
        ),
    }
    """A prompt may use the fields {variables} (their number) and {formula}; where it lacks {formula}, the
    formula follows on a line of its own."""

    def engine(self) -> Mapping[str, str]:
        return {"python-sat": version("python-sat")}  # decides which uniform formulas are kept

    def content(self, level: int, id: int, seed: int) -> Content | None:
        if id < 0:
            return None
        formula = _formula(level, id, seed)
        return Content(formula_key(formula), digest(self.name, structure_key(formula)))

    def reset(self, task: Task) -> list[Message]:
        self.check_task(task)
        self.task = task
        self.formula = _formula(task.level, task.id, task.seed)
        self.variables = sorted({abs(literal) for clause in self.formula for literal in clause})
        self.done = False
        self.reward = 0.0
        text = formula_text(self.formula)
        observation = "" if "{formula}" in self.prompt.instruction else text
        return self.opening(observation, variables=self.variables[-1], formula=text)

    def step(self, reply: str) -> StepResult:
        if self.done:
            return StepResult("The answer has been given.", 0.0, True, False)
        self.done = True
        assigned = assignments(reply if self.settings.mode == "upstream" else answer_line(reply))
        if not assigned:
            return StepResult("No assignment found.", 0.0, True, reply.strip() == "UNSAT")
        wrong = falsified(self.formula, assigned)
        if wrong is not None:
            return StepResult(f"Not true: {clause_text(wrong)}", 0.0, True)
        self.reward = 1.0
        return StepResult("Every clause is true.", 1.0, True)

    def score(self) -> float:
        return self.reward

    def solved(self) -> bool:
        return self.reward == 1.0

    def format(self, thought: str, action: str, style: Style) -> str:
        """The answer, after the thought on a line of its own; no "Thought:" and "Action:" here."""
        return f"{thought}\n{action}" if style == "thought" and thought else action


@lru_cache(maxsize=64)
def _formula(level: int, id: int, seed: int) -> Formula:
    settings = Sat.levels[level].settings
    if settings["family"] == "planted":
        return planted(random.Random(id), settings["variables"], settings["width"])
    rng = task_rng(Sat.name, level, id, seed)
    if settings["family"] == "uniform":
        return uniform(rng, settings["variables"], settings["width"])
    variables, determined, clauses = (rng.randint(*settings[size]) for size in ("variables", "determined", "clauses"))
    return chained(rng, variables, determined, clauses, settings["premises"])
