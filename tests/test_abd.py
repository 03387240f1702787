"""ABD: the checker's rules, the episode, the expert, rows of the upstream data set."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.collect.collect import attempts_of
from affine.collect.play import play
from affine.envs.abd import Abd, Problem, read_answer
from affine.envs.abd_expert import SUCCESS
from affine.envs.engines.programs import sandbox
from affine.envs.engines.programs.program_env import ROWS_LEVEL
from affine.envs.engines.programs.sandbox import Sandbox
from affine.envs.env import EnvError, EnvSettings, make
from affine.params import Params, load_params
from affine.rollout.pool import players_of
from affine.types import Split, StopReason, Task

ROOT = Path(__file__).parents[1]
UPSTREAM = EnvSettings(mode="upstream", prompts="full")


def task(level: int, id: int) -> Task:
    return Task("abd", level, id, 0, Split.TRAIN)


def judged(source: str, output: str, reply: str, settings: EnvSettings | None = None) -> bool:
    env = Abd(settings)
    env.reset(task(0, 0))
    env.problem = Problem(source, output, "", None)
    return env.step(reply).reward == 1.0


@pytest.mark.parametrize(
    ("reply", "stdin"),
    [
        ("<INPUT>\n5\n</INPUT>", "5\n"),
        ("I think\n<input>5</Input> yes", "5\n"),
        ("<INPUT>1</INPUT> or <INPUT>2</INPUT>", "2\n"),
        ("<INPUT>1</INPUT> or <INPUT>2", "1\n"),
        ("<INPUT>\n\n  a  \nb\t \n\n</INPUT>", "a\nb\n"),
        ("<INPUT>1\n\n2</INPUT>", "1\n\n2\n"),
        ("<INPUT></INPUT>", "\n"),
        ("<think><INPUT>9</INPUT></think><INPUT>1</INPUT>", "1\n"),
        ("<INPUT>1</INPUT><thinking>no: <INPUT>9</INPUT></THINKING>", "1\n"),
        ("<INPUT>1</INPUT><think>never closed <INPUT>9</INPUT>", "9\n"),
        ("5", None),
        ("", None),
        ("</INPUT>5<INPUT>", None),
        ("<think><INPUT>9</INPUT></think>", None),
        ("Action: 5", None),
    ],
)
def test_the_answer_is_the_last_closed_block_outside_of_thinking(reply: str, stdin: str | None) -> None:
    assert read_answer(reply) == stdin


@pytest.mark.parametrize("mode", ["fixed", "upstream"])
def test_any_input_with_the_output_counts(mode: str) -> None:
    settings = EnvSettings(mode=mode)  # type: ignore[arg-type]
    source = "print(int(input()) % 3)"
    assert [judged(source, "1\n", f"<INPUT>{n}</INPUT>", settings) for n in range(6)] == [False, True, False] * 2


@pytest.mark.parametrize(
    ("printed", "expected", "same"),
    [
        ("a\nb\n", "a\nb", True),
        ("\n a\nb \n\n", "a\nb", True),
        ("a  \nb", "a\nb", True),
        ("a\r\nb", "a\nb", True),
        ("a\n\nb", "a\nb", False),
        ("a\n b", "a\nb", False),
        ("A", "a", False),
        ("", "a", False),
    ],
)
def test_outputs_are_compared_up_to_outer_and_trailing_space(printed: str, expected: str, same: bool) -> None:
    source = f"import sys\nsys.stdout.write({printed!r})"
    assert judged(source, expected, "<INPUT>x</INPUT>") == same


def test_anything_on_standard_error_is_wrong() -> None:
    assert not judged("import sys\nprint(1)\nprint('note', file=sys.stderr)", "1\n", "<INPUT>x</INPUT>")
    assert not judged("print(1)\ninput()\ninput()", "1\n", "<INPUT>x</INPUT>")  # end of file
    assert judged("import sys\nprint(1)\nsys.exit(3)", "1\n", "<INPUT>x</INPUT>")  # only standard error counts


def test_upstream_counts_lines_before_running_and_fixed_does_not() -> None:
    mentions = "# input() reads a line, input() another\nprint(input())"
    assert not judged(mentions, "a\n", "<INPUT>a</INPUT>", UPSTREAM)
    assert judged(mentions, "a\n", "<INPUT>a</INPUT>")
    assert judged(mentions, "a\n", "<INPUT>a\nb\nc</INPUT>", UPSTREAM)
    loop = "t = 0\nfor _ in range(int(input())):\n    if t > 3: break\n    t += int(input())\nprint(t)"
    assert judged(loop, "4\n", "<INPUT>2\n4</INPUT>")
    assert not judged(loop, "4\n", "<INPUT>2\n4</INPUT>", UPSTREAM)  # 2 announced: more than 2 lines wanted
    assert judged(loop, "4\n", "<INPUT>2\n4\n0</INPUT>", UPSTREAM)


def test_a_program_that_only_defines_solve_has_it_called() -> None:
    assert judged("def solve():\n    return int(input()) + 1", "6\n", "<INPUT>5</INPUT>")
    guarded = "def solve():\n    return 6\nif __name__ == '__main__':\n    pass"
    assert not judged(guarded, "6\n", "<INPUT>5</INPUT>")


def test_endless_programs_end(monkeypatch: pytest.MonkeyPatch) -> None:
    env = Abd()
    env.reset(task(0, 0))
    env.problem = Problem("while input(): pass\nwhile True: pass", "1\n", "", None)
    result = env.step("<INPUT>5\n\n</INPUT>")
    assert (result.reward, result.done) == (0.0, True)


def test_one_reply_ends_the_episode() -> None:
    env = Abd()
    opening = env.reset(task(0, 3))
    assert len(opening) == 1
    assert env.problem.source in opening[0].content
    assert env.problem.output.strip() in opening[0].content
    assert env.step("no idea").done
    again = env.step(f"<INPUT>{env.problem.stdin}</INPUT>")
    assert (again.done, again.valid, env.score()) == (True, False, 0.0)
    env.reset(task(0, 3))
    assert env.step(f"<INPUT>{env.problem.stdin}</INPUT>").reward == 1.0
    assert env.solved()
    assert env.turn_limit == 1


@pytest.mark.parametrize("level", sorted(SUCCESS))
def test_the_expert_solves_what_it_says(level: int) -> None:
    env = make("abd")
    for style in ("action", "thought"):
        played = [play(env, task(level, id), random.Random(id), style=style) for id in range(20 if level == 0 else 6)]  # type: ignore[arg-type]
        assert sum(trajectory.solved for trajectory in played) >= SUCCESS[level] * len(played)
        assert all(trajectory.stop is StopReason.SOLVED for trajectory in played if trajectory.solved)
        limit = 8 if level == 0 else 40
        for trajectory in played:
            thought = trajectory.turns[0].text.partition("<INPUT>")[0]
            assert len(thought.split()) <= limit
            assert bool(thought) == (style == "thought")


def test_random_answers_are_sometimes_right() -> None:
    env = make("abd")
    scores = [play(env, task(0, id), random.Random(f"w{id}"), noise=1.0).score for id in range(100)]
    assert 0.05 <= sum(scores) / len(scores) <= 0.35


def test_tasks_are_many_and_groups_split_them() -> None:
    env = make("abd")
    contents = [env.content(0, id, 0) for id in range(2500)]
    known = [content for content in contents if content is not None]
    share = [int(content.group, 16) % 10 for content in known]
    train = {content.key for content, part in zip(known, share, strict=True) if part < 6}
    test = {content.key for content, part in zip(known, share, strict=True) if part >= 7}
    assert len(train) >= 500
    assert len(test) >= 200
    assert not train & test
    assert env.content(0, 5, 0) == env.content(0, 5, 0) != env.content(0, 5, 1)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(max_size=200),
        st.lists(
            st.sampled_from(
                ["<INPUT>", "</INPUT>", "<think>", "</think>", "\n", "\x00", "\ud800", "5", "cat", "9" * 5000]
            ),
            max_size=12,
        ).map("".join),
    )
)
def test_any_reply_is_survived(reply: str) -> None:
    env = Abd(UPSTREAM)
    env.reset(task(0, 1))
    result = env.step(reply)
    assert result.done
    assert result.reward in (0.0, 1.0)
    assert env.score() == result.reward


@pytest.mark.parametrize("piece", ["<INPUT>", "<think>", "</INPUT>", "a", "<INPUT>\n" + "1\n" * 10])
def test_huge_replies_are_survived(piece: str) -> None:
    env = Abd()
    env.reset(task(0, 1))
    assert env.step(piece * 100_000).reward == 0.0


def test_the_parameter_alone_lets_programs_run_where_nothing_is_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(Sandbox.__init__.__kwdefaults__, "levels", ())
    monkeypatch.setattr(sandbox, "_shared", {})
    data = load_params(ROOT / "params.yaml").model_dump(mode="json")
    try:
        for unsafe in (False, True):
            settings = attempts_of(Params.model_validate({**data, "sandbox": {"unsafe": unsafe}}), "abd").settings
            env = Abd(settings)
            env.reset(task(0, 0))
            env.problem = Problem("print(input())", "5\n", "", None)
            if unsafe:
                assert env.step("<INPUT>5</INPUT>").reward == 1.0
                assert env.conditions() == {"sandbox": "unsafe"}
            else:
                with pytest.raises(EnvError, match=r"sandbox\.unsafe: true in params\.yaml"):
                    env.step("<INPUT>5</INPUT>")
                with pytest.raises(EnvError, match="no safe level"):
                    env.conditions()
    finally:
        sandbox.shared(True).close()


@pytest.mark.parametrize("unsafe", [False, True])
def test_every_stage_that_plays_gets_the_parameter(unsafe: bool) -> None:
    data = load_params(ROOT / "params.yaml").model_dump(mode="json")
    params = Params.model_validate({**data, "sandbox": {"unsafe": unsafe}})
    carried = (attempts_of(params, "abd").settings, players_of(params, Path("models/base")).settings)
    assert {settings.unsafe for settings in pickle.loads(pickle.dumps(carried))} == {unsafe}  # as to a worker
    made = [Abd(settings) for settings in carried]
    assert made[0].identity() == made[1].identity() == Abd().identity()  # how programs are confined changes no score


def test_bad_tasks_are_named() -> None:
    env = Abd()
    with pytest.raises(EnvError, match="no level 77"):
        env.reset(task(77, 0))
    with pytest.raises(EnvError, match="got a task of 'ded'"):
        env.reset(Task("ded", 0, 0, 0, Split.TRAIN))


def test_the_upstream_level_without_its_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AFFINE_RL_PYTHON", raising=False)
    with pytest.raises(EnvError, match="AFFINE_RL_PYTHON"):
        Abd().reset(task(ROWS_LEVEL, 0))
    monkeypatch.setenv("AFFINE_RL_PYTHON", str(tmp_path / "absent.jsonl"))
    with pytest.raises(EnvError, match="absent"):
        Abd().content(ROWS_LEVEL, 0, 0)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"program": "x"}\n[1]\n')
    monkeypatch.setenv("AFFINE_RL_PYTHON", str(broken))
    with pytest.raises(EnvError, match=r"broken\.jsonl:2"):
        Abd().reset(task(ROWS_LEVEL, 0))


def test_rows_are_played_with_their_real_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows = [
        {"program": "print(int(input()) * 2)", "inputs": "4", "output": "wrong in the file"},
        {"program": "1 / 0", "inputs": "4\n", "output": "8"},
        {"prompt": "no program"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("AFFINE_RL_PYTHON", str(path))
    env = make("abd", UPSTREAM)
    assert env.size(ROWS_LEVEL) == 3
    assert [env.content(ROWS_LEVEL, id, 0) is not None for id in range(3)] == [True, True, False]
    assert play(env, task(ROWS_LEVEL, 0), random.Random(0)).solved
    assert "8\n" in env.reset(task(ROWS_LEVEL, 0))[0].content
    assert "8\n" in env.reset(task(ROWS_LEVEL, 1))[0].content  # its own run failed: the file's output
    with pytest.raises(EnvError, match="no task 2"):
        env.reset(task(ROWS_LEVEL, 2))
    with pytest.raises(EnvError, match="no task 3"):
        env.reset(task(ROWS_LEVEL, 3))


def test_same_trajectories_under_any_hash_seed() -> None:
    code = (
        "import random\nfrom affine.envs.env import make\nfrom affine.collect.play import play\n"
        "from affine.types import *\n"
        "env = make('abd')\n"
        "for level in (0, 3, 5):\n    for id in range(4):\n"
        "        t = Task('abd', level, id, 0, Split.TRAIN)\n"
        "        print(env.content(level, id, 0), to_json(play(env, t, random.Random(id), style='thought', noise=0.5)))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b'"score"') == 12
