"""DED: the checker's rules, the episode, the expert, rows of the upstream data set."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.play import play
from affine.envs.abd import Abd
from affine.envs.ded import Ded, Problem, read_program
from affine.envs.ded_expert import SUCCESS
from affine.envs.engines.programs.program_env import ROWS_LEVEL
from affine.envs.engines.programs.rows import Case
from affine.envs.env import EnvError, EnvSettings, make
from affine.types import Split, Task

UPSTREAM = EnvSettings(mode="upstream", prompts="full")


def task(level: int, id: int) -> Task:
    return Task("ded", level, id, 0, Split.TRAIN)


def judged(cases: list[Case], code: str) -> bool:
    env = Ded()
    env.reset(task(0, 0))
    env.problem = Problem("", tuple(cases), "", None)
    return env.step(f"```python\n{code}\n```").reward == 1.0


def case(stdin: str, expected: str) -> Case:
    return Case("stdin_stdout", expected, stdin=stdin)


@pytest.mark.parametrize(
    ("reply", "program"),
    [
        ("```python\nprint(1)\n```", "print(1)"),
        ("a ```python\nprint(1)\n``` b ```python\nprint(2)\n``` c", "print(2)"),
        ("```python\nprint(1)\n```\n```\nprint(2)\n```", "print(1)"),
        ("```\nprint(1)\n```\n```\nprint(2)\n```", "print(2)"),
        ("```py\nprint(1)\n```", "print(1)"),
        ("```python\n  x\n```", "  x"),
        ("print(1)", "print(1)"),
        ("```python\nprint(1)\n```\n```python\nprint(2)", "print(1)"),
        ("```python\nprint(1)", "```python\nprint(1)"),
        ("", ""),
    ],
)
def test_the_program_is_the_last_python_block_else_the_last_block_else_everything(reply: str, program: str) -> None:
    assert read_program(reply) == program


def test_every_test_must_pass() -> None:
    cases = [case("1\n", "2"), case("5\n", "6"), case("-1\n", "0")]
    assert judged(cases, "print(int(input()) + 1)")
    assert not judged(cases, "print(abs(int(input())) + 1)")
    assert not judged(cases, "print(2)")


@pytest.mark.parametrize(
    ("printed", "same"),
    [("a\nb\n", True), ("a  \nb\n\n\n", True), ("a\nb", True), (" a\nb", False), ("\na\nb", False), ("a\n\nb", False)],
)
def test_outputs_are_compared_up_to_trailing_space(printed: str, same: bool) -> None:
    assert judged([case("", "a\nb")], f"import sys\nsys.stdout.write({printed!r})") == same


def test_anything_on_standard_error_fails_the_test() -> None:
    assert not judged([case("", "1")], "import sys\nprint(1)\nprint('note', file=sys.stderr)")
    assert not judged([case("", "1")], "print(1)\nraise ValueError")
    assert judged([case("", "1")], "import sys\nprint(1)\nsys.exit(2)")


def test_solve_is_called_where_nothing_else_prints() -> None:
    cases = [case("4\n", "5")]
    assert judged(cases, "def solve():\n    return int(input()) + 1")
    assert judged(cases, "def solve():\n    print(int(input()) + 1)")
    assert not judged(cases, "def solve():\n    return 5\nif __name__ == '__main__':\n    pass")
    assert not judged(cases, "def solve(x):\n    return 5")
    assert not judged(cases, "def answer():\n    return 5")


def test_function_calls_print_their_result() -> None:
    cases = [Case("function_call", "3", function="add", arguments="[1, 2]")]
    assert judged(cases, "def add(a, b):\n    return a + b")
    assert not judged(cases, "def add(a, b):\n    return a - b")
    assert not judged(cases, "def sub(a, b):\n    return a + b")
    text = Case("function_call", "it's é", function="f", arguments=json.dumps(["it's é"]))
    assert judged([text], "def f(x):\n    return x")


def test_programs_cannot_reach_the_tests_or_cheat_the_verdict() -> None:
    cases = [case("4\n", "5")]
    for cheat in (
        "import os\nos._exit(0)",
        "raise SystemExit(0)",
        "import gc\nprint(gc.get_objects())",
        "while True: pass",
    ):
        assert not judged(cases, cheat)


@pytest.mark.parametrize("level", sorted(SUCCESS))
def test_the_expert_solves_what_it_says(level: int) -> None:
    env = make("ded")
    played = [play(env, task(level, id), random.Random(id), style="thought") for id in range(20 if level == 0 else 4)]
    assert sum(trajectory.solved for trajectory in played) >= SUCCESS[level] * len(played)
    for trajectory in played:
        assert len(trajectory.turns[0].text.partition("```")[0].split()) <= (12 if level == 0 else 45)


def test_random_programs_are_sometimes_right() -> None:
    env = make("ded")
    scores = [play(env, task(0, id), random.Random(f"w{id}"), noise=1.0).score for id in range(100)]
    assert 0.03 <= sum(scores) / len(scores) <= 0.35


def test_examples_are_shown_and_tests_are_not() -> None:
    for level, examples, hidden in ((0, 1, 4), (1, 2, 10)):
        env = Ded()
        content = env.reset(task(level, 2))[0].content
        assert content.count("Input:") == examples
        assert len(env.problem.cases) == hidden
        assert env.problem.answer not in content
        assert env.problem.program is not None
        assert env.problem.program.spec in content


def test_a_slightly_wrong_program_fails() -> None:
    env = Ded()
    for id in range(30):
        env.reset(task(0, id))
        right = env.problem.answer
        wrong = right.replace('print("', 'print("x')
        if wrong != right and "else s" not in right:
            assert env.step(f"```python\n{wrong}\n```").reward == 0.0
            env.reset(task(0, id))
            assert env.step(f"```python\n{right}  # the same\n```").reward == 1.0


def test_groups_are_shared_with_abduction() -> None:
    ded, abd = Ded(), Abd()
    mine = {content.group for id in range(400) if (content := ded.content(1, id, 0))}
    others = {content.group for id in range(400) if (content := abd.content(1, id, 0))}
    assert len(mine & others) > 20  # one structure has one group in both, so a split by group holds over both


def test_tasks_are_many_and_groups_split_them() -> None:
    env = make("ded")
    known = [content for id in range(2500) if (content := env.content(0, id, 0))]
    train = {content.key for content in known if int(content.group, 16) % 10 < 6}
    test = {content.key for content in known if int(content.group, 16) % 10 >= 7}
    assert len(train) >= 500
    assert len(test) >= 200
    assert not train & test


@settings(max_examples=40, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(["```", "```python", "\n", "print(1)", "\x00", "\ud800", "input()", "'"]), max_size=12
        ).map("".join),
    )
)
def test_any_reply_is_survived(reply: str) -> None:
    env = Ded(UPSTREAM)
    env.reset(task(0, 1))
    result = env.step(reply)
    assert result.done
    assert result.reward in (0.0, 1.0)
    assert env.score() == result.reward


@pytest.mark.parametrize("piece", ["```", "```python", "```python\n1\n```\n", "a", "("])
def test_huge_replies_are_survived(piece: str) -> None:
    env = Ded()
    env.reset(task(0, 1))
    assert env.step(piece * 100_000).reward == 0.0


ROWS = [
    {
        "prompt": "Double it.",
        "program": "print(int(input()) * 2)",
        "verification_info": json.dumps(
            {
                "test_cases": [
                    {"type": "stdin_stdout", "input": "2\n", "output": "4\n"},
                    {"type": "stdin_stdout", "input": [3], "output": [6]},
                    {"type": "interactive", "input": "2", "output": "5"},
                ]
            }
        ),
    },
    {
        "prompt": "Write add(a, b).",
        "program": "def add(a, b):\n    return a + b",
        "test_cases": str([{"type": "function_call", "fn_name": "add", "input": [1, 4], "output": [5]}]),
    },
    {"prompt": "Nothing to test.", "test_cases": {"test_cases": []}},
    {"prompt": "Only unknown.", "test_cases": [{"type": "interactive", "input": "2", "output": "5"}]},
]


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    monkeypatch.setenv("AFFINE_RL_PYTHON", str(path))


@pytest.mark.usefixtures("rows")
def test_rows_with_both_kinds_of_tests() -> None:
    env = make("ded", UPSTREAM)
    assert isinstance(env, Ded)
    for id in (0, 1):
        assert play(env, task(ROWS_LEVEL, id), random.Random(0)).solved
        env.reset(task(ROWS_LEVEL, id))
        assert env.step("```python\nprint(7)\n```").reward == 0.0
    env.reset(task(ROWS_LEVEL, 0))
    assert [case.stdin for case in env.problem.cases] == ["2\n\n", "3\n"]
    assert env.problem.unknown == 1


@pytest.mark.usefixtures("rows")
def test_rows_without_known_tests() -> None:
    upstream, fixed = Ded(UPSTREAM), Ded()
    assert upstream.content(ROWS_LEVEL, 2, 0) is None
    assert upstream.content(ROWS_LEVEL, 3, 0) is not None
    assert fixed.content(ROWS_LEVEL, 3, 0) is None
    upstream.reset(task(ROWS_LEVEL, 3))
    assert upstream.step("```python\nnonsense\n```").reward == 1.0  # upstream's quirk: 0 of 0 tests
    with pytest.raises(EnvError, match="no task 3"):
        fixed.reset(task(ROWS_LEVEL, 3))


def test_same_trajectories_under_any_hash_seed() -> None:
    code = (
        "import random\nfrom affine.envs.env import make\nfrom affine.collect.play import play\n"
        "from affine.types import *\n"
        "env = make('ded')\n"
        "for level in (0, 3):\n    for id in range(3):\n"
        "        t = Task('ded', level, id, 0, Split.TRAIN)\n"
        "        print(env.content(level, id, 0), to_json(play(env, t, random.Random(id), style='thought', noise=0.5)))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b'"score"') == 6
