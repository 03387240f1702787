"""The validators' rules against slow, obvious readings of their text and hand-worked cases."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.params import ParetoParams
from affine.pareto.champion import Contest, contest, judge_contest, reign, replaces
from affine.pareto.dominance import OWNER, Standings, dominates, frontier, outcome, points, standings, win_masks, wins
from affine.pareto.intervals import beta_interval
from affine.pareto.policies import (
    DEFAULT,
    POLICIES,
    ChampionRule,
    IntervalRule,
    PolicyError,
    policy_named,
    required_samples,
    required_tasks,
    subset_reward,
)
from affine.pareto.summary import EnvResult, TaskId, TaskResult
from affine.types import ENVS, Verdict

OCTOBER, NOVEMBER, CHAMPION = POLICIES.values()
assert isinstance(OCTOBER, IntervalRule)
assert isinstance(NOVEMBER, IntervalRule)
assert isinstance(CHAMPION, ChampionRule)


def _winner(rule: IntervalRule, a: tuple[float, int, float], b: tuple[float, int, float]) -> int:
    """The rule's text, case by case: 1 where a wins, -1 where b does, 0 for a tie. (total, samples, block)"""
    if a[1] < rule.min_samples and b[1] < rule.min_samples:
        return 0
    if a[1] < rule.min_samples:
        return -1
    if b[1] < rule.min_samples:
        return 1
    ia, ib = beta_interval(a[0], a[1], rule.level), beta_interval(b[0], b[1], rule.level)
    if a[2] == b[2]:
        return 1 if ia.low > ib.high else -1 if ib.low > ia.high else 0
    if a[2] > b[2]:
        return 1 if ia.low > ib.high else -1
    return -1 if ib.low > ia.high else 1


def _slow_points(rule: IntervalRule, field: Standings) -> list[float]:
    """Points by plain loops over subsets, pairs and environments."""
    count, envs = len(field.models), len(field.envs)
    cell = [
        [(field.total[m, e], int(field.samples[m, e]), field.first_block[m, e]) for e in range(envs)]
        for m in range(count)
    ]
    most = [max(cell[m][e][1] for m in range(count)) for e in range(envs)]
    need = [max(200, 10 + math.floor(0.1 * min(n, 5000))) for n in most]
    pool = [m for m in range(count) if all(cell[m][e][1] >= need[e] for e in range(envs))]
    won = {
        (a, b, e): _winner(rule, cell[a][e], cell[b][e])
        for a in range(count)
        for b in range(count)
        if a != b
        for e in range(envs)
    }
    gained = [0.0] * count
    for size in range(1, envs + 1):
        for subset in itertools.combinations(range(envs), size):
            free = [
                a
                for a in pool
                if not any(
                    all(won[a, b, e] != 1 for e in subset) and any(won[b, a, e] == 1 for e in subset)
                    for b in pool
                    if b != a
                )
            ] or pool
            means = {m: math.prod(cell[m][e][0] / cell[m][e][1] for e in subset) ** (1 / size) for m in free}
            if rule.name == DEFAULT:
                claim = {m: means[m] ** 4 for m in free}
                reward = 1.0 if size == 1 else 2.0**size
            else:
                order = sorted(free, key=lambda m: (-means[m], m))
                claim = {m: means[m] ** 2 * 0.5 ** order.index(m) for m in free}
                reward = 2.0**size / math.comb(envs, size) if size >= max(1, envs - 5) else 0.0
            total = sum(claim.values())
            for m in free:
                gained[m] += reward * (claim[m] / total if total else 1 / len(free))
    return gained


def _random_field(seed: int, models: int, envs: int, zeros: bool = False) -> Standings:
    rng = random.Random(seed)
    samples = np.array(
        [[rng.choice([150, 200, 260, 900]) if rng.random() < 0.2 else 300 for _ in range(envs)] for _ in range(models)]
    )
    shares = np.array(
        [
            [rng.choice([0.0, 0.5, 0.6, 0.75, 1.0]) if zeros else rng.uniform(0.4, 0.8) for _ in range(envs)]
            for _ in range(models)
        ]
    )
    blocks = np.array([[rng.choice([0, 1, 2, 3])] * envs for _ in range(models)], dtype=float)
    return Standings(
        tuple(f"m{i}" for i in range(models)), tuple(f"e{i}" for i in range(envs)), shares * samples, samples, blocks
    )


@pytest.mark.parametrize("rule", [OCTOBER, NOVEMBER], ids=lambda r: r.name)
@pytest.mark.parametrize("seed", range(6))
def test_points_against_plain_loops(rule: IntervalRule, seed: int) -> None:
    field = _random_field(seed, models=7, envs=(2, 4, 7)[seed % 3], zeros=seed % 2 == 1)
    assert points(rule, field) == pytest.approx(_slow_points(rule, field))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_each_winner_is_the_rule_text(seed: int) -> None:
    field = _random_field(seed, models=4, envs=3, zeros=True)
    found = wins(OCTOBER, field)
    for a, b, e in itertools.product(range(4), range(4), range(3)):
        if a != b:
            cells = [(field.total[m, e], int(field.samples[m, e]), field.first_block[m, e]) for m in (a, b)]
            assert int(found[a, b, e]) - int(found[b, a, e]) == _winner(OCTOBER, cells[0], cells[1])


def test_a_large_field_pays_out_everything() -> None:
    field = _random_field(5, models=256, envs=8)
    assert float(points(OCTOBER, field).sum()) == pytest.approx(6552)
    assert float(points(NOVEMBER, field).sum()) == pytest.approx(504)
    paid = outcome(OCTOBER, field)
    assert sum(paid.weights.values()) == pytest.approx(1)
    assert all(weight == 0 for model, weight in paid.weights.items() if model not in paid.eligible)


def test_layer_totals_are_the_published_ones() -> None:
    layers = [math.comb(8, s) * subset_reward(OCTOBER, s, 8) for s in range(1, 9)]
    assert layers == [8, 112, 448, 1120, 1792, 1792, 1024, 256]
    assert [round(math.comb(8, s) * subset_reward(NOVEMBER, s, 8), 9) for s in range(1, 9)] == [
        0,
        0,
        8,
        16,
        32,
        64,
        128,
        256,
    ]


@pytest.mark.parametrize(("most", "needed"), [(0, 200), (1900, 200), (1910, 201), (5000, 510), (90000, 510)])
def test_eligibility(most: int, needed: int) -> None:
    assert required_samples(OCTOBER, most) == needed


def test_an_equal_later_model_is_dominated_and_unpaid() -> None:
    field = standings({"first": {"a": (140, 200)}, "copy": {"a": (140, 200)}}, ("a",))
    assert outcome(OCTOBER, field).weights == {"first": 1.0, "copy": 0.0}
    assert not wins(OCTOBER, field)[1, 0, 0]


def test_published_gap_at_200_episodes() -> None:
    """Over a mean of 0.7 at 200 episodes the later model needs 8 points: 155.9 successes lose, 156 win."""
    for total, won in ((155.5, False), (156.0, True)):
        field = standings({"first": {"a": (140, 200)}, "later": {"a": (total, 200)}}, ("a",))
        assert bool(wins(OCTOBER, field)[1, 0, 0]) is won


def test_a_perfect_incumbent_cannot_be_beaten() -> None:
    field = standings({"first": {"a": (300, 300)}, "later": {"a": (5000, 5000)}}, ("a",))
    assert wins(OCTOBER, field)[0, 1, 0]


def test_too_few_samples_decide_before_scores() -> None:
    def verdict(first: tuple[float, int], later: tuple[float, int]) -> tuple[bool, bool]:
        found = wins(OCTOBER, standings({"first": {"a": first}, "later": {"a": later}}, ("a",)))
        return bool(found[0, 1, 0]), bool(found[1, 0, 0])

    assert verdict((199, 199), (0, 200)) == (False, True)
    assert verdict((0, 200), (199, 199)) == (True, False)
    assert verdict((0, 100), (100, 100)) == (False, False)
    assert verdict((0, 0), (0, 200)) == (False, True)


def test_nobody_eligible_pays_the_owner() -> None:
    paid = outcome(OCTOBER, standings({"a": {"x": (10, 20)}, "b": {"x": (15, 20)}}, ("x",)))
    assert paid.weights == {"a": 0.0, "b": 0.0, OWNER: 1.0}
    assert paid.eligible == paid.frontier == ()


def test_a_cycle_puts_everybody_on_the_frontier() -> None:
    """a beats b in env 0, b beats c in env 1, c beats a in env 2, ties elsewhere: nobody is free."""
    won = np.zeros((3, 3, 3), dtype=bool)
    won[0, 1, 0] = won[1, 2, 1] = won[2, 0, 2] = True
    masks, everyone = win_masks(won), np.ones(3, dtype=bool)
    assert dominates(masks, 0b111).sum() == 3
    assert frontier(masks, 0b111, everyone).tolist() == [True, True, True]
    assert frontier(masks, 0b001, everyone).tolist() == [True, False, True]


def test_scores_of_zero_share_equally() -> None:
    field = Standings(("a", "b"), ("x", "y"), np.zeros((2, 2)), np.full((2, 2), 300), np.zeros((2, 2)))
    assert outcome(OCTOBER, field).weights == {"a": 0.5, "b": 0.5}
    assert outcome(NOVEMBER, field).weights == {"a": 0.5, "b": 0.5}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_listing_order_of_models_and_environments_does_not_matter(seed: int, rng: random.Random) -> None:
    field = _random_field(seed, models=5, envs=4)
    m, e = rng.sample(range(5), 5), rng.sample(range(4), 4)
    moved = Standings(
        tuple(field.models[i] for i in m), tuple(field.envs[i] for i in e),
        field.total[np.ix_(m, e)], field.samples[np.ix_(m, e)], field.first_block[np.ix_(m, e)],
    )  # fmt: skip
    here, there = outcome(OCTOBER, field), outcome(OCTOBER, moved)
    assert here.weights == pytest.approx(dict(there.weights))


def test_a_model_never_loses_points_by_scoring_more_in_every_environment() -> None:
    for seed in range(8):
        field = _random_field(seed, models=4, envs=4)
        better = Standings(field.models, field.envs, field.total.copy(), field.samples, field.first_block)
        better.total[2] = np.minimum(better.total[2] * 1.15, field.samples[2])
        assert points(OCTOBER, better)[2] >= points(OCTOBER, field)[2] - 1e-9


def test_policies_are_named_and_selectable() -> None:
    assert tuple(POLICIES) == ("affine-2025-10-22", "affine-2025-11-01", "affine-2026-07-24")
    assert ParetoParams.model_json_schema()["properties"]["policy"]["enum"] == list(POLICIES)
    assert policy_named(DEFAULT) is OCTOBER
    with pytest.raises(PolicyError, match=r"affine-2025-10-23.*known: affine-2025-10-22"):
        policy_named("affine-2025-10-23")


def _result(model: str, scores: dict[int, float], env: str = "sat") -> EnvResult:
    tasks = {
        TaskId(0, i, 0): TaskResult(str(i), "", scores=[s], solved=int(s == 1), tried=1) for i, s in scores.items()
    }
    return EnvResult(model, env, "f00d", tasks).settle()


@pytest.mark.parametrize(
    ("challenger", "champion", "verdict"),
    [
        (0.53, 0.50, Verdict.TIE),  # exactly the margin is not above it
        (0.5301, 0.50, Verdict.WIN),
        (0.49, 0.50, Verdict.TIE),  # exactly 98 %
        (0.4899, 0.50, Verdict.LOSS),
        (0.0, 0.0, Verdict.TIE),
        (1.0, 0.98, Verdict.TIE),
    ],
)
def test_champion_margins(challenger: float, champion: float, verdict: Verdict) -> None:
    assert judge_contest(CHAMPION, Contest(challenger, champion, 100, 100)) == verdict


def test_champion_compares_common_tasks_and_needs_enough_of_them() -> None:
    champion = _result("champion", {i: float(i < 50) for i in range(110)})
    challenger = _result("challenger", dict.fromkeys(range(100), 1.0))
    found = contest(CHAMPION, challenger, champion)
    assert found == Contest(challenger=1.0, champion=0.5, common=100, required=100)
    assert judge_contest(CHAMPION, found) == Verdict.WIN
    short = contest(CHAMPION, _result("challenger", dict.fromkeys(range(99), 1.0)), champion)
    assert judge_contest(CHAMPION, short) == Verdict.LOSS
    assert judge_contest(CHAMPION, contest(CHAMPION, None, champion)) == Verdict.LOSS
    assert required_tasks(CHAMPION, 330) == 300


def test_champion_needs_one_dominant_and_none_worse() -> None:
    win, tie, loss = Verdict.WIN, Verdict.TIE, Verdict.LOSS
    assert replaces(CHAMPION, [win] + [tie] * 7)
    assert not replaces(CHAMPION, [tie] * 8)
    assert not replaces(CHAMPION, [win] * 7 + [loss])


def test_the_last_successful_challenger_reigns() -> None:
    def model(name: str, rate: float) -> dict[str, EnvResult]:
        return {env: _result(name, {i: float(i < 100 * rate) for i in range(100)}, env) for env in ENVS}

    assert reign(CHAMPION, {"a": model("a", 0.5), "b": model("b", 0.6), "c": model("c", 0.62)}) == "b"
    assert reign(CHAMPION, {"a": model("a", 0.5)}) == "a"
