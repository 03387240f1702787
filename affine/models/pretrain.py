"""Make the nano model from seed and code: `python -m affine pretrain`.

Text comes from noisy play of *training* tasks only (each episode with its own share of uninformed turns, so
that the model knows the formats and plays poorly) and from synthetic exercises (`affine.models.skills`).
After `initialise` a few retrieval drills finish the induction heads; then one pass of steps over the mixture,
matrices by Muon, the rest by AdamW, the learning rate falling linearly over the second half.

What a step trains on is a function of (seed, step) alone and checkpoints hold model, optimizers and the
corpus's digest, so a killed run goes on where it stopped and ends in the same bytes.
"""

from __future__ import annotations

import json
import platform
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from affine.collect.collect import Attempts, trajectories
from affine.envs.env import EnvSettings
from affine.files import FileError, published, read_records, write_json, write_records
from affine.models.attention import suit_attention
from affine.models.chat import Renderer
from affine.models.memory import keep_freed_memory
from affine.models.nano import initialise, nano_config, save_checkpoint, train_tokenizer
from affine.models.quiet import quiet_transformers
from affine.models.skills import exercise, retrieval_drill
from affine.params import Params, PretrainParams
from affine.tasks import load_tasks
from affine.training.work import environment_files, file_digest, work_folder
from affine.types import ENVS, Message, Split, Trajectory, trajectory_from_json

POOL = 32
"""Batches that are drawn and sorted by length together, to keep padding small."""


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids and a loss weight per token."""

    ids: list[int]
    weights: list[float]


def build_corpus(params: Params, root: Path, folder: Path) -> list[Trajectory]:
    """Noisy play of every environment's training tasks, kept in `folder`/<env>.jsonl for the next run."""
    settings = EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe)
    corpus: list[Trajectory] = []
    levels = params.base.pretrain.noise
    for env in ENVS:
        path = folder / f"{env}.jsonl"
        if not path.is_file():
            tasks = load_tasks(root, env, Split.TRAIN)
            if others := {task.seed for task in tasks} - {params.tasks.seed}:
                raise FileError(
                    f"data/tasks/{env}/train.jsonl: made with tasks.seed {min(others)}, and params.yaml says"
                    f" {params.tasks.seed}; run `dvc repro tasks`"
                )
            per_level = params.base.pretrain.episodes // len(levels)
            played: list[Trajectory] = []
            for k, noise in enumerate(levels):
                how = Attempts(
                    env, settings, 1000 + k, "action", noise, 1.0, params.collect.time_limit, single_turns=True
                )
                first = k * len(tasks) // len(levels)
                rotated = tasks[first:] + tasks[:first]
                passes = -(-per_level // len(tasks))
                played += [t for _, t in zip(range(per_level), trajectories(how, rotated, passes), strict=False) if t]
            write_records(path, played)
        corpus += read_records(path, trajectory_from_json)
    return corpus


def _texts(corpus: Sequence[Trajectory], seed: int) -> Iterator[str]:
    rng = random.Random(f"pretrain/tokenizer/{seed}")
    words = _words(corpus)
    for trajectory in corpus:
        yield from (message.content for message in trajectory.opening)
        for turn in trajectory.turns:
            yield turn.text
            yield turn.observation
        yield "\n".join(exercise(rng, words))


def _words(corpus: Sequence[Trajectory]) -> list[str]:
    """The plain words of the corpus, as material for exercises."""
    words = {
        word
        for trajectory in corpus
        for message in trajectory.opening
        for word in message.content.replace(",", " ").replace(".", " ").split()
        if word.isascii() and word.isalpha() and word.islower() and 2 < len(word) < 12
    }
    return sorted(words)


def _render(corpus: Sequence[Trajectory], renderer: Renderer, prompt_weight: float) -> dict[str, list[Row]]:
    """Per environment. Uninformed turns carry the loss too: this is the base model, which plays poorly."""
    rows: dict[str, list[Row]] = {env: [] for env in ENVS}
    for trajectory in corpus:
        ids = renderer.opening(trajectory.opening)
        weights = [prompt_weight] * len(ids)
        for k, turn in enumerate(trajectory.turns):
            reply = renderer.reply(turn.text)
            ids += reply
            weights += [1.0] * len(reply)
            if k + 1 < len(trajectory.turns):
                between = renderer.observation(turn.observation)
                ids += between
                weights += [prompt_weight] * len(between)
        rows[trajectory.task.env].append(Row(ids, weights))
    return rows


def _exercise_row(rng: random.Random, words: Sequence[str], renderer: Renderer, prompt_weight: float) -> Row:
    """Several exercises as turns of one conversation."""
    first, answer = exercise(rng, words)
    ids = renderer.opening([Message("user", first)])
    weights = [prompt_weight] * len(ids)
    for more in range(rng.randint(1, 3)):
        if more:
            question, answer = exercise(rng, words)
            between = renderer.observation(question)
            ids, weights = ids + between, weights + [prompt_weight] * len(between)
        reply = renderer.reply(answer)
        ids, weights = ids + reply, weights + [1.0] * len(reply)
    return Row(ids, weights)


class Mixture:
    """Batches of sequences: `batch(step)` is a pure function of the seed and the step."""

    def __init__(
        self, rows: dict[str, list[Row]], words: list[str], renderer: Renderer, settings: PretrainParams, seed: int
    ) -> None:
        self._rows = rows
        self._words = words
        self._renderer = renderer
        self._settings = settings
        self._seed = seed
        self._pool: tuple[int, list[list[Row]]] = (-1, [])

    def _draw(self, pool: int) -> list[list[Row]]:
        rng = random.Random(f"pretrain/{self._seed}/{pool}")
        wanted = POOL * self._settings.batch_tokens
        drawn: list[Row] = []
        total = 0
        while total < wanted:
            if rng.random() < self._settings.skills:
                row = _exercise_row(rng, self._words, self._renderer, self._settings.prompt_weight)
            else:
                row = rng.choice(self._rows[rng.choice(ENVS)])
            drawn.append(row)
            total += len(row.ids)
        drawn.sort(key=lambda row: len(row.ids))
        batches: list[list[Row]] = []
        # Equal numbers of tokens per batch, cut from the sorted rows.
        batch: list[Row] = []
        filled, share = 0, total / POOL
        for row in drawn:
            batch.append(row)
            filled += len(row.ids)
            if filled >= share * (len(batches) + 1) - 1e-6:
                batches.append(batch)
                batch = []
        if batch:
            batches[-1].extend(batch)
        rng.shuffle(batches)
        return batches

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and loss weights of one step, right-padded: shapes [rows, longest]."""
        pool, k = divmod(step, POOL)
        if self._pool[0] != pool:
            self._pool = (pool, self._draw(pool))
        rows = self._pool[1][k % len(self._pool[1])]
        # Few different lengths mean few different sizes of memory to find.
        longest = -(-max(len(row.ids) for row in rows) // 32) * 32
        ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
        weights_BT = torch.zeros(len(rows), longest)
        for i, row in enumerate(rows):
            ids_BT[i, : len(row.ids)] = torch.tensor(row.ids)
            weights_BT[i, : len(row.ids)] = torch.tensor(row.weights)
        return ids_BT, weights_BT


def _loss(model: Qwen3ForCausalLM, ids_BT: torch.Tensor, weights_BT: torch.Tensor) -> torch.Tensor:
    """Weighted mean negative log-likelihood; padding lies right of everything, so causality hides it."""
    chosen = weights_BT[:, 1:] > 0
    suit_attention(model, ids_BT.shape[1])
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids_BT).last_hidden_state[:, :-1][chosen]
        logits = model.lm_head(hidden)
    nll = torch.nn.functional.cross_entropy(logits.float(), ids_BT[:, 1:][chosen], reduction="none")
    weight = weights_BT[:, 1:][chosen]
    return (nll * weight).sum() / weight.sum()


class _Optimizers:
    """Muon for the layers' matrices, AdamW for embeddings and norms, one schedule for both."""

    def __init__(self, model: Qwen3ForCausalLM, settings: PretrainParams) -> None:
        named = list(model.named_parameters())
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name]
        rest = [p for name, p in named if not (p.ndim == 2 and "embed" not in name)]
        self._peaks = (settings.muon_learning_rate, settings.learning_rate)
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=settings.muon_learning_rate, weight_decay=0.01),
            torch.optim.AdamW(rest, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        )

    def step(self, scale: float) -> None:
        for optimizer, peak in zip(self._optimizers, self._peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {
            f"{k}.{i}.{name}": torch.as_tensor(value).clone()
            for k, optimizer in enumerate(self._optimizers)
            for i, p in enumerate(optimizer.param_groups[0]["params"])
            for name, value in sorted(optimizer.state[p].items())
        }

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        for key, value in tensors.items():
            k, i, name = key.split(".")
            optimizer = self._optimizers[int(k)]
            optimizer.state[optimizer.param_groups[0]["params"][int(i)]][name] = value


def pretrain(params: Params, root: Path, out: Path, *, console: Console | None = None) -> None:
    """Make the checkpoint in `out` (weights, tokenizer, `pretrain.json` with settings, data and loss curve).

    Work in progress lies in `pretrain-<key>` of the work folder (see `affine.training.work`); deleted when done.
    """
    keep_freed_memory()
    quiet_transformers()
    settings = params.base.pretrain
    work = _work(params, root)
    corpus = build_corpus(params, root, work / "corpus")
    tokenizer = _tokenizer(corpus, params.seed, work)
    renderer = Renderer(tokenizer)
    mixture = Mixture(
        _render(corpus, renderer, settings.prompt_weight), _words(corpus), renderer, settings, params.seed
    )
    model = initialise(nano_config(len(tokenizer)), params.seed)
    optimizers = _Optimizers(model, settings)
    step, curve = _resume(work, model, optimizers)
    total = settings.drills + settings.steps
    bar = Progress(
        TextColumn("pretrain"), BarColumn(), MofNCompleteColumn(), TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(), console=console or Console(stderr=True), disable=console is None,
    )  # fmt: skip
    running = 0.0
    with bar:
        row = bar.add_task("steps", total=total, completed=step, loss=curve[-1][1] if curve else float("nan"))
        while step < total:
            if step < settings.drills:
                generator = torch.Generator().manual_seed(params.seed * 1_000_003 + step)
                batch = retrieval_drill(generator, settings.batch_tokens // 256, len(tokenizer))
            else:
                batch = mixture.batch(step - settings.drills)
            loss = _loss(model, *batch)
            if not torch.isfinite(loss):
                raise FileError(f"pretrain: loss is {loss.item()} at step {step}; lower base.pretrain's learning rates")
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizers.step(_schedule(step, total))
            running += loss.item()
            step += 1
            if step % 50 == 0:
                curve.append((step, round(running / 50, 4)))
                running = 0.0
                bar.update(row, completed=step, loss=curve[-1][1])
            if step % settings.save_every == 0 and step % 50 == 0 and step < total:
                _save(work, step, curve, model, optimizers)
    with published(out) as folder:
        save_checkpoint(model, tokenizer, folder)
        write_json(folder / "pretrain.json", _record(params, root, corpus, model, curve))
    shutil.rmtree(work)


def _schedule(step: int, total: int) -> float:
    """Warm up over 50 steps, constant to the middle, then linearly to a fiftieth."""
    return min((step + 1) / 50, 1.0, max(2 * (total - step) / total, 0.02))


def _task_files(root: Path) -> dict[str, Path]:
    files = {env: root / "data" / "tasks" / env / "train.jsonl" for env in ENVS}
    for path in files.values():
        if not path.is_file():
            raise FileError(f"{path}: no such file; make the training tasks first (`dvc repro tasks`)")
    return files


def _work(params: Params, root: Path) -> Path:
    """Where this very run lies unfinished: another setting, task, environment or line of code has another folder."""
    identity = {**params.model_dump(mode="json", include={"seed", "envs"}), **params.base.pretrain.model_dump()}
    inputs = [*_task_files(root).values(), *environment_files(params.envs.prompts)]
    return work_folder(root, "pretrain", identity, inputs)


def _tokenizer(corpus: list[Trajectory], seed: int, work: Path) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not folder.is_dir():
        with published(folder) as partial:
            train_tokenizer(_texts(corpus, seed)).save_pretrained(partial)
    tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return tokenizer


def _save(
    work: Path, step: int, curve: list[tuple[int, float]], model: Qwen3ForCausalLM, optimizers: _Optimizers
) -> None:
    with published(work / "checkpoint") as folder:
        state = {k: v.contiguous() for k, v in model.state_dict().items() if k != "lm_head.weight"}
        save_file(state, folder / "model.safetensors")
        save_file(optimizers.tensors(), folder / "optimizer.safetensors")
        write_json(folder / "state.json", {"step": step, "curve": curve})


def _resume(work: Path, model: Qwen3ForCausalLM, optimizers: _Optimizers) -> tuple[int, list[tuple[int, float]]]:
    folder = work / "checkpoint"
    if not folder.is_dir():
        return 0, []
    missing = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False).missing_keys
    assert missing in ([], ["lm_head.weight"]), missing  # tied to the embeddings
    optimizers.restore(load_file(folder / "optimizer.safetensors"))
    state = json.loads((folder / "state.json").read_text())
    return int(state["step"]), [(int(s), float(v)) for s, v in state["curve"]]


def _record(
    params: Params, root: Path, corpus: list[Trajectory], model: Qwen3ForCausalLM, curve: list[tuple[int, float]]
) -> dict[str, Any]:
    """What made the weights, to lie beside them."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git the user has
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    per_env = {env: [t for t in corpus if t.task.env == env] for env in ENVS}
    return {
        "commit": commit or None,
        "seed": params.seed,
        "tasks_seed": params.tasks.seed,
        "settings": params.base.pretrain.model_dump(),
        "envs": params.envs.model_dump(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "tasks": {env: file_digest(path) for env, path in _task_files(root).items()},
        "corpus": {
            env: {"episodes": len(rows), "score_mean": round(sum(t.score for t in rows) / max(len(rows), 1), 4)}
            for env, rows in per_env.items()
        },
        "loss_curve": curve,
    }
