"""Splits: disjoint by content in all eight environments, the same in any process, and an error when too small."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from affine import tasks as module
from affine.envs.env import Content, Env, EnvError, Level, Prompt, StepResult, make
from affine.params import Params, load_params
from affine.tasks import draw_tasks, load_tasks, make_tasks, split_of_group
from affine.types import ENVS, Message, Split, Task

REPOSITORY = Path(__file__).parents[1]
SMALL = {Split.TRAIN: 12, Split.VALIDATION: 4, Split.TEST: 8}


def params(**sets: object) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["tasks"]["seed"] = 0
    data["tasks"] |= {env: {"levels": [0], "train": 12, "validation": 4, "test": 8} for env in ENVS} | sets
    return Params.model_validate(data)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tasks")
    for env in ENVS:
        make_tasks(params(), env, root)
    return root


@pytest.mark.parametrize("env", ENVS)
def test_splits_are_full_and_share_nothing(root: Path, env: str) -> None:
    splits = {split: load_tasks(root, env, split) for split in Split}
    assert {split: len(tasks) for split, tasks in splits.items()} == SMALL
    everything = [task for tasks in splits.values() for task in tasks]
    assert len({task.key for task in everything}) == len(everything)
    for split, tasks in splits.items():
        others = {task.group for other, rest in splits.items() if other != split for task in rest}
        assert not others & {task.group for task in tasks}
        assert all((task.env, task.level, task.seed, task.split) == (env, 0, 0, split) for task in tasks)
        assert [task.id for task in tasks] == sorted(task.id for task in tasks)
    summary = json.loads((root / "metrics" / "tasks" / f"{env}.json").read_text(encoding="utf-8"))
    assert {name: counts["tasks"] for name, counts in summary.items()} == {str(s): n for s, n in SMALL.items()}
    assert all(summary[str(split)]["groups"] == len({task.group for task in tasks}) for split, tasks in splits.items())


@pytest.mark.parametrize("env", ENVS)
def test_keys_are_the_contents(root: Path, env: str) -> None:
    """Another instance computes the same hashes from (level, id, seed) alone, in any order."""
    other = make(env)
    for task in reversed(load_tasks(root, env, Split.TEST)):
        assert other.content(task.level, task.id, task.seed) == Content(task.key, task.group)
        expected = other.official_split(task.level, task.id, task.seed) or split_of_group(task.group)
        assert task.split is expected
    other.close()


def digest(root: Path) -> str:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    content = b"".join(str(path.relative_to(root)).encode() + path.read_bytes() for path in files)
    return hashlib.sha256(content).hexdigest()


def test_another_process_and_hash_seed_give_the_same_bytes(root: Path, tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_tasks as tests
for env in tests.ENVS:
    tests.make_tasks(tests.params(), env, Path(sys.argv[2]))
"""
    subprocess.run(
        [sys.executable, "-c", script, str(REPOSITORY / "tests"), str(tmp_path)],
        env=os.environ | {"PYTHONHASHSEED": "4321"},
        check=True,
    )
    assert digest(tmp_path) == digest(root)


def test_a_larger_quota_moves_no_task(root: Path) -> None:
    for env in ("sat", "textcraft", "babyai"):
        instance = make(env)
        more = draw_tasks(instance, 0, 0, {Split.TRAIN: 30, Split.VALIDATION: 1, Split.TEST: 20})
        for split in (Split.TRAIN, Split.TEST):
            few = load_tasks(root, env, split)
            assert [task for task in more if task.split is split][: len(few)] == few


def test_another_seed_is_another_world() -> None:
    instance = make("sat")
    one, two = ({t.key for t in draw_tasks(instance, 0, seed, {Split.TRAIN: 30})} for seed in (0, 1))
    assert len(one & two) < 10


def test_groups_fall_into_splits_by_the_documented_shares() -> None:
    counts = Counter(split_of_group(f"group {k}") for k in range(20_000))
    assert counts[Split.TRAIN] / 20_000 == pytest.approx(0.6, abs=0.015)
    assert counts[Split.VALIDATION] / 20_000 == pytest.approx(0.1, abs=0.01)
    # Fixed points (SHA-256 of "split/a" is 48 modulo 100, ...): another rule would move every task there is.
    assert [split_of_group(name) for name in "acef"] == [Split.TRAIN, Split.TRAIN, Split.VALIDATION, Split.TEST]


class Counting(Env):
    """Ids count; `size`, content and official splits are what the test says."""

    name = "sat"
    version = "0"
    levels = {0: Level("all", 1), 3: Level("more", 1)}  # noqa: RUF012
    prompts = {"brief": Prompt(""), "full": Prompt("")}  # noqa: RUF012
    contents: dict[int, Content | None]
    official: dict[int, Split]
    last: int | None = None

    def __init__(self) -> None:
        super().__init__()
        self.contents, self.official = {}, {}

    def size(self, level: int) -> int | None:
        return self.last

    def content(self, level: int, id: int, seed: int) -> Content | None:
        return self.contents.get(id, Content(f"key {level} {id}", f"group {level} {id}"))

    def official_split(self, level: int, id: int, seed: int) -> Split | None:
        return self.official.get(id)

    def reset(self, task: Task) -> list[Message]:
        return []

    def step(self, reply: str) -> StepResult:
        return StepResult("", 0.0, True)

    def score(self) -> float:
        return 0.0

    def solved(self) -> bool:
        return False


def test_equal_contents_count_once_and_refused_ids_not_at_all() -> None:
    env = Counting()
    env.contents = {k: Content("same", "same") for k in range(0, 40, 2)} | dict.fromkeys(range(1, 40, 4))
    drawn = draw_tasks(env, 0, 0, {split_of_group("same"): 8})
    assert [task.key for task in drawn].count("same") == 1
    assert not {task.id for task in drawn} & set(range(1, 40, 4))


def test_official_splits_hold() -> None:
    env = Counting()
    env.official = {k: (Split.TEST if k % 3 == 0 else Split.TRAIN) for k in range(60)}
    drawn = draw_tasks(env, 0, 0, {Split.TRAIN: 10, Split.TEST: 10})
    assert all(task.split is env.official[task.id] for task in drawn)


@pytest.mark.parametrize("endless", [False, True])
def test_too_few_tasks_are_an_error(endless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 200)
    env = Counting()
    env.last = None if endless else 30
    env.contents = {k: Content(f"{k % 30}", f"{k % 30}") for k in range(1000)}
    with pytest.raises(
        EnvError, match=r"sat: level 0 has too few distinct tasks \(\d+ more for test\); lower tasks\.sat"
    ):
        draw_tasks(env, 0, 0, {Split.TRAIN: 5, Split.TEST: 25})


def test_a_level_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"sat: no level 99 \(levels: 0, .*tasks\.sat\.levels"):
        make_tasks(params(sat={"levels": [0, 99], "train": 4, "validation": 1, "test": 2}), "sat", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_quotas_are_shared_between_levels(tmp_path: Path) -> None:
    make_tasks(params(sat={"levels": [1, 0], "train": 9, "validation": 2, "test": 5}), "sat", tmp_path)
    levels = {split: Counter(task.level for task in load_tasks(tmp_path, "sat", split)) for split in Split}
    assert levels == {Split.TRAIN: {1: 5, 0: 4}, Split.VALIDATION: {1: 1, 0: 1}, Split.TEST: {1: 3, 0: 2}}


def test_a_group_in_two_splits_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    env = Counting()
    env.contents = {k: Content(f"key {k}", "one group") for k in range(40)}
    env.official = {k: list(Split)[k % 3] for k in range(40)}
    monkeypatch.setattr(module, "make", lambda name, settings: env)
    with pytest.raises(EnvError, match=r"sat: group one group lies in \w+ and \w+ \(task \d+\)"):
        make_tasks(params(), "sat", tmp_path)
    assert not (tmp_path / "data").exists()
