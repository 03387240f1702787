"""Which attention kernel and which number format to compute with, and SDPA for packed sequences.

Training sequences come packed: concatenated in one row, positions starting anew with each. FlashAttention
takes the boundaries as they are. SDPA has no such kernel: transformers would hand it a dense T x T mask,
which for twenty short sequences in a row of 4,096 tokens does twenty times the work and cannot use the
causal kernel. `packed_sdpa` runs the causal kernel on each sequence instead; whatever is not packed
(batches with a mask, a cache) goes to transformers' own SDPA.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from affine.errors import AffineError

log = logging.getLogger(__name__)

PACKED_SDPA = "packed_sdpa"

Attention = Literal["auto", "flash_attention_2", "sdpa", "eager"]
Dtype = Literal["auto", "float32", "bfloat16"]


class AttentionError(AffineError):
    """The attention kernel asked for can't run here; says what to choose instead."""


def choose_attention(wanted: Attention, device: torch.device) -> str:
    """The name to give to transformers. `auto` is FlashAttention where it is installed and the device has
    it, else SDPA. Raises AttentionError for FlashAttention where it cannot run."""
    flash = device.type == "cuda" and find_spec("flash_attn") is not None
    if flash and torch.cuda.get_device_capability(device) < (8, 0):
        flash = False
    if wanted == "flash_attention_2" and not flash:
        raise AttentionError(
            f"attention flash_attention_2 needs the package flash-attn and a CUDA device of capability 8.0;"
            f" this is {device.type}: set attention to auto or sdpa"
        )
    taken = "flash_attention_2" if flash and wanted != "sdpa" else PACKED_SDPA
    if wanted == "eager":
        taken = "eager"
    log.info("attention: %s (asked for %s, on %s)", taken, wanted, device.type)
    return taken


def choose_dtype(wanted: Dtype, device: torch.device) -> torch.dtype:
    """The format of matrix products. `auto` is bfloat16 where the hardware has it, else float32."""
    if wanted != "auto":
        return torch.bfloat16 if wanted == "bfloat16" else torch.float32
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    taken = torch.bfloat16 if native else torch.float32
    log.info("dtype: %s (asked for auto, on %s)", taken, device.type)
    return taken


def packed_sdpa(  # noqa: PLR0917 - transformers' signature
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    position_ids: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence of a packed row, transformers' SDPA for anything else.

    `query` is (B, heads, T, head_dim), `key` and `value` (B, kv_heads, T, head_dim); returns
    (B, T, heads, head_dim). A row is packed if its positions start anew or `cu_seq_lens_q` says so.
    """
    lengths = None
    if attention_mask is None and query.shape[0] == 1 and query.shape[2] == key.shape[2]:
        lengths = _lengths(kwargs.get("cu_seq_lens_q"), position_ids)
    if lengths is None:
        output, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return output, None
    # The CPU's kernel is faster in float32 than in bfloat16 (head_dim 32: 45 against 64 ms for 4,100 tokens).
    dtype = torch.float32 if query.device.type == "cpu" else value.dtype
    parts = [torch.split(states.to(dtype), lengths, dim=2) for states in (query, key, value)]
    with torch.autocast(query.device.type, enabled=False):
        outputs = [
            scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=True)
            for q, k, v in zip(*parts, strict=True)
        ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _lengths(boundaries: torch.Tensor | None, position_ids: torch.Tensor | None) -> list[int] | None:
    """The lengths of a row's sequences; None for a row of one sequence."""
    if boundaries is None:
        if position_ids is None:
            return None
        starts = (position_ids[0].diff() != 1).nonzero().flatten() + 1
        ends = starts.new_tensor([position_ids.shape[1]])
        boundaries = torch.cat([starts.new_zeros(1), starts, ends])
    lengths: list[int] = boundaries.diff().tolist()
    return lengths if len(lengths) > 1 else None


def packed_mask(  # noqa: PLR0917 - transformers' signature
    batch_size: int,
    q_length: int,
    kv_length: int,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **kwargs: Any,
) -> torch.Tensor | None:
    """The mask that goes with `packed_sdpa`: SDPA's, but none for one packed row.

    transformers forbids the causal shortcut for a row without a mask in one case only: its positions start
    anew (a custom mask function sets `use_vmap`, a compiled decoding step has one query).
    """
    packed = attention_mask is None and not allow_is_causal_skip and not use_vmap
    if packed and batch_size == 1 and q_length == kv_length > 1:
        return None
    mask: torch.Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        attention_mask=attention_mask,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        **kwargs,
    )
    return mask


AttentionInterface.register(PACKED_SDPA, packed_sdpa)
AttentionMaskInterface.register(PACKED_SDPA, packed_mask)


SHORT = 256
"""Up to this many tokens a row, plain products beat SDPA's CPU kernel (its backward pass above all); beyond, their
square matrices cost more than they save."""


def suit_attention(model: PreTrainedModel, length: int) -> None:
    """On a CPU, take plain attention for short rows and SDPA for long ones; `length` is the batch's longest."""
    if model.device.type == "cpu":
        model.set_attn_implementation("eager" if length <= SHORT else "sdpa")
