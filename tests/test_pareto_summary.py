"""Reading episode records: counts against the records themselves, and refusal of what is not one."""

from __future__ import annotations

import json
import random
import tracemalloc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pareto_episodes import episode, write_evaluations

from affine.fingerprint import fingerprint
from affine.pareto import summary
from affine.pareto.summary import EvaluationError, models_in, read_evaluation, read_evaluations, summarise
from affine.types import ENVS, StopReason, to_json


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.floats(0, 1), st.integers(0, 4)), min_size=1, max_size=30), st.randoms()
)
def test_counts_are_those_of_the_records_in_any_order(rows: list[tuple[int, float, int]], rng: random.Random) -> None:
    episodes = [episode(id=i, score=s, sample=k, turns=t, group=f"g{i % 2}") for k, (i, s, t) in enumerate(rows)]
    lines = [to_json(e) for e in episodes]
    rng.shuffle(lines)
    found = summarise(lines, "x.jsonl", "ppo", "sat")
    played = [e.trajectory for e in episodes]
    assert found.episodes == len(episodes)
    assert found.total == pytest.approx(sum(t.score for t in played))
    assert found.solved == pytest.approx(sum(t.solved for t in played) / len(played))
    assert found.turns == sum(len(t.turns) for t in played)
    assert found.invalid == sum(not turn.valid for t in played for turn in t.turns)
    assert found.tokens == sum(len(turn.token_ids) for t in played for turn in t.turns)
    assert found.stops[StopReason.SOLVED] == sum(t.solved for t in played)
    assert found.groups == len({t.task.group for t in played})
    assert len(found.tasks) == len({t.task.id for t in played})


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (to_json(episode(id=1))[:-9], "line 2: not a usable episode record"),
        ("{}", "line 2: .*no field 'fingerprint'"),
        ("[1]", "line 2: not a usable episode record"),
        (to_json(episode(id=1, fingerprint="beef")), r"a second evaluator or policy \(beef, ppo\)"),
        (to_json(episode(id=1, model="sft")), r"a second evaluator or policy \(f00d, sft\)"),
        (to_json(episode("ded", id=1)), "an episode of 'ded' among those of 'sat'"),
        (to_json(episode(id=1, score=1.5)), r"score 1.5 outside \[0, 1\]"),
        (to_json(episode(id=1, score=float("nan"))), "line 2: not a usable episode record"),
        (to_json(episode()), "task 0 of level 0: sample 0 twice"),
        (to_json(episode(key="other", sample=1)), "task 0 of level 0 has two contents"),
        (to_json(episode(id=1)).replace('"turn_limit"', '"bored"').replace('"solved",', '"bored",'), "bored"),
    ],
)
def test_unusable_records_are_named(second: str, said: str) -> None:
    with pytest.raises(EvaluationError, match=said) as caught:
        summarise([to_json(episode()), second], "ppo/sat.jsonl", "ppo", "sat")
    assert str(caught.value).startswith("ppo/sat.jsonl, line 2: ")
    assert len(str(caught.value).splitlines()) <= 2


def test_missing_empty_and_binary_files(tmp_path: Path) -> None:
    path = tmp_path / "sat.jsonl"
    with pytest.raises(EvaluationError, match="no such file"):
        read_evaluation(path, "ppo", "sat")
    path.write_text("")
    with pytest.raises(EvaluationError, match="no episodes"):
        read_evaluation(path, "ppo", "sat")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(EvaluationError, match="line 1: not a usable episode record"):
        read_evaluation(path, "ppo", "sat")


def test_models_stand_in_order_of_seniority(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="no evaluations"):
        models_in(tmp_path / "evaluations")
    write_evaluations(tmp_path, tasks=2, rates={"zeta": 0.5, "ppo": 0.5, "base": 0.5, "alpha": 0.5})
    assert models_in(tmp_path) == ("base", "ppo", "alpha", "zeta")
    results = read_evaluations(tmp_path, models_in(tmp_path))
    assert list(results) == ["base", "ppo", "alpha", "zeta"]
    assert all(tuple(by_env) == ENVS for by_env in results.values())


def test_reading_is_streamed() -> None:
    """No more than one line is alive at a time: finalizers count what is held."""
    alive = most = 0

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def lines() -> Iterator[bytes]:
        nonlocal alive, most
        for i in range(50):
            line = np.frombuffer(to_json(episode(id=i)).encode(), dtype=np.uint8)
            weakref.finalize(line, gone)
            alive += 1
            most = max(most, alive)
            yield memoryview(line)  # type: ignore[misc]

    assert summarise(lines(), "x", "ppo", "sat").episodes == 50
    assert most <= 2


def test_memory_grows_with_tasks_and_hardly_with_episodes() -> None:
    """Of an episode the score is kept, of a task what names it."""
    record = json.loads(to_json(episode()))

    def kept(tasks: int, samples: int) -> int:
        trajectory = record["trajectory"]
        played = [{**trajectory, "task": {**trajectory["task"], "id": i, "key": f"sat-{i:064d}"}} for i in range(tasks)]
        lines = (json.dumps({**record, "trajectory": p, "sample": s}) for p in played for s in range(samples))
        tracemalloc.start()
        try:
            result = summarise(lines, "x", "ppo", "sat")
            assert result.episodes == tasks * samples
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    once, often = kept(100, 1), kept(100, 50)
    assert (often - once) / (100 * 49) < 64
    assert kept(200, 1) - once > 20_000


def test_several_processes_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_evaluations(tmp_path, tasks=4, rates={"base": 0.5, "ppo": 0.5})
    alone = read_evaluations(tmp_path, ("base", "ppo"))
    monkeypatch.setattr(summary, "PARALLEL", 1)
    assert read_evaluations(tmp_path, ("base", "ppo")) == alone
    (tmp_path / "ppo" / "ded.jsonl").write_text("{}\n")
    with pytest.raises(EvaluationError, match=r"ppo/ded\.jsonl, line 1"):
        read_evaluations(tmp_path, ("base", "ppo"))


def test_the_evaluator_beside_the_records_must_be_theirs(tmp_path: Path) -> None:
    write_evaluations(tmp_path, tasks=2, rates={"ppo": 0.5})
    evaluators = {env: {"context": 768, "env": env} for env in ENVS}
    for env in ENVS:
        path = tmp_path / "ppo" / f"{env}.jsonl"
        path.write_text(path.read_text().replace("f00d", fingerprint(evaluators[env])))
    (tmp_path / "ppo" / "evaluator.json").write_text(json.dumps(evaluators))
    assert read_evaluations(tmp_path, ["ppo"])["ppo"]["ded"].evaluator == evaluators["ded"]
    evaluators["ded"]["context"] = 4096
    (tmp_path / "ppo" / "evaluator.json").write_text(json.dumps(evaluators))
    with pytest.raises(EvaluationError, match=r"evaluator\.json: not the evaluator of ppo/ded\.jsonl"):
        read_evaluations(tmp_path, ["ppo"])
