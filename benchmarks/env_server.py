"""An environment behind HTTP, in the style of AgentGym's servers: the baseline that in-process play replaces.

POST /create, /reset {"id", "task"}, /step {"id", "action"}, JSON in and out, one process, a thread per request
and a new connection for each, as AgentGym's clients make them (`requests.post`).
"""

from __future__ import annotations

import json
import multiprocessing
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any

import requests

from affine.envs.env import Env, make
from affine.types import Task, task_from_json


class Handler(BaseHTTPRequestHandler):
    """Answers one request. Header and body leave in one packet: otherwise delayed acknowledgements of TCP would
    add 40 ms a step, which is nobody's design."""

    wbufsize = -1
    disable_nagle_algorithm = True
    server: EnvServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
        with self.server.lock:
            answer = json.dumps(getattr(self.server, self.path.strip("/"))(**body)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


class EnvServer(ThreadingHTTPServer):
    """Environments of one kind by id."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, name: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.name = name
        self.envs: list[Env] = []
        self.lock = threading.Lock()

    def create(self) -> dict[str, Any]:
        self.envs.append(make(self.name))
        return {"id": len(self.envs) - 1}

    def reset(self, id: int, task: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [asdict(message) for message in self.envs[id].reset(task_from_json(task))]}

    def step(self, id: int, action: str) -> dict[str, Any]:
        return {**asdict(self.envs[id].step(action)), "score": self.envs[id].score()}


def _serve(name: str, connection: Connection) -> None:
    server = EnvServer(name)
    connection.send(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    connection.recv()
    for env in server.envs:
        env.close()
    connection.send("closed")


class Client:
    """The agent's side, a request per call."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"
        self._id: int = self._post("create")["id"]

    def _post(self, path: str, **body: Any) -> Any:
        answer = requests.post(f"{self._address}/{path}", json=body, timeout=120)
        answer.raise_for_status()
        return answer.json()

    def reset(self, task: Task) -> list[dict[str, str]]:
        messages: list[dict[str, str]] = self._post("reset", id=self._id, task=asdict(task))["messages"]
        return messages

    def step(self, action: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._post("step", id=self._id, action=action)
        return answer


@contextmanager
def serving(name: str) -> Iterator[Client]:
    """A client of a new server process for the environment `name`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(name, theirs), daemon=True)
    process.start()
    try:
        yield Client(ours.recv())
    finally:
        ours.send("stop")
        if ours.poll(30):
            ours.recv()
        process.terminate()
        process.join()
