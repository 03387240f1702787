"""DED: program deduction. Given a specification in English, write the program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from affine.envs.engines.programs.generator import Program, draw_case
from affine.envs.engines.programs.program_env import ROWS_LEVEL, ProgramEnv, execute, execute_own
from affine.envs.engines.programs.rows import Case, row_group
from affine.envs.env import Content, EnvError, Prompt, Style, digest, task_rng
from affine.types import Message, Task

_BRIEF = "Write this Python program. Answer with its code between ```python and ```."
_FULL = """Solve the following programming task with a complete Python 3 program.

Rules:
- read everything from standard input,
- print only what is asked for: no prompts, no labels, no debugging text,
- answer with the whole program in one fenced block that starts with ```python and ends with ```; if there are several,
  the last one counts."""
_EXAMPLES, _HIDDEN = {0: 1}, {0: 4}
_MORE_EXAMPLES, _MORE_HIDDEN = 2, 10
_FENCE, _PYTHON_FENCE = "```", "```python"


@dataclass(frozen=True, slots=True)
class Problem:
    """The specification, the tests (not shown), and a right program (not shown; empty where upstream's row
    has none). `program` is None for rows; `unknown` counts a row's tests of unknown kinds."""

    text: str
    cases: tuple[Case, ...]
    answer: str
    program: Program | None
    unknown: int = 0


class Ded(ProgramEnv):
    """Description: a specification in English and examples are shown; the agent must write the program.

    Task: a generated program (`programs`), known by its specification; the level is its difficulty, from one
    print statement to chains of nested loops, recursion and simulated data structures. The last level
    plays upstream's rows. `group` is the program's structure (at level 0 with its constants) and the same
    as in ABD, so that test programs are unseen compositions.

    Observation: the specification and one example (two above level 0). After the reply one sentence.

    Actions: free text; the program is the last ```python block, else the last fenced block, else all of it.

    Reward: 1 if all hidden tests pass (4 at level 0, 10 above), else 0. A test passes if the program, run in
    the sandbox, writes nothing to standard error and the expected output up to trailing white space in
    lines and trailing blank lines. The first failure ends the testing.

    Episode end: after one reply.

    Expert: answers with the program that the specification was made from.

    Upstream: Affine's DED, with both kinds of tests (stdin_stdout, function_call) for its rows; a program that
    prints nothing but defines solve() has it called. Tests of unknown kinds are left out: mode
    "upstream" keeps the consequence that a row with only such tests counts as solved whatever is
    answered; mode "fixed" counts it as not solved, has no such tasks, and has tighter limits (4 s wall,
    2 s CPU). Prompt wording is ours.
    """

    name = "ded"
    version = "1"
    prompts: ClassVar[Mapping[str, Prompt]] = {"brief": Prompt(_BRIEF), "full": Prompt(_FULL)}
    problem: Problem

    def content(self, level: int, id: int, seed: int) -> Content | None:
        """Hashes of specification and tests, and of the program's structure (`row_group` for rows)."""
        problem = self._problem(level, id, seed)
        if problem is None:
            return None
        group = row_group(id) if problem.program is None else problem.program.group
        return Content(digest("ded", problem.text, *problem.cases), group)

    def reset(self, task: Task) -> list[Message]:
        """Show the specification of `task`."""
        self.check_task(task)
        self.task = task
        problem = self._problem(task.level, task.id, task.seed)
        if problem is None:
            raise EnvError(f"ded: no task {task.id} at level {task.level}")
        self.problem = problem
        self.begin()
        return self.opening(problem.text)

    def judge(self, reply: str) -> tuple[str, bool, bool]:
        """Run the program on the tests, up to the first failure."""
        code = read_program(reply)
        if not code.strip():
            return "No program.", False, False
        fenced = _FENCE in reply
        for number, case in enumerate(self.problem.cases, start=1):
            if not self._passes(code, case):
                return f"Test {number} of {len(self.problem.cases)} failed.", False, fenced
        if not self.problem.cases:
            return "There was nothing to test.", self.settings.mode == "upstream" and self.problem.unknown > 0, fenced
        return "All tests passed.", True, fenced

    def format(self, thought: str, action: str, style: Style) -> str:
        """`action` (the program) in a fence."""
        return self.format_reply(thought, f"{_PYTHON_FENCE}\n{action}\n{_FENCE}", style)

    def _passes(self, code: str, case: Case) -> bool:
        if case.kind == "function_call":
            call = f"\n\nimport json as _json\nprint({case.function}(*_json.loads({case.arguments!r})))\n"
            result = execute(code + call, "", self.limits, self.settings.unsafe)
        else:
            program = self.problem.program
            run = execute_own if program is not None and code == program.source else execute
            result = run(code, case.stdin, self.limits, self.settings.unsafe)
        if result.timed_out or result.stderr.strip():
            return False
        return _trimmed(result.stdout) == _trimmed(case.expected)

    def _problem(self, level: int, id: int, seed: int) -> Problem | None:
        if level != ROWS_LEVEL:
            return self._generated_problem(level, id, seed)
        row = self.row(id)
        if row is None or not row.prompt or not (row.cases or row.unknown):
            return None
        if not row.cases and self.settings.mode == "fixed":
            return None
        return Problem(row.prompt, row.cases, row.program, None, row.unknown)

    def _generated_problem(self, level: int, id: int, seed: int) -> Problem | None:
        program = self.generated(level, id, seed)
        if program is None:
            return None
        rng = task_rng(self.name, level, id, seed, "tests")
        shown = [draw_case(program, rng) for _ in range(_EXAMPLES.get(level, _MORE_EXAMPLES))]
        hidden = [draw_case(program, rng) for _ in range(_HIDDEN.get(level, _MORE_HIDDEN))]
        examples = [f"Input:\n{stdin}Output:\n{output.rstrip()}" for stdin, output in shown]
        cases = tuple(Case("stdin_stdout", output, stdin=stdin) for stdin, output in hidden)
        return Problem("\n".join([program.spec, *examples]), cases, program.source, program)


def read_program(reply: str) -> str:
    """The program that `reply` proposes: its last ```python block, else its last fenced block, else all of
    it; without surrounding blank lines."""
    for opening in (_PYTHON_FENCE, _FENCE):
        found, position = None, reply.find(opening)
        while position >= 0:
            end = reply.find(_FENCE, position + len(opening))
            if end < 0:
                break
            found = reply[position + len(opening) : end]
            position = reply.find(opening, end + len(_FENCE))
        if found is not None:
            first, newline, rest = found.partition("\n")
            return (rest if newline and opening == _FENCE and first.strip().isalnum() else found).strip("\r\n")
    return reply.strip("\r\n")


def _trimmed(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip("\n")
