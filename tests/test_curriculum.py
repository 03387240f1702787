"""Which tasks an iteration plays: weights, repetition, and the curriculum."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ppo_inputs import (
    config,
)

from affine.training.curriculum import FLOOR, Curriculum, draw_tickets, shares
from affine.types import ENVS, Split, StopReason, Task, Trajectory


def some_tasks(count: int) -> dict[str, list[Task]]:
    return {env: [Task(env, 0, k, 0, Split.TRAIN) for k in range(count)] for env in ENVS}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 5), min_size=8, max_size=8).filter(any),
    st.integers(1, 60),
    st.integers(1, 4),
    st.integers(0, 50),
)
def test_tickets_follow_the_weights(weights: list[float], drawn: int, group: int, iteration: int) -> None:
    given_weights = dict(zip(ENVS, weights, strict=True))
    s = config(episodes=drawn * group, group=group, weights=given_weights)
    tickets = draw_tickets(some_tasks(300), s, 7, iteration, Curriculum())
    assert tickets == draw_tickets(some_tasks(300), s, 7, iteration, Curriculum())
    assert len(tickets) == len(set(tickets)) == drawn * group
    assert {ticket.seed for ticket in tickets} == {7}
    times = Counter(ticket.task for ticket in tickets)
    assert set(times.values()) == {group}  # no task twice while there are enough
    for env, weight in given_weights.items():
        share = drawn * weight / sum(weights)
        assert abs(sum(task.env == env for task in times) - share) < 1 + 1e-9
        if weight == 0:
            assert all(task.env != env for task in times)


def test_iterations_play_other_tasks_and_few_tasks_are_repeated() -> None:
    s = config(episodes=40, group=2, weights={})
    first, second = (draw_tickets(some_tasks(1000), s, 0, k, Curriculum()) for k in (0, 1))
    assert {ticket.task for ticket in first} != {ticket.task for ticket in second}
    assert [ticket.task.env for ticket in first] != sorted(ticket.task.env for ticket in first)  # mixed
    again = [ticket for k in range(5) for ticket in draw_tickets(some_tasks(2), s, 0, k, Curriculum())]
    assert len(set(again)) == len(again) == 200  # every try of a task has a random stream of its own


def test_the_curriculum_follows_what_there_is_to_learn() -> None:
    tasks = {env: [] for env in ENVS}
    tasks["sat"] = [Task("sat", level, k, 0, Split.TRAIN) for level in (0, 1) for k in range(50)]
    tasks["abd"] = [Task("abd", 0, k, 0, Split.TRAIN) for k in range(100)]
    weights = {env: float(env in ("sat", "abd")) for env in ENVS}
    s = config(curriculum="learnable", episodes=100, weights=weights)
    curriculum = Curriculum()
    assert shares(tasks, s, curriculum) == pytest.approx({"sat/0": 0.25, "sat/1": 0.25, "abd/0": 0.5})

    def played(task: Task, score: float) -> Trajectory:
        return Trajectory(task, (), (), score, score == 1, StopReason.FAILED)

    # sat/0: one task, always the same; abd: tasks differ, but each comes out one way; sat/1: not seen.
    steady = [played(tasks["sat"][0], 1.0)] * 2 + [played(tasks["abd"][k], float(k)) for k in (0, 1) for _ in range(3)]
    curriculum.learn(steady)
    found = shares(tasks, s, curriculum)
    assert found["sat/0"] / found["sat/1"] == pytest.approx(FLOOR)
    assert found["abd/0"] / found["sat/1"] == pytest.approx(2 * FLOOR)
    assert sum(found.values()) == pytest.approx(1)
    counts = Counter(t.task.env for t in draw_tickets(tasks, s, 0, 0, curriculum))
    assert abs(counts["abd"] - 100 * found["abd/0"]) < 1
    curriculum.learn([played(tasks["sat"][0], 0.0), played(tasks["sat"][0], 1.0)])
    assert curriculum.variances["sat/0"] == pytest.approx(0.2 * 0.5)
    once = Curriculum()
    once.learn([played(tasks["abd"][k], float(k % 2)) for k in range(4)])
    assert once.variances["abd/0"] == pytest.approx(1 / 3)  # played once each: how tasks differ
    assert once.appeal("abd/0") == 1
