"""What an episode was worth, token by token: rewards, shaping, advantages, returns and weights.

A step is a turn or a token (`ppo.gae`). A step's reward is minus kl times the log-ratio to the SFT policy at
its tokens; the episode's last step adds the score. Every episode has ended, so nothing follows its last step.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from affine.models.chat import Renderer
from affine.params import PpoParams
from affine.training.gae import advantages, bilevel, by_turn, to_tokens
from affine.types import Trajectory

MIN_DEVIATION = 0.1
"""Advantages are divided by no less: where an environment is all but solved (or all but hopeless), what varies
is mostly the value head's error, and blowing that up to unit variance trains on noise."""


@dataclass(slots=True)
class Sample:
    """One played episode with what PPO knows of it; `progress` runs over its turns, the lists from `sampled` on
    over its agent tokens. Samples of one `task` and one iteration are a group."""

    env: str
    task: str
    ids: list[int]
    mask: list[int]
    turn_lengths: list[int]
    score: float
    progress: list[float]
    sampled: list[float]
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    weight: float = 0.0


def to_sample(trajectory: Trajectory, renderer: Renderer) -> Sample:
    """An episode as one token sequence; agent tokens are exactly the sampled ones."""
    tokens = renderer.trajectory(trajectory)
    lengths = [len(turn.token_ids) for turn in trajectory.turns]
    sampled = [logprob for turn in trajectory.turns for logprob in turn.logprobs]
    assert sum(tokens.action_mask) == len(sampled) == sum(lengths)
    task = trajectory.task
    progress = [turn.progress for turn in trajectory.turns]
    name = f"{task.level}/{task.id}"
    return Sample(task.env, name, tokens.ids, tokens.action_mask, lengths, trajectory.score, progress, sampled)


def informative(samples: list[Sample], settings: PpoParams) -> list[Sample]:
    """The samples to train on: all of them, but under `advantage: group` not those whose group scored all the same,
    which say nothing about what to do (after DAPO's dynamic sampling; Yu et al., 2025, arXiv 2503.14476)."""
    if settings.advantage == "gae":
        return samples
    return [sample for members in _groups(samples) if len({s.score for s in members}) > 1 for sample in members]


def estimate(samples: list[Sample], settings: PpoParams, kl: float) -> None:
    """Fill in advantages and returns of every agent token, normalised within each environment (scaled alone where
    groups have centred them), and weights.

    `kl` is the price of a nat at this iteration.
    """
    if settings.advantage == "group":
        for members in _groups(samples):
            _group_relative(members, kl)
    else:
        for sample in samples:
            _generalised(sample, settings, kl)
    by_env: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_env[sample.env].append(sample)
    total = sum(len(sample.advantages) for sample in samples)
    for members in by_env.values():
        flat = torch.tensor([a for sample in members for a in sample.advantages], dtype=torch.float64)
        # The advantages of a group sum to zero already.
        mean = 0.0 if settings.advantage == "group" else flat.mean().item()
        deviation = max(flat.std(correction=0).item(), MIN_DEVIATION)
        share = len(members) / len(samples)
        for sample in members:
            sample.advantages = [(a - mean) / deviation for a in sample.advantages]
            # An environment weighs as its episodes do, however long its replies are; the mean weight is 1.
            sample.weight = total * share / len(flat)


def _penalties(sample: Sample, kl: float) -> list[float]:
    return [-kl * (o - r) for o, r in zip(sample.old, sample.reference, strict=True)]


def _generalised(sample: Sample, settings: PpoParams, kl: float) -> None:
    """GAE over turns, over tokens, or over turns and then the tokens of each."""
    lengths, values = sample.turn_lengths, sample.values
    rewards = _penalties(sample, kl)
    rewards[-1] += sample.score
    potentials = [settings.shaping * p for p in accumulate(sample.progress[:-1], initial=0.0)]
    if settings.gae == "turn":
        starts = list(accumulate(lengths[:-1], initial=0))
        per_turn = [values[start] for start in starts]
        shaped = shape(by_turn(rewards, lengths), potentials, settings.gamma)
        found = advantages(shaped, per_turn, settings.gamma, settings.lam)
        sample.advantages = to_tokens(found, lengths)
        sample.returns = to_tokens([a + v for a, v in zip(found, per_turn, strict=True)], lengths)
        return
    if settings.gae == "token":
        shaped = shape(rewards, to_tokens(potentials, lengths), settings.gamma)
        sample.advantages = advantages(shaped, values, settings.gamma, settings.lam)
    else:
        # Shaping pays at a turn's last token: time passes between turns only.
        paid = shape([0.0] * len(lengths), potentials, settings.gamma)
        for end, extra in zip(accumulate(lengths), paid, strict=True):
            rewards[end - 1] += extra
        sample.advantages = bilevel(rewards, values, lengths, settings.gamma, settings.lam)
    sample.returns = [a + v for a, v in zip(sample.advantages, values, strict=True)]


def shape(rewards: Sequence[float], potentials: Sequence[float], gamma: float) -> list[float]:
    """r_t + gamma·Phi_{t+1} - Phi_t, with potential 0 after the last step, so that the best policy stays the best
    (Ng, Harada and Russell, 1999). `potentials` are those of the states before each step."""
    following = [*potentials[1:], 0.0]
    return [r + gamma * n - p for r, n, p in zip(rewards, following, potentials, strict=True)]


def _groups(samples: Sequence[Sample]) -> list[list[Sample]]:
    groups: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in samples:
        groups[sample.env, sample.task].append(sample)
    return list(groups.values())


def _group_relative(members: Sequence[Sample], kl: float) -> None:
    """Each episode's reward less the mean of its group's other episodes (RLOO; Ahmadian et al., 2024, arXiv
    2402.14740), for every token alike. No value is needed; returns repeat the old values, which trains none."""
    rewards = [sample.score + sum(_penalties(sample, kl)) for sample in members]
    for sample, reward in zip(members, rewards, strict=True):
        others = (sum(rewards) - reward) / (len(members) - 1)
        sample.advantages = [reward - others] * len(sample.old)
        sample.returns = list(sample.values)


def explained_variance(samples: list[Sample]) -> float:
    """1 - Var(return - value) / Var(return) over agent tokens; 0 where returns do not vary."""
    returns = torch.tensor([r for s in samples for r in s.returns], dtype=torch.float64)
    values = torch.tensor([v for s in samples for v in s.values], dtype=torch.float64)
    variance = returns.var(correction=0).item() if len(returns) else 0.0
    return 1 - (returns - values).var(correction=0).item() / variance if variance > 0 else 0.0
