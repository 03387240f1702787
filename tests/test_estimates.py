"""Advantages, returns and weights against slow definitions, on random ragged episodes."""

from __future__ import annotations

import itertools
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ppo_inputs import (
    config,
    random_samples,
)

from affine.params import PpoParams
from affine.training.estimates import Sample, estimate, explained_variance, informative, shape


def slow_advantages(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    after = [*values[1:], 0.0]
    delta = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(delta))) for t in range(len(delta))]


def slow_estimate(sample: Sample, s: PpoParams) -> tuple[list[float], list[float]]:
    """Advantages and returns per token, by the definitions."""
    spans = list(itertools.pairwise(itertools.accumulate(sample.turn_lengths, initial=0)))
    rewards = [-s.kl * (o - r) for o, r in zip(sample.old, sample.reference, strict=True)]
    rewards[-1] += sample.score
    phi = [s.shaping * sum(sample.progress[:k]) for k in range(len(spans))]
    if s.gae == "token":
        turn_of = [k for k, (a, b) in enumerate(spans) for _ in range(a, b)]
        ahead = [phi[k] for k in turn_of[1:]] + [0.0]
        rewards = [r + s.gamma * n - phi[k] for r, n, k in zip(rewards, ahead, turn_of, strict=True)]
        found = slow_advantages(rewards, sample.values, s.gamma, s.lam)
        return found, [a + v for a, v in zip(found, sample.values, strict=True)]
    paid = [s.gamma * n - p for p, n in zip(phi, [*phi[1:], 0.0], strict=True)]
    per_turn = [sum(rewards[a:b]) + paid[k] for k, (a, b) in enumerate(spans)]
    turns = slow_advantages(per_turn, [sample.values[a] for a, _ in spans], s.gamma, s.lam)
    if s.gae == "turn":
        found = [x for x, (a, b) in zip(turns, spans, strict=True) for _ in range(a, b)]
        return found, [x + sample.values[a] for x, (a, b) in zip(turns, spans, strict=True) for _ in range(a, b)]
    found = []
    for k, (a, b) in enumerate(spans):
        deltas = [rewards[t] + sample.values[t + 1] - sample.values[t] for t in range(a, b - 1)]
        deltas.append(rewards[b - 1] + paid[k] - sample.values[b - 1])
        if k + 1 < len(spans):
            deltas[-1] += s.gamma * sample.values[b] + s.gamma * s.lam * turns[k + 1]
        found += [sum(s.lam ** (j - t) * deltas[j] for j in range(t, b - a)) for t in range(b - a)]
    return found, [x + v for x, v in zip(found, sample.values, strict=True)]


@pytest.mark.parametrize("shaping", [0.0, 0.7])
@pytest.mark.parametrize("level", ["token", "turn", "bilevel"])
def test_estimates_from_the_definitions(level: str, shaping: float) -> None:
    s = config(gae=level, kl=0.1, gamma=0.9, lam=0.8, shaping=shaping)
    samples = random_samples(7, 12)
    assert informative(samples, s) == samples
    estimate(samples, s, s.kl)
    raw: dict[str, list[float]] = {}
    for sample in samples:
        expected, returns = slow_estimate(sample, s)
        assert sample.returns == pytest.approx(returns, abs=1e-9)
        raw.setdefault(sample.env, []).extend(expected)
    for env, expected in raw.items():
        mean, deviation = statistics.fmean(expected), statistics.pstdev(expected)
        ours = [a for sample in samples if sample.env == env for a in sample.advantages]
        assert ours == pytest.approx([(x - mean) / deviation for x in expected], abs=1e-4)
        assert statistics.fmean(ours) == pytest.approx(0, abs=1e-6)
        assert statistics.pstdev(ours) == pytest.approx(1, abs=1e-4)


def test_one_token_a_turn_makes_the_three_levels_one() -> None:
    estimates = []
    for level in ("token", "turn", "bilevel"):
        samples = random_samples(12, 9)
        for sample in samples:
            sample.turn_lengths = [1] * len(sample.old)
            sample.progress = [0.1] * len(sample.old)
        estimate(samples, config(gae=level, shaping=0.5), 0.02)
        estimates.append([a for sample in samples for a in sample.advantages])
    assert estimates[0] == pytest.approx(estimates[1])
    assert estimates[0] == pytest.approx(estimates[2])


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(-1, 1)), min_size=1, max_size=12), st.floats(0.5, 1))
def test_shaping_changes_no_return(steps: list[tuple[float, float]], gamma: float) -> None:
    """The discounted sum from the start differs by the first potential alone, whatever was done."""
    rewards, potentials = [r for r, _ in steps], [p for _, p in steps]
    shaped = shape(rewards, potentials, gamma)
    plain, other = (sum(gamma**t * r for t, r in enumerate(rs)) for rs in (rewards, shaped))
    assert other == pytest.approx(plain - potentials[0], abs=1e-9)


def test_group_advantages_from_the_definition() -> None:
    s = config(advantage="group", episodes=12, group=3, kl=0.1)
    samples = random_samples(13, 12, ["sat", "abd"])
    for k, sample in enumerate(samples):
        sample.task = f"0/{k // 6}"  # four groups of three
    same = [sample for sample in samples if (sample.env, sample.task) == ("abd", "0/1")]
    for sample in same:
        sample.score = 0.25
    kept = informative(samples, s)
    estimate(kept, s, s.kl)
    assert [id(x) for x in samples if x not in kept] == [id(x) for x in same]
    reward = {
        id(x): x.score - 0.1 * sum(o - r for o, r in zip(x.old, x.reference, strict=True)) for x in samples
    }  # fmt: skip
    raw: dict[str, list[tuple[float, int]]] = {"sat": [], "abd": []}
    for sample in kept:
        others = [x for x in samples if (x.env, x.task) == (sample.env, sample.task) and x is not sample]
        raw[sample.env].append((reward[id(sample)] - statistics.fmean(reward[id(x)] for x in others), len(sample.old)))
        assert len(set(sample.advantages)) == 1
        assert sample.returns == sample.values
    for env, rows in raw.items():
        deviation = statistics.pstdev([a for a, n in rows for _ in range(n)])
        ours = [sample.advantages[0] for sample in kept if sample.env == env]
        assert ours == pytest.approx([a / deviation for a, _ in rows], abs=1e-6)


def test_group_advantages_need_groups() -> None:
    with pytest.raises(ValueError, match="set group to 2 or more"):
        config(advantage="group", group=1)
    with pytest.raises(ValueError, match="must be a multiple of group"):
        config(episodes=10, group=4)


def test_an_environment_weighs_as_its_episodes_do() -> None:
    """Replies of 30 webshop episodes may be longer or shorter than those of five others: only the numbers count."""
    samples = random_samples(8, 5) + random_samples(9, 30, ["webshop"])
    estimate(samples, config(), 0.01)
    mass: dict[str, float] = {}
    for sample in samples:
        mass[sample.env] = mass.get(sample.env, 0) + sample.weight * len(sample.old)
    tokens = sum(len(sample.old) for sample in samples)
    assert sum(mass.values()) == pytest.approx(tokens)
    assert mass == pytest.approx(
        {env: tokens * n / 35 for env, n in (("sat", 2), ("abd", 2), ("ded", 1), ("webshop", 30))}
    )


def test_equal_scores_teach_nothing() -> None:
    """With a value that predicts them, or without differences, no advantage is blown up from rounding."""
    samples = random_samples(10, 6, ["sat"])
    for sample in samples:
        sample.score, sample.reference = 1.0, sample.old
        sample.values = [1.0] * len(sample.old)
    estimate(samples, config(gae="turn", gamma=1.0), 0.01)
    assert max(abs(a) for sample in samples for a in sample.advantages) < 1e-6


def test_explained_variance() -> None:
    samples = random_samples(11)
    estimate(samples, config(), 0.01)
    for sample in samples:
        sample.returns = sample.values
    assert explained_variance(samples) == pytest.approx(1)
    mean = statistics.fmean(r for sample in samples for r in sample.returns)
    for sample in samples:
        sample.values = [mean] * len(sample.returns)
    assert explained_variance(samples) == pytest.approx(0, abs=1e-9)
    for sample in samples:
        sample.returns = [0.5] * len(sample.returns)
    assert explained_variance(samples) == 0
