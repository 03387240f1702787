"""What PPO's tests share: a tiny policy, parameters, and ragged episodes drawn at random."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tiny import make_tiny_adapter, make_tiny_base

from affine.models.lora import base_digest, load_adapter, load_base
from affine.params import Params, PpoParams, load_params
from affine.training.estimates import Sample
from affine.training.policy import Policy, annotate
from affine.types import ENVS

REPOSITORY = Path(__file__).parents[1]


CPU = torch.device("cpu")


VOCABULARY = 200


def make_base(folder: Path) -> Path:
    """A tiny base with larger embeddings than at birth, so that an adapter can make the policy prefer anything."""
    make_tiny_base(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 12
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def make_sft(base: Path) -> Path:
    """Its SFT adapter, beside it."""
    return make_tiny_adapter(base, base.parent / "sft", scale=0.05)


def params(**changes: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["ppo"] |= {
        "enabled": True, "iterations": 4, "episodes": 10, "epochs": 2, "minibatch_tokens": 600, "learning_rate": 0.01,
        "value_learning_rate": 0.01, "value_warmup": 1, "clip": 0.2, "value_clip": 0.2, "value_coef": 0.5,
        "entropy_coef": 0.01, "gamma": 0.99, "lam": 0.95, "advantage": "gae", "gae": "turn",
        "group": 1, "shaping": 0.0, "curriculum": "none", "kl": 0.01, "kl_target": 0.0, "target_kl": 10.0,
        "old_logprobs": "trainer", "max_grad_norm": 1.0, "temperature": 1.0, "dtype": "float32", "save_every": 2,
        "validate_every": 2, "validation_samples": 2,
        "weights": {env: float(env in ("sat", "textcraft")) for env in ENVS},
    }  # fmt: skip
    data["ppo"] |= changes
    data["rollout"] = {"context": 300, "reply": 8, "slots": 6, "workers": 1}
    return Params.model_validate(data)


def config(**changes: object) -> PpoParams:
    return params(**changes).ppo


def make_policy(base: Path, adapter: Path, temperature: float = 1.0, *, checkpointing: bool = False) -> Policy:
    model = load_base(base, attention="sdpa", dtype=torch.float32, device=CPU)
    peft = load_adapter(model, adapter, base_digest(base), trainable=True)
    peft.load_adapter(adapter, adapter_name="reference", is_trainable=False)
    torch.manual_seed(0)
    return Policy(peft, temperature, checkpointing=checkpointing)


def random_samples(seed: int, count: int = 9, envs: Sequence[str] = ("sat", "abd", "ded")) -> list[Sample]:
    """Ragged episodes: an opening, then replies and observations of random lengths; numbers at random."""
    rng = random.Random(seed)
    made = []
    for k in range(count):
        ids = [rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, 12))]
        mask, lengths = [0] * len(ids), []
        for _ in range(rng.randint(1, 4)):
            lengths.append(rng.randint(1, 6))
            seen = rng.randint(0, 5)
            ids += [rng.randrange(3, VOCABULARY) for _ in range(lengths[-1] + seen)]
            mask += [1] * lengths[-1] + [0] * seen
        agent = sum(lengths)
        progress = [rng.uniform(-0.2, 0.5) for _ in lengths]
        sample = Sample(envs[k % len(envs)], f"0/{k}", ids, mask, lengths, rng.random(), progress, [0.0] * agent)
        for name in ("old", "reference"):
            setattr(sample, name, [rng.uniform(-7, -4) for _ in range(agent)])
        sample.values = [rng.uniform(-1, 1) for _ in range(agent)]
        made.append(sample)
    return made


def prepared(policy: Policy, samples: list[Sample], shift: float = 0.3) -> list[Sample]:
    """Old log-probabilities near the policy's own (so that some are clipped and some not)."""
    rng = random.Random(0)
    annotate(policy, samples, config())
    for sample in samples:
        sample.old = [x + rng.uniform(-shift, shift) for x in sample.old]
        sample.values = [x + rng.uniform(-1, 1) for x in sample.values]
    return samples


def adam(policy: Policy, rate: float, value_rate: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": policy.trainable(), "lr": rate},
            {"params": list(policy.value_head.parameters()), "lr": value_rate},
        ],
        weight_decay=0.0,
    )
