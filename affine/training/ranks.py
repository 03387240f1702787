"""The processes of one training run under `accelerate launch`; a run without it is the only rank.

Data parallel by hand: the model is small beside its activations, the engines live in each rank's own workers,
and gradients are summed in one call, so that a run of several ranks takes the steps of a run of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
from accelerate import PartialState

T = TypeVar("T")


class Ranks:
    """`index` of `count` processes; `main` is the one that writes."""

    def __init__(self) -> None:
        state = PartialState(cpu=not torch.cuda.is_available())
        self.index, self.count = int(state.process_index), int(state.num_processes)
        self.main = self.index == 0
        self.device: torch.device = state.device

    def part(self, items: Sequence[T]) -> list[T]:
        """This rank's share: every `count`-th item."""
        return list(items[self.index :: self.count])

    def gather(self, part: list[T]) -> list[T]:
        """All ranks' shares in the order of the items they were taken from; the same on every rank."""
        if self.count == 1:
            return part
        parts: list[Any] = [None] * self.count
        torch.distributed.all_gather_object(parts, part)
        return [parts[i % self.count][i // self.count] for i in range(sum(len(p) for p in parts))]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its sum over the ranks; missing ones count as zero where another rank has one."""
        if self.count == 1:
            return
        parameters = list(parameters)
        present = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(present)
        used = [p for p, ranks in zip(parameters, present.tolist(), strict=True) if ranks]
        if not used:
            return
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in used])
        torch.distributed.all_reduce(flat)
        for p, summed in zip(used, torch.split(flat, [p.numel() for p in used]), strict=True):
            p.grad = summed.view_as(p).clone()

    def wait(self) -> None:
        """Until every rank is here."""
        if self.count > 1:
            torch.distributed.barrier()
