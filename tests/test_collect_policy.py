"""Rejection sampling: a model's own solved episodes become demonstrations, token by token as it sampled them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from affine.collect.collect import CollectError, collect
from affine.dataset.build import build_dataset
from affine.dataset.sequences import load_dataset
from affine.envs.env import make
from affine.files import read_records, write_records
from affine.models.chat import Renderer
from affine.models.lora import base_digest
from affine.params import Params, load_params
from affine.tasks import draw_tasks
from affine.types import ENVS, Split, Task, Trajectory, trajectory_from_json

REPOSITORY = Path(__file__).parents[1]
ENV = "textcraft"
EPISODES = 6


def params(root: Path, **changes: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["rollout"] |= {"slots": 16, "workers": 1}
    data["dataset"]["weights"] = {env: float(env == ENV) for env in ENVS}
    data["collect"] |= {
        "source": "policy",
        "policy": "policy",
        "policy_digest": base_digest(root / "policy"),
        ENV: {"episodes": EPISODES},
    } | changes
    return Params.model_validate(data)


@pytest.fixture(scope="module")
def tasks() -> dict[Split, list[Task]]:
    drawn = draw_tasks(make(ENV), 0, 0, {Split.TRAIN: 60, Split.TEST: 20})
    return {split: [task for task in drawn if task.split is split] for split in (Split.TRAIN, Split.TEST)}


@pytest.fixture(scope="module")
def collected(tasks: dict[Split, list[Task]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the shipped model solved of TextCraft's training tasks."""
    root = tmp_path_factory.mktemp("collected")
    shutil.copytree(REPOSITORY / "pretrained" / "nano", root / "policy")
    write_records(root / "data" / "tasks" / ENV / "train.jsonl", tasks[Split.TRAIN])
    collect(params(root), ENV, root)
    return root


def kept(root: Path, name: str) -> list[Trajectory]:
    return list(read_records(root / "data" / "trajectories" / ENV / f"{name}.jsonl", trajectory_from_json))


def test_only_what_the_environment_calls_solved_is_kept(collected: Path, tasks: dict[Split, list[Task]]) -> None:
    solved, failed = kept(collected, "solved"), kept(collected, "failed")
    assert len(solved) == EPISODES
    assert failed  # the model is no expert
    env = make(ENV)
    for trajectory in [*solved, *failed]:
        assert trajectory.task in tasks[Split.TRAIN]
        env.reset(trajectory.task)
        for turn in trajectory.turns:
            env.step(turn.text)
        assert (env.score(), env.solved()) == (trajectory.score, trajectory.solved)
    assert all(trajectory.solved for trajectory in solved)
    assert not any(trajectory.solved for trajectory in failed)
    metrics = json.loads((collected / "metrics" / "collect" / f"{ENV}.json").read_text())
    assert metrics["played"] == len(solved) + len(failed) + metrics["not_kept"].get("duplicate", 0)


def test_the_dataset_holds_the_tokens_that_were_sampled(
    collected: Path, tasks: dict[Split, list[Task]], tmp_path: Path
) -> None:
    shutil.copytree(collected, tmp_path / "root")
    root = tmp_path / "root"
    shutil.copytree(root / "policy", root / "models" / "base")
    solved = kept(root, "solved")
    # One reply in another spelling of the same text, as a model may sample it.
    file = root / "data" / "trajectories" / ENV / "solved.jsonl"
    lines = file.read_text().splitlines()
    first = json.loads(lines[0])
    renderer = Renderer(AutoTokenizer.from_pretrained(root / "policy"))
    letters = [token for letter in first["turns"][0]["text"] for token in renderer.reply(letter)[:-1]]
    spelled = [*letters, renderer.end_of_turn]
    assert spelled != renderer.reply(first["turns"][0]["text"])
    first["turns"][0]["token_ids"] = spelled
    file.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n")
    write_records(root / "data" / "tasks" / ENV / "test.jsonl", tasks[Split.TEST])
    build_dataset(params(root), root)
    dataset = load_dataset(root / "data" / "dataset")
    rows = {row.task: row for row in [*dataset.train, *dataset.validation]}
    assert len(rows) == EPISODES
    for k, trajectory in enumerate(solved):
        row = rows[f"{trajectory.task.level}/{trajectory.task.id}"]
        learnt = [token for token, mask in zip(row.input_ids, row.action_mask, strict=True) if mask]
        sampled = [list(turn.token_ids) for turn in trajectory.turns]
        if k == 0:
            sampled[0] = spelled
        good = [ids for ids, turn in zip(sampled, trajectory.turns, strict=True) if turn.valid]
        assert learnt == [token for ids in good for token in ids]  # what was not understood is not learnt


def test_another_model_than_the_one_named_is_refused(collected: Path, tmp_path: Path) -> None:
    wrong = params(collected, policy_digest="0" * 64)
    shutil.copytree(collected / "data" / "tasks", tmp_path / "data" / "tasks")
    shutil.copytree(collected / "policy", tmp_path / "policy")
    with pytest.raises(CollectError, match=rf"collect\.policy policy has the hash {base_digest(tmp_path / 'policy')}"):
        collect(wrong, ENV, tmp_path)
    assert not (tmp_path / "data" / "trajectories").exists()
