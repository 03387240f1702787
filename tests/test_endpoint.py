"""Served policies: the protocol, the validators' patience, what counts as zero and what stops the run, resuming."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from loopback_chat import Answer, ChatServer, completion

from affine import endpoint as module
from affine.endpoint import evaluate_endpoint
from affine.envs.env import EnvSettings, make
from affine.files import read_records, write_records
from affine.params import Params, ParamsError, load_params
from affine.rollout.episodes import EnvPool, Limits, Ticket
from affine.rollout.sampling import Sampling
from affine.rollout.served import AGENT, PATIENCE, SINGLE_TURN, Endpoint, EndpointError, Patience, ServedPlayer
from affine.tasks import draw_tasks
from affine.types import ENVS, Episode, Message, Split, StopReason, Task, Trajectory, episode_from_json

REPOSITORY = Path(__file__).parents[1]
HELLO = [Message("user", "hello")]


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[Task]]:
    counts = {"sat": 3, "textcraft": 2}
    return {env: draw_tasks(make(env), 0, 0, {Split.TEST: counts[env]}) if env in counts else [] for env in ENVS}


def sound(body: dict[str, Any]) -> Answer:
    return completion("x1=True, x2=True, x3=True\nAction: inventory")


@pytest.fixture
def server() -> Iterator[ChatServer]:
    with ChatServer(sound) as running:
        yield running


def ask(endpoint: Endpoint, patience: Patience = AGENT, seconds: float = 60.0) -> Any:
    until = time.monotonic() + seconds
    return endpoint.complete(HELLO, Sampling(0.7, 1.0), reply=48, seed=5, patience=patience, until=until)


def answers(*given: Answer) -> Any:
    waiting = list(given)
    return lambda body: waiting.pop(0)


# --- the protocol ------------------------------------------------------------------------------------------


def test_the_request_is_the_validators_with_our_limits(server: ChatServer) -> None:
    with Endpoint(server.url + "/", "tiny", "secret") as endpoint:
        reply = ask(endpoint)
    [(headers, body)] = server.requests
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "tiny", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.7, "top_p": 1.0,
        "max_tokens": 48, "seed": 5, "stream": False,
    }  # fmt: skip
    assert (reply.prompt_tokens, reply.served) == (10, "tiny@main")


def test_patience_is_that_of_october_2025() -> None:
    assert {env for env in ENVS if env in PATIENCE} == set(PATIENCE) == {"sat", "abd", "ded"}
    assert PATIENCE["ded"] == SINGLE_TURN == Patience(600.0, 1, 700.0)
    assert Patience(300.0, 3, 1300.0) == AGENT


def test_attempts_and_waits(server: ChatServer) -> None:
    slept: list[float] = []
    with Endpoint(server.url, "tiny", sleep=slept.append) as endpoint:
        server.answer = answers((429, {}), (429, {}), completion("ok"))
        assert ask(endpoint).text == "ok"
        assert slept == [1.0, 2.0]
        server.answer = answers((500, {}), completion(""), completion("ok"))
        assert ask(endpoint).text == "ok"
        assert slept[2:] == [1.0, 1.0]
        server.answer = answers((500, {}), completion("never asked for"))
        assert ask(endpoint, SINGLE_TURN) is None


@pytest.mark.parametrize(
    "bad", [(500, {}), (400, {"error": "context"}), completion(" \n"), completion(None), (200, {"choices": []}),
            (200, b"<html>")],
)  # fmt: skip
def test_what_a_served_policy_gets_wrong_is_no_reply(server: ChatServer, bad: Answer) -> None:
    with Endpoint(server.url, "tiny", sleep=lambda _: None) as endpoint:
        assert ask(endpoint).text
        server.answer = lambda body: bad
        assert ask(endpoint) is None
        assert len(server.requests) == 1 + AGENT.attempts


def test_a_slow_reply_is_no_reply(server: ChatServer) -> None:
    with Endpoint(server.url, "tiny", sleep=lambda _: None) as endpoint:
        ask(endpoint)

        def slow(body: dict[str, Any]) -> Answer:
            time.sleep(0.5)
            return completion("too late")

        server.answer = slow
        assert ask(endpoint, replace(AGENT, request=0.05, attempts=2)) is None
        assert ask(endpoint, seconds=-1.0) is None


@pytest.mark.parametrize(("status", "said"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "no such path")])
def test_what_the_operator_must_mend_stops_the_run(server: ChatServer, status: int, said: str) -> None:
    server.answer = lambda body: (status, {})
    with Endpoint(server.url, "tiny", "secret-key") as endpoint, pytest.raises(EndpointError, match=said) as caught:
        ask(endpoint)
    assert len(str(caught.value).splitlines()) <= 2
    assert "secret-key" not in str(caught.value)


def test_a_server_that_never_worked_or_is_gone_is_no_score_of_zero(server: ChatServer) -> None:
    server.answer = lambda body: (500, {"error": "no such model"})
    with (
        Endpoint(server.url, "tiny", sleep=lambda _: None) as endpoint,
        pytest.raises(EndpointError, match=r"no usable reply yet \(HTTP 500"),
    ):
        ask(endpoint)
    with Endpoint("http://127.0.0.1:9/v1", "tiny") as endpoint, pytest.raises(EndpointError, match="cannot connect"):
        ask(endpoint)


# --- episodes ----------------------------------------------------------------------------------------------


def play(server: ChatServer, tasks: list[Task], concurrency: int = 2, context: int = 500) -> list[Trajectory]:
    envs = EnvPool(EnvSettings())
    with Endpoint(server.url, "tiny", sleep=lambda _: None) as endpoint:
        player = ServedPlayer(endpoint, envs, Sampling(), Limits(context, 48), concurrency)
        played = player.play([Ticket(task, 0, 0) for task in tasks], lambda ticket, trajectory: None)
    envs.close()
    return played


def test_episodes_are_the_environments_own(server: ChatServer, tasks: dict[str, list[Task]]) -> None:
    """Replayed by hand in a fresh environment, every stored turn gives the same observation and score."""
    chosen = [*tasks["sat"], *tasks["textcraft"]]
    for task, trajectory in zip(chosen, play(server, chosen), strict=True):
        env = make(task.env)
        assert tuple(env.reset(task)) == trajectory.opening
        for turn in trajectory.turns:
            result = env.step(turn.text)
            assert (turn.reward, turn.valid) == (result.reward, result.valid)
            assert turn.observation in (result.observation, "")
        assert (trajectory.score, trajectory.solved) == (env.score(), env.solved())
        limit = StopReason.TURN_LIMIT if task.env == "textcraft" else trajectory.stop
        assert trajectory.stop == limit
        assert len(trajectory.turns) == (env.turn_limit if task.env == "textcraft" else 1)
    longest = max((body for _, body in server.requests), key=lambda body: len(body["messages"]))["messages"]
    assert [m["role"] for m in longest[-3:]] == ["user", "assistant", "user"]


def test_concurrency_changes_nothing(server: ChatServer, tasks: dict[str, list[Task]]) -> None:
    chosen = [*tasks["sat"], *tasks["textcraft"]]
    assert play(server, chosen, 1) == play(server, chosen, 5)


def test_no_reply_counts_zero_and_the_others_play_on(server: ChatServer, tasks: dict[str, list[Task]]) -> None:
    silent = make("sat").reset(tasks["sat"][1])[0].content

    def answer(body: dict[str, Any]) -> Answer:
        return (500, {}) if body["messages"][0]["content"] == silent else sound(body)

    server.answer = answer
    played = play(server, tasks["sat"], 1)
    assert [t.stop == StopReason.NO_REPLY for t in played] == [False, True, False]
    assert (played[1].score, played[1].solved, played[1].turns) == (0.0, False, ())


def test_the_context_limit_is_the_local_one(server: ChatServer, tasks: dict[str, list[Task]]) -> None:
    """A reply to a prompt that fills the context would not have been sampled locally, and is not played."""
    server.answer = lambda body: completion("Action: inventory", prompt_tokens=100 * len(body["messages"]))
    (played,) = play(server, tasks["textcraft"][:1], context=500)
    assert played.stop == StopReason.CONTEXT_LIMIT
    assert len(played.turns) == 2  # prompts of 1, 3 and 5 messages: the third has 500 tokens


# --- the stage ---------------------------------------------------------------------------------------------


def params(url: str, **changes: Any) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["evaluate"]["endpoint"] = {"url": url, "model": "tiny", "name": "served", "concurrency": 2, **changes}
    return Params.model_validate(data)


@pytest.fixture
def root(tmp_path: Path, tasks: dict[str, list[Task]], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("AFFINE_WORK", raising=False)
    for env, members in tasks.items():
        write_records(tmp_path / "data" / "tasks" / env / "test.jsonl", members)
    return tmp_path


def episodes(root: Path, env: str) -> list[Episode]:
    return list(read_records(root / "evaluations" / "served" / f"{env}.jsonl", episode_from_json))


def test_records_are_those_of_an_evaluation(root: Path, server: ChatServer, tasks: dict[str, list[Task]],
                                            monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", "from-the-environment")
    evaluate_endpoint(params(server.url), root)
    assert [e.trajectory.task for e in episodes(root, "sat")] == tasks["sat"]
    assert {(e.policy, e.sample) for e in episodes(root, "sat")} == {("served", 0)}
    folder = root / "evaluations" / "served"
    assert json.loads((folder / "policy.json").read_text()) == {
        "url": server.url, "model": "tiny", "served": ["tiny@main"]
    }  # fmt: skip
    assert json.loads((folder / "evaluator.json").read_text())["sat"]["rendering"] == "by the server"
    assert server.requests[0][0]["Authorization"] == "Bearer from-the-environment"
    assert not any("from-the-environment" in path.read_text() for path in root.rglob("*") if path.is_file())
    assert not list((root / "work").iterdir())


def test_a_run_that_was_cut_off_goes_on(root: Path, server: ChatServer) -> None:
    evaluate_endpoint(params(server.url), root)
    whole = {env: (root / "evaluations" / "served" / f"{env}.jsonl").read_bytes() for env in ENVS}
    asked = len(server.requests)
    server.requests.clear()

    def gone(body: dict[str, Any]) -> Answer:
        return (401, {}) if len(server.requests) > 4 else sound(body)

    server.answer = gone
    with pytest.raises(EndpointError):
        evaluate_endpoint(params(server.url, concurrency=1), root)
    assert {env: (root / "evaluations" / "served" / f"{env}.jsonl").read_bytes() for env in ENVS} == whole
    (kept,) = (root / "work").glob("*/episodes.jsonl")
    finished = kept.read_text().count("\n")
    assert finished > 0
    with kept.open("a") as file:
        file.write('{"sample":0,"traj')  # killed in the middle of a line
    server.requests.clear()
    server.answer = sound
    evaluate_endpoint(params(server.url, concurrency=1), root)
    assert 0 < len(server.requests) < asked
    assert {env: (root / "evaluations" / "served" / f"{env}.jsonl").read_bytes() for env in ENVS} == whole


def test_an_endpoint_must_be_set_and_named_well(root: Path) -> None:
    with pytest.raises(EndpointError, match="url and model are needed"):
        evaluate_endpoint(params(""), root)
    text = (REPOSITORY / "params.yaml").read_text()
    for old, new, said in (
        ('url: ""', "url: localhost:8000", r"evaluate\.endpoint\.url"),
        ('url: ""', "url: http://me:secret@host/v1", r"evaluate\.endpoint\.url"),
        ("name: endpoint", "name: sft", "name 'sft' is taken"),
    ):
        assert old in text
        (root / "params.yaml").write_text(text.replace(old, new))
        with pytest.raises(ParamsError, match=said):
            load_params(root / "params.yaml")
    assert module.KEY == "OPENAI_API_KEY"
