"""The policy as PPO sees it is the model, and its parts lose no episode."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from ppo_inputs import (
    CPU,
    config,
    make_policy,
    random_samples,
)
from tiny import make_tiny_adapter

from affine.training.estimates import Sample
from affine.training.policy import annotate, microbatches, pad

pytestmark = pytest.mark.usefixtures("one_thread")


def test_forward_is_the_models_own(base: Path, sft: Path) -> None:
    policy = make_policy(base, sft, temperature=0.7)
    samples = random_samples(1)
    with torch.no_grad():
        logprobs, entropies, values = policy.forward(*pad(samples, CPU))
    k = 0
    for sample in samples:
        with torch.no_grad():
            out = policy.model(torch.tensor([sample.ids]), output_hidden_states=True)
        distribution = (out.logits[0] / 0.7).softmax(-1)
        for t in range(1, len(sample.ids)):
            if sample.mask[t]:
                p = distribution[t - 1]
                assert logprobs[k].item() == pytest.approx(math.log(p[sample.ids[t]].item()), abs=1e-4)
                assert entropies[k].item() == pytest.approx(-(p * p.log()).sum().item(), abs=1e-4)
                expected = policy.value_head(out.hidden_states[-1][0, t - 1])
                assert values[k].item() == pytest.approx(expected.item(), abs=1e-5)
                k += 1
    assert k == len(logprobs) == len(values)


def test_logits_exist_for_agent_tokens_only(base: Path, sft: Path) -> None:
    policy = make_policy(base, sft)
    made: list[int] = []
    policy.model.get_output_embeddings().register_forward_hook(lambda *call: made.append(call[2].shape[0]))
    samples = random_samples(2)
    policy.forward(*pad(samples, CPU))
    assert made == [sum(sum(sample.turn_lengths) for sample in samples)]


def test_dropout_stays_off(base: Path, tmp_path: Path) -> None:
    """Old and new log-probabilities must differ by updates alone."""
    adapter = make_tiny_adapter(base, tmp_path / "sft", lora_dropout=0.5)
    policy = make_policy(base, adapter)
    samples = random_samples(5)
    annotate(policy, samples, config())
    for sample in samples:
        assert sample.old == pytest.approx(sample.reference, abs=1e-5)  # the same adapter twice, before any step
    logprobs, _, _ = policy.forward(*pad(samples, CPU))
    assert logprobs.tolist() == pytest.approx([x for sample in samples for x in sample.old], abs=1e-4)


def test_checkpointing_keeps_less_and_changes_nothing(base: Path, tmp_path: Path) -> None:
    adapter = make_tiny_adapter(base, tmp_path / "sft", scale=0.05, lora_dropout=0.5)
    samples = random_samples(8)
    found = []
    for checkpointing in (False, True):
        policy = make_policy(base, adapter, checkpointing=checkpointing)
        kept = 0

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs, _, _ = policy.forward(*pad(samples, CPU))
        logprobs.sum().backward()  # type: ignore[no-untyped-call]
        found.append((kept, logprobs.detach(), [p.grad for p in policy.trainable()]))
    (all_kept, plain, gradients), (some_kept, anew, others) = found
    assert some_kept < all_kept / 2
    torch.testing.assert_close(anew, plain)
    assert any(g.abs().sum() > 0 for g in gradients if g is not None)
    for gradient, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, gradient)


def test_old_logprobs_are_the_samplers_or_the_trainers(base: Path, sft: Path) -> None:
    """Values come with the trainer's pass, which the sampler's spare only where no value is needed."""
    made: dict[tuple[str, str], list[Sample]] = {}
    for old in ("trainer", "sampler"):
        for advantage in ("gae", "group"):
            policy = make_policy(base, sft)
            torch.nn.init.ones_(policy.value_head.outer.weight)
            passes: list[str] = []
            forward = policy.forward
            policy.forward = lambda ids, mask, adapter="default", f=forward, p=passes: (  # type: ignore[method-assign]
                p.append(adapter) or f(ids, mask, adapter)  # type: ignore[func-returns-value]
            )
            samples = made[old, advantage] = random_samples(7)
            annotate(policy, samples, config(old_logprobs=old, advantage=advantage, group=2))
            spared = old == "sampler" and advantage == "group"
            assert set(passes) == ({"reference"} if spared else {"reference", "default"})
            assert all(any(sample.values) != spared for sample in samples)
    for sampler, trainer in zip(made["sampler", "gae"], made["trainer", "gae"], strict=True):
        assert sampler.old == sampler.sampled != trainer.old
        assert (sampler.values, sampler.reference) == (trainer.values, trainer.reference)
    for sampler, trainer in zip(made["sampler", "group"], made["trainer", "group"], strict=True):
        assert sampler.old == sampler.sampled != trainer.old
        assert sampler.reference == trainer.reference


def test_microbatches_hold_every_episode_once_within_the_budget() -> None:
    samples = random_samples(6, 40)
    for budget in (30, 100, 1000):
        batches = microbatches(samples, budget)
        assert sorted(s.task for batch in batches for s in batch) == sorted(s.task for s in samples)
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(len(s.ids) for s in batch) <= budget
