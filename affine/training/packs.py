"""Packed rows for supervised training: which demonstrations stand in which row, for all epochs beforehand."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from affine.dataset.packing import pack
from affine.dataset.sequences import Demonstration
from affine.params import SftParams
from affine.types import ENVS

IGNORED = -100
"""The label of tokens without loss."""


class Packs(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Packed rows, in the order in which they are trained. Their number is filled up to a multiple of `processes` by
    packs without loss: dealt out as they are, the last would be repeated for processes that got none."""

    def __init__(self, rows: Sequence[Demonstration], packs: Sequence[Sequence[int]], processes: int = 1) -> None:
        self.rows = rows
        self.packs = packs
        self._filled = -(-len(packs) // processes) * processes

    def __len__(self) -> int:
        return self._filled

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        """`input_ids` and `labels` of one length, `seq_lengths` of the sequences in them. Raises IndexError past the
        end, which is also how an iteration ends."""
        if not 0 <= index < self._filled:
            raise IndexError(f"pack {index} of {self._filled}")
        if index >= len(self.packs):
            pack = self[0]
            return {**pack, "labels": [IGNORED] * len(pack["labels"])}
        rows = [self.rows[k] for k in self.packs[index]]
        return {
            "input_ids": [token for row in rows for token in row.input_ids],
            "labels": [
                token if mask else IGNORED
                for row in rows
                for token, mask in zip(row.input_ids, row.action_mask, strict=True)
            ],
            "seq_lengths": [len(row) for row in rows],
        }

    def tasks(self, first: int, last: int) -> list[str]:
        """The tasks in packs `first` to `last` (excluded), as "env level/id"."""
        return [f"{self.rows[k].env} {self.rows[k].task}" for part in self.packs[first:last] for k in part]


def epochs(rows: Sequence[Demonstration], sft: SftParams, seed: int, processes: int = 1) -> Packs:
    """The packs of all epochs, each in its own order, for so many processes."""
    lengths = [len(row) for row in rows]
    drawn = [pack(lengths, sft.batch_tokens, random.Random(f"sft/{seed}/{epoch}")) for epoch in range(sft.epochs)]
    return Packs(rows, [part for epoch in drawn for part in epoch], processes)


def by_env(rows: Sequence[Demonstration], budget: int) -> tuple[Packs, list[int]]:
    """Packs of one environment each, and the index of that environment in `ENVS`."""
    packs: list[list[int]] = []
    envs: list[int] = []
    for number, env in enumerate(ENVS):
        members = [k for k, row in enumerate(rows) if row.env == env]
        parts = pack([len(rows[k]) for k in members], budget)
        packs += [[members[k] for k in part] for part in parts]
        envs += [number] * len(parts)
    return Packs(rows, packs), envs
