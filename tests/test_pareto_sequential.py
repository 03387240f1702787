"""The sequential test against integration, enumeration, its guarantee under peeking, and its use while playing."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pareto_episodes import episode
from scipy import integrate

from affine.pareto.paired import Pairs, cluster_names, pair, sequence
from affine.pareto.sequential import LOOKS, log_wealth, order, sequential
from affine.pareto.stopping import Looks
from affine.pareto.summary import EnvResult, summarise
from affine.types import Split, Task, to_json


@pytest.mark.parametrize("gains", [[1.0], [1.0, -1.0, 1.0, 1.0], [0.25, -0.5, 0.0, 1.0, 0.125], [1.0] * 25])
def test_wealth_is_the_average_over_all_stakes(gains: list[float]) -> None:
    found = np.exp(log_wealth(np.array(gains)))
    for k in range(1, len(gains) + 1):
        exact = integrate.quad(lambda stake, k=k: float(np.prod([1 + stake * g for g in gains[:k]])), 0, 1)[0]
        assert found[k - 1] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("p", [0.1, 0.35, 0.5])
def test_expected_wealth_never_exceeds_one_without_an_advantage(p: float) -> None:
    """Over every outcome of six tasks: win, lose (at least as likely), tie."""
    expected = 0.0
    for outcome in itertools.product((1.0, -1.0, 0.0), repeat=6):
        chance = np.prod([{1.0: 0.4 * p, -1.0: 0.4 * (1 - p), 0.0: 0.6}[o] for o in outcome])
        expected += chance * float(np.exp(log_wealth(np.array(outcome))[-1]))
    assert expected <= 1 + 1e-9
    if p == 0.5:
        assert expected == pytest.approx(1)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_final_wealth_does_not_depend_on_order(gains: list[float], rng: random.Random) -> None:
    shuffled = rng.sample(gains, len(gains))
    ends = [log_wealth(np.array(values))[-1] for values in (gains, shuffled)]
    assert ends[0] == pytest.approx(ends[1], abs=1e-9)


@given(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0]), min_size=1, max_size=40))
def test_swapping_sides_swaps_the_wealths(gains: list[float]) -> None:
    sizes = [1] * len(gains)
    one, other = sequential(gains, sizes, 0.05), sequential([-g for g in gains], sizes, 0.05)
    assert (one.e_better, one.e_worse) == pytest.approx((other.e_worse, other.e_better))
    assert one.settled == other.settled
    assert {one.decision, other.decision} in ({"better", "worse"}, {"open"})


def test_decided_cases() -> None:
    assert sequential([], [], 0.05).decision == "open"
    first = next(n for n in range(1, 20) if (2 ** (n + 1) - 1) / (n + 1) >= 20)  # the average of (1 + stake) ** n
    found = sequential([1.0] * 20, [1] * 20, 0.05)
    assert (found.decision, found.settled) == ("better", first)
    assert sequential([3.0] * 20, [3] * 20, 0.05).settled == 3 * first
    assert sequential([1.0] * 5000, [1] * 5000, 0.05).e_better < float("inf")


def _error_under_peeking(groups: int, size: int, runs: int = 3000) -> float:
    """How often models at no difference are ever called better, looking after every cluster of 200 tasks."""
    rng = np.random.default_rng(7)
    called = 0
    for _ in range(runs):
        lean = rng.normal(0, 0.15 if size > 1 else 0.0, groups)[:, None]
        luck = rng.random((groups, size))
        gains = (luck < 0.2 + lean).astype(float) - (luck > 0.8 + lean)
        called += sequential(gains.sum(axis=1), [size] * groups, 0.035).decision == "better"
    return called / runs


@pytest.mark.parametrize(("groups", "size"), [(200, 1), (40, 5)])
def test_error_rate_holds_however_often_one_looks(groups: int, size: int) -> None:
    assert _error_under_peeking(groups, size) <= 0.035 + 3 * 0.0034  # three Monte Carlo errors


def test_a_fixed_size_test_does_not_survive_peeking() -> None:
    """Why all this: looking at the paired test after every tenth task calls equal models better far too often."""
    rng = np.random.default_rng(8)
    luck = rng.random((3000, 200))
    gains = (luck < 0.2).astype(float) - (luck > 0.8)
    count = np.arange(10, 201, 10)
    won, lost = (np.cumsum(gains == side, axis=1)[:, count - 1] for side in (1, -1))
    z = (won - lost) / np.sqrt(np.maximum(won + lost, 1))
    assert np.mean((z > 1.812).any(axis=1)) > 0.1  # the level of 3.5 %, thrice


def test_known_differences_are_found() -> None:
    """At +20 points and 200 tasks nearly always, and sooner than all of them; at -20 never called better."""
    rng = np.random.default_rng(9)
    found = []
    for _ in range(300):
        luck = rng.random(200)
        found.append(sequential((luck < 0.3) * 1.0 - (luck > 0.9), [1] * 200, 0.035))
    assert np.mean([f.decision == "better" for f in found]) > 0.95
    assert np.median([f.settled for f in found if f.settled]) < 110
    assert not any(f.decision == "worse" for f in found)


def test_order_is_fixed_and_that_of_any_part() -> None:
    names = [f"g{i}" for i in range(50)]
    whole = order("sat", names)
    assert sorted(whole) == sorted(names) != whole
    assert order("ded", names) != whole
    part = set(names[:20])
    assert order("sat", part) == [name for name in whole if name in part]


# --- stopping while playing --------------------------------------------------------------------------------


def _tasks(env: str, count: int, group: int = 1) -> list[Task]:
    return [Task(env, 0, i, 7, Split.TEST, f"{env}-{i}", f"g{i // group}" if group > 1 else "") for i in range(count)]


def _evaluation(env: str, count: int, score: float, group: int = 1) -> EnvResult:
    names = {task.id: task.group for task in _tasks(env, count, group)}
    lines = [to_json(episode(env, i, score, model="sft", group=names[i])) for i in range(count)]
    return summarise(lines, "x", "sft", env)


@pytest.mark.parametrize("group", [1, 4])
def test_a_settled_environment_stops_and_the_others_go_on(group: int) -> None:
    tasks = {env: _tasks(env, 200, group) for env in ("sat", "ded")}
    incumbent = {env: _evaluation(env, 200, 0.0, group) for env in tasks}
    looks = Looks("ppo", tasks, incumbent, 0.035)
    played: list[Task] = []
    rounds = 0
    while batch := looks.next():
        rounds += 1
        for task in batch:
            played.append(task)
            looks.add(task, 1.0 if task.env == "sat" else 0.0)
    assert len(played) == len(set(played))
    assert rounds <= LOOKS + 1
    report = looks.report("sft")["env"]
    assert report["sat"]["stopped"]
    assert report["sat"]["decision"] == "better"
    assert report["sat"]["played"] == sum(task.env == "sat" for task in played) < 200
    assert report["ded"] == {"played": 200, "of": 200, "stopped": False, "decision": "open"}
    sat = [task for task in played if task.env == "sat"]
    assert {task.group for task in sat}.isdisjoint({t.group for t in tasks["sat"] if t not in sat} - {""})


def test_the_stored_records_give_the_decision_that_stopped_play() -> None:
    """What was played, read back later against the whole incumbent, is settled at the same place."""
    rng = random.Random(1)
    scores = {i: float(rng.random() < 0.9) for i in range(200)}
    tasks = {"sat": _tasks("sat", 200, 4)}
    incumbent = _evaluation("sat", 200, 0.0, 4)
    looks = Looks("ppo", tasks, {"sat": incumbent}, 0.035)
    lines = []
    while batch := looks.next():
        for task in batch:
            looks.add(task, scores[task.id])
            lines.append(to_json(episode("sat", task.id, scores[task.id], group=task.group)))
    stored = summarise(reversed(lines), "x", "ppo", "sat")
    pairs = pair(stored, incumbent)
    found = sequential(*sequence(pairs), 0.035)
    assert found.decision == looks.report("sft")["env"]["sat"]["decision"] == "better"
    assert len(pairs.differences) < 200


def test_clusters_are_groups_or_types() -> None:
    lines = [to_json(replace(episode(id=i, group=f"g{i % 8}"), task_type=f"t{i % 6}")) for i in range(48)]
    result = summarise(lines, "x", "ppo", "sat")
    assert len(set(cluster_names(result.tasks, "group").values())) == 8
    assert len(set(cluster_names(result.tasks, "type").values())) == 6
    few = {task: replace(found, type=found.type[:1]) for task, found in result.tasks.items()}
    assert cluster_names(few, "type") == cluster_names(few, "group")
    alike = {task: replace(found, group="one") for task, found in result.tasks.items()}
    assert len(set(cluster_names(alike, "group").values())) == 48


def test_few_clusters_settle_nothing() -> None:
    """The most that n clusters can show is the integral of (1 + s)^n over s from 0 to 1: six, all won, stay below
    1 / 0.035."""
    for n, decision in ((6, "open"), (7, "better")):
        found = sequential([1.0] * n, [1] * n, 0.035)
        assert found.e_better == pytest.approx((2 ** (n + 1) - 1) / (n + 1))
        assert found.decision == decision


def test_sequence_keeps_clusters_whole() -> None:
    pairs = Pairs("sat", (1.0, 0.0, -1.0, 0.5), ("a", "b", "a", "c"), 0, 0)
    sums, sizes = sequence(pairs)
    assert sorted(zip(sums, sizes, strict=True)) == [(0.0, 1), (0.0, 2), (0.5, 1)]
