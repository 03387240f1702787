"""ABD: program abduction. Given a program and what it printed, find an input that makes it print that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from affine.envs.engines.programs.generator import Program, draw_case
from affine.envs.engines.programs.program_env import ROWS_LEVEL, ProgramEnv, execute, execute_own, tagged
from affine.envs.engines.programs.rows import row_group
from affine.envs.env import Content, EnvError, Prompt, Style, digest, task_rng
from affine.types import Message, Task

_BRIEF = "Find an input for which the program prints this output. Answer with its lines between <INPUT> and </INPUT>."
_FULL = """You are an expert in reading Python programs. You are shown a program and what it wrote to standard output.
Find a standard input for which the program writes exactly that output. There may be several; any of them is right.

You may reason freely first. Then give your answer between the tags <INPUT> and </INPUT>:
- one line of the tags' content for each line that the program reads,
- raw values as they would be typed, without quotes or names,
- nothing else between the tags.
Only the last such block counts."""
_LOOP = re.compile(r"for\s+\w+\s+in\s+range\(\s*int\(\s*input\(\)\s*\)\s*\)")


@dataclass(frozen=True, slots=True)
class Problem:
    """The program, what it printed, and the input that made it print that (not shown). `program` is None
    for upstream's rows."""

    source: str
    output: str
    stdin: str
    program: Program | None


class Abd(ProgramEnv):
    """Description: a Python program and its real output are shown; the agent must find an input.

    Task: a generated program (`programs`) and a random input to it; the level is its difficulty, from one
    print statement to chains of nested loops, recursion and simulated data structures. The last level
    plays upstream's rows. `group` is the program's structure (at level 0 with its constants), so that
    test programs are unseen compositions.

    Observation: the program and its output, each in a fence. After the reply one word or sentence.

    Actions: free text with an <INPUT> block; the last closed block counts, in any case, after closed
    <think> and <thinking> blocks were removed. Its text is stripped, lines are right-trimmed.

    Reward: 1 if the program, run on the answer in the sandbox, writes nothing to standard error and the same
    output up to surrounding white space or trailing white space in lines; else 0. Any such input counts.

    Episode end: after one reply.

    Expert: answers with the input that made the output (known from construction); its reasons are what can
    be read off the program: the inverse of a level-0 statement, or the values after each operation.

    Upstream: Affine's ABD (affinetes; the dataset's own inputs, no second model). Mode "upstream" keeps its
    check on the text of the program before running it: at least as many lines as "input()" occurs in it,
    and more than k lines where it loops over range(int(input())) and the first line is k. That refuses
    right answers to programs that mention input() without calling it; mode "fixed" just runs the
    program, and has tighter limits (4 s wall, 2 s CPU). Prompt wording is ours.
    """

    name = "abd"
    version = "1"
    prompts: ClassVar[Mapping[str, Prompt]] = {"brief": Prompt(_BRIEF), "full": Prompt(_FULL)}
    problem: Problem

    def content(self, level: int, id: int, seed: int) -> Content | None:
        """Hashes of program and input, and of the program's structure (`row_group` for rows)."""
        if level == ROWS_LEVEL:
            row = self.row(id)
            if row is None or not row.program or not row.inputs:
                return None
            return Content(digest("abd", row.program, row.inputs), row_group(id))
        problem = self._generated_problem(level, id, seed)
        if problem is None or problem.program is None:
            return None
        return Content(digest("abd", problem.source, problem.stdin), problem.program.group)

    def reset(self, task: Task) -> list[Message]:
        """Show the program of `task` and its output."""
        self.check_task(task)
        self.task = task
        problem = (
            self._row_problem(task.id)
            if task.level == ROWS_LEVEL
            else self._generated_problem(task.level, task.id, task.seed)
        )
        if problem is None:
            raise EnvError(f"abd: no task {task.id} at level {task.level}")
        self.problem = problem
        self.begin()
        shown = problem.output.removesuffix("\n")
        return self.opening(f"```python\n{problem.source}\n```\nOutput:\n```\n{shown}\n```")

    def judge(self, reply: str) -> tuple[str, bool, bool]:
        """Run the program on the answer and compare."""
        answer = read_answer(reply)
        if answer is None:
            return "No <INPUT> block.", False, False
        if self.settings.mode == "upstream" and not _enough_lines(self.problem.source, answer):
            return "Too few lines.", False, True
        run = execute if self.problem.program is None else execute_own
        result = run(self.problem.source, answer, self.limits, self.settings.unsafe)
        if result.timed_out:
            return "The program ran too long.", False, True
        if result.stderr.strip():
            return "The program failed on this input.", False, True
        if not _same_output(result.stdout, self.problem.output):
            return "The program printed something else.", False, True
        return "Right.", True, True

    def format(self, thought: str, action: str, style: Style) -> str:
        """`action` (the input's lines) in <INPUT> tags."""
        return self.format_reply(thought, f"<INPUT>\n{action.rstrip()}\n</INPUT>", style)

    def _generated_problem(self, level: int, id: int, seed: int) -> Problem | None:
        program = self.generated(level, id, seed)
        if program is None:
            return None
        stdin, output = draw_case(program, task_rng(self.name, level, id, seed, "input"))
        return Problem(program.source, output, stdin, program)

    def _row_problem(self, id: int) -> Problem | None:
        row = self.row(id)
        if row is None or not row.program or not row.inputs:
            return None
        stdin = row.inputs.rstrip("\n") + "\n"
        result = execute(row.program, stdin, self.limits, self.settings.unsafe)
        failed = result.timed_out or bool(result.stderr.strip())
        return Problem(row.program, row.output if failed else result.stdout, stdin, None)


def read_answer(reply: str) -> str | None:
    """The standard input that `reply` proposes, with a final newline; None where it has no closed block."""
    for name in ("think", "thinking"):
        for start, _, _, end in reversed(list(tagged(reply, name))):
            reply = reply[:start] + reply[end:]
    blocks = list(tagged(reply, "INPUT"))
    if not blocks:
        return None
    _, start, end, _ = blocks[-1]
    return "\n".join(line.rstrip() for line in reply[start:end].strip().splitlines()) + "\n"


def _enough_lines(source: str, answer: str) -> bool:
    lines = answer.removesuffix("\n").split("\n")
    if _LOOP.search(source) and re.fullmatch(r"\d{1,9}", lines[0].strip()) and len(lines) <= int(lines[0]):
        return False
    return len(lines) >= source.count("input()")


def _same_output(got: str, expected: str) -> bool:
    if got == expected:
        return True
    got, expected = (text.strip().replace("\r\n", "\n") for text in (got, expected))
    return [line.rstrip() for line in got.split("\n")] == [line.rstrip() for line in expected.split("\n")]
