"""Our rollout engine beside the rollouts of TRL's GRPOTrainer with `environment_factory`.

    engine  affine.rollout, as stage `ppo` plays
    grpo    GRPOTrainer's generation: padded batches, every turn encoded anew, a batch ends with its longest episode

Both play the same training tasks, each of them as often as a group has episodes, with the same weights (TRL's
learning rate is 0), sampling settings and reply limit, in one process. TRL's clock runs within its generation
alone: not while it resets environments, scores and updates; ours makes its environments within its clock. A reply
is TRL's one tool call with the reply as its argument; its loop ends with a reply that calls nothing, so it samples
one more when an episode is over. It counts a context from the end of the opening; that limit is such that the mean
opening meets ours.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from bench_rollout import ENVS, Setting, by_engine, load_model, rates, some_tasks
from record import RESULTS, ROOT, conditions, save
from rich.console import Console
from transformers import PrinterCallback
from transformers.utils import logging as transformers_logging

from affine.envs.env import Env, make
from affine.models.chat import Renderer
from affine.params import load_params
from affine.rollout.episodes import Limits, Ticket
from affine.rollout.sampling import Sampling
from affine.types import Message, Task

OVER = "Episode over."
"""What the environment says last, for the model's closing reply."""

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + ('user' if m['role'] == 'tool' else m['role']) + '\\n' }}"
    "{{ m['content'] }}{% if m['tool_calls'] %}{{ m['tool_calls'] | tojson }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
"""Observations stand where they stand for our engine: in the user's turns. TRL insists that calls can be rendered, and
renders none."""


class Seat:
    """An environment as TRL takes them: `reset`, one tool, a reward of its own. Public methods are tools."""

    def __init__(self, tasks: Sequence[Task], turns: list[int]) -> None:
        self._tasks, self._turns = tasks, turns
        self._envs: dict[str, Env] = {}
        self._played = 0

    def reset(self, number: int, **_: Any) -> None:
        """Begin task `number`; its opening is the row's prompt."""
        task = self._tasks[number]
        if task.env not in self._envs:
            self._envs[task.env] = make(task.env)
        self._env = self._envs[task.env]
        self._env.reset(task)
        self._played = 0

    def act(self, reply: str) -> str:
        """Give the environment a reply.

        Args:
            reply: What the agent says.

        Returns:
            The observation.
        """
        result = self._env.step(reply)
        self._played += 1
        self._turns[0] += 1
        return OVER if result.done or self._played >= self._env.turn_limit else result.observation

    def get_reward(self) -> float:
        """The score."""
        return self._env.score()

    def _close(self) -> None:
        for env in self._envs.values():
            env.close()


def parser(renderer: Renderer) -> Callable[..., dict[str, Any]]:
    """In place of the tokenizer's `parse_response`: every reply calls `act`, but for one to the end of an episode."""
    end = renderer.observation(OVER)

    def parse(ids: list[int], prefix: Sequence[int] = (), tools: object = None) -> dict[str, Any]:
        text = renderer.text(ids)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if list(prefix[-len(end) :]) != end:
            call = {"name": "act", "arguments": {"reply": text}}
            message["tool_calls"] = [{"type": "function", "function": call}]
        return message

    return parse


def openings(tasks: Sequence[Task]) -> list[list[Message]]:
    """How each task begins."""
    envs = {name: make(name) for name in dict.fromkeys(task.env for task in tasks)}
    found = [envs[task.env].reset(task) for task in tasks]
    for env in envs.values():
        env.close()
    return found


def by_grpo(model: Any, tokenizer: Any, tasks: Sequence[Task], setting: Setting, group: int) -> dict[str, float]:
    """Rates of GRPOTrainer's generation over its steps after the first. A step plays `slots` episodes."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    renderer = Renderer(tokenizer)
    begun = openings(tasks)
    mean = sum(len(renderer.opening(messages)) for messages in begun) // len(begun)
    rows = [
        {"prompt": [{"role": m.role, "content": m.content} for m in messages], "number": k}
        for k, messages in enumerate(begun)
    ]
    tokenizer.chat_template = TEMPLATE
    tokenizer.response_template = {}  # that there is one
    tokenizer.parse_response = parser(renderer)
    turns = [0]
    seats: list[Seat] = []

    def seat() -> Seat:
        seats.append(Seat(tasks, turns))
        return seats[-1]

    batches: list[tuple[float, int, int, int]] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            args=GRPOConfig(
                output_dir=folder,
                max_steps=len(tasks) * group // setting.slots,
                per_device_train_batch_size=setting.slots,
                steps_per_generation=1,
                num_generations=group,
                max_completion_length=setting.limits.context - mean,
                generation_kwargs={"max_new_tokens": setting.limits.reply},
                temperature=setting.sampling.temperature,
                top_p=setting.sampling.top_p,
                learning_rate=0.0,
                shuffle_dataset=False,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=model.device.type == "cpu",
                report_to=[],
                save_strategy="no",
                disable_tqdm=True,
                logging_strategy="no",
                dataloader_pin_memory=False,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            environment_factory=seat,
        )
        trainer.remove_callback(PrinterCallback)
        original = trainer._generate

        def timed(prompts: list[Any]) -> Any:
            turns[0] = 0
            started = time.perf_counter()
            out = original(prompts)
            batches.append((time.perf_counter() - started, len(prompts), turns[0], sum(map(sum, out[2]))))
            return out

        trainer._generate = timed
        trainer.train()
    for one in seats:
        one._close()
    seconds, episodes, played, tokens = map(sum, zip(*batches[1:], strict=True))
    return rates(seconds, int(episodes), int(played), int(tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--steps", type=int, default=2, help="of `slots` episodes each, after one to warm up (default 2)"
    )
    parser.add_argument("--slots", type=int, default=0, help="episodes at once (default: rollout.slots)")
    parser.add_argument("--group", type=int, default=8, help="episodes of each task (default 8)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default 1)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the result (default benchmarks/results)")
    chosen = parser.parse_args()
    result: dict[str, Any] = conditions()
    torch.set_num_threads(chosen.threads)
    torch.manual_seed(0)
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    warnings.filterwarnings("ignore", category=FutureWarning)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    params = load_params(ROOT / "params.yaml")
    slots = chosen.slots or params.rollout.slots
    if chosen.group < 2 or slots % chosen.group:
        sys.exit(f"bench_grpo: {slots} slots are no whole number of groups of {chosen.group} (two or more) episodes")
    setting = Setting(slots, Limits(params.rollout.context, params.rollout.reply), Sampling())
    model, tokenizer, name = load_model()
    each = slots // chosen.group
    wanted = each * (chosen.steps + 1)
    tasks = some_tasks(-(-wanted // len(ENVS)))[:wanted]
    tickets = [Ticket(task, k, 0) for task in tasks for k in range(chosen.group)]
    by_engine(model, Renderer(tokenizer), tickets[:slots], setting)
    measured = {"engine": by_engine(model, Renderer(tokenizer), tickets[slots:], setting)}
    measured["grpo"] = by_grpo(model, tokenizer, tasks, setting, chosen.group)
    result |= {"model": name, "device": model.device.type, "threads": chosen.threads, "slots": slots}
    result |= {"group": chosen.group, "envs": ENVS, **measured}
    result["ratio"] = {
        key: measured["engine"][key] / measured["grpo"][key] for key in ("tokens_per_s", "episodes_per_s")
    }
    rounded = json.loads(json.dumps(result), parse_float=lambda text: float(f"{float(text):.4g}"))
    console = Console()
    for label, r in measured.items():
        console.print(
            f"{label:<8} {r['tokens_per_s']:8,.0f} tokens/s {r['episodes_per_s']:7.2f} episodes/s"
            f" ({r['episodes']} episodes, {r['turns']:.1f} turns each, {r['seconds']:.1f} s)"
        )
    console.print(
        f"{'ratio':<8} {result['ratio']['tokens_per_s']:8.1f} x        {result['ratio']['episodes_per_s']:7.1f} x"
    )
    console.print(str(save("grpo", rounded, chosen.out)))


if __name__ == "__main__":
    main()
