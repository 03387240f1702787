"""Generalised advantage estimation on ragged episodes (Schulman et al., 2016, arXiv 1506.02438).

An episode is a list of steps; a step is a token or a turn. Every episode here has ended (a limit ends it
for good), so the value after its last step is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def advantages(rewards: Sequence[float], values: Sequence[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over k of (gamma·lam)^k · delta_{t+k}, delta_t = r_t + gamma·V_{t+1} - V_t."""
    result = [0.0] * len(rewards)
    ahead = 0.0
    for t in range(len(rewards) - 1, -1, -1):
        following = values[t + 1] if t + 1 < len(values) else 0.0
        delta = rewards[t] + gamma * following - values[t]
        ahead = delta + gamma * lam * ahead
        result[t] = ahead
    return result


def by_turn(per_token: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Sums of a per-token series over turns of `lengths` agent tokens each."""
    sums, start = [], 0
    for length in lengths:
        sums.append(sum(per_token[start : start + length]))
        start += length
    return sums


def to_tokens(per_turn: Sequence[float], lengths: Sequence[int]) -> list[float]:
    """Each turn's number for every one of its agent tokens."""
    return [value for value, length in zip(per_turn, lengths, strict=True) for _ in range(length)]


def bilevel(
    rewards: Sequence[float], values: Sequence[float], lengths: Sequence[int], gamma: float, lam: float
) -> list[float]:
    """Advantages of tokens: over turns first, then within each turn (after Wang et al., 2025, arXiv 2510.16907).

    Time passes between turns, not within them: a token's delta is discounted only at its turn's last token,
    where the following turn's advantage (GAE over turns, valued at their first tokens) comes in.
    """
    starts = list(accumulate(lengths[:-1], initial=0))
    per_turn = advantages(by_turn(rewards, lengths), [values[start] for start in starts], gamma, lam)
    result = [0.0] * len(rewards)
    for k, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        last = k + 1 == len(lengths)
        following = 0.0 if last else gamma * (values[starts[k + 1]] + lam * per_turn[k + 1])
        ahead = 0.0
        for t in range(start + length - 1, start - 1, -1):
            ahead = rewards[t] + following - values[t] + lam * ahead
            result[t] = ahead
            following = values[t]
    return result
