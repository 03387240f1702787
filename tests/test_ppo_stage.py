"""Stage `ppo`: what it writes, killed and resumed runs, several processes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import killed
import pytest
import torch
from killed import die_at
from local_pool import LocalPool
from ppo_inputs import (
    REPOSITORY,
    params,
)
from safetensors.torch import load_file
from tiny import OUT_OF_MEMORY
from transformers.models.qwen3.modeling_qwen3 import Qwen3Model

from affine.envs.env import make
from affine.files import write_records
from affine.params import Params
from affine.rollout.episodes import Ticket
from affine.rollout.pool import players_of
from affine.rollout.sampling import Sampling
from affine.rollout.weights import read_adapter
from affine.tasks import draw_tasks, load_tasks
from affine.training import ppo
from affine.training.ppo import PpoError, train_ppo
from affine.types import ENVS, Split, Task, Trajectory

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def train_tasks() -> dict[str, list[Task]]:
    """Some to train on, and a few of the validation split."""
    drawn = {}
    for name in ("sat", "textcraft"):
        env = make(name)
        drawn[name] = draw_tasks(env, 0, 0, {Split.TRAIN: 20, Split.VALIDATION: 3})
        env.close()
    return drawn


def prepare(root: Path, base: Path, sft: Path, tasks: dict[str, list[Task]]) -> Path:
    (root / "models").mkdir(parents=True)
    (root / "models" / "base").symlink_to(base)
    (root / "models" / "sft").symlink_to(sft)
    for env in ENVS:
        for split in (Split.TRAIN, Split.VALIDATION):
            chosen = [task for task in tasks.get(env, []) if task.split == split]
            write_records(root / "data" / "tasks" / env / f"{split.value}.jsonl", chosen)
    return root


def outputs(root: Path) -> dict[str, bytes]:
    folders = [root / "models" / "ppo", root / "metrics"]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def graded(played: list[Trajectory]) -> float:
    """In place of the validation score, which is 0 for so small a model: another for every policy."""
    return -fmean(token for t in played for turn in t.turns for token in turn.token_ids)


def in_child(root: Path, arrange: Callable[[], None] = lambda: None) -> int:
    """The stage in a process of its own, its rollouts in that process; see `killed.in_child`."""

    def run() -> None:
        ppo.RolloutPool = LocalPool  # type: ignore[misc,assignment]
        ppo.validation_score = graded  # type: ignore[assignment]
        train_ppo(params(), root)

    return killed.in_child(run, arrange)


@pytest.fixture(scope="module")
def trained(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run with real worker processes, which keeps an adapter between its first and its last."""
    torch.set_num_threads(1)
    root = prepare(tmp_path_factory.mktemp("trained") / "root", base, sft, train_tasks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ppo, "validation_score", graded)
        train_ppo(params(), root)
    return root


KILLS = {
    "before the first checkpoint": die_at(ppo, "annotate", 2),
    "in the middle of an update": die_at(ppo, "pad", 40),
    "while validation tasks are played": die_at(ppo, "tickets_of", 2),
    "after a candidate was kept": die_at(ppo, "annotate", 4),
    "in the middle of the second checkpoint": die_at(ppo, "save_file", 8),
    "before anything is published": die_at(ppo, "_publish", 1),
    "between two outputs": die_at(ppo, "save_adapter", 1),
}


@pytest.mark.parametrize("moment", KILLS)
def test_a_killed_run_ends_in_the_same_bytes(
    trained: Path, base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path, moment: str
) -> None:
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    assert in_child(root, KILLS[moment]) == signal.SIGKILL
    assert not (root / "models" / "ppo").exists()
    assert in_child(root) == 0
    assert outputs(root) == outputs(trained)
    assert not list((root / "work").iterdir())


def test_a_run_says_what_it_did(trained: Path, base: Path, sft: Path) -> None:
    summary = json.loads((trained / "metrics" / "ppo.json").read_text(encoding="utf-8"))
    assert (summary["enabled"], summary["iterations"], summary["episodes"]) == (True, 4, 40)
    last = summary["last"]
    assert last["sampler_gap"] < 1e-4
    assert {"score/sat", "score/textcraft", "score/overall"} <= set(last)
    assert "score/abd" not in last
    assert last["score/overall"] == pytest.approx((last["score/sat"] + last["score/textcraft"]) / 2)
    curves = trained / "metrics" / "curves" / "ppo"
    rows = (curves / "score" / "overall.tsv").read_text(encoding="utf-8").splitlines()
    assert [int(row.split("\t")[0]) for row in rows[1:]] == [1, 2, 3, 4]
    assert float(rows[-1].split("\t")[1]) == last["score/overall"]
    before, after = (load_file(f / "adapter_model.safetensors") for f in (sft, trained / "models" / "ppo"))
    assert list(before) == list(after)
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, content in outputs(trained).items():
        assert str(trained).encode() not in content, name
        assert str(REPOSITORY).encode() not in content, name


def adapter(root: Path) -> dict[str, torch.Tensor]:
    return load_file(root / "adapter_model.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_kept_is_what_plays_the_validation_tasks_best(trained: Path, base: Path) -> None:
    """The published adapter, played anew, scores what the summary says of the iteration that was kept."""
    summary = json.loads((trained / "metrics" / "ppo.json").read_text(encoding="utf-8"))
    scores = {int(iteration): score for iteration, score in summary["validation"].items()}
    assert list(scores) == [0, 2, 4]
    assert summary["sft_validation_score"] == scores[0]
    assert summary["kept_iteration"] == max(scores, key=lambda k: scores[k]) == 2
    assert len(set(scores.values())) == 3
    assert summary["validation_score"] == max(scores.values())
    curve = (trained / "metrics" / "curves" / "ppo" / "validation_score.tsv").read_text(encoding="utf-8")
    assert {int(k): float(v) for k, v in (row.split("\t") for row in curve.splitlines()[1:])} == {
        k: scores[k] for k in (2, 4)
    }
    tasks = {env: load_tasks(trained, env, Split.VALIDATION) for env in ("sat", "textcraft")}
    with LocalPool(players_of(params(), base), 1) as pool:
        pool.load(read_adapter(trained / "models" / "ppo"))
        assert [len(members) for members in tasks.values()] == [3, 3]
        tickets = [Ticket(task, k, params().seed) for members in tasks.values() for task in members for k in (0, 1)]
        assert graded(pool.play(tickets, Sampling(1.0))) == pytest.approx(summary["validation_score"])


def test_a_run_that_gets_worse_ends_where_it_was_best(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the scores are, training takes the same way; they decide which of its adapters is published."""
    monkeypatch.setattr(ppo, "RolloutPool", LocalPool)
    published, heads = {}, {}
    runs = {"sft": (0.9, 0.1, 0.2), "middle": (0.1, 0.9, 0.2), "last": (0.2, 0.2, 0.2), "off": ()}
    for name, scores in runs.items():
        told = iter(scores)
        monkeypatch.setattr(ppo, "validation_score", lambda played, told=told: next(told))
        root = prepare(tmp_path / name, base, sft, train_tasks)
        train_ppo(params(validate_every=3 if scores else 0), root)
        published[name] = adapter(root / "models" / "ppo")
        heads[name] = load_file(root / "models" / "ppo" / "value_head.safetensors")
        summary = json.loads((root / "metrics" / "ppo.json").read_text(encoding="utf-8"))
        if scores:
            assert summary["validation"] == dict(zip(("0", "3", "4"), scores, strict=True))
            assert summary["kept_iteration"] == {"sft": 0, "middle": 3, "last": 4}[name]
        else:
            assert not {"validation", "kept_iteration", "validation_score", "sft_validation_score"} & set(summary)
    assert same(published["sft"], adapter(sft))
    assert same(published["last"], published["off"])
    assert same(heads["last"], heads["off"])
    for tensors in (published, heads):
        assert not same(tensors["middle"], tensors["sft"])
        assert not same(tensors["middle"], tensors["last"])


def test_choosing_without_validation_tasks_is_refused(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path
) -> None:
    only = {env: [task for task in tasks if task.split == Split.TRAIN] for env, tasks in train_tasks.items()}
    root = prepare(tmp_path / "root", base, sft, only)
    with pytest.raises(PpoError, match=r"raise tasks\.ENV\.validation or set ppo\.validate_every to 0"):
        train_ppo(params(), root)
    assert not (root / "models" / "ppo").exists()


@pytest.mark.parametrize("iteration", [0, 2])
def test_a_validation_score_that_is_no_number_stops_the_run(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    iteration: int,
) -> None:  # fmt: skip
    monkeypatch.setattr(ppo, "RolloutPool", LocalPool)
    looks = itertools.count(step=2)
    original = ppo.check_scores

    def check(trajectories: list[Trajectory]) -> None:
        held_out = [t for t in trajectories if t.task.split == Split.VALIDATION]
        if held_out and next(looks) == iteration:
            original([replace(held_out[0], score=float("nan"))])
        original(trajectories)

    monkeypatch.setattr(ppo, "check_scores", check)
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    with pytest.raises(PpoError, match=rf"^iteration {max(iteration, 1)}: the score of .* is no number"):
        train_ppo(params(), root)
    assert not (root / "models" / "ppo").exists()


class Ticks:
    """A clock that is a second later at every look."""

    def __init__(self) -> None:
        self._seconds = itertools.count()

    def perf_counter(self) -> float:
        return float(next(self._seconds))


def test_tokens_per_second_are_those_sampled_and_those_trained_on(
    trained: Path, base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path
) -> None:
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    assert in_child(root, lambda: setattr(ppo, "time", Ticks())) == 0
    assert outputs(root) == outputs(trained)  # whatever the clock says

    def rows(path: Path) -> dict[int, float]:
        return {int(s): float(v) for s, v in (line.split("\t") for line in path.read_text().splitlines()[1:])}

    kept = root / "logs" / "throughput" / "ppo"
    rollout, update = (rows(kept / f"{part}_tokens_per_second.tsv") for part in ("rollout", "update"))
    curves = root / "metrics" / "curves" / "ppo"
    turns, length = rows(curves / "turns.tsv"), rows(curves / "reply_tokens.tsv")
    # Playing takes one second of this clock and updating three; an iteration plays ten episodes.
    assert rollout == pytest.approx({step: 10 * turns[step] * length[step] for step in range(1, 5)})
    assert all(3 * update[step] > rollout[step] for step in range(1, 5))  # prompts are trained through, too


def test_switched_off_the_sft_adapter_passes_through(base: Path, sft: Path, tmp_path: Path) -> None:
    root = prepare(tmp_path / "root", base, sft, {})
    train_ppo(params(enabled=False), root)
    assert {p.name: p.read_bytes() for p in (root / "models" / "ppo").iterdir()} == {
        p.name: p.read_bytes() for p in sft.iterdir()
    }
    assert json.loads((root / "metrics" / "ppo.json").read_text(encoding="utf-8")) == {"enabled": False}


def test_a_context_without_room_is_refused(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppo, "RolloutPool", LocalPool)
    p = params().model_copy(update={"rollout": params().rollout.model_copy(update={"context": 10})})
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    with pytest.raises(PpoError, match=r"raise rollout\.context"):
        train_ppo(p, root)
    assert not (root / "models" / "ppo").exists()


@pytest.mark.parametrize("moment", ["before the update", "in the update"])
@pytest.mark.parametrize("where", OUT_OF_MEMORY)
def test_out_of_memory_names_what_to_lower(
    base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    where: str, moment: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(ppo, "RolloutPool", LocalPool)

    def exhaust() -> None:
        monkeypatch.setattr(Qwen3Model, "forward", OUT_OF_MEMORY[where])

    if moment == "before the update":
        exhaust()  # the engine for CPUs has a forward pass of its own
    else:
        original = ppo.update

        def update(*args: Any, **kwargs: Any) -> dict[str, float]:
            exhaust()
            return original(*args, **kwargs)

        monkeypatch.setattr(ppo, "update", update)
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    with pytest.raises(PpoError, match=r"^iteration 1: out of memory; about .* GB are needed") as raised:
        train_ppo(params(minibatch_tokens=4800), root)
    text = str(raised.value)
    assert "1200 tokens: 1/4 of ppo.minibatch_tokens, now 4800" in text
    assert "no less than rollout.context, now 300" in text
    need, fixed, half, anew = (float(number) for number in re.findall(r"([\d.e+-]+) GB", text))
    assert 0 < fixed < half < need
    assert fixed < anew < need
    assert "ppo.gradient_checkpointing: true about" in text
    assert "ppo.minibatch_tokens 2400 needs" in text
    assert not (root / "models" / "ppo").exists()


@pytest.mark.parametrize(
    "change", [{"envs": {"prompts": "full"}}, {"rollout": {"reply": 9}}, {"ppo": {"kl": 0.02}}, {"seed": 3}]
)
def test_a_checkpoint_of_other_parameters_is_left_alone(
    base: Path, sft: Path, tmp_path: Path, change: dict[str, object]
) -> None:
    root = prepare(tmp_path / "root", base, sft, {})
    first = ppo.Trainer(params(), root)
    first.iteration = 2
    first.save()
    assert ppo.Trainer(params(), root).iteration == 2
    data = params().model_dump(mode="json")
    for section, values in change.items():
        data[section] = data[section] | values if isinstance(values, dict) else values
    assert ppo.Trainer(Params.model_validate(data), root).iteration == 0


def _rank(index: int, root: Path, port: int) -> None:
    os.environ |= {
        "RANK": str(index), "LOCAL_RANK": str(index), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    ppo.RolloutPool = LocalPool  # type: ignore[misc,assignment]
    ppo.validation_score = graded  # type: ignore[assignment]
    train_ppo(params(), root)


def test_two_processes_take_the_steps_of_one(
    trained: Path, base: Path, sft: Path, train_tasks: dict[str, list[Task]], tmp_path: Path
) -> None:
    """What `accelerate launch` sets, over gloo: the same curves and weights, up to the order of sums."""
    root = prepare(tmp_path / "root", base, sft, train_tasks)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(k, root, port)) for k in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(200)
        assert process.exitcode == 0
    kept = [
        json.loads((r / "metrics" / "ppo.json").read_text(encoding="utf-8"))["kept_iteration"] for r in (root, trained)
    ]
    assert kept[0] == kept[1] > 0
    ours, theirs = (load_file(r / "models" / "ppo" / "adapter_model.safetensors") for r in (root, trained))
    before = load_file(sft / "adapter_model.safetensors")
    for name, weights in ours.items():
        torch.testing.assert_close(weights - before[name], theirs[name] - before[name], atol=2e-3, rtol=0.05)
    rows = [
        (r / "metrics" / "curves" / "ppo" / "score" / "overall.tsv").read_text().splitlines()[1:]
        for r in (root, trained)
    ]
    assert rows[0] == rows[1]
