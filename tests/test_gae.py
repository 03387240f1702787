"""Advantages against the formula written out as sums."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from affine.training.gae import advantages, by_turn, to_tokens

NUMBERS = st.floats(-3, 3, allow_nan=False)
EPISODES = st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=25)
SHARES = st.floats(0, 1)


def slow(rewards: list[float], values: list[float], gamma: float, lam: float) -> list[float]:
    """Equation 16 of the paper, term by term; the value after the last step is 0."""
    padded = [*values, 0.0]
    delta = [rewards[t] + gamma * padded[t + 1] - padded[t] for t in range(len(rewards))]
    return [
        sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, len(rewards)))  # 0 ** 0 is 1
        for t in range(len(rewards))
    ]


@settings(max_examples=200, deadline=None)
@given(EPISODES, SHARES, SHARES)
def test_the_formula(episode: list[tuple[float, float]], gamma: float, lam: float) -> None:
    rewards, values = [r for r, _ in episode], [v for _, v in episode]
    assert advantages(rewards, values, gamma, lam) == pytest.approx(slow(rewards, values, gamma, lam), abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(EPISODES, SHARES)
def test_lam_1_is_the_discounted_return_minus_the_value(episode: list[tuple[float, float]], gamma: float) -> None:
    rewards, values = [r for r, _ in episode], [v for _, v in episode]
    returns = [sum(gamma ** (k - t) * rewards[k] for k in range(t, len(rewards))) for t in range(len(rewards))]
    expected = [g - v for g, v in zip(returns, values, strict=True)]
    assert advantages(rewards, values, gamma, 1.0) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(EPISODES, SHARES)
def test_lam_0_is_the_one_step_error(episode: list[tuple[float, float]], gamma: float) -> None:
    rewards, values = [r for r, _ in episode], [v for _, v in episode]
    after = [*values[1:], 0.0]
    expected = [r + gamma * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    assert advantages(rewards, values, gamma, 0.0) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(NUMBERS, min_size=1, max_size=6), min_size=1, max_size=8))
def test_turns_and_tokens(turns: list[list[float]]) -> None:
    lengths = [len(turn) for turn in turns]
    sums = by_turn([x for turn in turns for x in turn], lengths)
    assert sums == pytest.approx([sum(turn) for turn in turns], abs=1e-9)
    spread = to_tokens(sums, lengths)
    assert len(spread) == sum(lengths)
    start = 0
    for total, length in zip(sums, lengths, strict=True):
        assert spread[start : start + length] == [total] * length
        start += length


def test_one_token_turns_are_the_token_level() -> None:
    rewards, values = [0.0, -0.5, 1.0], [0.2, 0.1, 0.6]
    by_tokens = advantages(rewards, values, 0.9, 0.8)
    assert to_tokens(advantages(by_turn(rewards, [1, 1, 1]), values, 0.9, 0.8), [1, 1, 1]) == by_tokens
