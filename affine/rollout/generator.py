"""The generation engine: many growing token sequences, one KV cache, nothing encoded twice.

Every episode owns a slot. `extend` appends to each of several slots the tokens that are new to it (an opening,
an observation, one sampled token) and returns next-token logits. Slots have their own lengths, so episodes of
different environments and ages share each forward pass.

Axis legend: N slots in the pass, L new tokens, C cached positions, H key-value heads, D head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from transformers import PreTrainedModel

from affine.rollout.ragged import RaggedGenerator, fits_ragged


class Generator(Protocol):
    """What the episode loop needs of an engine."""

    slots: int
    context: int

    def extend(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """Append `tokens[i]` to slot `slots[i]`; the logits [N, V] that follow each slot's last token."""
        ...

    def free(self, slot: int) -> None:
        """Empty a slot."""
        ...

    def reset(self) -> None:
        """Begin anew: every slot empty, nothing remembered, and the model's weights as they are now."""
        ...


def make_generator(model: PreTrainedModel, slots: int, context: int, dtype: torch.dtype = torch.float32) -> Generator:
    """The fastest engine for `model` where it is: ragged passes for Qwen3 on a CPU (`dtype` is the format of their
    products), else transformers' own forward."""
    if fits_ragged(model):
        return RaggedGenerator(model, slots, context, dtype)
    return CachedGenerator(model, slots, context)


class _SlotCache:
    """Keys and values of all slots in two tensors a layer; a pass writes into and reads from some slots.

    Duck-types the part of transformers' `Cache` that the attention layers call.
    """

    def __init__(self, model: PreTrainedModel, slots: int, context: int) -> None:
        config = model.config
        head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (slots, config.num_key_value_heads, context, head_width)
        kind = {"dtype": model.dtype, "device": model.device}
        self._keys = [torch.zeros(shape, **kind) for _ in range(config.num_hidden_layers)]
        self._values = [torch.zeros(shape, **kind) for _ in range(config.num_hidden_layers)]
        self._rows: torch.Tensor | None = None
        self._positions_NL: torch.Tensor | None = None
        self._valid_NL: torch.Tensor | None = None
        self._all = False
        self._reach = 0

    def aim(self, rows: torch.Tensor, positions_NL: torch.Tensor, valid_NL: torch.Tensor | None, reach: int) -> None:
        """Say which slots and positions the next pass writes, and how far it looks."""
        self._rows, self._positions_NL, self._valid_NL, self._reach = rows, positions_NL, valid_NL, reach
        self._all = len(rows) == len(self._keys[0])

    def update(
        self, key_NHLD: torch.Tensor, value_NHLD: torch.Tensor, layer: int, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._rows is not None
        assert self._positions_NL is not None
        keys, values = self._keys[layer], self._values[layer]
        rows_NL = self._rows[:, None].expand_as(self._positions_NL)
        new_keys, new_values = key_NHLD.transpose(1, 2), value_NHLD.transpose(1, 2)  # [N, L, H, D]
        if self._valid_NL is not None:
            rows_NL, positions = rows_NL[self._valid_NL], self._positions_NL[self._valid_NL]
            new_keys, new_values = new_keys[self._valid_NL], new_values[self._valid_NL]
        else:
            positions = self._positions_NL
        keys[rows_NL, :, positions] = new_keys
        values[rows_NL, :, positions] = new_values
        if self._all:
            return keys[:, :, : self._reach], values[:, :, : self._reach]
        return keys[self._rows, :, : self._reach], values[self._rows, :, : self._reach]

    def get_seq_length(self, layer: int = 0) -> int:
        return self._reach


class CachedGenerator:
    """The engine on top of a transformers model's own forward."""

    def __init__(self, model: PreTrainedModel, slots: int, context: int) -> None:
        self.slots, self.context = slots, context
        self._model = model
        self._cache = _SlotCache(model, slots, context)
        self._lengths = [0] * slots

    def free(self, slot: int) -> None:
        self._lengths[slot] = 0

    def reset(self) -> None:
        """See `Generator.reset`."""
        self._lengths = [0] * self.slots

    @torch.inference_mode()
    def extend(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Generator.extend`. Raises ValueError where a slot would outgrow the context."""
        # Long prefills and single tokens go in separate passes, so that padding does not cost more than they do.
        groups = [[i for i, new in enumerate(tokens) if (len(new) > 1) is several] for several in (True, False)]
        groups = [group for group in groups if group]
        parts = [self._pass([slots[i] for i in group], [tokens[i] for i in group]) for group in groups]
        if len(parts) == 1:
            return parts[0]
        logits_NV = parts[0].new_empty(len(slots), parts[0].shape[1])
        for group, part in zip(groups, parts, strict=True):
            logits_NV[group] = part
        return logits_NV

    def _pass(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass, every chunk padded to the longest."""
        device = self._model.device
        order = sorted(range(len(slots)), key=lambda i: slots[i])  # all slots in order: views, not copies
        chosen = [slots[i] for i in order]
        chunks = [tokens[i] for i in order]
        longest = max(len(chunk) for chunk in chunks)
        starts = torch.tensor([self._lengths[slot] for slot in chosen], device=device)
        counts = torch.tensor([len(chunk) for chunk in chunks], device=device)
        reach = int((starts + counts).max())
        if reach > self.context:
            raise ValueError(f"a sequence of {reach} tokens does not fit into a context of {self.context}")
        ids_NL = torch.zeros(len(chosen), longest, dtype=torch.long)
        for i, chunk in enumerate(chunks):
            ids_NL[i, : len(chunk)] = torch.tensor(chunk)
        offsets = torch.arange(longest, device=device)
        # Padding repeats a slot's last position: harmless to read, and never written.
        positions_NL = starts[:, None] + torch.minimum(offsets[None], counts[:, None] - 1)
        valid_NL = None if longest == 1 else offsets[None] < counts[:, None]
        mask_NLC = torch.arange(reach, device=device)[None, None] <= positions_NL[:, :, None]
        self._cache.aim(torch.tensor(chosen, device=device), positions_NL, valid_NL, reach)
        hidden_NLE = self._model.model(
            input_ids=ids_NL.to(device),
            attention_mask={"full_attention": mask_NLC[:, None]},
            position_ids=positions_NL,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        for slot, chunk in zip(chosen, chunks, strict=True):
            self._lengths[slot] += len(chunk)
        last_NE = hidden_NLE[torch.arange(len(chosen), device=device), counts - 1]
        logits_NV: torch.Tensor = self._model.lm_head(last_NE).float()
        back = torch.empty(len(order), dtype=torch.long)
        back[torch.tensor(order)] = torch.arange(len(order))
        return logits_NV[back.to(device)]
