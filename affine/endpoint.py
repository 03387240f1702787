"""Stage `endpoint`: a policy that is served over the OpenAI protocol plays the test tasks.

Writes what stage `evaluate` writes, to `evaluations/<evaluate.endpoint.name>/`, and `policy.json`: who played. Replies
come as text, so records hold no token ids. Finished episodes are kept in the work folder until all are there: a run
that is cut off goes on where it was.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from rich.console import Console

from affine.evaluation import conditions_of, progress, publish
from affine.fingerprint import SERVED, components
from affine.params import Params
from affine.rollout.episodes import EnvPool, Limits, Ticket, tickets_of
from affine.rollout.pool import settings_of
from affine.rollout.sampling import Sampling
from affine.rollout.served import Endpoint, EndpointError, ServedPlayer
from affine.tasks import load_tasks
from affine.training.work import work_folder
from affine.types import ENVS, Split, Trajectory, to_json, trajectory_from_json

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the server's key, where it wants one."""


def evaluate_endpoint(params: Params, root: Path, *, console: Console | None = None) -> None:
    """Evaluate the policy at `evaluate.endpoint`. Raises EndpointError, EnvError, FileError."""
    settings = params.evaluate.endpoint
    if not (settings.url and settings.model):
        raise EndpointError(
            "evaluate.endpoint: url and model are needed, as in\n"
            "dvc exp run endpoint/dvc.yaml -S evaluate.endpoint.url=http://localhost:8000/v1"
            " -S evaluate.endpoint.model=MODEL"
        )
    tasks = {env: load_tasks(root, env, Split.TEST) for env in ENVS}
    evaluators = {env: components(params, env, tasks[env], SERVED) for env in ENVS}
    conditions = conditions_of(params, tasks)
    tickets = tickets_of(tasks, params.evaluate.samples, params.seed)
    identity = {"evaluators": evaluators, "url": settings.url, "model": settings.model, "seed": params.seed}
    kept = work_folder(root, "endpoint", identity, []) / "episodes.jsonl"
    played = _read_kept(kept, params.seed)
    left = [ticket for ticket in tickets if ticket not in played]
    envs = EnvPool(settings_of(params))
    limits = Limits(params.rollout.context, params.rollout.reply)
    sampling = Sampling(params.evaluate.temperature, params.evaluate.top_p)
    try:
        with (
            Endpoint(settings.url, settings.model, os.environ.get(KEY, "")) as endpoint,
            kept.open("a", encoding="utf-8") as file,
            progress(settings.name, len(left), console) as tell,
        ):
            player = ServedPlayer(endpoint, envs, sampling, limits, settings.concurrency)

            def finished(ticket: Ticket, trajectory: Trajectory) -> None:
                file.write(f'{{"sample":{ticket.sample},"trajectory":{to_json(trajectory)}}}\n')
                file.flush()
                tell(trajectory)

            played |= dict(zip(left, player.play(left, finished), strict=True))
    finally:
        envs.close()
    policy = {"url": settings.url, "model": settings.model, "served": sorted(player.served)}
    publish(
        root,
        settings.name,
        params,
        evaluators=evaluators,
        played=[(ticket, played[ticket]) for ticket in tickets],
        more={"policy.json": policy, "conditions.json": conditions},
    )
    shutil.rmtree(kept.parent)


def _read_kept(path: Path, seed: int) -> dict[Ticket, Trajectory]:
    """The finished episodes of a run that was cut off; a last line that is not whole is dropped."""
    if not path.is_file():
        return {}
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))
    found: dict[Ticket, Trajectory] = {}
    for line in lines[:-1]:
        record = json.loads(line)
        trajectory = trajectory_from_json(record["trajectory"])
        found[Ticket(trajectory.task, record["sample"], seed)] = trajectory
    return found
