"""Evaluation: every test task once per sample, in the file's order, under a fingerprint of all that matters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from local_pool import LocalPool
from tiny import make_tiny_adapter, make_tiny_base
from transformers import AutoTokenizer

from affine import evaluation as module
from affine.envs.engines.programs import sandbox
from affine.envs.engines.programs.program_env import ProgramEnv
from affine.envs.env import EnvError, make
from affine.envs.sat import Sat
from affine.evaluation import EvaluateError, conditions_of, evaluate
from affine.files import FileError, read_records, write_records
from affine.fingerprint import components, fingerprint
from affine.models.chat import Renderer
from affine.models.checkpoint import CheckpointError
from affine.params import Params, load_params
from affine.pareto.evidence import Effect, pair_all, weigh
from affine.pareto.summary import EvaluationError, read_model
from affine.rollout.pool import Players
from affine.tasks import draw_tasks
from affine.types import ENVS, Episode, Split, Task, Trajectory, episode_from_json

REPOSITORY = Path(__file__).parents[1]
COUNTS = {"sat": 3, "textcraft": 2, "babyai": 4}


def params(**changes: dict[str, Any]) -> Params:
    data = load_params(REPOSITORY / "params.yaml").model_dump(mode="json")
    data["rollout"] = {"context": 300, "reply": 8, "slots": 4, "workers": 1}
    data["evaluate"] = {"temperature": 1.0, "top_p": 1.0, "samples": 2}
    for section, values in changes.items():
        data[section] |= values
    return Params.model_validate(data)


class Pool(LocalPool):
    """Workers in this process that report every finished episode, as the real ones do."""

    def play(self, tickets: Any, sampling: Any, finished: Any) -> list[Trajectory]:  # type: ignore[override]
        played = super().play(tickets, sampling)
        for trajectory in played:
            finished(trajectory)
        return played


@pytest.fixture(scope="module")
def tasks() -> dict[str, list[Task]]:
    drawn: dict[str, list[Task]] = {env: [] for env in ENVS}
    for env, count in COUNTS.items():
        drawn[env] = draw_tasks(make(env), 0, 0, {Split.TEST: count})
    return drawn


@pytest.fixture
def root(tmp_path: Path, tasks: dict[str, list[Task]], monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.setattr(module, "open_pool", Pool)
    make_tiny_adapter(make_tiny_base(tmp_path / "models" / "base"), tmp_path / "models" / "sft", scale=1.0)
    for env, members in tasks.items():
        write_records(tmp_path / "data" / "tasks" / env / "test.jsonl", members)
    return tmp_path


def episodes(root: Path, model: str, env: str) -> list[Episode]:
    return list(read_records(root / "evaluations" / model / f"{env}.jsonl", episode_from_json))


def test_every_task_is_played_once_per_sample_in_order(root: Path, tasks: dict[str, list[Task]]) -> None:
    evaluate(params(), "base", root)
    renderer = Renderer(AutoTokenizer.from_pretrained(root / "models" / "base"))
    evaluators = json.loads((root / "evaluations" / "base" / "evaluator.json").read_text(encoding="utf-8"))
    for env in ENVS:
        played = episodes(root, "base", env)
        assert [(e.trajectory.task, e.sample) for e in played] == [(t, k) for k in range(2) for t in tasks[env]]
        assert {(e.policy, e.fingerprint) for e in played} <= {("base", fingerprint(evaluators[env]))}
        for episode in played:
            for turn in episode.trajectory.turns:
                assert renderer.text(turn.token_ids) == turn.text
                assert len(turn.token_ids) == len(turn.logprobs)
    first, second = (
        [e.trajectory.turns for env in ENVS for e in episodes(root, "base", env) if e.sample == k] for k in (0, 1)
    )
    assert first != second  # samples are other tries


def test_it_repeats_and_models_differ(root: Path) -> None:
    written = []
    for model in ("base", "base", "sft"):
        evaluate(params(), model, root)
        written.append((root / "evaluations" / model / "textcraft.jsonl").read_bytes())
    assert written[0] == written[1] != written[2]
    one, other = (json.loads((root / "evaluations" / m / "evaluator.json").read_text()) for m in ("base", "sft"))
    assert one == other  # the evaluator does not know whom it judges


def test_greedy_samples_are_all_the_same(root: Path) -> None:
    evaluate(params(evaluate={"temperature": 0.0}), "base", root)
    played = episodes(root, "base", "textcraft")
    half = len(played) // 2
    one, other = (
        [[turn.token_ids for turn in e.trajectory.turns] for e in part] for part in (played[:half], played[half:])
    )
    assert one == other


def test_bad_input_is_named(root: Path) -> None:
    with pytest.raises(EvaluateError, match="no model 'gpt' to evaluate"):
        evaluate(params(), "gpt", root)
    with pytest.raises(CheckpointError, match=r"models/ppo: no adapter_config\.json"):
        evaluate(params(), "ppo", root)
    (root / "models" / "base" / "model.safetensors").unlink()
    for model in ("base", "sft"):
        with pytest.raises(CheckpointError, match="models/base"):
            evaluate(params(), model, root)
    assert not (root / "evaluations").exists()


def test_an_adapter_of_another_base_is_refused(root: Path) -> None:
    make_tiny_base(root / "models" / "base", seed=1)
    with pytest.raises(CheckpointError, match="another base"):
        evaluate(params(), "sft", root)


def test_missing_tasks_are_named(root: Path) -> None:
    (root / "data" / "tasks" / "ded" / "test.jsonl").unlink()
    with pytest.raises(FileError, match=r"data/tasks/ded/test\.jsonl: no such file"):
        evaluate(params(), "base", root)


def test_a_failed_run_leaves_the_old_evaluation(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate(params(), "base", root)
    before = {p.name: p.read_bytes() for p in (root / "evaluations" / "base").iterdir()}

    class Broken(Pool):
        def __init__(self, players: Players, workers: int) -> None:
            raise EvaluateError("no workers")

    monkeypatch.setattr(module, "open_pool", Broken)
    with pytest.raises(EvaluateError):
        evaluate(params(), "base", root)
    assert {p.name: p.read_bytes() for p in (root / "evaluations" / "base").iterdir()} == before


# --- the fingerprint ---------------------------------------------------------------------------------------


def print_of(p: Params, tasks: list[Task]) -> str:
    return fingerprint(components(p, "sat", tasks))


@pytest.mark.parametrize(
    "change",
    [
        {"envs": {"mode": "upstream"}},
        {"envs": {"prompts": "full"}},
        {"rollout": {"context": 299}},
        {"rollout": {"reply": 9}},
        {"evaluate": {"temperature": 0.7}},
        {"evaluate": {"top_p": 0.9}},
        {"evaluate": {"samples": 3}},
    ],
)
def test_what_changes_a_score_changes_the_fingerprint(change: dict[str, Any], tasks: dict[str, list[Task]]) -> None:
    assert print_of(params(**change), tasks["sat"]) != print_of(params(), tasks["sat"])


@pytest.mark.parametrize(
    "change", [{"rollout": {"slots": 1}}, {"rollout": {"workers": 2}}, {"ppo": {"kl": 0.5}}, {"sft": {"epochs": 1}}]
)
def test_what_changes_no_score_does_not(change: dict[str, Any], tasks: dict[str, list[Task]]) -> None:
    assert print_of(params(**change), tasks["sat"]) == print_of(params(), tasks["sat"])


def test_other_tasks_or_another_environment_are_another_evaluator(
    tasks: dict[str, list[Task]], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = print_of(params(), tasks["sat"])
    assert print_of(params(), tasks["sat"][:-1]) != known
    assert print_of(params(), tasks["sat"][::-1]) != known
    assert fingerprint(components(params(), "babyai", tasks["babyai"])) != known
    monkeypatch.setattr(Sat, "version", "another")
    assert print_of(params(), tasks["sat"]) != known


# --- what holds without changing a score -------------------------------------------------------------------


def test_the_sandbox_is_recorded_where_programs_were_played_and_in_no_fingerprint(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = root / "evaluations" / "base"
    evaluate(params(), "base", root)
    assert json.loads((folder / "conditions.json").read_text(encoding="utf-8")) == {}  # no programs among the tasks
    monkeypatch.setattr(module, "ENVS", ("sat", "ded"))
    write_records(root / "data" / "tasks" / "ded" / "test.jsonl", draw_tasks(make("ded"), 0, 0, {Split.TEST: 1}))
    written = []
    for level in ("landlock", "seccomp", "landlock"):
        monkeypatch.setattr(ProgramEnv, "conditions", lambda self, level=level: {"sandbox": level})
        evaluate(params(), "base", root)
        assert json.loads((folder / "conditions.json").read_text(encoding="utf-8")) == {"ded": {"sandbox": level}}
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[2]
    assert {name for name in written[0] if written[0][name] != written[1][name]} == {"conditions.json"}


def test_programs_that_nothing_confines_are_refused_before_anything_is_played(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sandbox.Sandbox.__init__.__kwdefaults__, "levels", ())
    monkeypatch.setattr(sandbox, "_shared", {})
    monkeypatch.setattr(Pool, "play", lambda *_: pytest.fail("something was played"))
    write_records(root / "data" / "tasks" / "ded" / "test.jsonl", draw_tasks(make("ded"), 0, 0, {Split.TEST: 1}))
    with pytest.raises(EnvError, match="no safe level"):
        evaluate(params(), "base", root)
    try:
        drawn = {env: draw_tasks(make(env), 0, 0, {Split.TEST: 1}) for env in ("sat", "ded")}
        allowed = params(sandbox={"unsafe": True})
        assert conditions_of(allowed, drawn) == {"ded": {"sandbox": "unsafe"}}
    finally:
        sandbox.shared(True).close()


# --- stopping early ----------------------------------------------------------------------------------------


def small(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Only the environments with tasks; ppo's adapter is sft's."""
    for name in ("affine.evaluation.ENVS", "affine.pareto.summary.ENVS"):
        monkeypatch.setattr(name, tuple(COUNTS))
    make_tiny_adapter(root / "models" / "base", root / "models" / "ppo", scale=1.0)


def test_a_settled_environment_is_not_played_to_the_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against an incumbent that solved everything, babyai is settled (worse) before its last task."""
    small(monkeypatch, root)
    early = params(evaluate={"stop": "sequential", "stop_error": 0.4, "samples": 1})
    evaluate(early, "sft", root)
    assert not (root / "evaluations" / "sft" / "stops.json").exists()  # incumbents are played in full
    for env in COUNTS:
        perfect = [replace(e, trajectory=replace(e.trajectory, score=1.0)) for e in episodes(root, "sft", env)]
        write_records(root / "evaluations" / "sft" / f"{env}.jsonl", perfect)
    evaluate(params(evaluate={"samples": 1}), "ppo", root)
    whole = episodes(root, "ppo", "babyai")
    assert not (root / "evaluations" / "ppo" / "stops.json").exists()
    assert sum(e.trajectory.score for e in whole) < 1
    evaluate(early, "ppo", root)
    stops = json.loads((root / "evaluations" / "ppo" / "stops.json").read_text())
    assert stops["against"] == "sft"
    assert stops["env"]["babyai"] == {"played": 3, "of": 4, "stopped": True, "decision": "worse"}
    played = episodes(root, "ppo", "babyai")
    assert len(played) == 3
    chosen = [e.trajectory.task for e in played]
    same = [e for e in whole if e.trajectory.task in chosen]  # in the same order, and played the same way
    assert [(e.trajectory.task, e.trajectory.score, [t.token_ids for t in e.trajectory.turns]) for e in same] == [
        (e.trajectory.task, e.trajectory.score, [t.token_ids for t in e.trajectory.turns]) for e in played
    ]
    read = read_model(root / "evaluations" / "ppo")
    assert {env: result.stopped for env, result in read.items()} == {
        env: stop["stopped"] for env, stop in stops["env"].items()
    }
    found = judge_pairs(root, "babyai")
    assert found.early
    assert found.effect.decision == found.sequential_decision == "worse"


class Judged(NamedTuple):
    early: bool
    effect: Effect
    sequential_decision: str


def judge_pairs(root: Path, env: str) -> Judged:
    ours, theirs = (read_model(root / "evaluations" / model) for model in ("ppo", "sft"))
    pairs = pair_all({env: ours[env]}, {env: theirs[env]}, level=0.8)
    found = weigh(pairs, "t", level=0.8, margin=0.02, error=0.4, draws=500).env[env]
    assert found.sequential is not None
    return Judged(found.early, found.effect, found.sequential.decision)


def test_stopping_needs_an_incumbent_of_the_same_evaluator(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(monkeypatch, root)
    early = params(evaluate={"stop": "sequential", "samples": 1})
    with pytest.raises(EvaluationError, match=r"evaluations/sft/sat\.jsonl: no such file"):
        evaluate(early, "ppo", root)
    evaluate(params(evaluate={"samples": 1}, rollout={"reply": 7}), "sft", root)
    with pytest.raises(EvaluateError, match=r"another evaluator's.*dvc repro evaluate@sft"):
        evaluate(early, "ppo", root)
    assert not (root / "evaluations" / "ppo").exists()


def test_how_play_may_stop_is_not_part_of_the_evaluator(tasks: dict[str, list[Task]]) -> None:
    stops = params(evaluate={"stop": "sequential", "stop_error": 0.1})
    assert print_of(stops, tasks["sat"]) == print_of(params(), tasks["sat"])


def test_task_types_are_kept_with_the_episodes(root: Path) -> None:
    evaluate(params(), "base", root)
    assert {e.task_type for e in episodes(root, "base", "babyai")} <= {"GoPickupS6N4", "OpenDoorS5"}
    assert {e.task_type for e in episodes(root, "base", "sat")} == {""}
    for env, known in (("alfworld", "pick_and_place_simple"), ("sciworld", "4-2")):
        instance = make(env)
        assert any(instance.task_type(0, id, 0).startswith(known) for id in range(40))
