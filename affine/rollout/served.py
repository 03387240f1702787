"""Policies that are served: the OpenAI chat protocol, with the validators' patience, and episodes played over it.

Requests wait in threads, everything else happens in the calling thread: environments are stepped one at a time, and
an episode's messages are sent whole with every turn, as the validators sent them. What a served policy gets wrong
counts, as it did for the validators: no reply in time, an HTTP error that stays, or empty content end the episode
with a score of 0. What only the operator can put right (a wrong address, model or key, a server that is gone) raises
EndpointError instead, so that an outage is never mistaken for a score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import httpx2

from affine.envs.env import Env, EnvError, task_rng
from affine.errors import AffineError
from affine.rollout.episodes import EnvPool, Limits, Ticket, of_task, play_turn
from affine.rollout.sampling import Sampling
from affine.types import Message, StopReason, Trajectory, Turn


class EndpointError(AffineError):
    """The endpoint cannot be used as configured; the message names it and the remedy."""


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds for one request and for a whole episode, and how often a request is made."""

    request: float
    attempts: int
    episode: float


SINGLE_TURN = Patience(request=600.0, attempts=1, episode=700.0)
AGENT = Patience(request=300.0, attempts=3, episode=1300.0)
PATIENCE: dict[str, Patience] = dict.fromkeys(("sat", "abd", "ded"), SINGLE_TURN)
"""As the validators had it in October 2025 (affine-cortex 0c15be7, affine/quixand/env_templates): AgentGym's five had
`AGENT`, and so has any other environment."""

WAIT = 1.0
"""Seconds between attempts."""
RATE_LIMITED = (1.0, 2.0, 4.0)
"""Seconds to wait after the first, second and third answer of 429."""

_REFUSED = {
    401: "the server wants another key; set OPENAI_API_KEY",
    403: "the server wants another key; set OPENAI_API_KEY",
    404: "no such path or model there; see evaluate.endpoint.url (ends before /chat/completions) and .model",
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the server wrote; token counts are its own, 0 where it gave none."""

    text: str
    prompt_tokens: int
    served: str


class Endpoint:
    """One model behind an OpenAI-compatible server. Use as a context manager; `complete` may be called from several
    threads. `key` is sent as a bearer token and never written anywhere."""

    def __init__(self, url: str, model: str, key: str = "", *, sleep: Callable[[float], None] = time.sleep) -> None:
        self.url, self.model = url.rstrip("/"), model
        self._client = httpx2.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            limits=httpx2.Limits(max_connections=None),
        )
        self._sleep = sleep
        self._works = False

    def __enter__(self) -> Endpoint:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def complete(
        self,
        messages: Sequence[Message],
        sampling: Sampling,
        *,
        reply: int,
        seed: int,
        patience: Patience,
        until: float,
    ) -> Reply | None:
        """One reply of at most `reply` tokens; None where the server gave no usable one in time (`until` is the
        episode's last moment on `time.monotonic`). Raises EndpointError."""
        body = {
            "model": self.model,
            "messages": [{"role": m.role, "content": m.content} for m in messages],
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": reply,
            "seed": seed,
            "stream": False,
        }
        failure = ""
        for attempt in range(max(patience.attempts, 1)):
            left = until - time.monotonic()
            if left <= 0:
                return None
            found, failure, pause = self._request(body, min(patience.request, left), attempt)
            if found is not None:
                self._works = True
                return found
            if attempt + 1 < patience.attempts:
                self._sleep(pause)
        if not self._works:
            raise EndpointError(f"{self.url}: no usable reply yet ({failure})\ncheck the server and evaluate.endpoint")
        return None

    def _request(self, body: Mapping[str, Any], timeout: float, attempt: int) -> tuple[Reply | None, str, float]:
        """(reply, or None; what was wrong; seconds to wait before another attempt)."""
        try:
            response = self._client.post(f"{self.url}/chat/completions", json=body, timeout=timeout)
        except httpx2.ConnectError as error:
            raise EndpointError(
                f"{self.url}: cannot connect ({error})\nstart the server or correct evaluate.endpoint.url, and run it"
                " again to go on"
            ) from None
        except httpx2.HTTPError as error:
            return None, f"{type(error).__name__} after {timeout:.0f} s at most", WAIT
        status = response.status_code
        if status in _REFUSED:
            raise EndpointError(f"{self.url}: HTTP {status} for model {self.model!r}\n{_REFUSED[status]}")
        if status != httpx2.codes.OK:
            limited = status == httpx2.codes.TOO_MANY_REQUESTS
            pause = RATE_LIMITED[min(attempt, len(RATE_LIMITED) - 1)] if limited else WAIT
            return None, f"HTTP {status}: {' '.join(response.text.split())[:200]}", pause
        return (*_parse(response), WAIT)


def _parse(response: httpx2.Response) -> tuple[Reply | None, str]:
    try:
        data = response.json()
        text = data["choices"][0]["message"]["content"]
        usage = data.get("usage") or {}
        prompt, served = int(usage.get("prompt_tokens") or 0), str(data.get("model") or "")
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        return None, f"not a chat completion: {error!r}"
    if not isinstance(text, str) or not text.strip():
        return None, "empty content"
    return Reply(text, prompt, served), ""


@dataclass(slots=True)
class _Seat:
    """A running episode."""

    index: int
    ticket: Ticket
    env: Env
    opening: tuple[Message, ...]
    messages: list[Message]
    until: float
    turns: list[Turn] = field(default_factory=list)


class ServedPlayer:
    """Plays tickets with a served policy, `concurrency` episodes at once. `served` collects the names under which
    the server answered."""

    def __init__(self, endpoint: Endpoint, envs: EnvPool, sampling: Sampling, limits: Limits, concurrency: int) -> None:
        self.served: set[str] = set()
        self._endpoint, self._envs = endpoint, envs
        self._sampling, self._limits, self._concurrency = sampling, limits, concurrency

    def play(self, tickets: Sequence[Ticket], finished: Callable[[Ticket, Trajectory], None]) -> list[Trajectory]:
        """The trajectories in the order of the tickets; `finished` is told of each as it ends. Raises EnvError and
        EndpointError."""
        waiting = iter(enumerate(tickets))
        results: dict[int, Trajectory] = {}
        threads = ThreadPoolExecutor(self._concurrency)
        try:
            running = {threads.submit(self._ask, seat): seat for seat in self._sit_down(waiting, self._concurrency)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in sorted(done, key=lambda future: running[future].index):
                    seat = running.pop(future)
                    stop = self._take_turn(seat, future)
                    if stop is None:
                        running[threads.submit(self._ask, seat)] = seat
                        continue
                    results[seat.index] = self._leave(seat, stop)
                    finished(seat.ticket, results[seat.index])
                    for seat in self._sit_down(waiting, 1):
                        running[threads.submit(self._ask, seat)] = seat
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
        return [results[i] for i in range(len(tickets))]

    def _sit_down(self, waiting: Iterator[tuple[int, Ticket]], count: int) -> Iterator[_Seat]:
        for _, (index, ticket) in zip(range(count), waiting, strict=False):
            env = self._envs.take(ticket.task.env)
            try:
                opening = tuple(env.reset(ticket.task))
            except EnvError as error:
                raise of_task(ticket.task, error) from error
            until = time.monotonic() + PATIENCE.get(ticket.task.env, AGENT).episode
            yield _Seat(index, ticket, env, opening, list(opening), until)

    def _ask(self, seat: _Seat) -> Reply | None:
        task, ticket = seat.ticket.task, seat.ticket
        purpose = f"served/{ticket.seed}/{ticket.sample}/{len(seat.turns)}"
        return self._endpoint.complete(
            seat.messages,
            self._sampling,
            reply=self._limits.reply,
            seed=task_rng(task.env, task.level, task.id, task.seed, purpose).getrandbits(31),
            patience=PATIENCE.get(task.env, AGENT),
            until=seat.until,
        )

    def _take_turn(self, seat: _Seat, future: Future[Reply | None]) -> StopReason | None:
        reply = future.result()
        if reply is None:
            return StopReason.NO_REPLY
        self.served.add(reply.served)
        if reply.prompt_tokens >= self._limits.context:  # there was no room for this reply
            return StopReason.CONTEXT_LIMIT
        stop = play_turn(seat.env, seat.ticket.task, seat.turns, reply.text)
        if stop is None:
            seat.messages += [Message("assistant", reply.text), Message("user", seat.turns[-1].observation)]
        return stop

    def _leave(self, seat: _Seat, stop: StopReason) -> Trajectory:
        env, unanswered = seat.env, stop == StopReason.NO_REPLY
        score, solved = (0.0, False) if unanswered else (env.score(), env.solved())
        self._envs.give(env)
        return Trajectory(seat.ticket.task, seat.opening, tuple(seat.turns), score, solved, stop)
