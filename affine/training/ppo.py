"""Multi-turn PPO (Schulman et al., 2017, arXiv 1707.06347), top to bottom.

One iteration: the rollout workers play `episodes` training tasks with the current adapter; one pass over
what they played gives the reference's log-probabilities, and old ones and values where they are asked for
(`affine.training.policy`); rewards, advantages and weights follow from those (`affine.training.estimates`); then
clipped updates on the agent's tokens. Which tasks are played is `affine.training.curriculum`'s, which adapter is kept
in the end `affine.training.selection`'s.

The reference policy is the SFT adapter on the same base, never a second model.

Axis legend: A agent tokens of a minibatch.
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
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from affine.errors import AffineError
from affine.files import published, read_json, write_json
from affine.logs import log_root
from affine.models.attention import choose_dtype
from affine.models.chat import Renderer
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import base_digest, base_files, load_adapter, load_base, save_adapter, trainable_parameters
from affine.models.memory import TrainingMemory, estimate_training, keep_freed_memory, out_of_memory
from affine.models.quiet import quiet_transformers
from affine.params import Params, PpoParams
from affine.rollout.episodes import tickets_of
from affine.rollout.pool import RolloutPool, players_of
from affine.rollout.sampling import Sampling
from affine.rollout.weights import adapter_weights
from affine.tasks import load_tasks
from affine.training.curriculum import Curriculum, draw_tickets
from affine.training.estimates import Sample, estimate, explained_variance, informative, to_sample
from affine.training.live import Curves
from affine.training.policy import PARTS, Policy, annotate, microbatches, pad
from affine.training.ranks import Ranks
from affine.training.selection import Selection, validation_score
from affine.training.track import THROUGHPUT
from affine.training.work import environment_files, work_folder
from affine.types import ENVS, Split, Task, Trajectory

ENV_ORDER = {env: k for k, env in enumerate(ENVS)}

KL_GAIN = 0.1
"""Of the adaptive KL controller; errors beyond 20 % count as 20 %."""


class PpoError(AffineError):
    """Training cannot go on; names the iteration and what to change."""


def minibatches(samples: list[Sample], tokens: int, rng: random.Random) -> list[list[Sample]]:
    """Random parts of about `tokens` tokens, each with its share of every environment.

    A step that sees one environment alone (as batches cut by length do) pulls the policy away from the others.
    """
    count = -(-sum(len(sample.ids) for sample in samples) // tokens)
    order = sorted(rng.sample(samples, len(samples)), key=lambda s: ENV_ORDER.get(s.env, len(ENVS)))
    return [part for k in range(count) if (part := order[k::count])]


@dataclass(slots=True)
class Diagnostics:
    """Sums over the minibatches of one iteration, weighted by their agent tokens, and the largest `gap` between the
    sampler's log-probability of a token and this forward's."""

    tokens: int = 0
    sums: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    gap: float = 0.0

    def add(self, tokens: int, values: dict[str, float]) -> None:
        self.tokens += tokens
        for name, value in values.items():
            self.sums[name] += tokens * value

    def combine(self, ranks: Ranks) -> None:
        """Take in the other ranks' sums."""
        parts = ranks.gather([(self.tokens, dict(self.sums), self.gap)])
        self.tokens, self.sums = 0, defaultdict(float)
        for tokens, sums, gap in parts:
            self.tokens += tokens
            self.gap = max(self.gap, gap)
            for name, total in sums.items():
                self.sums[name] += total

    def means(self) -> dict[str, float]:
        return {name: total / max(self.tokens, 1) for name, total in self.sums.items()}


def update(
    policy: Policy, optimizer: torch.optim.Optimizer, samples: list[Sample], settings: PpoParams,
    rng: random.Random, *, value_only: bool, ranks: Ranks | None = None,
) -> dict[str, float]:  # fmt: skip
    """One iteration's gradient steps; stops early once approx_kl passes `target_kl`. Each of `ranks` computes its share
    of every minibatch; all take the same steps.

    `value_only` (warm-up) trains the value head alone. Raises PpoError, before the step is taken, on a loss or
    a gradient that is not finite.
    """
    seen = Diagnostics()
    sampler_gap: float | None = None
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for _ in range(settings.epochs):
        for batch in minibatches(samples, settings.minibatch_tokens, rng):
            optimizer.zero_grad(set_to_none=True)
            step = Diagnostics()
            # Not the mean over a part's own tokens: parts of similar length hold different environments, and those
            # with short replies would weigh less beside others.
            total = sum(len(sample.old) for sample in batch)
            for part in microbatches(ranks.part(batch) if ranks else batch, settings.minibatch_tokens // PARTS):
                loss = _losses(policy, part, settings, step, value_only=value_only) / total
                loss.backward()  # type: ignore[no-untyped-call]
            if ranks:
                ranks.sum_gradients(parameters)
                step.combine(ranks)
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
            if sampler_gap is None:  # later minibatches meet another policy than the one that sampled
                sampler_gap = step.gap
            if not value_only and means["approx_kl"] > settings.target_kl:
                return {**seen.means(), "sampler_gap": sampler_gap, "stopped_early": 1.0}
    return {**seen.means(), "sampler_gap": sampler_gap or 0.0, "stopped_early": 0.0}


def _losses(
    policy: Policy, samples: list[Sample], settings: PpoParams, step: Diagnostics, *, value_only: bool
) -> torch.Tensor:
    """The weighted sum of the losses over the samples' agent tokens; diagnostics go to `step`."""
    ids_BT, action_BT = pad(samples, policy.model.device)
    logprob_A, entropy_A, value_A = policy.forward(ids_BT, action_BT)
    column = {
        name: torch.tensor([x for s in samples for x in getattr(s, name)], device=logprob_A.device)
        for name in ("sampled", "old", "values", "advantages", "returns")
    }
    weight_A = torch.tensor([s.weight for s in samples for _ in s.old], device=logprob_A.device)
    log_ratio_A = logprob_A - column["old"]
    ratio_A = log_ratio_A.exp()
    clipped_A = ratio_A.clamp(1 - settings.clip, 1 + settings.clip)
    policy_loss_A = -torch.minimum(ratio_A * column["advantages"], clipped_A * column["advantages"])
    near_A = column["values"] + (value_A - column["values"]).clamp(-settings.value_clip, settings.value_clip)
    value_loss_A = 0.5 * torch.maximum((value_A - column["returns"]) ** 2, (near_A - column["returns"]) ** 2)
    # Groups need no value head, and none is trained.
    loss_A = settings.value_coef * value_loss_A if settings.advantage == "gae" else torch.zeros_like(value_loss_A)
    if not value_only:
        loss_A = loss_A + policy_loss_A - settings.entropy_coef * entropy_A
    step.gap = max(step.gap, (logprob_A - column["sampled"]).abs().max().item())
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


def check_scores(trajectories: list[Trajectory]) -> None:
    """Raises PpoError naming the first task whose score is not finite."""
    for task in (t.task for t in trajectories if not math.isfinite(t.score)):
        raise PpoError(
            f"the score of {task.env}, level {task.level}, task {task.id} is no number: the environment's fault"
        )


def rollout_metrics(trajectories: list[Trajectory]) -> dict[str, float]:
    """Score and success per environment and over all (mean of environments), lengths, invalid actions."""
    metrics: dict[str, float] = {}
    for env in ENVS:
        played = [t for t in trajectories if t.task.env == env]
        if played:
            metrics[f"score/{env}"] = sum(t.score for t in played) / len(played)
            metrics[f"success/{env}"] = sum(t.solved for t in played) / len(played)
    scores = [value for name, value in metrics.items() if name.startswith("score/")]
    turns = [turn for t in trajectories for turn in t.turns]
    return {
        **metrics,
        "score/overall": sum(scores) / len(scores),
        "turns": len(turns) / len(trajectories),
        "reply_tokens": sum(len(turn.token_ids) for turn in turns) / len(turns),
        "invalid": sum(not turn.valid for turn in turns) / len(turns),
    }


def reference_kl(samples: list[Sample]) -> float:
    """Nats per agent token from the SFT policy."""
    logs = [o - r for s in samples for o, r in zip(s.old, s.reference, strict=True)]
    return sum(logs) / len(logs)


def adapted(kl: float, observed: float, target: float) -> float:
    """The price of a nat after an iteration that lay `observed` nats per token from the SFT policy (Ziegler et al.,
    2019, arXiv 1909.08593)."""
    return kl * (1 + KL_GAIN * min(max(observed / target - 1, -0.2), 0.2))


class Trainer:
    """What a run holds, and its checkpoints."""

    def __init__(self, params: Params, root: Path) -> None:
        self.params, self.settings = params, params.ppo
        base, sft = root / "models" / "base", root / "models" / "sft"
        self.digest = base_digest(base)
        torch.use_deterministic_algorithms(mode=True)
        torch.manual_seed(params.seed)
        self.ranks = Ranks()
        device = self.ranks.device
        dtype = choose_dtype(self.settings.dtype, device)
        model = load_base(base, attention=params.sft.attention, dtype=dtype, device=device)
        peft = load_adapter(model, sft, self.digest, trainable=True)
        peft.load_adapter(sft, adapter_name="reference", is_trainable=False)
        self.policy = Policy(peft, self.settings.temperature, dtype, checkpointing=self.settings.gradient_checkpointing)
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
        inputs += [sft / "adapter_model.safetensors", *environment_files(params.envs.prompts)]
        folders = [root / "data" / "tasks" / env for env in ENVS]
        inputs += [folder / f"{split.value}.jsonl" for folder in folders for split in (Split.TRAIN, Split.VALIDATION)]
        sections = ("seed", "ppo", "rollout", "envs")
        identity = {**params.model_dump(include=set(sections)), "attention": params.sft.attention}
        self.work = work_folder(root, "ppo", identity, inputs)
        self.last: dict[str, float] = {}
        self.kl = self.settings.kl
        self.curriculum = Curriculum()
        self.selection = Selection()
        self.iteration = self._resume()
        self.ranks.wait()  # until all have read the checkpoint
        self.curves = Curves(self.work / "live", self.iteration) if self.ranks.main else None

    def adapter_state(self) -> dict[str, torch.Tensor]:
        """The trained adapter's tensors, by peft's names."""
        state: dict[str, torch.Tensor] = get_peft_model_state_dict(
            self.policy.model, adapter_name="default", save_embedding_layers=False
        )
        return state

    def save(self) -> None:
        """A checkpoint in the work folder, whole or not at all."""
        with published(self.work / "checkpoint") as folder:
            adapter = {name: tensor.detach().cpu().contiguous() for name, tensor in self.adapter_state().items()}
            save_file(adapter, folder / "adapter.safetensors")
            save_file(self.policy.value_head.state_dict(), folder / "value_head.safetensors")
            slots = {
                f"{g}.{i}.{name}": value.detach().cpu().clone()
                for g, group in enumerate(self.optimizer.param_groups)
                for i, p in enumerate(group["params"])
                for name, value in sorted(self.optimizer.state[p].items())
            }
            save_file(slots, folder / "optimizer.safetensors")
            if self.selection.kept is not None:
                save_file(self.selection.adapter, folder / "kept_adapter.safetensors")
                save_file(self.selection.value_head, folder / "kept_value_head.safetensors")
            state = {
                "iteration": self.iteration,
                "kl": self.kl,
                "curriculum": self.curriculum.variances,
                "validation": list(self.selection.scores.items()),
                "kept": self.selection.kept,
                "last": self.last,
            }
            write_json(folder / "state.json", state)

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
        self.last, self.kl, self.curriculum = state["last"], state["kl"], Curriculum(state["curriculum"])
        if state["kept"] is not None:
            kept = (load_file(folder / f"kept_{name}.safetensors") for name in ("adapter", "value_head"))
            self.selection = Selection(dict(state["validation"]), state["kept"], *kept)
        return int(state["iteration"])

    def iterate(self, pool: RolloutPool, tasks: dict[str, list[Task]], clock: dict[str, float]) -> dict[str, float]:
        """One iteration: play, judge, update. Returns what the curves show; what they say of tokens is about those
        trained on (`informative` is their episodes' share), and missing where no group had anything to say. Adds to
        `clock` the seconds that this process spent to generate, in the environment (measured in the rollout workers),
        to annotate and to update."""
        settings = self.settings
        started, in_environments = time.perf_counter(), pool.environment_seconds
        pool.load(adapter_weights(self.adapter_state(), self.scale))
        tickets = draw_tickets(tasks, settings, self.params.seed, self.iteration, self.curriculum)
        played_here = pool.play(self.ranks.part(tickets), Sampling(settings.temperature))
        trajectories = self.ranks.gather(played_here)
        played = time.perf_counter()
        # An opening that leaves no room for a reply teaches nothing.
        trajectories = [t for t in trajectories if t.turns]
        if not trajectories:
            raise PpoError("no opening left room for a reply; raise rollout.context")
        check_scores(trajectories)
        samples = informative([to_sample(trajectory, self.renderer) for trajectory in trajectories], settings)
        annotate(self.policy, samples, settings, self.ranks)
        annotated = time.perf_counter()
        estimate(samples, settings, self.kl)
        metrics = rollout_metrics(trajectories)
        metrics |= {"informative": len(samples) / len(trajectories), "kl_coef": self.kl}
        fraction = 1 - self.iteration / settings.iterations
        value_warmup = settings.value_warmup if settings.advantage == "gae" else 0
        # Adam's first steps are as long as later ones whatever the gradient is worth.
        risen = min(1.0, (self.iteration - value_warmup + 1) / max(settings.warmup, 1))
        rates = (settings.learning_rate * fraction * max(risen, 0.0), settings.value_learning_rate * fraction)
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        rng = random.Random(f"ppo/{self.params.seed}/{self.iteration}/update")
        if samples:
            value_only = self.iteration < value_warmup
            metrics["reference_kl"] = reference_kl(samples)
            metrics |= update(
                self.policy, self.optimizer, samples, settings, rng, value_only=value_only, ranks=self.ranks
            )
            if settings.advantage == "gae":
                metrics["explained_variance"] = explained_variance(samples)
            if settings.kl_target:
                self.kl = adapted(self.kl, metrics["reference_kl"], settings.kl_target)
        self.curriculum.learn(trajectories)
        metrics["learning_rate"] = rates[0]
        in_environments = pool.environment_seconds - in_environments
        clock["generate"] += played - started - in_environments
        clock["environment"] += in_environments
        clock["annotate"] += annotated - played
        clock["update"] += time.perf_counter() - annotated
        if self.curves:
            sampled = sum(len(turn.token_ids) for t in trajectories for turn in t.turns)
            trained = sum(len(sample.ids) for sample in samples)  # prompts and observations included
            throughput = {
                "rollout_tokens_per_second": sampled / (played - started),
                "update_tokens_per_second": trained / (time.perf_counter() - played),
            }
            self.curves.log_throughput(self.iteration + 1, throughput)
        return metrics

    def validate(
        self, pool: RolloutPool, tasks: dict[str, list[Task]], iteration: int, clock: dict[str, float]
    ) -> float:
        """Play the validation tasks with the adapter after `iteration`, which becomes a candidate to be kept. Returns
        its score; adds to `clock` as `iterate` does."""
        started, in_environments = time.perf_counter(), pool.environment_seconds
        pool.load(adapter_weights(self.adapter_state(), self.scale))
        tickets = tickets_of(tasks, self.settings.validation_samples, self.params.seed)
        played = self.ranks.gather(pool.play(self.ranks.part(tickets), Sampling(self.settings.temperature)))
        check_scores(played)
        score = validation_score(played)
        self.selection.offer(iteration, score, self.adapter_state(), self.policy.value_head.state_dict())
        in_environments = pool.environment_seconds - in_environments
        clock["generate"] += time.perf_counter() - started - in_environments
        clock["environment"] += in_environments
        return score

    def take_kept(self) -> None:
        """Go back to the best candidate, where there were any."""
        if self.selection.kept is not None:
            set_peft_model_state_dict(self.policy.model, self.selection.adapter, adapter_name="default")
            self.policy.value_head.load_state_dict(self.selection.value_head)

    def memory_advice(self) -> str:
        """What to lower where memory ran out, with an estimate of what it takes."""
        minibatch, context = self.settings.minibatch_tokens, self.params.rollout.context
        checkpointing = self.settings.gradient_checkpointing

        def need(tokens: int, *, checkpointing: bool) -> TrainingMemory:
            # A part holds at least one episode, however small the minibatch.
            return estimate_training(self.policy.model, max(tokens // PARTS, context), checkpointing=checkpointing)

        now = need(minibatch, checkpointing=checkpointing)
        advice = (
            f"out of memory; about {now.total_gb:.2g} GB are needed ({now.fixed_gb:.2g} GB of weights and optimizer,"
            f" the rest for {max(minibatch // PARTS, context)} tokens: 1/{PARTS} of ppo.minibatch_tokens, now"
            f" {minibatch}, but no less than rollout.context, now {context}). ppo.minibatch_tokens {minibatch // 2}"
            f" needs about {need(minibatch // 2, checkpointing=checkpointing).total_gb:.2g} GB"
        )
        if not checkpointing:
            advice += f", ppo.gradient_checkpointing: true about {need(minibatch, checkpointing=True).total_gb:.2g} GB"
        return advice


def train_ppo(params: Params, root: Path, *, console: Console | None = None) -> None:
    """Stage `ppo`: `models/ppo/` (adapter, value head), `metrics/ppo.json` and curves.

    With `ppo.enabled: false` the SFT adapter passes through. Raises PpoError, CheckpointError, EnvError.
    """
    sft, out = root / "models" / "sft", root / "models" / "ppo"
    if not params.ppo.enabled:
        if not Ranks().main:
            return
        with published(out) as folder:
            shutil.copytree(sft, folder, dirs_exist_ok=True)
        write_json(root / "metrics" / "ppo.json", {"enabled": False})
        shutil.rmtree(root / "metrics" / "curves" / "ppo", ignore_errors=True)
        (root / "metrics" / "curves" / "ppo").mkdir(parents=True)
        return
    keep_freed_memory()
    quiet_transformers()
    check_checkpoint(root / "models" / "base")
    tasks, held_out = _tasks(params, root)
    trainer = Trainer(params, root)
    players = players_of(params, root / "models" / "base")
    clock: dict[str, float] = defaultdict(float)
    total = params.ppo.iterations
    bar = Progress(
        TextColumn("ppo"), BarColumn(), MofNCompleteColumn(), TextColumn("score {task.fields[score]:.3f}"),
        TimeRemainingColumn(), console=console or Console(stderr=True),
        disable=console is None or not trainer.ranks.main,
    )  # fmt: skip
    with bar, RolloutPool(players, params.rollout.workers) as pool:
        row = bar.add_task("ppo", total=total, completed=trainer.iteration, score=float("nan"))
        while trainer.iteration < total:
            try:
                if held_out and trainer.iteration == 0:
                    trainer.validate(pool, held_out, 0, clock)
                trainer.last = trainer.iterate(pool, tasks, clock)
                done = trainer.iteration + 1
                if held_out and (done % params.ppo.validate_every == 0 or done == total):
                    trainer.last["validation_score"] = trainer.validate(pool, held_out, done, clock)
            except PpoError as error:
                raise PpoError(f"iteration {trainer.iteration + 1}: {error}") from None
            except (MemoryError, RuntimeError) as error:
                if not out_of_memory(error):
                    raise
                raise PpoError(f"iteration {trainer.iteration + 1}: {trainer.memory_advice()}") from None
            trainer.iteration = done
            if trainer.curves:
                trainer.curves.log(trainer.iteration, trainer.last)
                if trainer.iteration % params.ppo.save_every == 0 or trainer.iteration == total:
                    trainer.save()
            bar.update(row, completed=trainer.iteration, score=trainer.last["score/overall"])
    trainer.take_kept()
    if trainer.curves:
        _publish(trainer, trainer.curves, root, out)
    trainer.ranks.wait()
    if trainer.ranks.main:
        _say(trainer, clock)


def _tasks(params: Params, root: Path) -> tuple[dict[str, list[Task]], dict[str, list[Task]]]:
    """What is trained on, and what adapters are compared by (nothing where `validate_every` is 0), per environment."""
    envs = [env for env in ENVS if getattr(params.ppo.weights, env) > 0]
    train = {env: load_tasks(root, env, Split.TRAIN) for env in envs}
    if not params.ppo.validate_every:
        return train, {}
    validation = {env: load_tasks(root, env, Split.VALIDATION) for env in envs}
    if not any(validation.values()):
        raise PpoError(
            "no validation tasks to choose an adapter by; raise tasks.ENV.validation or set ppo.validate_every to 0"
        )
    return train, validation


def _say(trainer: Trainer, clock: dict[str, float]) -> None:
    """The last lines of a run."""
    settings, scores, kept = trainer.settings, trainer.selection.scores, trainer.selection.kept
    spent = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.items())
    print(f"ppo: {settings.iterations} iterations of {settings.episodes} episodes ({spent or 'nothing left to do'})")
    if kept is not None:
        print(f"ppo: kept after iteration {kept}: {scores[kept]:.3f} on validation tasks (sft {scores[0]:.3f})")


def _publish(trainer: Trainer, curves: Curves, root: Path, out: Path) -> None:
    with published(out) as folder:
        save_adapter(trainer.policy.model, folder, trainer.digest, adapter="default")
        save_file(trainer.policy.value_head.state_dict(), folder / "value_head.safetensors")
    curves.publish(root / "metrics" / "curves" / "ppo")
    curves.publish_throughput(log_root(root) / THROUGHPUT / "ppo")
    summary: dict[str, Any] = {
        "enabled": True,
        "iterations": trainer.settings.iterations,
        "episodes": trainer.settings.iterations * trainer.settings.episodes,
        "trainable_parameters": trainable_parameters(trainer.policy.model),
        "last": trainer.last,
    }
    if trainer.selection.kept is not None:
        summary["kept_iteration"] = trainer.selection.kept
        summary["validation_score"] = trainer.selection.scores[trainer.selection.kept]
        summary["sft_validation_score"] = trainer.selection.scores[0]
        digits = len(str(trainer.settings.iterations))  # zeros in front, so that they sort as numbers do
        summary["validation"] = {f"{k:0{digits}}": score for k, score in trainer.selection.scores.items()}
    write_json(root / "metrics" / "ppo.json", summary)
    shutil.rmtree(trainer.work)
