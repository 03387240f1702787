"""Multi-turn PPO with a value head (Schulman et al., 2017, arXiv 1707.06347), top to bottom.

One iteration: the rollout workers play `episodes` training tasks with the current adapter; one pass over
what they played gives old log-probabilities, values and the reference's log-probabilities; the reward is the
episode's score at its last token minus kl times the log-ratio to the SFT policy at every agent token;
advantages by GAE over turns or tokens, normalised within each environment; then clipped updates on the
agent's tokens, every environment carrying the same weight.

The reference policy is the SFT adapter on the same base, never a second model.

Axis legend: B episodes in a minibatch, T tokens, E hidden width, A agent tokens of the minibatch, V vocabulary.
Position t of a [B, T-1] array speaks of token t+1: who predicts it, what it was worth.
"""

from __future__ import annotations

import math
import random
import shutil
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict, set_peft_model_state_dict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from affine.envs import env as env_module
from affine.envs.env import EnvSettings
from affine.errors import AffineError
from affine.files import published, read_json, write_json
from affine.models.attention import PACKED_SDPA, choose_dtype, suit_attention
from affine.models.chat import Renderer
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import base_digest, base_files, load_adapter, load_base, save_adapter, trainable_parameters
from affine.models.memory import keep_freed_memory
from affine.models.quiet import quiet_transformers
from affine.params import Params, PpoParams
from affine.rollout.episodes import Limits, Ticket
from affine.rollout.pool import Players, RolloutPool
from affine.rollout.sampling import Sampling
from affine.rollout.weights import adapter_weights
from affine.tasks import load_tasks
from affine.training.gae import advantages, by_turn, to_tokens
from affine.training.live import Curves
from affine.training.work import work_folder
from affine.types import ENVS, Split, Task, Trajectory

ENV_ORDER = {env: k for k, env in enumerate(ENVS)}

PARTS = 4
"""A minibatch is computed in at least so many parts of similar length: less padding, less memory."""

WARMUP = 5
"""Iterations over which the policy's learning rate rises. Adam's first steps are as long as later ones whatever the
gradient is worth; at full rate they cost more than ten iterations could win back."""

MIN_DEVIATION = 0.1
"""Advantages are divided by no less: where an environment is all but solved (or all but hopeless), what varies
is mostly the value head's error, and blowing that up to unit variance trains on noise."""


class PpoError(AffineError):
    """Training cannot go on; names the iteration and what to change."""


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


@dataclass(slots=True)
class Sample:
    """One played episode with what PPO knows of it; the lists run over its agent tokens."""

    env: str
    task: str
    ids: list[int]
    mask: list[int]
    turn_lengths: list[int]
    score: float
    sampled: list[float]
    old: list[float] = field(default_factory=list)
    reference: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    weight: float = 0.0


def to_sample(trajectory: Trajectory, renderer: Renderer) -> Sample:
    """An episode as one token sequence; agent tokens are exactly the sampled ones."""
    tokens = renderer.trajectory(trajectory)
    lengths = [len(turn.token_ids) for turn in trajectory.turns]
    sampled = [logprob for turn in trajectory.turns for logprob in turn.logprobs]
    assert sum(tokens.action_mask) == len(sampled) == sum(lengths)
    task = trajectory.task
    name = f"{task.level}/{task.id}"
    return Sample(task.env, name, tokens.ids, tokens.action_mask, lengths, trajectory.score, sampled)


class Policy:
    """The model with adapters "default" (trained) and "reference" (the SFT's, frozen), and the value head."""

    def __init__(self, model: PeftModel, temperature: float, dtype: torch.dtype = torch.float32) -> None:
        self.model = model
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


def minibatches(samples: list[Sample], tokens: int, rng: random.Random) -> list[list[Sample]]:
    """Random parts of about `tokens` tokens, each with its share of every environment.

    A step that sees one environment alone (as batches cut by length do) pulls the policy away from the others.
    """
    count = -(-sum(len(sample.ids) for sample in samples) // tokens)
    order = sorted(rng.sample(samples, len(samples)), key=lambda s: ENV_ORDER.get(s.env, len(ENVS)))
    return [part for k in range(count) if (part := order[k::count])]


def annotate(policy: Policy, samples: list[Sample], tokens: int) -> None:
    """Fill in old and reference log-probabilities and values, without gradients."""
    with torch.no_grad():
        for adapter in ("reference", "default"):
            for batch in microbatches(samples, tokens // PARTS):
                logprob_A, _, value_A = policy.forward(*pad(batch, policy.model.device), adapter)
                counts = [sum(sample.turn_lengths) for sample in batch]
                parts = zip(batch, torch.split(logprob_A, counts), torch.split(value_A, counts), strict=True)
                for sample, logprobs, values in parts:
                    if adapter == "reference":
                        sample.reference = logprobs.tolist()
                    else:
                        sample.old, sample.values = logprobs.tolist(), values.tolist()


def estimate(samples: list[Sample], settings: PpoParams) -> None:
    """Advantages and returns of every agent token; normalised advantages and weights per environment."""
    for sample in samples:
        rewards = [-settings.kl * (o - r) for o, r in zip(sample.old, sample.reference, strict=True)]
        rewards[-1] += sample.score
        values = sample.values
        if settings.gae == "turn":
            starts = [sum(sample.turn_lengths[:k]) for k in range(len(sample.turn_lengths))]
            turn_values = [values[start] for start in starts]
            turn_advantages = advantages(
                by_turn(rewards, sample.turn_lengths), turn_values, settings.gamma, settings.lam
            )
            turn_returns = [a + v for a, v in zip(turn_advantages, turn_values, strict=True)]
            sample.advantages = to_tokens(turn_advantages, sample.turn_lengths)
            sample.returns = to_tokens(turn_returns, sample.turn_lengths)
        else:
            sample.advantages = advantages(rewards, values, settings.gamma, settings.lam)
            sample.returns = [a + v for a, v in zip(sample.advantages, values, strict=True)]
    by_env: dict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        by_env[sample.env].append(sample)
    total = sum(len(sample.advantages) for sample in samples)
    for members in by_env.values():
        flat = torch.tensor([a for sample in members for a in sample.advantages], dtype=torch.float64)
        mean, deviation = flat.mean().item(), flat.std(correction=0).item()
        for sample in members:
            sample.advantages = [(a - mean) / max(deviation, MIN_DEVIATION) for a in sample.advantages]
            # Every environment weighs the same, however long its replies are; the mean weight is 1.
            sample.weight = total / (len(by_env) * len(flat))


@dataclass(slots=True)
class Diagnostics:
    """Sums over the minibatches of one iteration, weighted by their agent tokens."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, tokens: int, values: dict[str, float]) -> None:
        self.tokens += tokens
        for name, value in values.items():
            self.sums[name] += tokens * value

    def means(self) -> dict[str, float]:
        return {name: total / max(self.tokens, 1) for name, total in self.sums.items()}


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, samples: list[Sample], settings: PpoParams,
    rng: random.Random, *, value_only: bool,
) -> dict[str, float]:  # fmt: skip
    """One iteration's gradient steps; stops early once approx_kl passes `target_kl`.

    `value_only` (warm-up) trains the value head alone. Raises PpoError, before the step is taken, on a loss or
    a gradient that is not finite.
    """
    seen = Diagnostics()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(settings.epochs):
        for batch in minibatches(samples, settings.minibatch_tokens, rng):
            optimizer.zero_grad(set_to_none=True)
            step = Diagnostics()
            # Not the mean over a part's own tokens: parts of similar length hold different environments, and those
            # with short replies would weigh less beside others.
            total = sum(len(sample.old) for sample in batch)
            for part in microbatches(batch, settings.minibatch_tokens // PARTS):
                loss = _losses(policy, part, settings, step, value_only=value_only) / total
                loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            means = step.means()
            if not (torch.isfinite(norm) and math.isfinite(means["policy_loss"] + means["value_loss"])):
                tasks = ", ".join(sorted(f"{s.env} {s.task}" for s in batch))
                raise PpoError(
                    f"policy loss {means['policy_loss']}, value loss {means['value_loss']}, "
                    f"gradient norm {norm.item()} on {tasks}; lower ppo.learning_rate"
                )
            optimizer.step()
            seen.add(step.tokens, means | {"grad_norm": float(norm)})
            if not value_only and means["approx_kl"] > settings.target_kl:
                return {**seen.means(), "stopped_early": 1.0}
    return {**seen.means(), "stopped_early": 0.0}


def _losses(
    policy: Policy, samples: list[Sample], settings: PpoParams, step: Diagnostics, *, value_only: bool
) -> torch.Tensor:
    """The weighted sum of the losses over the samples' agent tokens; diagnostics go to `step`."""
    ids_BT, action_BT = pad(samples, policy.model.device)
    logprob_A, entropy_A, value_A = policy.forward(ids_BT, action_BT)
    column = {
        name: torch.tensor([x for s in samples for x in getattr(s, name)], device=logprob_A.device)
        for name in ("old", "values", "advantages", "returns")
    }
    weight_A = torch.tensor([s.weight for s in samples for _ in s.old], device=logprob_A.device)
    log_ratio_A = logprob_A - column["old"]
    ratio_A = log_ratio_A.exp()
    clipped_A = ratio_A.clamp(1 - settings.clip, 1 + settings.clip)
    policy_loss_A = -torch.minimum(ratio_A * column["advantages"], clipped_A * column["advantages"])
    near_A = column["values"] + (value_A - column["values"]).clamp(-settings.value_clip, settings.value_clip)
    value_loss_A = 0.5 * torch.maximum((value_A - column["returns"]) ** 2, (near_A - column["returns"]) ** 2)
    loss_A = settings.value_coef * value_loss_A
    if not value_only:
        loss_A = loss_A + policy_loss_A - settings.entropy_coef * entropy_A
    step.add(
        len(log_ratio_A),
        {
            "policy_loss": (weight_A * policy_loss_A).mean().item(),
            "value_loss": (weight_A * value_loss_A).mean().item(),
            "entropy": entropy_A.mean().item(),
            "approx_kl": ((ratio_A - 1) - log_ratio_A).mean().item(),
            "clipfrac": ((ratio_A - 1).abs() > settings.clip).float().mean().item(),
        },
    )
    return (weight_A * loss_A).sum()


def explained_variance(samples: list[Sample]) -> float:
    """1 - Var(return - value) / Var(return) over agent tokens; 0 where returns do not vary."""
    returns = torch.tensor([r for s in samples for r in s.returns], dtype=torch.float64)
    values = torch.tensor([v for s in samples for v in s.values], dtype=torch.float64)
    variance = returns.var(correction=0).item()
    return 1 - (returns - values).var(correction=0).item() / variance if variance > 0 else 0.0


def draw_tickets(tasks: dict[str, list[Task]], params: Params, iteration: int) -> list[Ticket]:
    """The training tasks of one iteration: environments in proportion to their weights, mixed."""
    rng = random.Random(f"ppo/{params.seed}/{iteration}/tasks")
    weights = {env: w for env, w in params.ppo.weights.as_dict().items() if w > 0}
    shares = {env: params.ppo.episodes * w / sum(weights.values()) for env, w in weights.items()}
    counts = {env: math.floor(share) for env, share in shares.items()}
    # Largest remainders first, ties in the order of the table.
    spare = params.ppo.episodes - sum(counts.values())
    for env in sorted(shares, key=lambda e: counts[e] - shares[e])[:spare]:
        counts[env] += 1
    tickets: list[Ticket] = []
    for env, count in counts.items():
        rounds, rest = divmod(count, len(tasks[env]))
        drawn = [tasks[env]] * rounds + [rng.sample(tasks[env], rest)]
        # A task that comes again in one iteration is played from another random stream.
        tickets += [
            Ticket(task, iteration * (rounds + 1) + k, params.seed) for k, part in enumerate(drawn) for task in part
        ]
    rng.shuffle(tickets)
    return tickets


def rollout_metrics(trajectories: list[Trajectory], samples: list[Sample]) -> dict[str, float]:
    """Score and success per environment and over all (mean of environments), lengths, invalid actions."""
    metrics: dict[str, float] = {}
    for env in ENVS:
        played = [t for t in trajectories if t.task.env == env]
        if played:
            metrics[f"score/{env}"] = sum(t.score for t in played) / len(played)
            metrics[f"success/{env}"] = sum(t.solved for t in played) / len(played)
    scores = [value for name, value in metrics.items() if name.startswith("score/")]
    turns = [turn for t in trajectories for turn in t.turns]
    gaps = [abs(a - b) for s in samples for a, b in zip(s.sampled, s.old, strict=True)]
    logs = [o - r for s in samples for o, r in zip(s.old, s.reference, strict=True)]
    return {
        **metrics,
        "score/overall": sum(scores) / len(scores),
        "turns": len(turns) / len(trajectories),
        "reply_tokens": sum(len(turn.token_ids) for turn in turns) / len(turns),
        "invalid": sum(not turn.valid for turn in turns) / len(turns),
        "reference_kl": sum(logs) / len(logs),
        "sampler_gap": max(gaps),
    }


def _env_files(prompts: str) -> list[Path]:
    """What the environments are made of; the trainer's own process imports none of it."""
    folder = Path(env_module.__file__).parent
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".py", ".json"})
    return [*files, Path(prompts)] if Path(prompts).is_file() else files


class Trainer:
    """What a run holds, and its checkpoints."""

    def __init__(self, params: Params, root: Path) -> None:
        self.params, self.settings = params, params.ppo
        base, sft = root / "models" / "base", root / "models" / "sft"
        self.digest = base_digest(base)
        torch.use_deterministic_algorithms(mode=True)
        torch.manual_seed(params.seed)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = choose_dtype(self.settings.dtype, device)
        model = load_base(base, attention=params.sft.attention, dtype=dtype, device=device)
        peft = load_adapter(model, sft, self.digest, trainable=True)
        peft.load_adapter(sft, adapter_name="reference", is_trainable=False)
        self.policy = Policy(peft, self.settings.temperature, dtype)
        config = peft.peft_config["default"]
        self.scale = config.lora_alpha / config.r
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.policy.trainable(), "lr": self.settings.learning_rate},
                {"params": list(self.policy.value_head.parameters()), "lr": self.settings.value_learning_rate},
            ],
            weight_decay=0.0,
        )
        self.renderer = Renderer(AutoTokenizer.from_pretrained(base, local_files_only=True))
        inputs = [*base_files(base), base / "tokenizer.json", sft / "adapter_config.json"]
        inputs += [sft / "adapter_model.safetensors", *_env_files(params.envs.prompts)]
        inputs += [root / "data" / "tasks" / env / "train.jsonl" for env in ENVS]
        sections = ("seed", "ppo", "rollout", "envs")
        identity = {**params.model_dump(include=set(sections)), "attention": params.sft.attention}
        self.work = work_folder(root, "ppo", identity, inputs)
        self.last: dict[str, float] = {}
        self.iteration = self._resume()
        self.curves = Curves(self.work / "live", self.iteration)

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The trained adapter's tensors, by peft's names."""
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(
            self.policy.model, adapter_name="default", save_embedding_layers=False
        )
        return state

    def save(self) -> None:
        """A checkpoint in the work folder, whole or not at all."""
        with published(self.work / "checkpoint") as folder:
            state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.adapter_state().items()}
            save_file(state, folder / "adapter.safetensors")
            save_file(self.policy.value_head.state_dict(), folder / "value_head.safetensors")
            slots = {
                f"{g}.{i}.{name}": value.detach().cpu().clone()
                for g, group in enumerate(self.optimizer.param_groups)
                for i, p in enumerate(group["params"])
                for name, value in sorted(self.optimizer.state[p].items())
            }
            save_file(slots, folder / "optimizer.safetensors")
            write_json(folder / "state.json", {"iteration": self.iteration, "last": self.last})

    def _resume(self) -> int:
        folder = self.work / "checkpoint"
        if not folder.is_dir():
            return 0
        set_peft_model_state_dict(self.policy.model, load_file(folder / "adapter.safetensors"), adapter_name="default")
        self.policy.value_head.load_state_dict(load_file(folder / "value_head.safetensors"))
        for key, value in load_file(folder / "optimizer.safetensors").items():
            g, i, name = key.split(".")
            p = self.optimizer.param_groups[int(g)]["params"][int(i)]
            self.optimizer.state[p][name] = value if name == "step" else value.to(p.device)
        state = read_json(folder / "state.json")
        self.last = state["last"]
        return int(state["iteration"])

    def iterate(self, pool: RolloutPool, tasks: dict[str, list[Task]], clock: dict[str, float]) -> dict[str, float]:
        """One iteration: play, judge, update. Returns what the curves show."""
        settings = self.settings
        started = time.perf_counter()
        pool.load(adapter_weights(self.adapter_state(), self.scale))
        tickets = draw_tickets(tasks, self.params, self.iteration)
        trajectories = pool.play(tickets, Sampling(settings.temperature))
        played = time.perf_counter()
        # An opening that leaves no room for a reply teaches nothing.
        trajectories = [t for t in trajectories if t.turns]
        if not trajectories:
            raise PpoError("no opening left room for a reply; raise rollout.context")
        samples = [to_sample(trajectory, self.renderer) for trajectory in trajectories]
        annotate(self.policy, samples, settings.minibatch_tokens)
        estimate(samples, settings)
        metrics = rollout_metrics(trajectories, samples)
        fraction = 1 - self.iteration / settings.iterations
        risen = min(1.0, (self.iteration - settings.value_warmup + 1) / WARMUP)
        rates = (settings.learning_rate * fraction * max(risen, 0.0), settings.value_learning_rate * fraction)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        rng = random.Random(f"ppo/{self.params.seed}/{self.iteration}/update")
        value_only = self.iteration < settings.value_warmup
        try:
            metrics |= update(self.policy, self.optimizer, samples, settings, rng, value_only=value_only)
        except PpoError as error:
            raise PpoError(f"iteration {self.iteration + 1}: {error}") from None
        metrics["explained_variance"] = explained_variance(samples)
        metrics["learning_rate"] = rates[0]
        clock["rollout"] += played - started
        clock["update"] += time.perf_counter() - played
        return metrics


def train_ppo(params: Params, root: Path, *, console: Console | None = None) -> None:
    """Stage `ppo`: `models/ppo/` (adapter, value head), `metrics/ppo.json` and curves.

    With `ppo.enabled: false` the SFT adapter passes through. Raises PpoError, CheckpointError, EnvError.
    """
    sft, out = root / "models" / "sft", root / "models" / "ppo"
    if not params.ppo.enabled:
        with published(out) as folder:
            shutil.copytree(sft, folder, dirs_exist_ok=True)
        write_json(root / "metrics" / "ppo.json", {"enabled": False})
        shutil.rmtree(root / "metrics" / "curves" / "ppo", ignore_errors=True)
        (root / "metrics" / "curves" / "ppo").mkdir(parents=True)
        return
    keep_freed_memory()
    quiet_transformers()
    check_checkpoint(root / "models" / "base")
    trainer = Trainer(params, root)
    tasks = {env: load_tasks(root, env, Split.TRAIN) for env in ENVS if getattr(params.ppo.weights, env) > 0}
    players = Players(
        root / "models" / "base",
        EnvSettings(params.envs.mode, params.envs.prompts),
        Limits(params.rollout.context, params.rollout.reply),
        params.rollout.slots,
    )
    clock: dict[str, float] = defaultdict(float)
    total = params.ppo.iterations
    bar = Progress(
        TextColumn("ppo"), BarColumn(), MofNCompleteColumn(), TextColumn("score {task.fields[score]:.3f}"),
        TimeRemainingColumn(), console=console or Console(stderr=True), disable=console is None,
    )  # fmt: skip
    with bar, RolloutPool(players, params.rollout.workers) as pool:
        row = bar.add_task("ppo", total=total, completed=trainer.iteration, score=float("nan"))
        while trainer.iteration < total:
            trainer.last = trainer.iterate(pool, tasks, clock)
            trainer.iteration += 1
            trainer.curves.log(trainer.iteration, trainer.last)
            if trainer.iteration % params.ppo.save_every == 0 or trainer.iteration == total:
                trainer.save()
            bar.update(row, completed=trainer.iteration, score=trainer.last["score/overall"])
    _publish(trainer, root, out)
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.items())
    print(f"ppo: {total} iterations of {params.ppo.episodes} episodes ({spent or 'nothing left to do'})")


def _publish(trainer: Trainer, root: Path, out: Path) -> None:
    with published(out) as folder:
        save_adapter(trainer.policy.model, folder, trainer.digest, adapter="default")
        save_file(trainer.policy.value_head.state_dict(), folder / "value_head.safetensors")
    trainer.curves.publish(root / "metrics" / "curves" / "ppo")
    summary: dict[str, Any] = {
        "enabled": True,
        "iterations": trainer.settings.iterations,
        "episodes": trainer.settings.iterations * trainer.settings.episodes,
        "trainable_parameters": trainable_parameters(trainer.policy.model),
        "last": trainer.last,
    }
    write_json(root / "metrics" / "ppo.json", summary)
    shutil.rmtree(trainer.work)
