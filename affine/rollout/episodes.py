"""The one episode loop: policies play tasks, for PPO and evaluation alike.

`play_episodes` keeps every slot of the engine busy: an episode that ends gives its slot to the next task in
the same pass. A reply ends with the end-of-turn token or at the reply limit (then the loop closes the turn);
an episode ends when the environment says so, at the level's turn limit, or when another reply would not fit
into the context.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

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
    """Environment instances by name, reused from episode to episode."""

    def __init__(self, settings: EnvSettings) -> None:
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
    results: dict[int, Trajectory] = {}
    waiting = iter(enumerate(tickets))
    seats: dict[int, _Seat] = {}

    def leave(slot: int, stop: StopReason) -> None:
        seat = seats.pop(slot)
        generator.free(slot)
        env = seat.env
        trajectory = Trajectory(seat.ticket.task, seat.opening, tuple(seat.turns), env.score(), env.solved(), stop)
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
        for slot, stop in _advance(seats, generator, renderer, sampling, limits):
            leave(slot, stop)


def _sit(index: int, ticket: Ticket, envs: EnvPool, renderer: Renderer) -> _Seat:
    task = ticket.task
    env = envs.take(task.env)
    try:
        opening = tuple(env.reset(task))
    except EnvError as error:
        raise _of_task(task, error) from error
    stream = task_rng(task.env, task.level, task.id, task.seed, f"sample/{ticket.seed}/{ticket.sample}")
    return _Seat(index, ticket, env, stream, opening, renderer.opening(opening))


def _of_task(task: Task, error: EnvError) -> EnvError:
    return EnvError(f"{task.env}, level {task.level}, task {task.id}: {error}")


def _fits(seat: _Seat, limits: Limits) -> bool:
    """Whether the pending tokens and at least one more fit; a reply in progress may use what is left."""
    return seat.length + len(seat.pending) < limits.context


def _advance(
    seats: dict[int, _Seat], generator: Generator, renderer: Renderer, sampling: Sampling, limits: Limits
) -> Iterator[tuple[int, StopReason]]:
    """One forward pass over all seats, one sampled token each; the seats whose episode ended."""
    # Long prefills and single tokens go in separate passes, so that padding does not cost more than they do.
    groups = [
        [slot for slot in sorted(seats) if len(seats[slot].pending) > 1],
        [slot for slot in sorted(seats) if len(seats[slot].pending) == 1],
    ]
    ended: list[tuple[int, StopReason]] = []
    for slots in groups:
        if not slots:
            continue
        logits_NV = generator.extend(slots, [seats[slot].pending for slot in slots])
        for slot in slots:
            seats[slot].length += len(seats[slot].pending)
        tokens, logprobs = draw(logits_NV, [seats[slot].stream for slot in slots], sampling)
        for slot, token, logprob in zip(slots, tokens, logprobs, strict=True):
            seat = seats[slot]
            seat.reply.append(token)
            seat.logprobs.append(logprob)
            seat.pending = [token]
            full = len(seat.reply) >= limits.reply or seat.length + 1 >= limits.context
            if (token == renderer.end_of_turn or full) and (stop := _turn(seat, renderer)):
                ended.append((slot, stop))
    yield from sorted(ended)


def _turn(seat: _Seat, renderer: Renderer) -> StopReason | None:
    """Hand a complete reply to the environment; why the episode ended, if it did."""
    text = renderer.text(seat.reply)
    try:
        result = seat.env.step(text)
    except EnvError as error:
        raise _of_task(seat.ticket.task, error) from error
    last = result.done or len(seat.turns) + 1 >= seat.env.turn_limit
    observation = "" if last else result.observation
    seat.turns.append(
        Turn(text, observation, result.reward, result.valid, True, tuple(seat.reply), tuple(seat.logprobs))
    )
    if result.done:
        return StopReason.SOLVED if seat.env.solved() else StopReason.FAILED
    if last:
        return StopReason.TURN_LIMIT
    closing = [] if seat.reply[-1] == renderer.end_of_turn else [renderer.end_of_turn]
    # The last sampled token has not been through the model yet.
    seat.pending = [seat.reply[-1], *closing, *renderer.observation(observation)]
    seat.reply, seat.logprobs = [], []
    return None
