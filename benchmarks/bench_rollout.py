"""Our rollout engine beside the usual ways, which encode the whole history anew at every turn.

    engine     affine.rollout: the cache is kept across turns, finished episodes are replaced at once
    generate   `model.generate`, padded batches
    paged      transformers' continuous batching (`generate_batch`, paged attention), batches of the same episodes

All play the same training tasks with the same weights, sampling settings and limits, in one process, all episodes of a
batch at once. `environment` is the share of the engine's time that the environments took.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, ROOT, conditions, save
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging

from affine.envs.env import Env, EnvSettings, make
from affine.models.chat import Renderer
from affine.models.nano import initialise, nano_config, save_checkpoint, train_tokenizer
from affine.params import load_params
from affine.rollout.episodes import EnvPool, Limits, Ticket, play_episodes
from affine.rollout.generator import make_generator
from affine.rollout.sampling import Sampling
from affine.tasks import draw_tasks
from affine.types import Split, Task

ENVS = ("alfworld", "webshop", "textcraft")
"""The environments with the longest episodes that cost no engine time."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What both sides share."""

    slots: int
    limits: Limits
    sampling: Sampling


def checkpoint(folder: Path) -> tuple[Path, str]:
    """models/base or the shipped nano model; else one with random weights of the same shape, in `folder`."""
    for path in (ROOT / "models" / "base", ROOT / "pretrained" / "nano"):
        if (path / "config.json").is_file():
            return path, path.relative_to(ROOT).as_posix()
    texts = [message.content for task in some_tasks(20) for message in make(task.env).reset(task)]
    tokenizer = train_tokenizer(texts)
    save_checkpoint(initialise(nano_config(len(tokenizer)), 0), tokenizer, folder)
    return folder, "random weights of the nano model's shape"


def some_tasks(count: int) -> list[Task]:
    """`count` training tasks of each environment, taking turns."""
    drawn = []
    for name in ENVS:
        env = make(name)
        drawn.append(draw_tasks(env, 0, 0, {Split.TRAIN: count}))
        env.close()
    return [task for row in zip(*drawn, strict=True) for task in row]


def rates(seconds: float, episodes: int, turns: int, tokens: int) -> dict[str, float]:
    return {
        "seconds": seconds,
        "episodes": episodes,
        "turns": turns / episodes,
        "tokens": tokens,
        "tokens_per_s": tokens / seconds,
        "episodes_per_s": episodes / seconds,
    }


class Timed(EnvPool):
    """Environments with a stopwatch."""

    def __init__(self) -> None:
        super().__init__(EnvSettings())
        self.seconds = 0.0

    def take(self, name: str) -> Env:
        env = super().take(name)
        if "step" not in vars(env):
            for method in ("reset", "step"):
                setattr(env, method, self._timed(getattr(env, method)))
        return env

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return method(*arguments)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def by_engine(model: Any, renderer: Renderer, tickets: Sequence[Ticket], setting: Setting) -> dict[str, float]:
    """Rates of `affine.rollout`."""
    envs = Timed()
    generator = make_generator(model, setting.slots, setting.limits.context)
    started = time.perf_counter()
    played = play_episodes(
        tickets,
        generator=generator,
        renderer=renderer,
        envs=envs,
        sampling=setting.sampling,
        limits=setting.limits,
    )
    seconds = time.perf_counter() - started
    envs.close()
    turns = [turn for trajectory in played for turn in trajectory.turns]
    measured = rates(seconds, len(played), len(turns), sum(len(turn.token_ids) for turn in turns))
    return measured | {"environment": envs.seconds / seconds}


Answer = Callable[[list[list[int]]], list[list[int]]]
"""Histories to the tokens that follow each, up to and including the end-of-turn token or the reply limit."""


def by_generate(model: Any, renderer: Renderer, setting: Setting) -> Answer:
    """`model.generate` on a left-padded batch."""

    def answer(histories: list[list[int]]) -> list[list[int]]:
        longest = max(map(len, histories))
        end = renderer.end_of_turn
        ids = torch.tensor([[end] * (longest - len(history)) + history for history in histories])
        mask = torch.tensor([[0] * (longest - len(h)) + [1] * len(h) for h in histories])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=setting.limits.reply,
                do_sample=True,
                temperature=setting.sampling.temperature,
                top_k=0,
                top_p=setting.sampling.top_p,
                eos_token_id=end,
                pad_token_id=end,
            )
        replies: list[list[int]] = out[:, longest:].tolist()
        return replies

    return answer


def by_paged(model: Any, renderer: Renderer, setting: Setting) -> Answer:
    """transformers' continuous batching; its manager lives on between the turns."""
    config = GenerationConfig(
        max_new_tokens=setting.limits.reply,
        do_sample=True,
        temperature=setting.sampling.temperature,
        top_k=0,
        top_p=setting.sampling.top_p,
        eos_token_id=renderer.end_of_turn,
        pad_token_id=renderer.end_of_turn,
    )

    # Room for every slot's whole context, not for all of the machine's memory, which is slow to fill.
    paging = ContinuousBatchingConfig()
    paging.num_blocks = 1 + setting.slots * -(-setting.limits.context // paging.page_size)

    def answer(histories: list[list[int]]) -> list[list[int]]:
        out = model.generate_batch(
            inputs=histories, generation_config=config, continuous_batching_config=paging, persistent_manager=True
        )
        replies = [list(result.generated_tokens) for result in out.values()]
        if len(replies) != len(histories) or not all(replies):
            sys.exit("bench_rollout: transformers' continuous batching returned nothing for some episodes")
        return replies

    return answer


def by_turns(answer: Answer, renderer: Renderer, tasks: Sequence[Task], setting: Setting) -> dict[str, float]:
    """Rates of a baseline, batches of `setting.slots` episodes one after the other."""
    turns = tokens = 0
    started = time.perf_counter()
    for k in range(0, len(tasks), setting.slots):
        batch_turns, batch_tokens = _batch(answer, renderer, tasks[k : k + setting.slots], setting)
        turns += batch_turns
        tokens += batch_tokens
    return rates(time.perf_counter() - started, len(tasks), turns, tokens)


def _batch(answer: Answer, renderer: Renderer, tasks: Sequence[Task], setting: Setting) -> tuple[int, int]:
    """Play a batch to its end; turns and sampled tokens."""
    limits = setting.limits
    envs = [make(task.env) for task in tasks]
    histories = [renderer.opening(env.reset(task)) for env, task in zip(envs, tasks, strict=True)]
    played = [0] * len(tasks)
    tokens = 0
    running = list(range(len(tasks)))
    while running := [i for i in running if len(histories[i]) + limits.reply <= limits.context]:
        still = []
        for i, reply in zip(running, answer([histories[i] for i in running]), strict=True):
            end = reply.index(renderer.end_of_turn) + 1 if renderer.end_of_turn in reply else len(reply)
            tokens += end
            played[i] += 1
            result = envs[i].step(renderer.text(reply[:end]))
            if not result.done and played[i] < envs[i].turn_limit:
                closing = [] if reply[end - 1] == renderer.end_of_turn else [renderer.end_of_turn]
                histories[i] += [*reply[:end], *closing, *renderer.observation(result.observation)]
                still.append(i)
        running = still
    for env in envs:
        env.close()
    return sum(played), tokens


def load_model() -> tuple[Any, Any, str]:
    """What plays, on the GPU if there is one, its tokenizer, and what it is."""
    with tempfile.TemporaryDirectory() as folder:
        path, name = checkpoint(Path(folder))
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, attn_implementation="sdpa").eval()
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return (model.to("cuda") if torch.cuda.is_available() else model), tokenizer, name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=128, help="at least so many in all (default 128)")
    parser.add_argument("--slots", type=int, default=0, help="episodes at once (default: rollout.slots)")
    parser.add_argument(
        "--against", nargs="*", choices=("generate", "paged"), default=("generate", "paged"), help="default: both"
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result: dict[str, Any] = conditions()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("ContinuousBatchingLogger").setLevel("ERROR")  # it warns at every turn
    params = load_params(ROOT / "params.yaml")
    limits = Limits(params.rollout.context, params.rollout.reply)
    slots = chosen.slots or params.rollout.slots
    model, tokenizer, name = load_model()
    renderer = Renderer(tokenizer)
    tasks = some_tasks(-(-chosen.episodes // len(ENVS)))
    setting = Setting(slots, limits, Sampling())
    sides: dict[str, Callable[[Sequence[Task]], dict[str, float]]] = {
        "engine": lambda chosen: by_engine(model, renderer, [Ticket(task, 0, 0) for task in chosen], setting)
    }
    for label, make_answer in (("generate", by_generate), ("paged", by_paged)):
        if label in chosen.against:
            answer = make_answer(model, renderer, setting)
            sides[label] = partial(by_turns, answer, renderer, setting=setting)
    measured = {}
    for label, play in sides.items():
        play(tasks[:2])  # warm up
        measured[label] = play(tasks)
    if "paged" in sides:
        model.destroy_cached_continuous_batching_manager()
    result |= {"model": name, "device": model.device.type, "threads": chosen.threads, "slots": slots, "envs": ENVS}
    result |= measured
    result["ratio"] = {
        label: {key: measured["engine"][key] / rate[key] for key in ("tokens_per_s", "episodes_per_s")}
        for label, rate in measured.items()
        if label != "engine"
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    console = Console()
    for label, r in measured.items():
        console.print(
            f"{label:<15} {r['tokens_per_s']:8,.0f} tokens/s {r['episodes_per_s']:7.2f} episodes/s"
            f" ({r['episodes']} episodes, {r['turns']:.1f} turns each, {r['seconds']:.1f} s)"
        )
    for label, ratio in result["ratio"].items():
        console.print(f"over {label:<10} {ratio['tokens_per_s']:8.1f} x        {ratio['episodes_per_s']:7.1f} x")
    console.print(str(save("rollout", rounded, chosen.out)))


if __name__ == "__main__":
    main()
