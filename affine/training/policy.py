"""The policy as PPO sees it: one model with two adapters and a value head.

Axis legend: B episodes in a batch, T tokens, E hidden width, A agent tokens of the batch, V vocabulary.
Position t of a [B, T-1] array speaks of token t+1: who predicts it, what it was worth.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from transformers.modeling_layers import GradientCheckpointingLayer

from affine.models.attention import PACKED_SDPA, suit_attention
from affine.params import PpoParams
from affine.training.estimates import Sample
from affine.training.ranks import Ranks

PARTS = 4
"""A minibatch is computed in at least so many parts of similar length: less padding, less memory."""


class ValueHead(torch.nn.Module):
    """Two layers on the policy's hidden states. The hidden states are detached: a small adapter would
    otherwise give up policy for value. The last layer starts at zero, so values start at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(width, width)
        self.outer = torch.nn.Linear(width, 1)
        torch.nn.init.zeros_(self.outer.weight)
        torch.nn.init.zeros_(self.outer.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """[..., E] -> [...]"""
        value: torch.Tensor = self.outer(torch.tanh(self.inner(hidden.detach().float()))).squeeze(-1)
        return value


class Policy:
    """The model with adapters "default" (trained) and "reference" (the SFT's, frozen), and the value head."""

    def __init__(
        self, model: PeftModel, temperature: float, dtype: torch.dtype = torch.float32, *, checkpointing: bool = False
    ) -> None:
        """With `checkpointing`, layers are computed anew in the backward pass instead of kept."""
        self.model = model
        if checkpointing:
            causal = model.get_base_model()
            causal.activation_checkpointing_enable()
            for layer in causal.modules():
                # Layers ask whether they train; what is inside them must not, or dropout would be on.
                if isinstance(layer, GradientCheckpointingLayer):
                    layer.training = True
        self._dtype = dtype
        # What `auto` and `sdpa` come to; FlashAttention and eager stay as asked for.
        self._suit = model.config._attn_implementation == PACKED_SDPA
        self.value_head = ValueHead(model.config.hidden_size).to(model.device)
        self._temperature = temperature

    def forward(
        self, ids_BT: torch.Tensor, action_BT: torch.Tensor, adapter: str = "default"
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Log-probability, entropy and value [A] of the agent's tokens, in row-major order. Only those
        positions ever get logits. Padding lies on the right, where causality hides it."""
        if self.model.active_adapter != adapter:
            self.model.set_adapter(adapter)
        causal = self.model.get_base_model()
        if self._suit:
            suit_attention(causal, ids_BT.shape[1])
        chosen_BT = action_BT[:, 1:].bool()
        with torch.autocast(ids_BT.device.type, self._dtype, enabled=self._dtype != torch.float32):
            hidden_BTE = causal.model(input_ids=ids_BT, use_cache=False).last_hidden_state
            hidden_AE = hidden_BTE[:, :-1][chosen_BT]
            logits_AV = causal.lm_head(hidden_AE)
        logprob_AV = (logits_AV.float() / self._temperature).log_softmax(-1)
        logprob_A = logprob_AV.gather(1, ids_BT[:, 1:][chosen_BT][:, None])[:, 0]
        entropy_A = -(logprob_AV.exp() * logprob_AV).sum(-1)
        return logprob_A, entropy_A, self.value_head(hidden_AE)

    def trainable(self) -> list[torch.nn.Parameter]:
        """The trained adapter's weights, in a fixed order."""
        return [p for name, p in self.model.named_parameters() if ".default." in name]


def pad(samples: list[Sample], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and action mask [B, T], right-padded."""
    longest = max(len(sample.ids) for sample in samples)
    ids_BT = torch.zeros(len(samples), longest, dtype=torch.long)
    action_BT = torch.zeros(len(samples), longest)
    for row, sample in enumerate(samples):
        ids_BT[row, : len(sample.ids)] = torch.tensor(sample.ids)
        action_BT[row, : len(sample.mask)] = torch.tensor(sample.mask)
    return ids_BT.to(device), action_BT.to(device)


def microbatches(samples: list[Sample], tokens: int) -> list[list[Sample]]:
    """Groups of similar length with at most `tokens` padded tokens each, shortest first."""
    batches: list[list[Sample]] = []
    for sample in sorted(samples, key=lambda s: len(s.ids)):
        if batches and (len(batches[-1]) + 1) * len(sample.ids) <= tokens:
            batches[-1].append(sample)
        else:
            batches.append([sample])
    return batches


def annotate(policy: Policy, samples: list[Sample], settings: PpoParams, ranks: Ranks | None = None) -> None:
    """Fill in reference and old log-probabilities, and values where advantages need them (zeros elsewhere)."""
    tokens = settings.minibatch_tokens // PARTS
    for sample, (logprobs, _) in zip(samples, _judge(policy, samples, tokens, "reference", ranks), strict=True):
        sample.reference = logprobs
    if settings.old_logprobs == "trainer" or settings.advantage == "gae":
        for sample, (logprobs, values) in zip(samples, _judge(policy, samples, tokens, "default", ranks), strict=True):
            sample.old, sample.values = logprobs, values
    else:
        for sample in samples:
            sample.values = [0.0] * len(sample.sampled)
    if settings.old_logprobs == "sampler":
        for sample in samples:
            sample.old = list(sample.sampled)


def _judge(
    policy: Policy, samples: list[Sample], tokens: int, adapter: str, ranks: Ranks | None
) -> list[tuple[list[float], list[float]]]:
    """Log-probabilities and values of each sample's agent tokens, without gradients; each of `ranks` computes a
    share."""
    ours = ranks.part(samples) if ranks else samples
    found: dict[int, tuple[list[float], list[float]]] = {}
    with torch.no_grad():
        for batch in microbatches(ours, tokens):
            logprob_A, _, value_A = policy.forward(*pad(batch, policy.model.device), adapter)
            counts = [sum(sample.turn_lengths) for sample in batch]
            parts = zip(batch, torch.split(logprob_A, counts), torch.split(value_A, counts), strict=True)
            found |= {id(sample): (logprobs.tolist(), values.tolist()) for sample, logprobs, values in parts}
    in_order = [found[id(sample)] for sample in ours]
    return ranks.gather(in_order) if ranks else in_order
