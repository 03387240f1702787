"""Sequences into packs: concatenated rows of at most so many tokens.

Nothing is padded (positions start anew with each sequence), so a pack that isn't full costs nothing and
there is no gain in sorting by length, which would fill a pack with a single environment: in ours, length
tells the environment.
"""

from __future__ import annotations

import random
from collections.abc import Sequence


def pack(lengths: Sequence[int], budget: int, rng: random.Random | None = None) -> list[list[int]]:
    """The indices of `lengths` in packs of at most `budget` tokens; every index once.

    Sequences are taken in an order drawn by `rng` (as given without one); one that doesn't fit opens the
    next pack. Raises ValueError for a sequence longer than `budget`.
    """
    order = list(range(len(lengths)))
    if rng is not None:
        rng.shuffle(order)
    packs: list[list[int]] = []
    room = 0
    for index in order:
        if lengths[index] > budget:
            raise ValueError(f"sequence {index} has {lengths[index]} tokens, more than a pack of {budget} holds")
        if lengths[index] > room:
            packs.append([])
            room = budget
        packs[-1].append(index)
        room -= lengths[index]
    return packs
