"""Stage `evaluate`: a model plays the test tasks; every episode is kept, token for token.

`evaluations/<model>/<env>.jsonl` holds one `Episode` a line in the order of the tasks, and
`evaluations/<model>/evaluator.json` what the fingerprints are made of.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import zip_longest
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from affine.envs.env import EnvSettings
from affine.errors import AffineError
from affine.files import published, write_json, write_records
from affine.fingerprint import components, fingerprint
from affine.models.checkpoint import check_checkpoint
from affine.models.lora import base_digest, check_adapter
from affine.params import Params
from affine.rollout.episodes import Limits, Ticket
from affine.rollout.pool import Players, RolloutPool
from affine.rollout.sampling import Sampling
from affine.rollout.weights import NO_ADAPTER, AdapterWeights, read_adapter
from affine.tasks import load_tasks
from affine.types import ENVS, Episode, Split, Trajectory

MODELS = ("base", "sft", "ppo")


class EvaluateError(AffineError):
    """There is no such model to evaluate."""


def evaluate(params: Params, model: str, root: Path, *, console: Console | None = None) -> None:
    """Evaluate `model` (base, sft or ppo) on all test tasks, `evaluate.samples` times each.

    Raises EvaluateError, CheckpointError, EnvError.
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
    # Environments take turns, so that slow engines never wait for each other alone at the end.
    tickets = [
        Ticket(task, sample, params.seed)
        for sample in range(params.evaluate.samples)
        for row in zip_longest(*tasks.values())
        for task in row
        if task is not None
    ]
    episodes: dict[str, list[Episode]] = defaultdict(list)
    played = _play(params, base, weights, tickets, model=model, console=console)
    for ticket, trajectory in zip(tickets, played, strict=True):
        env = ticket.task.env
        episodes[env].append(Episode(trajectory, model, fingerprint(evaluators[env]), ticket.sample))
    with published(root / "evaluations" / model) as folder:
        for env in ENVS:
            write_records(folder / f"{env}.jsonl", episodes[env])
        write_json(folder / "evaluator.json", evaluators)


def _play(
    params: Params, base: Path, weights: AdapterWeights, tickets: list[Ticket], *, model: str, console: Console | None
) -> list[Trajectory]:
    players = Players(
        base,
        EnvSettings(params.envs.mode, params.envs.prompts),
        Limits(params.rollout.context, params.rollout.reply),
        params.rollout.slots,
    )
    bar = Progress(
        TextColumn("evaluate {task.description}"), BarColumn(), MofNCompleteColumn(),
        TextColumn("score {task.fields[score]:.3f}"), TimeRemainingColumn(),
        console=console or Console(stderr=True), disable=console is None,
    )  # fmt: skip
    total = 0.0
    with bar, RolloutPool(players, params.rollout.workers) as pool:
        row = bar.add_task(model, total=len(tickets), score=float("nan"))

        def finished(trajectory: Trajectory) -> None:
            nonlocal total
            total += trajectory.score
            bar.advance(row)
            bar.update(row, score=total / bar.tasks[0].completed)

        pool.load(weights)
        return pool.play(tickets, Sampling(params.evaluate.temperature, params.evaluate.top_p), finished)
