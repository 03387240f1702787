"""Which of PPO's adapters is kept: the one that plays the validation tasks best.

Not the last, because an update can also make a policy worse; and not by test tasks, which are read once, by stage
`evaluate`. The SFT policy that PPO starts from is a candidate too. Every candidate plays the same tasks from the
same random streams, so that their scores differ less by luck, and at the temperature of training: it is that policy
which is improved, whatever temperature it is evaluated at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import torch

from affine.types import ENVS, Trajectory

Tensors = dict[str, torch.Tensor]


def validation_score(trajectories: Sequence[Trajectory]) -> float:
    """The mean over environments of their mean scores."""
    by_env = [[t.score for t in trajectories if t.task.env == env] for env in ENVS]
    return fmean(fmean(scores) for scores in by_env if scores)


@dataclass(slots=True)
class Selection:
    """Iteration -> validation score of all candidates so far, and a copy of the best one's tensors. `kept` is its
    iteration, None before the first."""

    scores: dict[int, float] = field(default_factory=dict)
    kept: int | None = None
    adapter: Tensors = field(default_factory=dict)
    value_head: Tensors = field(default_factory=dict)

    def offer(self, iteration: int, score: float, adapter: Mapping[str, torch.Tensor], value_head: Tensors) -> None:
        """A candidate; of equals the later one is kept."""
        self.scores[iteration] = score
        if self.kept is None or score >= self.scores[self.kept]:
            self.kept = iteration
            self.adapter, self.value_head = _copy(adapter), _copy(value_head)


def _copy(tensors: Mapping[str, torch.Tensor]) -> Tensors:
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
