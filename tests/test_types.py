"""Records: writing and reading are inverses, equal records are equal bytes, and nothing else is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.envs.env import REGISTRY
from affine.types import (
    ENVS,
    Episode,
    Message,
    Split,
    StopReason,
    Task,
    Trajectory,
    Turn,
    episode_from_json,
    task_from_json,
    to_json,
    trajectory_from_json,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["a\u2028b\x85c\r\n", '"\\', "∧¬"]
)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
TASKS = st.builds(
    Task, st.sampled_from(ENVS), st.integers(0, 9), st.integers(0), st.integers(0), st.sampled_from(Split), TEXT, TEXT
)
TURNS = st.builds(
    Turn, TEXT, TEXT, NUMBER, st.booleans(), st.booleans(), NUMBER,
    st.lists(st.integers(0, 10**6), max_size=4).map(tuple), st.lists(NUMBER, max_size=4).map(tuple),
)  # fmt: skip
TRAJECTORIES = st.builds(
    Trajectory, TASKS,
    st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), max_size=3).map(tuple),
    st.lists(TURNS, max_size=3).map(tuple), NUMBER, st.booleans(), st.sampled_from(StopReason),
)  # fmt: skip
EPISODES = st.builds(Episode, TRAJECTORIES, TEXT, TEXT, st.integers(0))


@settings(max_examples=100, deadline=None)
@given(TASKS | TRAJECTORIES | EPISODES)
def test_reading_is_the_inverse_of_writing(record: Task | Trajectory | Episode) -> None:
    parse: dict[type, Callable[..., object]] = {
        Task: task_from_json,
        Trajectory: trajectory_from_json,
        Episode: episode_from_json,
    }
    line = to_json(record)
    assert "\n" not in line
    again = parse[type(record)](json.loads(line))
    assert again == record
    assert to_json(again) == line
    shuffled = json.loads(line, object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert to_json(parse[type(record)](shuffled)) == line  # the order of keys in a file does not matter


def one_task() -> dict[str, object]:
    return json.loads(to_json(Task("sat", 0, 1, 2, Split.TEST, "k", "g")))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"colour": 1}, r"Task has no field colour \(known: env, group, id, key, level, seed, split\)"),
        ({"split": "dev"}, "'dev' is not a valid Split"),
        ({"env": None, "x": 0, "a": 0}, "no field a, x"),
    ],
)
def test_other_fields_and_values_are_named(change: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        task_from_json(one_task() | change)


def test_missing_fields_are_errors() -> None:
    data = one_task()
    del data["level"]
    with pytest.raises(TypeError, match="level"):
        task_from_json(data)
    with pytest.raises(KeyError):
        trajectory_from_json({"task": one_task()})


def test_records_are_frozen_and_hashable() -> None:
    task = Task("sat", 0, 1, 2, Split.TEST)
    with pytest.raises(FrozenInstanceError):
        task.level = 3  # type: ignore[misc]
    assert len({task, Task("sat", 0, 1, 2, Split.TEST)}) == 1
    assert [field.name for field in fields(Task)] == ["env", "level", "id", "seed", "split", "key", "group"]


def test_there_is_one_list_of_environments() -> None:
    assert tuple(REGISTRY) == ENVS
