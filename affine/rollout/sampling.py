"""Drawing tokens, each episode from its own random stream.

A token is drawn by inverting the distribution at one uniform number that only depends on the episode and the
token's place in it, so that what else is in the batch cannot change it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Sampling:
    """`temperature` 0 is greedy; `top_p` keeps the smallest set of tokens with that much probability."""

    temperature: float = 1.0
    top_p: float = 1.0


def draw(
    logits_NV: torch.Tensor, streams: Sequence[random.Random], sampling: Sampling
) -> tuple[list[int], list[float]]:
    """One token per row and its log-probability in nats under the distribution it was drawn from.

    Greedy tokens report the log-probability at temperature 1.
    """
    if sampling.temperature == 0:
        logprobs_NV = logits_NV.log_softmax(-1)
        chosen = logprobs_NV.argmax(-1)
    else:
        logprobs_NV = (logits_NV / sampling.temperature).log_softmax(-1)
        if sampling.top_p < 1:
            logprobs_NV = _nucleus(logprobs_NV, sampling.top_p)
        uniform_N1 = torch.tensor([[stream.random()] for stream in streams], dtype=torch.float64)
        cumulative_NV = logprobs_NV.exp().cumsum(-1, dtype=torch.float64)
        # Scaled by the last sum, which rounding may leave a hair under 1.
        point_N1 = uniform_N1.to(cumulative_NV.device) * cumulative_NV[:, -1:]
        chosen = torch.searchsorted(cumulative_NV, point_N1, right=True)[:, 0]  # the first sum above the point
    picked = logprobs_NV.gather(1, chosen[:, None])[:, 0]
    return chosen.tolist(), picked.tolist()


def _nucleus(logprobs_NV: torch.Tensor, top_p: float) -> torch.Tensor:
    ranked_NV, order_NV = logprobs_NV.sort(dim=-1, descending=True, stable=True)
    before_NV = ranked_NV.exp().cumsum(-1) - ranked_NV.exp()
    kept_NV = torch.where(before_NV < top_p, ranked_NV, -torch.inf).log_softmax(-1)
    return torch.empty_like(logprobs_NV).scatter_(1, order_NV, kept_NV)
