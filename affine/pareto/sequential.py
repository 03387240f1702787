"""Looking more than once: e-values for paired differences, valid however often and whenever one looks.

An e-process against "the challenger is not better" is a bettor's wealth: at each cluster of tasks a fraction of it
is staked on the challenger, and if the challenger is not better, the wealth is a non-negative supermartingale, so
that by Ville's inequality it ever reaches 1/error with probability at most `error`. Stakes are not tuned to the
data: the wealth is the average over all stakes between none and everything (the method of mixtures), which needs
no order and no plan (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting",
Journal of the Royal Statistical Society B 86:1, section 4; Ramdas et al. 2023, Statistical Science 38:4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Decision = Literal["better", "worse", "open"]
Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
STAKES: Floats = (_NODES + 1.0) / 2.0
"""Stakes in (0, 1) at which the mixture is evaluated; any weighted average of wealths is a valid wealth, and this
one integrates over the uniform distribution of stakes to rounding error for short runs."""
SHARES: Floats = _WEIGHTS / 2.0
"""Their weights; they sum to 1."""

MOST = 700.0
"""Logarithm beyond which wealth is no longer told apart (floats end soon after)."""

LOOKS = 10
"""How often evaluation looks at an environment while it plays (`evaluate.stop: sequential`)."""


@dataclass(frozen=True, slots=True)
class Sequential:
    """Both e-processes after all clusters, and the decision at the first crossing of 1/error.

    `e_better` is the evidence against "not better", `e_worse` against "not worse" (1 is none at all).
    `settled` is how many tasks had been compared at the first crossing, None where there was none.
    """

    e_better: float
    e_worse: float
    decision: Decision
    settled: int | None


def order(env: str, clusters: Iterable[str]) -> list[str]:
    """The clusters in the order in which they are played and looked at: random, fixed, and the same whatever other
    clusters there are, so that an evaluation that stopped early is a beginning of the whole one."""
    return sorted(clusters, key=lambda name: hashlib.sha256(f"order/{env}/{name}".encode()).digest())


def log_wealth(gains: Floats) -> Floats:
    """Logarithm of the mixture's wealth after each of `gains`, each in [-1, 1]."""
    logs_KS = np.cumsum(np.log1p(gains[:, None] * STAKES[None, :]), axis=0)
    top_K = logs_KS.max(axis=1)
    wealth: Floats = top_K + np.log(np.exp(logs_KS - top_K[:, None]) @ SHARES)
    return wealth


def sequential(sums: Iterable[float], sizes: Sequence[int], error: float) -> Sequential:
    """The test on clusters in their order: `sums` of their tasks' differences (challenger - incumbent, each in
    [-1, 1]) and their numbers of tasks.

    A cluster is one observation, its mean difference, so that tasks that share a group are not counted as
    independent. What is tested is then the mean over clusters; the mean over tasks would have to be scaled to the
    largest cluster, and a single large one would leave little to decide. Each side is tested at `error`.
    """
    gains = np.asarray(list(sums), dtype=np.float64) / np.asarray(sizes, dtype=np.float64)
    if not len(gains):
        return Sequential(1.0, 1.0, "open", None)
    better, worse = log_wealth(gains), log_wealth(-gains)
    crossed = np.flatnonzero(np.maximum(better, worse) >= -np.log(error))
    decision: Decision = "open"
    settled = None
    if len(crossed):
        first = int(crossed[0])
        decision = "better" if better[first] > worse[first] else "worse"
        settled = int(np.sum(np.asarray(sizes)[: first + 1]))
    e_better, e_worse = (float(np.exp(min(wealth[-1], MOST))) for wealth in (better, worse))
    return Sequential(e_better, e_worse, decision, settled)
