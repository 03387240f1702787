"""pass@k against drawing without replacement, and what several tries of a task add to the metrics."""

from __future__ import annotations

import csv
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pareto_episodes import episode

from affine.params import load_params
from affine.pareto.repeats import best_mean, ladder, pass_at_k, pass_rates
from affine.pareto.run import judge_folder, outputs
from affine.pareto.summary import TaskResult
from affine.types import ENVS, to_json

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(("tries", "solved"), [(1, 0), (1, 1), (5, 2), (8, 1), (8, 8), (6, 0)])
def test_pass_at_k_is_the_share_of_draws_with_a_success(tries: int, solved: int) -> None:
    outcomes = [True] * solved + [False] * (tries - solved)
    for k in range(1, tries + 1):
        draws = [any(draw) for draw in itertools.combinations(outcomes, k)]
        assert pass_at_k(tries, solved, k) == pytest.approx(sum(draws) / len(draws))


@given(st.integers(1, 60), st.data())
def test_pass_at_k_rises_with_k_and_with_successes(tries: int, data: st.DataObject) -> None:
    solved = data.draw(st.integers(0, tries))
    rates = [pass_at_k(tries, solved, k) for k in range(1, tries + 1)]
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(solved / tries)
    assert rates[-1] == float(solved > 0)
    if solved < tries:
        assert pass_at_k(tries, solved + 1, 1) > rates[0]


def test_more_tries_than_there_are_is_an_error() -> None:
    for k in (0, 4):
        with pytest.raises(ValueError, match=f"pass@{k} needs"):
            pass_at_k(3, 1, k)


def test_tasks_are_averaged_up_to_the_fewest_tries() -> None:
    tasks = [
        TaskResult("a", "", scores=[1.0, 0.0, 0.5, 0.0], solved=1),
        TaskResult("b", "", scores=[0.25, 0.0, 0.0], solved=0),
    ]
    assert pass_rates(tasks) == pytest.approx({1: (1 / 4) / 2, 2: (1 / 2) / 2, 3: (3 / 4) / 2})
    assert best_mean(tasks) == pytest.approx((1.0 + 0.25) / 2)
    assert pass_rates([]) == {}
    assert ladder(1) == [1]
    assert ladder(8) == [1, 2, 4, 8]
    assert ladder(10) == [1, 2, 4, 8, 10]


@pytest.mark.parametrize("samples", [1, 4])
def test_metrics_hold_pass_at_k_only_where_there_is_something_to_say(tmp_path: Path, samples: int) -> None:
    for env in ENVS:
        path = tmp_path / "sft" / f"{env}.jsonl"
        path.parent.mkdir(exist_ok=True)
        records = [episode(env, i, float(i % 4 == k), sample=k, model="sft") for i in range(12) for k in range(samples)]
        path.write_text("".join(to_json(record) + "\n" for record in records))
    written = outputs(judge_folder(tmp_path, load_params(ROOT / "params.yaml").pareto))
    metrics = json.loads(written["evaluate.json"])["sft"]
    row = next(r for r in csv.DictReader(written["plots/scores.csv"].decode().splitlines()) if r["env"] == "ded")
    if samples == 1:
        assert not {"best", "pass@1"} & {*metrics, *row}
        return
    assert metrics["solved"] == metrics["pass@1"] == 0.25  # one of four tries of every task
    assert metrics["pass@2"] == pytest.approx(0.5)
    assert metrics["pass@4"] == metrics["best"] == 1.0
    assert [float(row[f"pass@{k}"]) for k in (1, 2, 4)] == [0.25, 0.5, 1.0]
