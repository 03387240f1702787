"""How many episodes a comparison needs, before anything is run: exact enumeration, no simulation."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import sqrt

import numpy as np
from scipy import special, stats

from affine.pareto.intervals import beta_bounds

LIMIT = 1_000_000
"""More episodes than this per environment count as out of reach."""


def rule_power(n: int, incumbent: float, challenger: float, level: float = 0.8) -> float:
    """Probability that the challenger's lower bound clears the incumbent's upper bound.

    `n` independent 0/1 episodes of each model with these success rates. The incumbent's outcomes are
    enumerated; for each, the fewest successes with which the challenger wins.
    """
    k = np.arange(n + 1)
    low, high = beta_bounds(k, n, level)
    needed = np.searchsorted(low, high, side="right")  # smallest successes with low > high[y]
    return float(np.sum(stats.binom.pmf(k, n, incumbent) * stats.binom.sf(needed - 1, n, challenger)))


def discordance(incumbent: float, challenger: float, correlation: float) -> tuple[float, float]:
    """Shares of tasks that only the challenger and only the incumbent solves.

    `correlation` is that of the two 0/1 outcomes on one task, cut to what the two rates allow.
    """
    both = incumbent * challenger + correlation * sqrt(incumbent * (1.0 - incumbent) * challenger * (1.0 - challenger))
    both = min(max(both, incumbent + challenger - 1.0, 0.0), incumbent, challenger)
    return challenger - both, incumbent - both


@lru_cache(maxsize=8)
def _fewest_wins(most: int, error: float) -> tuple[int, ...]:
    """For 0 .. `most` discordant tasks, the fewest wins w with P(rate > 1/2) >= 1 - error under
    Beta(1/2 + w, 1/2 + d - w); d + 1 where even all wins are not enough."""
    fewest, wins = [], 0
    for d in range(most + 1):
        while wins <= d and special.betainc(0.5 + wins, 0.5 + d - wins, 0.5) > error:
            wins += 1
        fewest.append(min(wins, d + 1))
    return tuple(fewest)


def paired_power(n: int, incumbent: float, challenger: float, correlation: float = 0.0, error: float = 0.035) -> float:
    """Probability that the paired test calls the challenger better: posterior P(better) >= 1 - error.

    `n` common tasks, one 0/1 episode each. Exact over the number of discordant tasks and the wins in them.
    """
    won, lost = discordance(incumbent, challenger, correlation)
    if won + lost <= 0.0:
        return 0.0
    most = 1 << max(4, (n - 1).bit_length())  # tables of a few sizes only, so that searches share them
    fewest = np.array(_fewest_wins(most, error)[: n + 1])
    d = np.arange(n + 1)
    return float(np.sum(stats.binom.pmf(d, n, won + lost) * stats.binom.sf(fewest - 1, d, won / (won + lost))))


def episodes_for(power: Callable[[int], float], target: float, limit: int = LIMIT) -> int | None:
    """A number n of episodes with power(n) >= target while power(n - 1) is below; None beyond `limit`.

    Found by doubling and bisection. Counts are whole numbers, so power rises in small steps back and forth:
    a slightly smaller n may reach the target too.
    """
    high = 1
    while power(high) < target:
        high *= 2
        if high > limit:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= target else (middle, high)
    return high


def gap_points(incumbent: tuple[float, int], challenger: tuple[float, int], level: float) -> float:
    """By how much the challenger's mean must rise, both sample sizes as they are, for its lower bound to clear
    the incumbent's upper bound; 0 where it does already, +inf where not even 1 is enough.

    Both are (score sum, episodes).
    """
    ceiling = float(beta_bounds(incumbent[0], incumbent[1], level)[1])
    total, n = challenger
    if n == 0 or float(beta_bounds(n, n, level)[0]) <= ceiling:
        return float("inf")
    low, high = total, float(n)
    if float(beta_bounds(low, n, level)[0]) > ceiling:
        return 0.0
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (low, middle) if float(beta_bounds(middle, n, level)[0]) > ceiling else (middle, high)
    return (high - total) / n


def episodes_to_clear(incumbent: float, challenger: float, level: float, least: int, limit: int = LIMIT) -> int | None:
    """Episodes of each model at which, means staying as they are, the challenger's interval clears the
    incumbent's; at least `least`; None where the challenger is not ahead or more than `limit` are needed."""
    if challenger <= incumbent:
        return None

    def clear(n: int) -> float:
        return float(beta_bounds(challenger * n, n, level)[0] > beta_bounds(incumbent * n, n, level)[1])

    if clear(least):
        return least
    found = episodes_for(clear, 1.0, limit)
    return found if found is None else max(found, least)


def tasks_to_decide(mean: float, spread: float, tasks: int, error: float) -> int | None:
    """Common tasks at which a paired difference that stays at `mean` is called better at `error` one-sided.

    `spread` is the standard deviation of its posterior at `tasks` tasks and shrinks with their square root.
    None where the difference is not above 0 or more than `LIMIT` are needed.
    """
    if mean <= 0.0:
        return None
    z = float(stats.norm.ppf(1.0 - error))
    needed = max(tasks, round(tasks * (z * spread / mean) ** 2 + 0.5)) if z * spread > mean else tasks
    return needed if needed <= LIMIT else None
