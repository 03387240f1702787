"""`play`: an environment by hand, with its expert at your side."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from affine.envs.env import REGISTRY, Env, EnvError, EnvSettings, GaveUp, Move, StepResult, make, make_expert, task_rng
from affine.params import unsafe_allowed
from affine.tasks import draw_tasks, split_of_group
from affine.types import Message, Split, Task

HELP = "type an action; ? shows the expert's move, ! plays it, q quits; end a line with \\ to write another"
READY_MADE = ("Action:", "<INPUT>", "```")
"""A line with one of these is a whole reply already and is sent as it is."""


def run(arguments: list[str]) -> int:
    """Play one task. Raises EnvError for a task that does not exist or an engine that does not start, ParamsError."""
    parser = argparse.ArgumentParser(
        prog="python -m affine play",
        description=f"Play an environment by hand: {HELP.replace('%', '%%')}. Actions can be piped in, one a line.",
    )
    parser.add_argument("env", choices=REGISTRY, metavar="ENV", help=f"one of {', '.join(REGISTRY)}")
    parser.add_argument(
        "--task", type=int, default=0, metavar="N", help="its id, or its place in the split (default 0)"
    )
    parser.add_argument("--level", type=int, default=0, metavar="L", help="difficulty, see `envs` (default 0)")
    parser.add_argument("--split", choices=[str(split) for split in Split], help="take the N-th task of this split")
    parser.add_argument("--ids", metavar="RANGE", help="take the N-th of a range of upstream's ids, see `envs`")
    parser.add_argument("--seed", type=int, default=0, help="of the world of tasks (tasks.seed, default 0)")
    parser.add_argument("--mode", choices=("fixed", "upstream"), default="fixed", help="default: fixed")
    parser.add_argument("--prompts", default="brief", help="brief, full, or a YAML file (default: brief)")
    parser.add_argument(
        "--unsafe", action="store_true", help="run programs where no sandbox is safe (or sandbox.unsafe)"
    )
    chosen = parser.parse_args(arguments)
    unsafe = chosen.unsafe or unsafe_allowed(Path.cwd())
    env = make(chosen.env, EnvSettings(chosen.mode, chosen.prompts, unsafe))
    try:
        split, level, number = Split(chosen.split) if chosen.split else None, chosen.level, chosen.task
        if chosen.ids:
            part = env.id_range(chosen.ids)
            if split is not None or not 0 <= number <= part.last - part.first:
                raise EnvError(f"{env.name}: --ids {chosen.ids} needs --task 0 to {part.last - part.first}, no --split")
            level, number = part.level, part.first + number
        Session(env, find_task(env, level, number, chosen.seed, split), Console(highlight=False)).play()
    finally:
        env.close()
    return 0


def find_task(env: Env, level: int, number: int, seed: int, split: Split | None) -> Task:
    """The task with id `number`, or the one at that place of `split` as the stage `tasks` would draw it.

    Raises EnvError where there is none.
    """
    env.check_task(Task(env.name, level, number if split is None else 0, seed, Split.TRAIN))
    if split is not None:
        if number < 0:
            raise EnvError(f"{env.name}: --task {number}: places count from 0")
        return draw_tasks(env, level, seed, {split: number + 1})[number]
    content = env.content(level, number, seed)
    if content is None:
        raise EnvError(f"{env.name}: there is no task {number} at level {level}; try another number")
    found = env.official_split(level, number, seed) or split_of_group(content.group)
    return Task(env.name, level, number, seed, found, content.key, content.group)


class Session:
    """One episode, read from standard input and shown on `console`."""

    def __init__(self, env: Env, task: Task, console: Console) -> None:
        self.env, self.task, self.console = env, task, console
        self.opening = env.reset(task)
        self.expert = make_expert(env, task_rng(task.env, task.level, task.id, task.seed, "play"))
        self.turns = 0
        self._hint: Move | None = None
        self._typing = sys.stdin.isatty()

    def play(self) -> None:
        """Until the episode ends, or the player does."""
        task = self.task
        self.console.print(Rule(f"{task.env} level {task.level}, task {task.id} ({task.split})", align="left"))
        for message in self.opening:
            self._message(message)
        self._picture()
        if self._typing:
            with contextlib.suppress(ImportError):  # line editing and history, where Python has it
                import readline  # noqa: F401
            self.console.print(Text(HELP, "dim"))
        ended = "stopped"
        while self.turns < self.env.turn_limit:
            line = self._read()
            if line is None or line.strip() == "q":
                break
            if (result := self._answer(line)) is not None and result.done:
                ended = "solved" if self.env.solved() else "failed"
                break
        else:
            ended = "solved" if self.env.solved() else "turn limit reached"
        colour = {"solved": "green", "stopped": "yellow"}.get(ended, "red")
        summary = f"{ended}: score {self.env.score():.2f} after {self.turns} of {self.env.turn_limit} turns"
        self.console.print(Text(summary, f"bold {colour}"))

    def _answer(self, line: str) -> StepResult | None:
        """What a line leads to; None where it was no move."""
        text = line.strip()
        if not text:
            return None
        if text in ("?", "!"):
            move = self._expert_move()
            if move is None:
                return None
            if text == "?":
                self.console.print(Text(f"the expert: {move.action}", "yellow"))
                if move.thought:
                    self.console.print(Text(f"  because: {move.thought}", "yellow dim"))
                return None
            return self._step(move.action, self.env.format(move.thought, move.action, "thought"), echo=True)
        whole = any(mark in text for mark in READY_MADE)
        return self._step(text, text if whole else self.env.format("", text, "action"), echo=not self._typing)

    def _expert_move(self) -> Move | None:
        if self._hint is None:
            try:
                self._hint = self.expert.act()
            except GaveUp as reason:
                self.console.print(Text(f"the expert has no further move: {reason}", "yellow"))
        return self._hint

    def _step(self, action: str, reply: str, *, echo: bool) -> StepResult:
        if echo:
            self.console.print(Text(reply, "cyan"))
        result = self.env.step(reply)
        self.expert.observe(action, result)
        self._hint = None
        self.turns += 1
        note = "" if result.valid else ", no valid action"
        self.console.print(Rule(f"turn {self.turns} of {self.env.turn_limit}{note}", align="left", style="dim"))
        if result.observation:
            self.console.print(Text(result.observation))
        if not result.done:
            self._picture()
        return result

    def _read(self) -> str | None:
        """The next line, or several where they end with a backslash; None at the end of the input."""
        lines: list[str] = []
        while True:
            try:
                line = input("> " if self._typing and not lines else "")
            except EOFError:
                return "\n".join(lines) if lines else None
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def _message(self, message: Message) -> None:
        style = "dim" if message.role == "assistant" else ""
        self.console.print(Text(message.content, style))

    def _picture(self) -> None:
        if self.env.name == "babyai":
            from affine.cli.grid import picture

            self.console.print(picture(self.env))
