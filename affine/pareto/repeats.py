"""Several tries of a task: pass@k, the best and the mean of them."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from affine.pareto.summary import TaskResult


def pass_at_k(tries: int, solved: int, k: int) -> float:
    """Chance that at least one of `k` tries solves a task of which `solved` of `tries` did: the unbiased estimator
    1 - C(tries - solved, k) / C(tries, k) of Chen et al. 2021 (arXiv 2107.03374). Raises ValueError for k > tries.
    """
    if not 1 <= k <= tries:
        raise ValueError(f"pass@{k} needs at least {k} tries of every task (got {tries})")
    if tries - solved < k:
        return 1.0
    return 1.0 - prod((tries - solved - i) / (tries - i) for i in range(k))


def ladder(tries: int) -> list[int]:
    """The k at which pass@k is shown: powers of two below `tries`, and `tries` itself."""
    ks = [1 << i for i in range(tries.bit_length()) if 1 << i < tries]
    return [*ks, tries]


def pass_rates(tasks: Iterable[TaskResult]) -> dict[int, float]:
    """k -> mean pass@k over tasks; empty without tasks. Where tasks have different numbers of tries, k goes up to
    the smallest."""
    known = list(tasks)
    least = min((task.tries for task in known), default=0)
    if least < 1:
        return {}
    return {k: sum(pass_at_k(t.tries, t.solved, k) for t in known) / len(known) for k in ladder(least)}


def best_mean(tasks: Iterable[TaskResult]) -> float:
    """Mean over tasks of the best score of their tries."""
    best = [max(task.scores) for task in tasks]
    return sum(best) / len(best)
