"""Power by enumeration against brute force, simulation and published sample sizes."""

from __future__ import annotations

from functools import partial
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from affine.pareto.intervals import beta_interval
from affine.pareto.power import (
    discordance,
    episodes_for,
    episodes_to_clear,
    gap_points,
    paired_power,
    rule_power,
    tasks_to_decide,
)


@pytest.mark.parametrize(("n", "incumbent", "challenger"), [(12, 0.5, 0.9), (20, 0.3, 0.6), (7, 0.0, 1.0)])
def test_rule_power_against_every_outcome(n: int, incumbent: float, challenger: float) -> None:
    total = 0.0
    for x in range(n + 1):
        for y in range(n + 1):
            if beta_interval(x, n, 0.8).low > beta_interval(y, n, 0.8).high:
                total += stats.binom.pmf(x, n, challenger) * stats.binom.pmf(y, n, incumbent)
    assert rule_power(n, incumbent, challenger) == pytest.approx(total)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_paired_power_against_every_outcome(correlation: float) -> None:
    n, incumbent, challenger = 25, 0.4, 0.7
    won, lost = discordance(incumbent, challenger, correlation)
    total = 0.0
    for w in range(n + 1):
        for d in range(n + 1 - w):
            if stats.beta(0.5 + w, 0.5 + d).sf(0.5) >= 0.965:
                total += stats.multinomial.pmf([w, d, n - w - d], n, [won, lost, 1 - won - lost])
    assert paired_power(n, incumbent, challenger, correlation) == pytest.approx(total)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(-1, 1))
def test_discordance_is_a_distribution_with_the_given_means(incumbent: float, challenger: float, rho: float) -> None:
    won, lost = discordance(incumbent, challenger, rho)
    assert won >= -1e-12
    assert lost >= -1e-12
    assert won - lost == pytest.approx(challenger - incumbent, abs=1e-12)
    assert won + lost <= 1 + 1e-12


def test_one_sided_error_without_a_difference_is_about_3_5_percent() -> None:
    for rate in (0.3, 0.5, 0.6, 0.7):
        for n in (200, 500):
            assert rule_power(n, rate, rate) == pytest.approx(0.035, abs=0.006)
            assert paired_power(n, rate, rate, 0.5) == pytest.approx(0.035, abs=0.006)
    assert 1 - (1 - rule_power(200, 0.7, 0.7)) ** 8 == pytest.approx(0.25, abs=0.03)


def test_interval_rule_error_by_simulation() -> None:
    rng = np.random.default_rng(0)
    first, later = rng.binomial(200, 0.6, size=(2, 40_000))
    bounds = [beta_interval(k, 200, 0.8) for k in range(201)]
    low, high = np.array([b.low for b in bounds]), np.array([b.high for b in bounds])
    assert np.mean(low[later] > high[first]) == pytest.approx(rule_power(200, 0.6, 0.6), abs=0.003)
    for lift in (0.05, 0.1):
        better = rng.binomial(200, 0.6 + lift, size=40_000)
        assert np.mean(low[better] > high[first]) == pytest.approx(rule_power(200, 0.6, 0.6 + lift), abs=0.008)


@pytest.mark.parametrize(("gap", "published"), [(0.05, 2603), (0.10, 626), (0.15, 264), (0.20, 139)])
def test_sample_sizes_for_all_eight_environments(gap: float, published: int) -> None:
    """Earlier simulations of 80 % power in all eight at a rate of 0.6 (each then needs 0.8 ** (1/8))."""
    needed = episodes_for(partial(rule_power, incumbent=0.6, challenger=0.6 + gap), 0.8 ** (1 / 8))
    assert needed == pytest.approx(published, rel=0.03)


def test_paired_sample_size_with_correlated_outcomes() -> None:
    test = partial(paired_power, incumbent=0.6, challenger=0.65, correlation=0.7)
    needed = episodes_for(test, 0.8 ** (1 / 8))
    assert needed == pytest.approx(781, rel=0.03)
    assert needed is not None
    assert test(needed) >= 0.8 ** (1 / 8) > test(needed - 1)


def test_no_discordant_tasks_no_power_and_no_plan() -> None:
    assert paired_power(100, 1.0, 1.0) == 0.0
    assert episodes_for(partial(rule_power, incumbent=0.6, challenger=0.6), 0.8, limit=2000) is None


@pytest.mark.parametrize(("n", "gap"), [(200, 0.080), (500, 0.052), (1000, 0.037), (5000, 0.017)])
def test_published_gaps_over_a_mean_of_0_7(n: int, gap: float) -> None:
    assert gap_points((0.7 * n, n), (0.7 * n, n), 0.8) == pytest.approx(gap, abs=0.0011)


def test_gap_is_what_just_clears() -> None:
    gap = gap_points((120.0, 200), (110.0, 200), 0.8)
    ceiling = beta_interval(120, 200, 0.8).high
    assert beta_interval(110 + 200 * gap + 1e-6, 200, 0.8).low > ceiling
    assert beta_interval(110 + 200 * gap - 1e-6, 200, 0.8).low <= ceiling
    assert gap_points((120.0, 200), (190.0, 200), 0.8) == 0.0
    assert gap_points((200.0, 200), (200.0, 200), 0.8) == inf
    assert gap_points((1.0, 200), (0.0, 0), 0.8) == inf


def test_episodes_to_clear_is_the_first_number_that_does() -> None:
    def clears(n: int) -> bool:
        return beta_interval(0.65 * n, n, 0.8).low > beta_interval(0.6 * n, n, 0.8).high

    needed = episodes_to_clear(0.6, 0.65, 0.8, 1)
    assert needed == next(n for n in range(1, 3000) if clears(n))
    assert episodes_to_clear(0.6, 0.65, 0.8, 2000) == 2000
    assert episodes_to_clear(0.6, 0.6, 0.8, 200) is None
    assert episodes_to_clear(0.6, 0.60001, 0.8, 200) is None


def test_tasks_to_decide_follows_the_square_root() -> None:
    assert tasks_to_decide(0.05, 0.04, 200, 0.035) == pytest.approx(200 * (1.8119 * 0.04 / 0.05) ** 2, abs=1)
    assert tasks_to_decide(0.2, 0.04, 200, 0.035) == 200
    assert tasks_to_decide(0.0, 0.04, 200, 0.035) is None
    assert tasks_to_decide(-0.1, 0.04, 200, 0.035) is None
