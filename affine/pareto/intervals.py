"""Credible intervals on mean scores: the validators' Beta interval, and the same made honest about clusters.

Scores lie in [0, 1]; fractional totals are fine (a fraction varies less than a coin with the same mean, so
the Beta interval is conservative there). Pure functions, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special, stats

from affine.types import Interval

JEFFREYS = 0.5
"""Both parameters of the Jeffreys prior of a proportion."""

Floats = NDArray[np.float64]


def beta_bounds(total: ArrayLike, n: ArrayLike, level: float, prior: float = JEFFREYS) -> tuple[Floats, Floats]:
    """Equal-tailed bounds of the posterior Beta(prior + total, prior + n - total); arrays broadcast.

    As the validators decided the degenerate cases: n = 0 gives (0, 0); totals are clamped to [0, n]; there is
    no special case at 0 or n, so the lower bound at 0 of n is above 0 and the upper bound at n of n below 1.
    """
    total_, n_ = np.broadcast_arrays(np.asarray(total, dtype=np.float64), np.asarray(n, dtype=np.float64))
    inside = np.clip(total_, 0.0, n_)
    alpha, beta = prior + inside, prior + n_ - inside
    tail = (1.0 - level) / 2.0
    low = np.where(n_ > 0, special.betaincinv(alpha, beta, tail), 0.0)
    high = np.where(n_ > 0, special.betaincinv(alpha, beta, 1.0 - tail), 0.0)
    return low, high


def beta_interval(total: float, n: float, level: float, prior: float = JEFFREYS) -> Interval:
    """One `beta_bounds` as an `Interval` around the mean total / n (0 where n = 0)."""
    low, high = beta_bounds(total, n, level, prior)
    return Interval(mean=total / n if n else 0.0, low=float(low), high=float(high), level=level)


def effective_samples(totals: Sequence[float], counts: Sequence[int], groups: Sequence[str], level: float) -> float:
    """How many independent episodes these are worth, at most their number.

    `totals` and `counts` are per task (score sum and number of episodes), `groups` names the cluster of each
    task ("" = a cluster of its own). The design effect is the clustered variance of the mean over that of as
    many independent coins, and few clusters are charged by the ratio of Student quantiles: the effective
    sample size of Korn & Graubard (1998). With one episode per task, 0/1 scores and no shared groups it is
    exactly the number of episodes.

    Decided cases: no episode 0; one task 1 (its repetitions say nothing about other tasks); a mean of exactly
    0 or 1 shows no variance to estimate from, so every task counts once; a single group cannot show how
    groups differ, so its tasks are the clusters.
    """
    tasks, n = len(totals), float(sum(counts))
    if tasks < 2:
        return float(tasks)
    mean = sum(totals) / n
    if not 0.0 < mean < 1.0:
        return float(tasks)
    labels = [group or f"\0{index}" for index, group in enumerate(groups)]
    names, cluster = np.unique(np.array(labels), return_inverse=True)
    if len(names) == 1:
        names, cluster = np.arange(tasks).astype(str), np.arange(tasks)
    residual = np.bincount(cluster, weights=np.asarray(totals) - mean * np.asarray(counts))
    size = len(names)
    variance = size / (size - 1) * float(residual @ residual) / n**2
    design_effect = max(1.0, variance * (n - 1) / (mean * (1.0 - mean)))
    quantile = 0.5 + level / 2.0
    few = float(stats.t.ppf(quantile, n - 1) / stats.t.ppf(quantile, size - 1))
    return n / design_effect * min(1.0, few**2)


def effective_interval(mean: float, effective: float, level: float) -> Interval:
    """The Jeffreys interval around `mean` at an effective sample size (`effective_samples`)."""
    interval = beta_interval(mean * effective, effective, level)
    return Interval(mean, interval.low, interval.high, level)


def overall_interval(means: Sequence[float], effective: Sequence[float], level: float) -> Interval:
    """Interval on the plain mean of several environments' scores.

    Environments share no tasks, so their posteriors Beta(1/2 + m n, 1/2 + (1 - m) n) are independent; their
    average lies in [0, 1] and is given the Beta distribution with the same mean and variance. With one
    environment this is `beta_interval` itself. No environment, or one without episodes, raises ValueError:
    an overall score that leaves one out would not be comparable.
    """
    if not means or min(effective) <= 0:
        raise ValueError("an overall score needs at least one environment, and episodes in each")
    m, n = np.asarray(means, dtype=np.float64), np.asarray(effective, dtype=np.float64)
    alpha, beta = JEFFREYS + m * n, JEFFREYS + (1.0 - m) * n
    size = alpha + beta
    centre = float(np.mean(alpha / size))
    variance = float(np.sum(alpha * beta / (size**2 * (size + 1.0)))) / len(m) ** 2
    total = centre * (1.0 - centre) / variance - 1.0
    tail = (1.0 - level) / 2.0
    low, high = special.betaincinv(centre * total, (1.0 - centre) * total, np.array([tail, 1.0 - tail]))
    return Interval(float(np.mean(m)), float(low), float(high), level)
