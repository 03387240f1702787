"""From posteriors per environment to one statement about all of them, with its Monte Carlo error.

Environments share no tasks, so their draws are independent and row k of every environment together is one
draw of the whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Probability:
    """A probability estimated from draws, and the standard error of that estimate."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Joint:
    """Joint statements about a challenger's difference in every environment.

    `all_better`: above 0 everywhere. `some_better_none_worse`: below -margin nowhere and above +margin
    somewhere. `share`: each environment's part of what keeps `all_better` from 1, by the logarithm of its
    own probability; the parts sum to 1.
    """

    all_better: Probability
    some_better_none_worse: Probability
    share: Mapping[str, float]
    expected_better: float


def probability(hits: Bools) -> Probability:
    """Share of True. The error counts half a hit more and half a miss more, so that it is never 0."""
    count, draws = int(np.count_nonzero(hits)), len(hits)
    smoothed = (count + 0.5) / (draws + 1)
    return Probability(count / draws, sqrt(smoothed * (1.0 - smoothed) / draws))


def joint(draws: Mapping[str, Floats], margin: float) -> Joint:
    """Joint probabilities from each environment's posterior draws (equally many; at least one environment)."""
    matrix_KE = np.column_stack(list(draws.values()))
    better_KE = matrix_KE > 0.0
    all_better_K: Bools = np.all(better_KE, axis=1)
    none_worse_K: Bools = np.all(matrix_KE > -margin, axis=1)
    some_better_K: Bools = np.any(matrix_KE > margin, axis=1)
    count = len(matrix_KE)
    cost = {env: -log((np.count_nonzero(column > 0.0) + 0.5) / (count + 1)) for env, column in draws.items()}
    total = sum(cost.values())
    return Joint(
        all_better=probability(all_better_K),
        some_better_none_worse=probability(none_worse_K & some_better_K),
        share={env: value / total for env, value in cost.items()},
        expected_better=float(better_KE.mean(axis=0).sum()),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: which of several tests hold together at one error rate."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted
