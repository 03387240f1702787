"""The dataset: exactly the clean demonstrations, exactly the agent's tokens, the same bytes every time."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import make_tiny_base

from affine.dataset.build import build_dataset
from affine.dataset.packing import pack
from affine.dataset.sequences import DatasetError, load_dataset
from affine.params import Params, load_params
from affine.types import ENVS, Message, Split, StopReason, Task, Trajectory, Turn, to_json

REPOSITORY = Path(__file__).parents[1]


def task(env: str, number: int, split: Split = Split.TRAIN, group: str | None = None) -> Task:
    group = f"{env}-{split}-{number // 2}" if group is None else group
    return Task(env, 0, number, 0, split, key=f"{env}-{split}-{number}", group=group)


def demonstration(of: Task, words: str = "") -> Trajectory:
    return Trajectory(
        of,
        (Message("user", f"Goal {of.env} {of.id} {words}"),),
        (
            Turn("Action: go to drawer 1", "You open the drawer", 0.0),
            Turn("Action: take shirt", "Nothing", 0.0, expert=False),
            Turn("Action: take mug 2", "", 1.0),
        ),
        1.0,
        True,
        StopReason.SOLVED,
    )


def write(root: Path, env: str, trajectories: list[Trajectory]) -> None:
    folder = root / "data" / "trajectories" / env
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "solved.jsonl").write_text("".join(to_json(t) + "\n" for t in trajectories), encoding="utf-8")


def change(params: Params, **dataset: object) -> Params:
    data = params.model_dump(mode="json")
    data["dataset"] |= dataset
    return Params.model_validate(data)


@pytest.fixture
def params() -> Params:
    return change(load_params(REPOSITORY / "params.yaml"), validation=0.2)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "models" / "base")
    for env in ENVS:
        folder = tmp_path / "data" / "tasks" / env
        folder.mkdir(parents=True)
        lines = [to_json(task(env, number, Split.TEST)) + "\n" for number in range(3)]
        (folder / "test.jsonl").write_text("".join(lines), encoding="utf-8")
        write(tmp_path, env, [demonstration(task(env, number)) for number in range(10)])
    return tmp_path


def metrics(root: Path) -> dict:
    return json.loads((root / "metrics" / "dataset.json").read_text(encoding="utf-8"))


def test_rows_are_the_demonstrations_and_groups_are_not_shared(root: Path, params: Params) -> None:
    build_dataset(params, root)
    dataset = load_dataset(root / "data" / "dataset")
    groups = [{(row.env, int(row.task[2:]) // 2) for row in part} for part in (dataset.train, dataset.validation)]
    assert not groups[0] & groups[1]
    assert len(groups[0] | groups[1]) == 8 * 5
    assert len(dataset.validation) == 8 * 2
    report = metrics(root)["all"]
    rows = [*dataset.train, *dataset.validation]
    assert report["demonstrations"] == len(rows) == 80
    assert report["tokens"] == sum(len(row.input_ids) for row in rows)
    assert report["agent_tokens"] == sum(sum(row.action_mask) for row in rows)
    assert report["turns"] == 3.0
    assert not any(report["left_out"].values())


def test_wandering_turns_carry_no_loss(root: Path, params: Params) -> None:
    build_dataset(params, root)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(root / "models" / "base")
    row = load_dataset(root / "data" / "dataset").train[0]
    learnt = tokenizer.decode([i for i, mask in zip(row.input_ids, row.action_mask, strict=True) if mask])
    assert learnt == "Action: go to drawer 1<|im_end|>Action: take mug 2<|im_end|>"
    assert "take shirt" in tokenizer.decode(row.input_ids)


def test_what_is_left_out_is_counted(root: Path, params: Params) -> None:
    shared_key = replace(task("sat", 90), key="sat-test-1")
    shared_group = task("sat", 91, group="sat-test-0")
    wander = demonstration(task("sat", 92))
    wander = replace(wander, turns=tuple(replace(turn, expert=False) for turn in wander.turns))
    twice = replace(demonstration(task("sat", 0)), task=task("sat", 93))
    longer = demonstration(task("sat", 94), "door " * 800)
    good = [demonstration(task("sat", number)) for number in range(10)]
    extra = [demonstration(shared_key), demonstration(shared_group), wander, twice, longer]
    write(root, "sat", [*good, *extra])
    build_dataset(params, root)
    counts = metrics(root)["envs"]["sat"]
    assert counts["demonstrations"] == 10
    assert counts["left_out"] == {"contaminated": 2, "nothing_to_learn": 1, "too_long": 1, "duplicate": 1, "share": 0}
    dataset = load_dataset(root / "data" / "dataset")
    used = {row.task for row in (*dataset.train, *dataset.validation) if row.env == "sat"}
    assert used == {f"0/{number}" for number in range(10)}


def test_tasks_without_key_or_group_match_no_test_task(root: Path, params: Params) -> None:
    unknown = replace(task("sat", 0, Split.TEST), key="", group="")
    (root / "data" / "tasks" / "sat" / "test.jsonl").write_text(to_json(unknown) + "\n", encoding="utf-8")
    write(root, "sat", [demonstration(replace(task("sat", n), key="", group="")) for n in range(10)])
    build_dataset(params, root)
    assert metrics(root)["envs"]["sat"]["left_out"]["contaminated"] == 0
    assert metrics(root)["envs"]["sat"]["validation"] == 2


def test_weights_are_shares(root: Path, params: Params) -> None:
    build_dataset(change(params, weights={"sat": 0.5, "abd": 0.0}), root)
    envs = metrics(root)["envs"]
    assert envs["sat"]["demonstrations"] == envs["sat"]["left_out"]["share"] == 5
    assert envs["abd"]["demonstrations"] == 0
    assert envs["ded"]["demonstrations"] == 10


def test_a_weight_above_one_is_refused(params: Params) -> None:
    with pytest.raises(ValueError, match=r"weights\.sat is the share"):
        change(params, weights={"sat": 2.0})


def digest(root: Path) -> str:
    files = [*sorted((root / "data" / "dataset").iterdir()), root / "metrics" / "dataset.json"]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def test_the_same_bytes_under_another_hash_seed(root: Path, params: Params) -> None:
    build_dataset(params, root)
    first = digest(root)
    code = (
        "import sys; from pathlib import Path; from affine.params import Params;"
        "from affine.dataset.build import build_dataset;"
        "build_dataset(Params.model_validate_json(sys.argv[1]), Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, params.model_dump_json(), str(root)]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "7"}, cwd=REPOSITORY, check=True)
    assert digest(root) == first
    assert not list((root / "data").glob(".*"))  # nothing half-made is left


def corrupt(root: Path) -> None:
    with (root / "data/trajectories/ded/solved.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"task": \n')


def unsolved(root: Path) -> None:
    write(root, "ded", [replace(demonstration(task("ded", 0)), solved=False)])


def tested(root: Path) -> None:
    write(root, "ded", [demonstration(task("ded", 0, Split.TEST))])


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (corrupt, r"ded/solved\.jsonl:11: not a trajectory"),
        (unsolved, r"ded/solved\.jsonl:1: expected a solved ded training task, got unsolved"),
        (tested, r"ded/solved\.jsonl:1: expected a solved ded training task, got solved ded/test"),
        (remove("data/trajectories/ded/solved.jsonl"), r"ded/solved\.jsonl: no such file; run"),
        (remove("data/tasks/ded/test.jsonl"), r"ded/test\.jsonl: no such file; run"),
        (remove("models/base/tokenizer.json"), r"tokenizer\.json: no such file; run"),
        (lambda root: write(root, "ded", []), r"no demonstration of ded is left"),
    ],
)
def test_bad_input_is_named(root: Path, params: Params, damage: Callable[[Path], None], message: str) -> None:
    damage(root)
    with pytest.raises(DatasetError, match=message):
        build_dataset(params, root)
    assert not (root / "data" / "dataset").exists()


def test_a_damaged_dataset_is_refused(root: Path, params: Params) -> None:
    build_dataset(params, root)
    folder = root / "data" / "dataset"
    whole = (folder / "train.parquet").read_bytes()
    (folder / "train.parquet").write_bytes(whole[:-100])
    with pytest.raises(DatasetError, match="cut or corrupt"):
        load_dataset(folder)
    (folder / "train.parquet").write_bytes((folder / "validation.parquet").read_bytes())
    with pytest.raises(DatasetError, match="does not match"):
        load_dataset(folder)


@given(st.lists(st.integers(1, 50), max_size=60), st.integers(50, 120), st.randoms(use_true_random=False))
def test_packs_hold_everything_once_and_fit(lengths: list[int], budget: int, rng) -> None:
    packs = pack(lengths, budget, rng)
    assert sorted(k for part in packs for k in part) == list(range(len(lengths)))
    assert all(0 < sum(lengths[k] for k in part) <= budget for part in packs)
    # No pack could have taken the first sequence of the next one.
    for part, following in itertools.pairwise(packs):
        assert sum(lengths[k] for k in part) + lengths[following[0]] > budget


def test_a_sequence_longer_than_a_pack_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than a pack"):
        pack([5, 11], 10)
