"""Pretraining: batches are a function of the step, only training tasks are read, killed runs end the same."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import killed
import pytest
import torch
from killed import die_at
from transformers import AutoModelForCausalLM, Qwen3Config

from affine.envs.env import make
from affine.files import FileError, read_records, write_records
from affine.models import nano, pretrain
from affine.models.chat import Renderer
from affine.models.checkpoint import check_checkpoint
from affine.params import Params, load_params
from affine.tasks import draw_tasks
from affine.types import Split, Task, Trajectory, trajectory_from_json

REPOSITORY = Path(__file__).parents[1]
TWO = ("sat", "textcraft")


def params(**changes: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["base"]["pretrain"] |= {
        "episodes": 100, "noise": [0.2, 0.5, 0.7, 0.8, 0.9], "drills": 20, "steps": 110, "batch_tokens": 512,
        "skills": 0.3, "prompt_weight": 0.1,
        "learning_rate": 0.002, "muon_learning_rate": 0.02, "save_every": 50,
    } | changes  # fmt: skip
    return Params.model_validate(data)


def small_config(vocabulary: int) -> Qwen3Config:
    config = nano.nano_config(vocabulary)
    config.update({"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1})
    config.update({"intermediate_size": 32, "layer_types": ["full_attention"]})
    return config


@pytest.fixture(scope="module", autouse=True)
def _small() -> object:
    """Two environments and a model of a few thousand parameters."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "ENVS", TWO)
        patch.setattr(pretrain, "nano_config", small_config)
        yield


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[Task]]:
    return {env: draw_tasks(make(env), 0, 0, {Split.TRAIN: 30}) for env in TWO}


@pytest.fixture(scope="module")
def corpus(tasks: dict[str, list[Task]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Trajectory]]:
    root = prepare(tmp_path_factory.mktemp("corpus"), tasks)
    return root / "made", pretrain.build_corpus(params(), root, root / "made")


def prepare(root: Path, tasks: dict[str, list[Task]], corpus: Path | None = None) -> Path:
    """A root with training tasks and nothing else: reading another split fails."""
    for env, members in tasks.items():
        write_records(root / "data" / "tasks" / env / "train.jsonl", members)
    if corpus:
        shutil.copytree(corpus, pretrain._work(params(), root) / "corpus")
    return root


def mixture(corpus: list[Trajectory], seed: int = 0, **changes: object) -> pretrain.Mixture:
    tokenizer = nano.train_tokenizer(pretrain._texts(corpus, 0))
    renderer = Renderer(tokenizer)
    settings = params(**changes).base.pretrain
    rows = pretrain._render(corpus, renderer, settings.prompt_weight)
    return pretrain.Mixture(rows, pretrain._words(corpus), renderer, settings, seed)


# --- the corpus --------------------------------------------------------------------------------------------


def test_the_corpus_is_noisy_play_of_training_tasks(
    corpus: tuple[Path, list[Trajectory]], tasks: dict[str, list[Task]]
) -> None:
    folder, played = corpus
    assert Counter(t.task.env for t in played) == {"sat": 100, "textcraft": 100}
    assert {t.task for t in played} <= {task for members in tasks.values() for task in members}
    assert {t.task.split for t in played} == {Split.TRAIN}
    turns = [turn.expert for t in played for turn in t.turns if t.task.env == "textcraft"]
    assert 0.3 < sum(turns) / len(turns) < 0.8  # noise from 0.2 to 0.9
    scores = [t.score for t in played]
    assert 0.1 < sum(scores) / len(scores) < 0.95  # neither an expert's nor a fool's
    again = [t for env in TWO for t in read_records(folder / f"{env}.jsonl", trajectory_from_json)]
    assert again == played


def test_rows_weigh_replies_fully_and_prompts_little(corpus: tuple[Path, list[Trajectory]]) -> None:
    played = corpus[1]
    renderer = Renderer(nano.train_tokenizer(pretrain._texts(played, 0)))
    rows = pretrain._render(played, renderer, 0.1)
    for env in TWO:
        for trajectory, row in zip([t for t in played if t.task.env == env], rows[env], strict=True):
            tokens = renderer.trajectory(trajectory)
            assert row.ids == tokens.ids
            replies = sum(len(renderer.reply(turn.text)) for turn in trajectory.turns)  # uninformed ones too
            assert Counter(row.weights) == {1.0: replies, 0.1: len(row.ids) - replies}


# --- the mixture -------------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_and_step(corpus: tuple[Path, list[Trajectory]]) -> None:
    steps = [0, 1, 33, 31, 64, 2]
    forward, backward, other = mixture(corpus[1]), mixture(corpus[1]), mixture(corpus[1], seed=1)
    drawn = {step: forward.batch(step) for step in steps}
    for step in reversed(steps):
        ids, weights = backward.batch(step)
        assert torch.equal(ids, drawn[step][0])
        assert torch.equal(weights, drawn[step][1])
        assert not torch.equal(other.batch(step)[0], ids)
    assert len({tuple(ids.flatten().tolist()) for ids, _ in drawn.values()}) == len(steps)


def test_batches_have_the_size_and_the_share_of_skills_asked_for(corpus: tuple[Path, list[Trajectory]]) -> None:
    for share in (0.0, 0.5):
        made = mixture(corpus[1], skills=share)
        known = {tuple(row.ids) for rows in made._rows.values() for row in rows}
        tokens, play, rows = 0, 0, 0
        for step in range(pretrain.POOL):
            ids_BT, weights_BT = made.batch(step)
            for ids, weights in zip(ids_BT, weights_BT, strict=True):
                text = tuple(ids[weights > 0].tolist())
                tokens, rows, play = tokens + len(text), rows + 1, play + (text in known)
        assert tokens / pretrain.POOL == pytest.approx(512, rel=0.15)
        assert play / rows == pytest.approx(1 - share, abs=0.1)


def test_padding_carries_no_loss(corpus: tuple[Path, list[Trajectory]]) -> None:
    made = mixture(corpus[1])
    ids, weights = next(batch for k in range(32) if (batch := made.batch(k))[1].eq(0).any())
    model = nano.initialise(small_config(nano.VOCABULARY), 0)
    loss = pretrain._loss(model, ids, weights)
    junk = torch.where(weights > 0, ids, torch.randint_like(ids, 3, 200))
    assert torch.equal(pretrain._loss(model, junk, weights), loss)
    with torch.no_grad():
        logprobs = model(ids).logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
    slow = -(logprobs * weights[:, 1:]).sum() / weights[:, 1:].sum()
    assert loss.item() == pytest.approx(slow.item(), rel=0.01)  # bfloat16


# --- the whole ---------------------------------------------------------------------------------------------


def outputs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((root / "out").iterdir())}


def in_child(root: Path, arrange: Callable[[], None] = lambda: None) -> int:
    return killed.in_child(lambda: pretrain.pretrain(params(), root, root / "out"), arrange)


@pytest.fixture(scope="module")
def trained(tasks: dict[str, list[Task]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run that plays its own corpus."""
    root = prepare(tmp_path_factory.mktemp("trained"), tasks)
    assert in_child(root) == 0
    return root


@pytest.mark.parametrize(
    ("name", "number"),
    [("_tokenizer", 1), ("_loss", 30), ("_loss", 118), ("save_file", 4), ("save_checkpoint", 1)],
)
def test_a_killed_run_ends_in_the_same_bytes(
    trained: Path, corpus: tuple[Path, list[Trajectory]], tasks: dict[str, list[Task]], tmp_path: Path, name: str,
    number: int,
) -> None:  # fmt: skip
    root = prepare(tmp_path, tasks, corpus[0])
    assert in_child(root, die_at(pretrain, name, number)) == signal.SIGKILL
    assert not (root / "out").exists()
    assert in_child(root) == 0
    assert outputs(root) == outputs(trained)
    assert not list((root / "work").iterdir())


def test_a_kill_while_the_corpus_is_played(
    trained: Path, corpus: tuple[Path, list[Trajectory]], tasks: dict[str, list[Task]], tmp_path: Path
) -> None:
    root = prepare(tmp_path, tasks, corpus[0])
    [half] = (root / "work").glob("*/corpus/textcraft.jsonl")
    half.unlink()
    assert in_child(root, die_at(pretrain, "write_records", 1)) == signal.SIGKILL
    assert in_child(root) == 0
    assert outputs(root) == outputs(trained)


def test_the_checkpoint_is_one_and_says_what_made_it(trained: Path) -> None:
    checkpoint = check_checkpoint(trained / "out")
    record = json.loads((trained / "out" / "pretrain.json").read_text(encoding="utf-8"))
    assert checkpoint.tied
    assert record["parameters"] == checkpoint.parameters
    assert record["settings"] == params().base.pretrain.model_dump(mode="json")
    assert record["corpus"]["sat"]["episodes"] == 100
    assert [step for step, _ in record["loss_curve"]] == [50, 100]
    assert record["loss_curve"][1][1] < record["loss_curve"][0][1]
    model = AutoModelForCausalLM.from_pretrained(trained / "out")
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()
    for path in (trained / "out").iterdir():
        assert str(trained).encode() not in path.read_bytes(), path.name


def test_other_settings_do_not_take_up_the_work(tasks: dict[str, list[Task]], tmp_path: Path) -> None:
    root = prepare(tmp_path, tasks)
    first = pretrain._work(params(), root)
    assert pretrain._work(params(), root) == first
    assert pretrain._work(params(skills=0.1), root) != first
    assert pretrain._work(params(noise=[0.2]), root) != first
    write_records(root / "data" / "tasks" / "sat" / "train.jsonl", tasks["sat"][1:])
    assert pretrain._work(params(), root) != first


def test_missing_tasks_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"data/tasks/sat/train\.jsonl: no such file"):
        pretrain.pretrain(params(), tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_of_another_seed_are_refused(tmp_path: Path) -> None:
    """As after a change of `tasks.seed` without `dvc repro tasks`."""
    drawn = {env: draw_tasks(make(env), 0, 3, {Split.TRAIN: 5}) for env in TWO}
    with pytest.raises(
        FileError, match=r"data/tasks/sat/train\.jsonl: made with tasks\.seed 3, and params\.yaml says 0"
    ):
        pretrain.pretrain(params(), prepare(tmp_path, drawn), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_loss_that_is_not_finite_stops_with_the_step(
    corpus: tuple[Path, list[Trajectory]], tasks: dict[str, list[Task]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = prepare(tmp_path, tasks, corpus[0])
    monkeypatch.setattr(pretrain, "_loss", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(FileError, match="loss is nan at step 0; lower base"):
        pretrain.pretrain(params(), root, root / "out")
    assert not (root / "out").exists()
