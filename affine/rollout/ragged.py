"""The engine for CPUs: a pass over exactly the new tokens of every slot, without padding.

A small model on a CPU spends its time on what padding adds, on gathering caches and in framework calls, so
Qwen3's forward is written out here over one flat row of tokens: products see each new token once, whatever
slot it belongs to, attention runs slot by slot on views of the cache, and the last layer goes on with each
slot's last token alone. Openings that begin like something another slot holds (an environment's instruction,
the same task again) copy those keys and values instead of computing them.

Axis legend: T new tokens of all slots, N slots in the pass, E hidden width, H query heads, K key-value heads,
D head width, C cached positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu
from transformers import PreTrainedModel

SHARED = 16
"""Beginnings shorter than this are computed rather than copied."""

WORTHWHILE = 128
"""As many tokens must be spared before a pass is split in two for it."""


def fits_ragged(model: PreTrainedModel) -> bool:
    """Whether `RaggedGenerator` computes this model: a plain Qwen3 in float32 on a CPU."""
    config = model.config
    rope = (getattr(config, "rope_parameters", None) or {}).get("rope_type")
    return bool(
        config.model_type == "qwen3"
        and model.device.type == "cpu"
        and model.dtype == torch.float32
        and not config.attention_bias
        and not config.use_sliding_window
        and config.hidden_act == "silu"
        and rope == "default"
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """One decoder layer's weights, query-key-value and gate-up products fused."""

    qkv: torch.Tensor
    out: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor
    before_attention: torch.Tensor
    before_mlp: torch.Tensor
    heads: torch.Tensor
    """The norms' weights of query and key heads [H + K, D]."""


def _layer(layer: Any, query_heads: int, key_heads: int, dtype: torch.dtype) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    norms = [attention.q_norm.weight] * query_heads + [attention.k_norm.weight] * key_heads

    def fused(*parts: Any) -> torch.Tensor:
        return torch.cat([part.weight.detach() for part in parts]).to(dtype)

    return _Layer(
        qkv=fused(attention.q_proj, attention.k_proj, attention.v_proj),
        out=fused(attention.o_proj),
        gate_up=fused(mlp.gate_proj, mlp.up_proj),
        down=fused(mlp.down_proj),
        before_attention=layer.input_layernorm.weight.detach(),
        before_mlp=layer.post_attention_layernorm.weight.detach(),
        heads=torch.stack([weight.detach() for weight in norms]),
    )


@dataclass(frozen=True, slots=True)
class _Chunk:
    """A slot's new tokens: `first` to `last` (excluded) of the pass's row; it held `start` positions before."""

    slot: int
    start: int
    first: int
    last: int
    mask: torch.Tensor | None
    """Added to the scores [new, start + new]; None where every query may see everything."""


class RaggedGenerator:
    """See `affine.rollout.generator.Generator`. `dtype` is the format of the products' factors (the rest stays in
    float32)."""

    def __init__(self, model: PreTrainedModel, slots: int, context: int, dtype: torch.dtype = torch.float32) -> None:
        self.slots, self.context = slots, context
        self._model, self._dtype = model, dtype
        config = model.config
        self._query_heads, self._key_heads = config.num_attention_heads, config.num_key_value_heads
        self._width = config.head_dim
        self._eps = config.rms_norm_eps
        shape = (slots, 2, self._key_heads, context, self._width)
        self._cache = [torch.zeros(shape) for _ in range(config.num_hidden_layers)]
        inner: Any = model.model
        cos, sin = inner.rotary_emb(torch.zeros(1), torch.arange(context)[None])
        half = self._width // 2
        self._cos = cos[0, :, None].contiguous()
        # The signs of rotate_half are moved into the table: rolled by half a head, no parts to negate.
        self._sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)[:, None].contiguous()
        self.reset()

    def reset(self) -> None:
        """See `Generator.reset`."""
        inner: Any = self._model.model
        head: Any = self._model.lm_head
        self._layers = [_layer(layer, self._query_heads, self._key_heads, self._dtype) for layer in inner.layers]
        self._embedding = inner.embed_tokens.weight.detach()
        self._norm = inner.norm.weight.detach()
        self._head = head.weight.detach().to(self._dtype)
        self._lengths = [0] * self.slots
        self._held: list[list[int]] = [[] for _ in range(self.slots)]
        """What each slot's cache holds; a freed slot's is kept for others to copy from until it is written over."""

    def free(self, slot: int) -> None:
        self._lengths[slot] = 0

    @torch.inference_mode()
    def extend(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """See `Generator.extend`. Raises ValueError where a slot would outgrow the context."""
        reach = max(self._lengths[slot] + len(new) for slot, new in zip(slots, tokens, strict=True))
        if reach > self.context:
            raise ValueError(f"a sequence of {reach} tokens does not fit into a context of {self.context}")
        later = self._followers(slots, tokens)
        parts = [part for part in ([i for i in range(len(slots)) if i not in later], later) if part]
        logits = [self._pass([slots[i] for i in part], [tokens[i] for i in part]) for part in parts]
        back = torch.tensor([i for part in parts for i in part]).argsort()
        return torch.cat(logits)[back]

    def _followers(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[int]:
        """The places of openings that wait for another of the same pass, to copy their beginning from it."""
        leaders: list[Sequence[int]] = []
        followers: list[int] = []
        saved = 0
        for i, (slot, new) in enumerate(zip(slots, tokens, strict=True)):
            if self._lengths[slot] > 0 or len(new) < SHARED:
                continue
            shared = max((_common(leader, new) for leader in leaders), default=0)
            if shared >= SHARED and shared > max(_common(held, new) for held in self._held):
                followers.append(i)
                saved += shared
            else:
                leaders.append(new)
        return followers if saved >= WORTHWHILE else []

    def _pass(self, slots: Sequence[int], tokens: Sequence[Sequence[int]]) -> torch.Tensor:
        """One forward pass over what no slot holds yet."""
        chunks: list[_Chunk] = []
        rest: list[int] = []
        for slot, new in zip(slots, tokens, strict=True):
            known = self._copy(slot, new) if self._lengths[slot] == 0 else 0
            start, unknown = self._lengths[slot] + known, new[known:]
            chunks.append(_chunk(slot, start, len(rest), len(rest) + len(unknown)))
            rest += unknown
        logits_NV = self._forward(chunks, rest)
        for chunk in chunks:
            self._held[chunk.slot] += rest[chunk.first : chunk.last]
            self._lengths[chunk.slot] = len(self._held[chunk.slot])
        return logits_NV

    def _copy(self, slot: int, new: Sequence[int]) -> int:
        """Give an empty slot the keys and values of the longest beginning of `new` that any slot holds; its length.
        The last token is left to compute: its logits are wanted."""
        common = [min(_common(held, new), len(new) - 1) for held in self._held]
        donor = max(range(self.slots), key=lambda s: (common[s], s == slot))
        length = common[donor] if common[donor] >= SHARED else 0
        if donor != slot:
            for cache in self._cache:
                cache[slot, :, :, :length] = cache[donor, :, :, :length]
        self._held[slot] = list(new[:length])
        return length

    def _forward(self, chunks: list[_Chunk], tokens: list[int]) -> torch.Tensor:
        rows_T = torch.tensor([c.slot for c in chunks for _ in range(c.first, c.last)])
        position_T = torch.tensor([p for c in chunks for p in range(c.start, c.start + c.last - c.first)])
        last_N = torch.tensor([c.last - 1 for c in chunks])
        cos, sin = self._cos[position_T], self._sin[position_T]
        hidden_TE = self._embedding[torch.tensor(tokens)]
        for number, (layer, cache) in enumerate(zip(self._layers, self._cache, strict=True)):
            normed_TE = rms_norm(hidden_TE, hidden_TE.shape[-1:], layer.before_attention, self._eps)
            states = self._product(normed_TE, layer.qkv).view(len(hidden_TE), -1, self._width)
            heads = self._query_heads + self._key_heads
            turned = rms_norm(states[:, :heads], (self._width,), None, self._eps) * layer.heads
            turned = torch.addcmul(turned * cos, turned.roll(self._width // 2, -1), sin)
            keys_values = torch.cat([turned[:, self._query_heads :], states[:, heads:]], dim=1)
            cache[rows_T, :, :, position_T] = keys_values.view(-1, 2, self._key_heads, self._width)
            only_last = number == len(self._layers) - 1  # nobody reads what comes after the other tokens
            attended = torch.cat([self._attend(turned, cache, chunk, only_last=only_last) for chunk in chunks])
            if only_last:
                hidden_TE = hidden_TE[last_N]
            hidden_TE = hidden_TE + self._product(attended, layer.out)
            normed_TE = rms_norm(hidden_TE, hidden_TE.shape[-1:], layer.before_mlp, self._eps)
            gate, up = self._product(normed_TE, layer.gate_up).chunk(2, dim=-1)
            hidden_TE = hidden_TE + self._product(silu(gate) * up, layer.down)
        hidden_NE = rms_norm(hidden_TE, hidden_TE.shape[-1:], self._norm, self._eps)
        return self._product(hidden_NE, self._head)

    def _product(self, states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return linear(states.to(self._dtype), weight).float()

    def _attend(self, turned: torch.Tensor, cache: torch.Tensor, chunk: _Chunk, *, only_last: bool) -> torch.Tensor:
        """What a slot's new tokens (its last alone, if so asked) see of the slot: [tokens, H * D]."""
        first = chunk.last - 1 if only_last else chunk.first
        reach = chunk.start + chunk.last - chunk.first
        keys, values = cache[chunk.slot, :, :, :reach]
        query = turned[first : chunk.last, : self._query_heads]
        if chunk.last - first == 1:
            # One query sees everything; its heads stand in as rows of their key head, so that nothing is repeated.
            grouped = query.view(1, self._key_heads, -1, self._width)
            return scaled_dot_product_attention(grouped, keys[None], values[None]).reshape(1, -1)
        seen = scaled_dot_product_attention(
            query.transpose(0, 1)[None], keys[None], values[None],
            attn_mask=chunk.mask, is_causal=chunk.mask is None, enable_gqa=True,
        )  # fmt: skip
        return seen[0].transpose(0, 1).reshape(chunk.last - first, -1)


def _chunk(slot: int, start: int, first: int, last: int) -> _Chunk:
    new = last - first
    mask = None
    if start > 0 and new > 1:
        mask = torch.full((new, start + new), -torch.inf).triu_(start + 1)
    return _Chunk(slot, start, first, last, mask)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    if one[:SHARED] != other[:SHARED]:
        return 0
    for k, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return k
    return min(len(one), len(other))
