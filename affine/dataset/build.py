"""Stage `dataset`: solved trajectories -> tokens with an action mask, mixed and cleaned.

In this order, and counted: demonstrations of tasks that share content with a test task are left out
(decontamination, by `key` and by `group`), then those without a token to learn from, those longer than
`max_length`, and those whose tokens equal another's. Of the rest each environment gives its share
(`weights`), and whole task groups go to validation.
"""

from __future__ import annotations

import hashlib
import json
import random
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from affine.dataset.report import report
from affine.dataset.sequences import (
    Dataset,
    DatasetError,
    Demonstration,
    load_tokenizer,
    save_dataset,
    tokenizer_digest,
)
from affine.files import published, write_json
from affine.models.chat import Renderer
from affine.params import DatasetParams, Params
from affine.types import ENVS, Split, Trajectory, task_from_json, trajectory_from_json

LEFT_OUT = ("contaminated", "nothing_to_learn", "too_long", "duplicate", "share")
"""Why a demonstration isn't used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rendered demonstration with its task's group, its number of turns, and how many of them hold tokens that a
    model sampled."""

    demonstration: Demonstration
    group: str
    turns: int
    sampled: int


@dataclass(slots=True)
class Selection:
    """One environment's part of the dataset."""

    train: list[Candidate] = field(default_factory=list)
    validation: list[Candidate] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def build_dataset(params: Params, root: Path) -> None:
    """Write data/dataset/ and metrics/dataset.json under `root`.

    Raises DatasetError for missing or corrupt input, a trajectory that isn't a solved one of a training
    task, and an environment of which nothing is left.
    """
    tokenizer = load_tokenizer(root / "models" / "base")
    renderer = Renderer(tokenizer)
    selections = {}
    seen: set[bytes] = set()
    for env, weight in params.dataset.weights.as_dict().items():
        selection = Selection()
        if weight > 0:
            candidates = _render(
                _demonstrations(root, env), renderer, params.dataset.max_length, seen, selection.left_out
            )
            rng = random.Random(f"dataset/{params.seed}/{env}")
            _divide(candidates, weight, params.dataset.validation, rng, selection)
            if not selection.train:
                raise DatasetError(_nothing(env, selection, params.dataset))
        selections[env] = selection
    train, validation = (
        tuple(c.demonstration for env in ENVS for c in getattr(selections[env], part))
        for part in ("train", "validation")
    )
    if not validation:
        raise DatasetError(
            "dataset: no demonstration is left for validation; collect more, or raise dataset.validation"
        )
    with published(root / "data" / "dataset") as folder:
        save_dataset(Dataset(train, validation, tokenizer_digest(tokenizer)), folder)
    parts = {env: (s.train, s.validation, {why: s.left_out[why] for why in LEFT_OUT}) for env, s in selections.items()}
    write_json(root / "metrics" / "dataset.json", report(parts))


def _demonstrations(root: Path, env: str) -> Iterator[tuple[Trajectory, bool]]:
    """The solved trajectories of `env`, each with whether its task shares content with a test task."""
    keys, groups = _test_content(root / "data" / "tasks" / env / "test.jsonl")
    for trajectory in _trajectories(root / "data" / "trajectories" / env / "solved.jsonl", env):
        yield trajectory, trajectory.task.key in keys or trajectory.task.group in groups


def _render(
    trajectories: Iterator[tuple[Trajectory, bool]],
    renderer: Renderer,
    longest: int,
    seen: set[bytes],
    left_out: Counter[str],
) -> list[Candidate]:
    """The usable demonstrations among `trajectories` (each with whether it shares content with a test
    task), in their order; `seen` holds the token sequences so far."""
    candidates = []
    for played, contaminated in trajectories:
        task = played.task
        # Tokens of another model's tokenizer mean nothing here: such a turn is encoded from its text.
        turns = tuple(turn if renderer.sampled(turn) else replace(turn, token_ids=()) for turn in played.turns)
        trajectory = replace(played, turns=turns)
        tokens = renderer.trajectory(trajectory)
        content = array("i", tokens.ids).tobytes()
        if contaminated:
            left_out["contaminated"] += 1
        elif not any(tokens.action_mask):
            left_out["nothing_to_learn"] += 1
        elif len(tokens.ids) > longest:
            left_out["too_long"] += 1
        elif content in seen:
            left_out["duplicate"] += 1
        else:
            seen.add(content)
            demonstration = Demonstration(
                task.env, f"{task.level}/{task.id}", tuple(tokens.ids), tuple(tokens.action_mask)
            )
            # A task without a group is a group of its own.
            group = task.group or f"task {task.level}/{task.id}"
            candidates.append(Candidate(demonstration, group, len(turns), sum(bool(turn.token_ids) for turn in turns)))
    return candidates


def _divide(
    candidates: list[Candidate], weight: float, validation: float, rng: random.Random, selection: Selection
) -> None:
    """Take the share `weight`, then hold out whole groups, in an order fixed by their hash, until about
    `validation` of the demonstrations are held out; a group that would hold out more stays in training,
    unless none was held out and half of the demonstrations stay."""
    kept = sorted(rng.sample(range(len(candidates)), max(min(1, len(candidates)), round(weight * len(candidates)))))
    selection.left_out["share"] = len(candidates) - len(kept)
    chosen = [candidates[index] for index in kept]
    sizes = Counter(candidate.group for candidate in chosen)
    wanted = round(validation * len(chosen)) or 1
    held_out: set[str] = set()
    for group in sorted(sizes, key=lambda group: hashlib.sha256(group.encode()).digest()):
        if sum(sizes[g] for g in held_out) + sizes[group] <= wanted:
            held_out.add(group)
    if not held_out and sizes:
        smallest = min(sizes, key=lambda group: (sizes[group], group))
        if 2 * sizes[smallest] <= len(chosen):
            held_out.add(smallest)
    for candidate in chosen:
        (selection.validation if candidate.group in held_out else selection.train).append(candidate)


def _test_content(path: Path) -> tuple[frozenset[str], frozenset[str]]:
    """The keys and the groups of the test tasks (empty ones mean "unknown" and match nothing)."""
    tasks = []
    for number, line in _lines(path, "tasks"):
        try:
            tasks.append(task_from_json(json.loads(line)))
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{path}:{number}: not a task ({error}); run `dvc repro -f tasks`") from None
    keys = frozenset(task.key for task in tasks) - {""}
    return keys, frozenset(task.group for task in tasks) - {""}


def _trajectories(path: Path, env: str) -> Iterator[Trajectory]:
    for number, line in _lines(path, "collect"):
        try:
            trajectory = trajectory_from_json(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(
                f"{path}:{number}: not a trajectory ({error}); run `dvc repro -f collect@{env}`"
            ) from None
        task = trajectory.task
        if task.env != env or task.split is not Split.TRAIN or not trajectory.solved:
            what = "solved" if trajectory.solved else "unsolved"
            raise DatasetError(
                f"{path}:{number}: expected a solved {env} training task, got {what} {task.env}/{task.split}/{task.id};"
                f" run `dvc repro -f collect@{env}`"
            )
        yield trajectory


def _lines(path: Path, stage: str) -> Iterator[tuple[int, str]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DatasetError(f"{path}: no such file; run `dvc repro {stage}`") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path}: not UTF-8 ({error.reason}); run `dvc repro -f {stage}`") from None
    # Not splitlines(): JSON strings may hold U+2028 and its like.
    return ((number, line) for number, line in enumerate(text.split("\n"), 1) if line)


def _nothing(env: str, selection: Selection, params: DatasetParams) -> str:
    counts = ", ".join(f"{selection.left_out[why]} {why.replace('_', ' ')}" for why in LEFT_OUT)
    return (
        f"dataset: no demonstration of {env} is left for training ({counts}); collect more, raise"
        f" dataset.max_length (now {params.max_length}), or set dataset.weights.{env} to 0"
    )
