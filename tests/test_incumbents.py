"""Other models' files: the schema and the checks agree, results are used as far as they reach, and nothing worse is
taken for better."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pareto_episodes import write_evaluations
from scipy import stats

from affine.params import ParetoParams, load_params
from affine.pareto.incumbents import read_incumbent, read_incumbents, schema, write_incumbent
from affine.pareto.intervals import beta_interval
from affine.pareto.paired import Unpaired, unpaired_posterior
from affine.pareto.policies import DEFAULT, POLICIES
from affine.pareto.run import judge_folder, outputs
from affine.pareto.summary import EvaluationError, read_model
from affine.types import ENVS, Verdict

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def params() -> ParetoParams:
    return load_params(ROOT / "params.yaml").pareto.model_copy(update={"draws": 2000})


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "evaluations"
    write_evaluations(folder, rates={"base": 0.3, "ppo": 0.7})
    return folder


def file(folder: Path, name: str = "rival", **changes: Any) -> Path:
    data = {"model": name, "source": "a test", "environments": {"sat": {"total": 120.5, "episodes": 200}}, **changes}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data))
    return path


def test_the_committed_schema_is_that_of_the_checks() -> None:
    assert (ROOT / "incumbents" / "schema.json").read_text() == schema()


def test_the_readmes_example_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "incumbents" / "README.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    path = tmp_path / "Affine-0004.json"
    path.write_text(example)
    assert read_incumbent(path).environments["sat"].episodes == 240


@pytest.mark.parametrize(
    ("environments", "said"),
    [
        ({"sat": {"total": 201, "episodes": 200}}, r"environments\.sat: .*total 201.0 above episodes 200"),
        ({"sat": {"total": 1}}, r"environments\.sat: .*needs total and episodes, or tasks"),
        ({"sat": {"total": 1, "episodes": 0}}, r"environments\.sat\.episodes"),
        ({"sat": {"total": -1, "episodes": 2}}, r"environments\.sat\.total"),
        ({"chess": {"total": 1, "episodes": 2}}, r"environments\.chess"),
        ({}, "environments"),
        ({"sat": {"tasks": [{"level": 0, "id": 1, "scores": [1.0]}]}}, "need the evaluator's fingerprint"),
        (
            {"sat": {"fingerprint": "f", "tasks": [{"level": 0, "id": 1, "scores": [1.5]}]}},
            r"score 1.5 outside \[0, 1\]",
        ),
        ({"sat": {"fingerprint": "f", "tasks": [{"level": 0, "id": 1, "scores": []}]}}, "scores"),
        ({"sat": {"fingerprint": "f", "tasks": [{"level": 0, "id": 1, "scores": [1.0]}] * 2}}, "stands in tasks twice"),
        ({"sat": {"total": 1, "episodes": 2, "mean": 0.5}}, r"environments\.sat\.mean"),
    ],
)
def test_what_is_no_incumbent_is_named(tmp_path: Path, environments: dict[str, Any], said: str) -> None:
    path = file(tmp_path, environments=environments)
    with pytest.raises(EvaluationError, match=said) as caught:
        read_incumbents(tmp_path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value).splitlines()) <= 2


def test_names_that_would_confuse_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="cannot be named"):
        read_incumbent(file(tmp_path, "ppo"))
    with pytest.raises(EvaluationError, match=r"rename it to other\.json"):
        read_incumbent(file(tmp_path, "rival", model="other"))
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(EvaluationError, match=r"broken\.json: \(file\): Invalid JSON"):
        read_incumbent(tmp_path / "broken.json")


def test_earlier_blocks_come_first(tmp_path: Path) -> None:
    for name, block in (("c", 5), ("b", 9), ("a", 9)):
        file(tmp_path, name, first_block=block)
    (tmp_path / "schema.json").write_text(schema())
    assert list(read_incumbents(tmp_path)) == ["c", "a", "b"]
    assert read_incumbents(tmp_path / "nowhere") == {}


def test_totals_meet_the_interval_rule_and_independent_evidence(
    evaluations: Path, params: ParetoParams, tmp_path: Path
) -> None:
    """Against 100 of 200 everywhere: the rule by its own text, the evidence by two independent Beta posteriors."""
    totals = {env: {"total": 100.0, "episodes": 200} for env in ENVS}
    file(tmp_path, environments=totals)
    judged = judge_folder(evaluations, params, tmp_path)
    assert judged.incumbents == ("rival",)
    assert list(judged.scores) == ["rival", "base", "ppo"]
    found = {(c.challenger, c.incumbent): c for c in judged.comparisons}
    assert set(found) == {("ppo", "rival"), ("ppo", "base"), ("base", "rival")}
    comparison = found["ppo", "rival"]
    for env in ENVS:
        ours, effect = judged.results["ppo"][env], comparison.evidence.env[env]
        won = beta_interval(ours.total, 200, 0.8).low > beta_interval(100, 200, 0.8).high
        assert comparison.rules[DEFAULT].env[env] == (Verdict.WIN if won else Verdict.LOSS)
        assert effect.sequential is None
        n = judged.scores["ppo"].effective[env]
        rng = np.random.default_rng(0)
        draws = rng.beta(0.5 + ours.mean * n, 0.5 + (1 - ours.mean) * n, 100_000) - rng.beta(100.5, 100.5, 100_000)
        assert effect.effect.p_better == pytest.approx(float(np.mean(draws > 0)), abs=0.03)
    champion = comparison.rules["affine-2026-07-24"]
    assert set(champion.env.values()) == {Verdict.LOSS}  # that rule compares common tasks, and there are none
    assert comparison.accumulated == ()
    for outcome in judged.outcomes.values():
        assert sum(outcome.weights.values()) == pytest.approx(1)


def test_per_task_scores_are_paired_like_an_evaluation(evaluations: Path, params: ParetoParams, tmp_path: Path) -> None:
    """Base's evaluation, written out and read back as a file, gives ppo the same evidence as base itself."""
    base = read_model(evaluations / "base")
    write_incumbent(tmp_path / "rival.json", base, "evaluations/base")
    judged = judge_folder(evaluations, params, tmp_path)
    found = {c.incumbent: c for c in judged.comparisons if c.challenger == "ppo"}
    for env in ENVS:
        one, other = found["base"].evidence.env[env], found["rival"].evidence.env[env]
        assert (one.tasks, one.groups, one.sequential) == (other.tasks, other.groups, other.sequential)
        assert one.effect.difference.mean == other.effect.difference.mean
    assert found["base"].rules == found["rival"].rules
    assert {d.effect.decision for d in found["rival"].evidence.env.values()} == {"better"}
    with pytest.raises(EvaluationError, match="there already"):
        write_incumbent(tmp_path / "rival.json", base, "again")
    with pytest.raises(EvaluationError, match="cannot be named"):
        write_incumbent(tmp_path / "sft.json", base, "no")
    assert not (tmp_path / "sft.json").exists()


def test_environments_may_be_missing(evaluations: Path, params: ParetoParams, tmp_path: Path) -> None:
    file(tmp_path, environments={"ded": {"total": 199.0, "episodes": 200}})
    judged = judge_folder(evaluations, params, tmp_path)
    comparison = next(c for c in judged.comparisons if (c.challenger, c.incumbent) == ("ppo", "rival"))
    assert list(comparison.evidence.env) == ["ded"]
    wins = {env for env, verdict in comparison.rules[DEFAULT].env.items() if verdict == Verdict.WIN}
    assert wins == set(ENVS) - {"ded"}  # where it has no episodes, whoever has enough of them wins
    assert comparison.blocker is not None
    assert comparison.blocker.env == "ded"
    assert "rival" not in judged.outcomes[DEFAULT].eligible
    champion = comparison.rules["affine-2026-07-24"].env
    assert champion["sat"] == Verdict.WIN
    assert champion["ded"] == Verdict.LOSS
    assert judged.scores["rival"].overall is None
    written = outputs(judged)
    assert list(json.loads(written["evaluate.json"])) == ["base", "ppo"]
    assert json.loads(written["pareto.json"])["ppo_vs_rival"]["e_all_better"] is None
    assert b"rival,ded,0.995" in written["plots/scores.csv"]


def test_an_incumbent_of_another_evaluator_is_refused_by_what_differs(
    evaluations: Path, params: ParetoParams, tmp_path: Path
) -> None:
    base = read_model(evaluations / "base")
    for result in base.values():
        result.fingerprint, result.evaluator = "beef", {"context": 4096, "sampling": {"temperature": 0.0}}
    write_incumbent(tmp_path / "rival.json", base, "another evaluator")
    with pytest.raises(EvaluationError, match=r"different evaluators \(f00d, beef\)"):
        judge_folder(evaluations, params, tmp_path)


def test_unpaired_posterior_against_the_normal_approximation() -> None:
    drawn = unpaired_posterior(Unpaired("sat", (0.6, 400.0), (0.5, 300.0)), 100_000, "test")
    spread = np.sqrt(0.24 / 401 + 0.25 / 301)
    assert drawn.mean() == pytest.approx(0.1, abs=0.002)
    assert np.mean(drawn > 0.05) == pytest.approx(stats.norm(0.1, spread).sf(0.05), abs=0.01)


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_name_twice_is_refused(evaluations: Path, params: ParetoParams, tmp_path: Path, policy: str) -> None:
    (tmp_path / "evaluations").mkdir()
    for model in ("base", "rival"):
        (tmp_path / "evaluations" / model).symlink_to(evaluations / "base")
    file(tmp_path / "incumbents")
    with pytest.raises(EvaluationError, match="rival: both an incumbent's file and an evaluation"):
        judge_folder(tmp_path / "evaluations", params.model_copy(update={"policy": policy}), tmp_path / "incumbents")
