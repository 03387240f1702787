"""The one episode loop: policies play tasks, for PPO and evaluation alike.

`play_episodes` keeps every slot of the engine busy: an episode that ends gives its slot to the next task in
the same pass. A reply ends with the end-of-turn token or at the reply limit (then the loop closes the turn);
an episode ends when the environment says so, at the level's turn limit, or when another reply would not fit
into the context.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from affine.envs.env import Env, EnvError, EnvSettings, make, task_rng
from affine.models.chat import Renderer
from affine.rollout.generator import Generator
from affine.rollout.sampling import Sampling, draw
from affine.types import Message, StopReason, Task, Trajectory, Turn


@dataclass(frozen=True, slots=True)
class Ticket:
    """One episode to play: a task, which try of it, and the seed of its sampling stream."""

    task: Task
    sample: int
    seed: int


def tickets_of(tasks: Mapping[str, Sequence[Task]], samples: int, seed: int) -> list[Ticket]:
    """`samples` episodes of every task. Environments take turns, so that slow engines never wait for each other alone
    at the end, and another one begins each round: workers and ranks take every n-th ticket, and none should be left
    with the slow environments."""
    rounds = [(sample, row) for sample in range(samples) for row in zip_longest(*tasks.values())]
    return [
        Ticket(task, sample, seed)
        for k, (sample, row) in enumerate(rounds)
        for task in (*row[k % len(row) :], *row[: k % len(row)])
        if task is not None
    ]


@dataclass(slots=True)
class _Seat:
    """A slot's running episode."""

    index: int
    ticket: Ticket
    env: Env
    stream: random.Random
    opening: tuple[Message, ...]
    pending: list[int]
    length: int = 0
    reply: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


class EnvPool:
    """Environment instances by name, reused from episode to episode. `seconds` is how long they have taken so far
    (started, reset, stepped and scored)."""

    def __init__(self, settings: EnvSettings) -> None:
        self.seconds = 0.0
        self._settings = settings
        self._idle: dict[str, list[Env]] = {}
        self._made: list[Env] = []

    def take(self, name: str) -> Env:
        idle = self._idle.setdefault(name, [])
        if idle:
            return idle.pop()
        self._made.append(make(name, self._settings))
        return self._made[-1]

    def give(self, env: Env) -> None:
        self._idle[env.name].append(env)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """What happens inside is the environments' time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started

    def close(self) -> None:
        """Close every environment, those of unfinished episodes too."""
        for env in self._made:
            env.close()
        self._made.clear()
        self._idle.clear()


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of an episode and of one reply."""

    context: int
    reply: int


def play_episodes(
    tickets: Sequence[Ticket],
    *,
    generator: Generator,
    renderer: Renderer,
    envs: EnvPool,
    sampling: Sampling,
    limits: Limits,
    finished: Callable[[Trajectory], None] | None = None,
) -> list[Trajectory]:
    """Play every ticket; the trajectories in the order of the tickets.

    Raises EnvError, naming the task, where an environment cannot go on.
    """
    generator.reset()  # what was played before must not show in the last bits of a result
    results: dict[int, Trajectory] = {}
    waiting = iter(enumerate(tickets))
    seats: dict[int, _Seat] = {}

    def leave(slot: int, stop: StopReason) -> None:
        seat = seats.pop(slot)
        generator.free(slot)
        env = seat.env
        with envs.timed():
            score, solved = env.score(), env.solved()
        trajectory = Trajectory(seat.ticket.task, seat.opening, tuple(seat.turns), score, solved, stop)
        envs.give(env)
        results[seat.index] = trajectory
        if finished:
            finished(trajectory)

    while True:
        for slot in range(generator.slots):
            if slot not in seats and (nxt := next(waiting, None)) is not None:
                seats[slot] = _sit(*nxt, envs, renderer)
        for slot in [s for s, seat in seats.items() if not _fits(seat, limits)]:
            leave(slot, StopReason.CONTEXT_LIMIT)
        if not seats:
            if len(results) == len(tickets):
                return [results[i] for i in range(len(tickets))]
            continue
        for slot in _advance(seats, generator, sampling):
            seat = seats[slot]
            full = len(seat.reply) >= limits.reply or seat.length + 1 >= limits.context
            if (full or seat.reply[-1] == renderer.end_of_turn) and (stop := _turn(seat, renderer, envs)):
                leave(slot, stop)


def _sit(index: int, ticket: Ticket, envs: EnvPool, renderer: Renderer) -> _Seat:
    task = ticket.task
    with envs.timed():
        env = envs.take(task.env)
        try:
            opening = tuple(env.reset(task))
        except EnvError as error:
            raise of_task(task, error) from error
    stream = task_rng(task.env, task.level, task.id, task.seed, f"sample/{ticket.seed}/{ticket.sample}")
    return _Seat(index, ticket, env, stream, opening, renderer.opening(opening))


def of_task(task: Task, error: EnvError) -> EnvError:
    """The error with the task's name before it."""
    return EnvError(f"{task.env}, level {task.level}, task {task.id}: {error}")


def _fits(seat: _Seat, limits: Limits) -> bool:
    """Whether the pending tokens and at least one more fit; a reply in progress may use what is left."""
    return seat.length + len(seat.pending) < limits.context


def _advance(seats: dict[int, _Seat], generator: Generator, sampling: Sampling) -> list[int]:
    """One forward pass over all seats, one sampled token each; their slots."""
    slots = sorted(seats)
    logits_NV = generator.extend(slots, [seats[slot].pending for slot in slots])
    tokens, logprobs = draw(logits_NV, [seats[slot].stream for slot in slots], sampling)
    for slot, token, logprob in zip(slots, tokens, logprobs, strict=True):
        seat = seats[slot]
        seat.length += len(seat.pending)
        seat.reply.append(token)
        seat.logprobs.append(logprob)
        seat.pending = [token]
    return slots


def play_turn(
    env: Env,
    task: Task,
    turns: list[Turn],
    text: str,
    *,
    token_ids: tuple[int, ...] = (),
    logprobs: tuple[float, ...] = (),
) -> StopReason | None:
    """Hand a complete reply to the environment and add the turn to `turns`; why the episode ended, if it did."""
    before = env.score()
    try:
        result = env.step(text)
    except EnvError as error:
        raise of_task(task, error) from error
    last = result.done or len(turns) + 1 >= env.turn_limit
    observation = "" if last else result.observation
    progress = env.score() - before
    turn = Turn(text, observation, result.reward, result.valid, progress=progress)
    turns.append(replace(turn, token_ids=token_ids, logprobs=logprobs))
    if result.done:
        return StopReason.SOLVED if env.solved() else StopReason.FAILED
    return StopReason.TURN_LIMIT if last else None


def _turn(seat: _Seat, renderer: Renderer, envs: EnvPool) -> StopReason | None:
    """Hand a complete reply to the environment; why the episode ended, if it did."""
    text = renderer.text(seat.reply)
    ids, logprobs = tuple(seat.reply), tuple(seat.logprobs)
    with envs.timed():
        stop = play_turn(seat.env, seat.ticket.task, seat.turns, text, token_ids=ids, logprobs=logprobs)
    if stop:
        return stop
    closing = [] if seat.reply[-1] == renderer.end_of_turn else [renderer.end_of_turn]
    # The last sampled token has not been through the model yet.
    seat.pending = [seat.reply[-1], *closing, *renderer.observation(seat.turns[-1].observation)]
    seat.reply, seat.logprobs = [], []
    return None
