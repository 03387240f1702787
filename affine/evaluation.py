"""Stage `evaluate`: a model plays the test tasks; every episode is kept, token for token.

`evaluations/<model>/<env>.jsonl` holds one `Episode` a line in the order of the tasks,
`evaluations/<model>/evaluator.json` what the fingerprints are made of, `conditions.json` what holds on this machine
without changing a score (how programs are confined), and `stops.json`, where play could stop early (`evaluate.stop`),
where it did.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from affine.envs.env import Env, make
from affine.errors import AffineError
from affine.files import published, write_json, write_records
from affine.fingerprint import components, fingerprint
from affine.launch import place
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import base_digest, check_adapter
from affine.params import Params
from affine.rollout.episodes import Ticket, tickets_of
from affine.rollout.pool import players_of, settings_of
from affine.rollout.sampling import Sampling
from affine.rollout.spread import open_pool
from affine.rollout.weights import NO_ADAPTER, AdapterWeights, read_adapter
from affine.tasks import load_tasks
from affine.types import ENVS, Episode, Split, Task, Trajectory

MODELS = ("base", "sft", "ppo")

CHALLENGER, INCUMBENT = "ppo", "sft"
"""Only the last model of the graph may stop early: what later models are compared with is played in full."""

Play = Callable[[Sequence[Ticket]], list[Trajectory]]


class EvaluateError(AffineError):
    """There is no such model to evaluate."""


def evaluate(params: Params, model: str, root: Path, *, console: Console | None = None) -> None:
    """Evaluate `model` (base, sft or ppo) on all test tasks, `evaluate.samples` times each.

    Raises EvaluateError, CheckpointError, EnvError; EvaluationError where `evaluate.stop` needs an incumbent's
    records and they are missing or not comparable.
    """
    if model not in MODELS:
        raise EvaluateError(f"no model {model!r} to evaluate (models: {', '.join(MODELS)})")
    base = root / "models" / "base"
    digest = base_digest(base)
    check_checkpoint(base)
    weights = NO_ADAPTER
    if model != "base":
        folder = root / "models" / model
        check_adapter(folder, digest)
        weights = read_adapter(folder)
    tasks = {env: load_tasks(root, env, Split.TEST) for env in ENVS}
    evaluators = {env: components(params, env, tasks[env]) for env in ENVS}
    conditions = conditions_of(params, tasks)
    early = params.evaluate.stop == "sequential" and model == CHALLENGER
    looks = _looks(params, root, tasks, evaluators) if early else None
    tickets = tickets_of(tasks, params.evaluate.samples, params.seed)
    with progress(model, len(tickets), console) as finished, _pool(params, base, weights, finished) as play:
        if looks is None:
            played = dict(zip(tickets, play(tickets), strict=True))
        else:
            played = {}
            while batch := looks.next():
                chosen = [Ticket(task, k, params.seed) for task in batch for k in range(params.evaluate.samples)]
                for ticket, trajectory in zip(chosen, play(chosen), strict=True):
                    played[ticket] = trajectory
                    looks.add(ticket.task, trajectory.score)
    more = {"conditions.json": conditions} | ({"stops.json": looks.report(INCUMBENT)} if looks else {})
    if not place().first:
        return
    in_order = [(ticket, played[ticket]) for ticket in tickets if ticket in played]
    publish(root, model, params, evaluators=evaluators, played=in_order, more=more)


def conditions_of(params: Params, tasks: Mapping[str, Sequence[Task]]) -> dict[str, dict[str, str]]:
    """`Env.conditions` here of the environments that have tasks, where there are any. Asked before anything is played:
    raises EnvError where the programs of ABD and DED could not be run."""
    settings = settings_of(params)
    found = {}
    for env in sorted(env for env, members in tasks.items() if members):
        with closing(make(env, settings)) as instance:
            found[env] = dict(instance.conditions())
    return {env: conditions for env, conditions in found.items() if conditions}


def publish(
    root: Path,
    model: str,
    params: Params,
    *,
    evaluators: Mapping[str, dict[str, Any]],
    played: Sequence[tuple[Ticket, Trajectory]],
    more: Mapping[str, Any],
) -> None:
    """Write `evaluations/<model>/`: all episodes in the order of `played`, the evaluators, and the JSON files
    `more`."""
    settings = settings_of(params)
    instances: dict[str, Env] = {env: make(env, settings) for env in ENVS}
    episodes: dict[str, list[Episode]] = defaultdict(list)
    for ticket, trajectory in played:
        task = ticket.task
        kind = instances[task.env].task_type(task.level, task.id, task.seed)
        print_ = fingerprint(evaluators[task.env])
        episodes[task.env].append(Episode(trajectory, model, print_, ticket.sample, kind))
    for instance in instances.values():
        instance.close()
    with published(root / "evaluations" / model) as folder:
        for env in ENVS:
            write_records(folder / f"{env}.jsonl", episodes[env])
        write_json(folder / "evaluator.json", evaluators)
        for name, content in more.items():
            write_json(folder / name, content)


def _looks(
    params: Params, root: Path, tasks: Mapping[str, Sequence[Task]], evaluators: Mapping[str, dict[str, Any]]
) -> Any:
    """Where to stop, compared with the incumbent's stored episodes; refused where another evaluator made them."""
    # Imported here: what stops play is no dependency of evaluations that never stop (`affine.deps.LAZY`).
    from affine.pareto.stopping import Looks
    from affine.pareto.summary import read_model

    incumbent = read_model(root / "evaluations" / INCUMBENT)
    for env, result in incumbent.items():
        if result.fingerprint != fingerprint(evaluators[env]):
            raise EvaluateError(
                f"evaluate.stop: {INCUMBENT}'s episodes in {env} are another evaluator's; evaluate it again first: "
                f"dvc repro evaluate@{INCUMBENT}"
            )
    return Looks(CHALLENGER, tasks, incumbent, params.evaluate.stop_error)


@contextmanager
def progress(model: str, episodes: int, console: Console | None) -> Iterator[Callable[[Trajectory], None]]:
    """A bar of finished episodes with their mean score; yields what to tell of each."""
    bar = Progress(
        TextColumn("evaluate {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("score {task.fields[score]:.3f}"), TimeRemainingColumn(),
        console=console or Console(stderr=True), disable=console is None,
    )  # fmt: skip
    total = 0.0
    with bar:
        row = bar.add_task(model, total=episodes, score=float("nan"))

        def finished(trajectory: Trajectory) -> None:
            nonlocal total
            total += trajectory.score
            bar.advance(row)
            bar.update(row, score=total / bar.tasks[0].completed)

        yield finished


@contextmanager
def _pool(
    params: Params, base: Path, weights: AdapterWeights, finished: Callable[[Trajectory], None]
) -> Iterator[Play]:
    sampling = Sampling(params.evaluate.temperature, params.evaluate.top_p)
    with open_pool(players_of(params, base), params.rollout.workers) as pool:
        pool.load(weights)
        yield lambda tickets: pool.play(tickets, sampling, finished)
