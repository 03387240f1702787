"""The validators' dated rules as data: what was in force when, and every constant of it.

Here a *policy* is a rule of the Affine subnet's validators, named by the date it came into force. The
functions that apply them are in `dominance` (interval rules) and `champion` (the champion rule).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, floor
from typing import Literal

from affine.errors import AffineError

Sharing = Literal["proportional", "ranked"]
Rewards = Literal["per_subset", "per_layer"]


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """Beta intervals, one winner per environment and pair, Pareto frontiers of all subsets.

    - `level`, `prior`: the equal-tailed credible interval of each environment's mean.
    - `min_samples`: below it a model neither wins nor keeps an environment.
    - `eligibility_base`, `eligibility_fraction`, `eligibility_cap`: see `required_samples`.
    - `score_power`: the geometric mean of a subset's means is raised to it before sharing.
    - `sharing`: "proportional" to that score, or "ranked": times `rank_decay` ** rank as well.
    - `rewards`: see `subset_reward`; only the `top_layers` largest subset sizes count (None: all).
    """

    name: str
    in_force: str
    until: str
    source: str
    summary: str
    level: float = 0.80
    prior: float = 0.5
    min_samples: int = 200
    eligibility_base: int = 10
    eligibility_fraction: float = 0.10
    eligibility_cap: int = 5000
    score_power: float = 4.0
    sharing: Sharing = "proportional"
    rank_decay: float = 1.0
    rewards: Rewards = "per_subset"
    top_layers: int | None = None


@dataclass(frozen=True, slots=True)
class ChampionRule:
    """One champion; a challenger replaces it or is out. No interval, no significance test.

    On the tasks both finished, an environment is *dominant* where challenger > champion + `margin`, *not
    worse* where challenger >= `keep` * champion (both with `tolerance`), else *worse*; with fewer common
    tasks than `required_tasks` it is worse. The challenger wins iff at least `min_dominant` environments are
    dominant and none is worse. `pool_factor` is how many tasks are drawn per task required.
    """

    name: str
    in_force: str
    until: str
    source: str
    summary: str
    margin: float = 0.03
    keep: float = 0.98
    tolerance: float = 1e-9
    min_dominant: int = 1
    pool_factor: float = 1.1


Policy = IntervalRule | ChampionRule

DEFAULT = "affine-2025-10-22"

POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        IntervalRule(
            name=DEFAULT,
            in_force="2025-10-22",
            until="2025-11-01",
            source="affine-cortex 30a53a9 .. 0c15be7, affine/sampling.py",
            summary="80 % Beta intervals; frontiers of all 255 subsets, shared by geometric mean ** 4",
        ),
        IntervalRule(
            name="affine-2025-11-01",
            in_force="2025-11-01",
            until="2025-11-16",
            source="affine-cortex 5d363ef, affine/sampling.py",
            summary="same intervals and dominance; six largest layers, shared by geometric mean ** 2 and rank",
            score_power=2.0,
            sharing="ranked",
            rank_decay=0.5,
            rewards="per_layer",
            top_layers=6,
        ),
        ChampionRule(
            name="affine-2026-07-24",
            in_force="2026-07-24",
            until="",
            source="affine-cortex c2d7ec8, affine/src/scorer/comparator.py",
            summary="champion challenge: one environment better by 3 points, none below 98 %; winner takes all",
        ),
    )
}
"""Name -> policy, oldest first."""


class PolicyError(AffineError):
    """No policy of that name; the message lists those there are."""


def policy_named(name: str) -> Policy:
    """The policy called `name`. Raises PolicyError."""
    if name not in POLICIES:
        raise PolicyError(f"pareto.policy: no policy {name!r} (known: {', '.join(POLICIES)})")
    return POLICIES[name]


def required_samples(rule: IntervalRule, most: int) -> int:
    """Episodes a model needs in an environment to be eligible, where the best-covered model has `most`."""
    grown = rule.eligibility_base + floor(rule.eligibility_fraction * min(most, rule.eligibility_cap))
    return max(rule.min_samples, grown)


def subset_reward(rule: IntervalRule, size: int, envs: int) -> float:
    """What one subset of `size` out of `envs` environments pays.

    "per_subset": 1 for a single environment and 2**size for a larger one, each subset on its own.
    "per_layer": 2**size shared by the C(envs, size) subsets of that size. Layers below the `top_layers`
    largest pay nothing.
    """
    first = 1 if rule.top_layers is None else max(1, envs - rule.top_layers + 1)
    if not first <= size <= envs:
        return 0.0
    if rule.rewards == "per_layer":
        return 2.0**size / comb(envs, size)
    return 1.0 if size == 1 else 2.0**size


def required_tasks(rule: ChampionRule, pool: int) -> int:
    """Common tasks the champion rule asks for, where `pool` tasks were drawn (`pool_factor` per task)."""
    return floor(pool / rule.pool_factor + 1e-9)
