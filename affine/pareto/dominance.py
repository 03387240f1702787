"""Interval rules applied: who wins each environment, who dominates whom, shares, points and weights.

Arrays carry axis suffixes: M models, K models again (the opponent), E environments. A set of environments is
a bit mask, bit e for environment e, so that a pair of models is compared on any subset by two ANDs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from affine.pareto.intervals import beta_bounds
from affine.pareto.policies import IntervalRule, required_samples, subset_reward

OWNER = "uid0"
"""Who receives the weight when no model is eligible."""

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Standings:
    """Everything an interval rule looks at.

    `total` score sums, `samples` episodes and `first_block`, each (M, E). `first_block` is when the model
    first appeared (smaller is earlier; +inf where it has no episode). A model that was not evaluated in an
    environment has 0 and 0.
    """

    models: tuple[str, ...]
    envs: tuple[str, ...]
    total: Floats
    samples: Ints
    first_block: Floats

    @property
    def mean(self) -> Floats:
        """Mean scores; 0 without episodes."""
        return self.total / np.maximum(self.samples, 1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a rule pays a field of models. `weights` sum to 1 and include `OWNER` where it is paid."""

    eligible: tuple[str, ...]
    frontier: tuple[str, ...]
    points: Mapping[str, float]
    weights: Mapping[str, float]


def standings(results: Mapping[str, Mapping[str, tuple[float, int]]], envs: tuple[str, ...]) -> Standings:
    """Standings from {model: {env: (score sum, episodes)}}; models stand in order of seniority, first earliest."""
    models = tuple(results)
    total, samples = np.zeros((len(models), len(envs))), np.zeros((len(models), len(envs)), dtype=np.int64)
    block = np.full((len(models), len(envs)), np.inf)
    for m, model in enumerate(models):
        for e, env in enumerate(envs):
            total[m, e], samples[m, e] = results[model].get(env, (0.0, 0))
            if samples[m, e]:
                block[m, e] = m
    return Standings(models, envs, total, samples, block)


def wins(rule: IntervalRule, field: Standings) -> Bools:
    """`wins_MKE[a, b, e]`: a wins environment e against b.

    Too few samples on both sides: nobody wins; on one side: the other wins, whatever the scores. Otherwise
    the later model wins iff its lower bound is strictly above the earlier one's upper bound, and if it does
    not, the earlier one wins; of two equally early models one wins iff its interval is strictly above.
    """
    low_ME, high_ME = beta_bounds(field.total, field.samples, rule.level, rule.prior)
    enough_ME = field.samples >= rule.min_samples
    block_ME = field.first_block
    above_MKE = low_ME[:, None] > high_ME[None, :]
    below_MKE = above_MKE.swapaxes(0, 1)
    earlier_MKE = block_ME[:, None] < block_ME[None, :]
    decided_MKE = np.where(earlier_MKE, ~below_MKE, above_MKE)
    wins_MKE: Bools = enough_ME[:, None] & (~enough_ME[None, :] | decided_MKE)
    return wins_MKE


def win_masks(wins_MKE: Bools) -> Ints:
    """`mask_MK[a, b]`: the environments a wins against b, as bits."""
    bits_E = 1 << np.arange(wins_MKE.shape[2], dtype=np.int64)
    masks: Ints = wins_MKE.astype(np.int64) @ bits_E
    return masks


def dominates(mask_MK: Ints, subset: int) -> Bools:
    """`[a, b]`: on `subset`, b wins nothing against a and a wins something. Not transitive; cycles exist."""
    won_MK = (mask_MK & subset) != 0
    dominant_MK: Bools = won_MK & ~won_MK.T
    return dominant_MK


def frontier(mask_MK: Ints, subset: int, pool_M: Bools) -> Bools:
    """Members of the pool that no member dominates on `subset`; where that is nobody (a cycle), everybody."""
    dominated_M: Bools = np.any(dominates(mask_MK, subset) & pool_M[:, None], axis=0)
    free_M: Bools = pool_M & ~dominated_M
    return free_M if np.any(free_M) else pool_M


def subset_scores(mean_ME: Floats, members_E: Bools) -> Floats:
    """Geometric mean of the chosen environments' means (clamped to [0, 1]); 0 where any of them is 0."""
    chosen = np.clip(mean_ME[:, members_E], 0.0, 1.0)
    scores: Floats = np.prod(chosen, axis=1) ** (1.0 / chosen.shape[1])
    return scores


def shares(rule: IntervalRule, score_M: Floats, frontier_M: Bools) -> Floats:
    """How the members of a frontier split a subset's reward; sums to 1.

    One member takes all; if every member's score is 0 they split equally. Ranks go by falling score; where
    scores are exactly equal the rule leaves the order open, and here the earlier model goes first.
    """
    claim_M = np.where(frontier_M, score_M**rule.score_power, 0.0)
    if rule.sharing == "ranked":
        members = np.flatnonzero(frontier_M)
        ranked = members[np.argsort(-score_M[members], kind="stable")]
        claim_M[ranked] *= rule.rank_decay ** np.arange(len(ranked))
    total = claim_M.sum()
    if total <= 0.0:
        claim_M, total = frontier_M.astype(np.float64), float(frontier_M.sum())
    split: Floats = claim_M / total
    return split


def eligible(rule: IntervalRule, field: Standings) -> Bools:
    """Models with enough samples in every environment (`required_samples` of the best-covered model)."""
    most_E = field.samples.max(axis=0)
    required_E = np.array([required_samples(rule, int(most)) for most in most_E])
    enough_M: Bools = np.all(field.samples >= required_E, axis=1)
    return enough_M


def points(rule: IntervalRule, field: Standings) -> Floats:
    """Points of every model over all non-empty subsets of the environments; 0 for those not eligible."""
    pool_M = eligible(rule, field)
    points_M = np.zeros(len(field.models))
    if not pool_M.any():
        return points_M
    mask_MK, mean_ME = win_masks(wins(rule, field)), field.mean
    envs = len(field.envs)
    bit_E = np.arange(envs)
    for subset in range(1, 1 << envs):
        members_E = ((subset >> bit_E) & 1).astype(np.bool_)
        reward = subset_reward(rule, int(members_E.sum()), envs)
        if reward:
            front_M = frontier(mask_MK, subset, pool_M)
            points_M += reward * shares(rule, subset_scores(mean_ME, members_E), front_M)
    return points_M


def outcome(rule: IntervalRule, field: Standings) -> Outcome:
    """Eligibility, frontier on all environments, points and weights. Nobody eligible: `OWNER` gets weight 1."""
    pool_M = eligible(rule, field)
    points_M = points(rule, field)
    everything = (1 << len(field.envs)) - 1
    front_M = frontier(win_masks(wins(rule, field)), everything, pool_M)
    total = float(points_M.sum())
    weights = {model: float(p / total) if total else 0.0 for model, p in zip(field.models, points_M, strict=True)}
    if not pool_M.any():
        weights[OWNER] = 1.0
    return Outcome(
        eligible=tuple(m for m, ok in zip(field.models, pool_M, strict=True) if ok),
        frontier=tuple(m for m, ok in zip(field.models, front_M, strict=True) if ok),
        points={model: float(p) for model, p in zip(field.models, points_M, strict=True)},
        weights=weights,
    )
