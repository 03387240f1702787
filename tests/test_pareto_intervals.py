"""Intervals against numerical integration, published gaps, and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from affine.pareto.intervals import beta_bounds, beta_interval, effective_interval, effective_samples, overall_interval


def _mass_below(x: float, total: float, n: float) -> float:
    """Posterior mass below x by integrating likelihood times the Jeffreys prior, x = sin^2 t (which is flat in t)."""

    def density(t: float) -> float:
        return float(np.sin(t) ** (2 * total) * np.cos(t) ** (2 * (n - total)))

    whole = integrate.quad(density, 0, np.pi / 2)[0]
    return float(integrate.quad(density, 0, np.arcsin(np.sqrt(x)))[0] / whole)


@pytest.mark.parametrize(("total", "n"), [(0, 10), (10, 10), (3, 10), (2.5, 9), (61.25, 100)])
def test_bounds_cut_a_tenth_off_each_end(total: float, n: float) -> None:
    interval = beta_interval(total, n, 0.8)
    assert _mass_below(interval.low, total, n) == pytest.approx(0.1, abs=1e-6)
    assert _mass_below(interval.high, total, n) == pytest.approx(0.9, abs=1e-6)


def test_degenerate_cases_are_the_validators() -> None:
    assert [float(b) for b in beta_bounds(0, 0, 0.8)] == [0.0, 0.0]
    assert beta_interval(0, 0, 0.8).mean == 0.0
    assert beta_interval(0, 200, 0.8).low > 0.0
    assert beta_interval(200, 200, 0.8).high < 1.0
    assert beta_bounds(-3, 10, 0.8) == beta_bounds(0, 10, 0.8)
    assert beta_bounds(12, 10, 0.8) == beta_bounds(10, 10, 0.8)


@given(st.integers(1, 2000), st.floats(0, 1), st.floats(0.1, 0.99))
def test_interval_properties(n: int, share: float, level: float) -> None:
    low, high = (float(b) for b in beta_bounds(share * n, n, level))
    mirrored_low, mirrored_high = (float(b) for b in beta_bounds(n - share * n, n, level))
    assert 0.0 <= low < high <= 1.0
    assert low == pytest.approx(1 - mirrored_high, abs=1e-9)
    assert high == pytest.approx(1 - mirrored_low, abs=1e-9)
    wider_low, wider_high = (float(b) for b in beta_bounds(share * n, n, min(0.999, level + 0.005)))
    assert wider_low <= low
    assert wider_high >= high


def test_singletons_are_worth_every_episode() -> None:
    totals = [1.0] * 30 + [0.0] * 70
    assert effective_samples(totals, [1] * 100, [""] * 100, 0.8) == pytest.approx(100)
    assert effective_samples(totals, [1] * 100, [f"g{i}" for i in range(100)], 0.8) == pytest.approx(100)
    interval = effective_interval(0.3, 100, 0.8)
    expected = beta_interval(30, 100, 0.8)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_design_effect_by_its_pairwise_definition() -> None:
    """Clustered variance of a mean = sum over pairs in one cluster of the product of residuals / n^2."""
    rng = np.random.default_rng(3)
    groups = [f"g{i % 12}" for i in range(120)]
    lift = rng.normal(0, 0.3, 12)
    scores = [float(rng.random() < 0.5 + lift[i % 12]) for i in range(120)]
    mean = float(np.mean(scores))
    pairs = sum(
        (a - mean) * (b - mean)
        for a, group in zip(scores, groups, strict=True)
        for b, other in zip(scores, groups, strict=True)
        if group == other
    )
    variance = pairs / 120**2 * 12 / 11
    few = (stats.t.ppf(0.9, 119) / stats.t.ppf(0.9, 11)) ** 2
    expected = 120 / (variance / (mean * (1 - mean) / 119)) * few
    assert expected < 100
    assert effective_samples(scores, [1] * 120, groups, 0.8) == pytest.approx(expected)


def test_whole_clusters_count_about_once_and_never_more_than_all() -> None:
    groups = [f"g{i // 10}" for i in range(400)]
    same = [float((i // 10) % 2) for i in range(400)]
    assert effective_samples(same, [1] * 400, groups, 0.8) == pytest.approx(40, rel=0.1)
    assert effective_samples([0.5] * 400, [1] * 400, groups, 0.8) <= 400


def test_decided_cases_of_the_effective_size() -> None:
    assert effective_samples([], [], [], 0.8) == 0
    assert effective_samples([3.0], [4], ["a"], 0.8) == 1
    assert effective_samples([0.0] * 50, [4] * 50, [""] * 50, 0.8) == 50
    alone = effective_samples([1.0, 0.0] * 20, [1] * 40, ["only"] * 40, 0.8)
    assert alone == pytest.approx(effective_samples([1.0, 0.0] * 20, [1] * 40, [""] * 40, 0.8))


def test_overall_of_one_environment_is_its_own_interval() -> None:
    overall, single = overall_interval([0.3], [50], 0.8), beta_interval(15, 50, 0.8)
    assert (overall.mean, overall.low, overall.high) == pytest.approx((single.mean, single.low, single.high))


@pytest.mark.parametrize(
    "means", [[0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.0] * 8, [1.0] * 7 + [0.2], [0.5, 1.0, 0.0, 0.9, 0, 0, 1, 1]]
)
def test_overall_against_draws(means: list[float]) -> None:
    effective = [40.0, 60.0, 80.0, 100.0, 120.0, 150.0, 180.0, 200.0][: len(means)]
    rng = np.random.default_rng(0)
    draws = np.mean(
        [rng.beta(0.5 + m * n, 0.5 + (1 - m) * n, 200_000) for m, n in zip(means, effective, strict=True)], 0
    )
    interval = overall_interval(means, effective, 0.8)
    assert (interval.low, interval.high) == pytest.approx(tuple(np.quantile(draws, [0.1, 0.9])), abs=4e-4)


def test_overall_needs_every_environment() -> None:
    with pytest.raises(ValueError, match="each"):
        overall_interval([0.5, 0.5], [10, 0], 0.8)


def test_calibration_of_the_single_and_the_overall_interval() -> None:
    """At 80 %, intervals hold the truth 80 times in 100, averaged over true rates (Monte Carlo error 0.6 %)."""
    rng = np.random.default_rng(1)
    rates = rng.uniform(0.1, 0.9, size=(4000, 8))
    successes = rng.binomial(100, rates)
    low, high = beta_bounds(successes, 100, 0.8)
    assert np.mean((low <= rates) & (rates <= high)) == pytest.approx(0.8, abs=0.015)
    held = 0
    for rate, won in zip(rates[:1500], successes[:1500], strict=True):
        interval = overall_interval(list(won / 100), [100.0] * 8, 0.8)
        held += interval.low <= float(np.mean(rate)) <= interval.high
    assert held / 1500 == pytest.approx(0.8, abs=0.03)


def test_calibration_of_the_clustered_interval() -> None:
    """Ten tasks a cluster, strongly alike: the clustered interval holds, the naive one does not."""
    rng = np.random.default_rng(2)
    honest = naive = 0
    groups = [f"g{i // 10}" for i in range(300)]
    for _ in range(600):
        rate = np.repeat(rng.beta(1.5, 1.5, 30), 10)
        scores = (rng.random(300) < rate).astype(float)
        effective = effective_samples(list(scores), [1] * 300, groups, 0.8)
        clustered = effective_interval(float(scores.mean()), effective, 0.8)
        plain = beta_interval(float(scores.sum()), 300, 0.8)
        honest += clustered.low <= 0.5 <= clustered.high
        naive += plain.low <= 0.5 <= plain.high
    assert honest / 600 == pytest.approx(0.8, abs=0.05)
    assert naive / 600 < 0.65
