"""Our rollout engine beside the usual way: `model.generate` on the whole history, encoded anew at every turn.

Both play the same training tasks with the same weights, sampling settings and limits, in one process, all
episodes of a batch at once. The baseline is batched too and keeps its key-value cache within a turn; what it
lacks is the cache across turns and the refilling of finished episodes' places.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from record import RESULTS, ROOT, conditions, save
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from affine.envs.env import EnvSettings, make
from affine.models.chat import Renderer
from affine.models.nano import initialise, nano_config, save_checkpoint, train_tokenizer
from affine.params import load_params
from affine.rollout.episodes import EnvPool, Limits, Ticket, play_episodes
from affine.rollout.generator import CachedGenerator
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


def by_engine(model: Any, renderer: Renderer, tasks: Sequence[Task], setting: Setting) -> dict[str, float]:
    """Rates of `affine.rollout`."""
    envs = EnvPool(EnvSettings())
    generator = CachedGenerator(model, setting.slots, setting.limits.context)
    started = time.perf_counter()
    played = play_episodes(
        [Ticket(task, 0, 0) for task in tasks],
        generator=generator,
        renderer=renderer,
        envs=envs,
        sampling=setting.sampling,
        limits=setting.limits,
    )
    seconds = time.perf_counter() - started
    envs.close()
    turns = [turn for trajectory in played for turn in trajectory.turns]
    return rates(seconds, len(played), len(turns), sum(len(turn.token_ids) for turn in turns))


def by_generate(model: Any, renderer: Renderer, tasks: Sequence[Task], setting: Setting) -> dict[str, float]:
    """Rates of the baseline, batches of `setting.slots` episodes one after the other."""
    turns = tokens = 0
    started = time.perf_counter()
    for k in range(0, len(tasks), setting.slots):
        batch_turns, batch_tokens = _batch(model, renderer, tasks[k : k + setting.slots], setting)
        turns += batch_turns
        tokens += batch_tokens
    return rates(time.perf_counter() - started, len(tasks), turns, tokens)


def _batch(model: Any, renderer: Renderer, tasks: Sequence[Task], setting: Setting) -> tuple[int, int]:
    """Play a batch to its end; turns and sampled tokens."""
    limits, sampling = setting.limits, setting.sampling
    envs = [make(task.env) for task in tasks]
    histories = [renderer.opening(env.reset(task)) for env, task in zip(envs, tasks, strict=True)]
    played = [0] * len(tasks)
    tokens = 0
    running = list(range(len(tasks)))
    while running := [i for i in running if len(histories[i]) + limits.reply <= limits.context]:
        longest = max(len(histories[i]) for i in running)
        padding = [[renderer.end_of_turn] * (longest - len(histories[i])) for i in running]
        ids = torch.tensor([pad + histories[i] for pad, i in zip(padding, running, strict=True)])
        mask = torch.tensor([[0] * len(p) + [1] * (longest - len(p)) for p in padding])
        with torch.inference_mode():
            out = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=limits.reply,
                do_sample=True,
                temperature=sampling.temperature,
                top_k=0,
                top_p=sampling.top_p,
                eos_token_id=renderer.end_of_turn,
                pad_token_id=renderer.end_of_turn,
            )[:, longest:].tolist()
        still = []
        for i, reply in zip(running, out, strict=True):
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=128, help="at least so many in all (default 128)")
    parser.add_argument("--slots", type=int, default=0, help="episodes at once (default: rollout.slots)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result: dict[str, Any] = conditions()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    params = load_params(ROOT / "params.yaml")
    limits = Limits(params.rollout.context, params.rollout.reply)
    slots = chosen.slots or params.rollout.slots
    with tempfile.TemporaryDirectory() as folder:
        path, name = checkpoint(Path(folder))
        model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True, attn_implementation="sdpa").eval()
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    if torch.cuda.is_available():
        model = model.to("cuda")
    renderer = Renderer(tokenizer)
    tasks = some_tasks(-(-chosen.episodes // len(ENVS)))
    setting = Setting(slots, limits, Sampling())
    by_engine(model, renderer, tasks[:2], setting)  # warm up both
    by_generate(model, renderer, tasks[:2], setting)
    engine = by_engine(model, renderer, tasks, setting)
    generate = by_generate(model, renderer, tasks, setting)
    ratio = {key: engine[key] / generate[key] for key in ("tokens_per_s", "episodes_per_s")}
    result |= {"model": name, "device": model.device.type, "threads": chosen.threads, "slots": slots, "envs": ENVS}
    result |= {"engine": engine, "generate": generate, "ratio": ratio}
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    console = Console()
    for label, r in (("engine", engine), ("model.generate", generate)):
        console.print(
            f"{label:<15} {r['tokens_per_s']:8,.0f} tokens/s {r['episodes_per_s']:7.2f} episodes/s"
            f" ({r['episodes']} episodes, {r['turns']:.1f} turns each, {r['seconds']:.1f} s)"
        )
    console.print(f"ratio           {ratio['tokens_per_s']:8.1f} x        {ratio['episodes_per_s']:7.1f} x")
    console.print(str(save("rollout", rounded, chosen.out)))


if __name__ == "__main__":
    main()
