"""The stage as a whole: what it writes, that it repeats, what it says, and when it refuses."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pareto_episodes import episode, write_evaluations
from rich.console import Console

from affine.params import Params, ParamsError, load_params
from affine.pareto import report
from affine.pareto.metrics import explain, pair_name
from affine.pareto.policies import DEFAULT, POLICIES
from affine.pareto.run import judge_folder, outputs, run_pareto
from affine.pareto.summary import EvaluationError
from affine.pareto.verdict import Judgement, apply_rule, blocker, score
from affine.types import ENVS, Verdict, to_json

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "evaluate.json",
    "pareto.json",
    "plots/scores.csv",
    "plots/differences.csv",
    "plots/dominance.csv",
    "plots/scores.png",
    "plots/differences.png",
    "plots/dominance.png",
}


@pytest.fixture(scope="module")
def params() -> Params:
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, params: Params) -> Path:
    """A root with evaluations of 200 tasks and the stage's outputs."""
    root = tmp_path_factory.mktemp("run")
    write_evaluations(root / "evaluations")
    run_pareto(params, root)
    return root


@pytest.fixture(scope="module")
def judgement(run: Path, params: Params) -> Judgement:
    return judge_folder(run / "evaluations", params.pareto)


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_it_writes_its_files_and_nothing_else(run: Path) -> None:
    found = {str(p.relative_to(run / "metrics")) for p in (run / "metrics").rglob("*") if p.is_file()}
    assert found == FILES


def test_scores_are_plain_means_of_the_records(run: Path) -> None:
    metrics = json.loads((run / "metrics/evaluate.json").read_text())
    assert list(metrics) == ["base", "sft", "ppo"]
    for model, numbers in metrics.items():
        means = []
        for env in ENVS:
            lines = (run / "evaluations" / model / f"{env}.jsonl").read_text().splitlines()
            scores = [json.loads(line)["trajectory"]["score"] for line in lines]
            means.append(sum(scores) / len(scores))
            assert numbers["env"][env] == pytest.approx(means[-1], abs=5e-5)
        assert numbers["overall"] == pytest.approx(sum(means) / 8, abs=5e-5)
        assert numbers["low"] < numbers["overall"] < numbers["high"]
        assert numbers["episodes"] == 1600
        assert numbers["turns"] == 2
        assert numbers["tokens"] == 6


def test_the_verdict_of_models_far_apart(run: Path) -> None:
    metrics = json.loads((run / "metrics/pareto.json").read_text())
    assert [key for key in metrics if "_vs_" in key] == ["ppo_vs_sft", "ppo_vs_base", "sft_vs_base"]
    found = metrics["ppo_vs_base"]
    assert found["verdict"] == f"ppo dominates base under {DEFAULT}"
    assert found["dominates"] == dict.fromkeys(POLICIES, True)
    assert (found["wins"], found["ties"], found["losses"]) == (8, 0, 0)
    assert found["p_all_better"] > 0.99
    assert found["apart"] is True
    assert found["worse"] == found["worse_holm"] == "none"
    assert (found["blocks"], found["gap"], found["episodes_needed"]) == ("nothing", 0.0, 0)
    for paid in metrics["field"].values():
        assert sum(paid["weights"].values()) == pytest.approx(1, abs=2e-4)
    assert metrics["field"]["affine-2026-07-24"]["frontier"] == "ppo"


def test_tables_hold_every_pair_model_and_environment(run: Path) -> None:
    plots = run / "metrics/plots"
    scores, differences = _table(plots / "scores.csv"), _table(plots / "differences.csv")
    assert [(r["model"], r["env"]) for r in scores] == [
        (m, e) for m in ("base", "sft", "ppo") for e in ("overall", *ENVS)
    ]
    for row in scores:
        assert float(row["low"]) < float(row["score"]) < float(row["high"])
    assert len(differences) == 3 * 9
    by_env = {(r["model"], r["env"]): float(r["score"]) for r in scores}
    for row in differences:
        ours, theirs = row["pair"].split("_vs_")
        gap = by_env[ours, row["env"]] - by_env[theirs, row["env"]]
        assert float(row["difference"]) == pytest.approx(gap, abs=2e-4)
        assert float(row["low"]) < float(row["high"])
    assert len(_table(plots / "dominance.csv")) == 3 * 10


def test_bytes_repeat_under_any_hash_seed(run: Path) -> None:
    code = (
        "import sys, hashlib, pathlib\n"
        "from affine.params import load_params\n"
        "from affine.pareto.run import judge_folder, outputs\n"
        "judged = judge_folder(pathlib.Path(sys.argv[1]), load_params(sys.argv[2]).pareto)\n"
        "for name, content in outputs(judged).items(): print(name, hashlib.sha256(content).hexdigest())\n"
    )
    written = {name: hashlib.sha256((run / "metrics" / name).read_bytes()).hexdigest() for name in FILES}
    done = subprocess.run(
        [sys.executable, "-c", code, str(run / "evaluations"), str(ROOT / "params.yaml")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)},
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == written


def test_order_of_records_does_not_matter(run: Path, params: Params, tmp_path: Path) -> None:
    shutil.copytree(run / "evaluations", tmp_path / "evaluations")
    for path in (tmp_path / "evaluations").rglob("*.jsonl"):
        path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    again = outputs(judge_folder(tmp_path / "evaluations", params.pareto))
    for name in ("evaluate.json", "pareto.json", "plots/scores.csv", "plots/differences.csv"):
        assert again[name] == (run / "metrics" / name).read_bytes()


def test_a_different_evaluator_is_refused_before_anything_is_written(run: Path, params: Params, tmp_path: Path) -> None:
    shutil.copytree(run / "evaluations", tmp_path / "evaluations")
    path = tmp_path / "evaluations/sft/ded.jsonl"
    path.write_text(path.read_text().replace('"fingerprint":"f00d"', '"fingerprint":"beef"'))
    with pytest.raises(EvaluationError, match=r"ded: ppo and sft were scored by different evaluators \(f00d, beef\)"):
        run_pareto(params, tmp_path)
    assert not (tmp_path / "metrics").exists()


def test_a_partial_overlap_is_used_and_told(run: Path, params: Params, tmp_path: Path) -> None:
    shutil.copytree(run / "evaluations", tmp_path / "evaluations")
    path = tmp_path / "evaluations/sft/ded.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:150]))
    judged = judge_folder(tmp_path / "evaluations", params.pareto)
    found = judged.comparisons[0].evidence.env["ded"]
    assert (found.tasks, found.left_out) == (150, 50)
    assert "150 (+50 unpaired)" in _text(judged)


def _text(judged: Judgement) -> str:
    console = Console(width=160, file=io.StringIO(), color_system=None)
    console.print(report.scores_table(judged))
    for comparison in judged.comparisons:
        console.print(report.comparison_table(comparison, judged.policy))
    console.print("\n".join(report.verdict_lines(judged)))
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def test_report_names_what_was_decided(judgement: Judgement) -> None:
    text = _text(judgement)
    for word in (*ENVS, "overall", "ppo against sft", explain(judgement.comparisons[0], judgement.policy)[:40]):
        assert word in text


def test_policies_and_plan_are_listed() -> None:
    console = Console(width=200, file=io.StringIO(), color_system=None)
    console.print(report.policies_table())
    plan = report.Plan(power=0.8, correlation=0.5, level=0.8, error=0.035)
    console.print(plan.gaps_table([0.1, 0.5], 0.6))
    console.print(plan.envs_table(0.1, "base", {"sat": 0.6, "ded": 0.95}))
    output = console.file
    assert isinstance(output, io.StringIO)
    text = output.getvalue()
    assert all(name in text for name in POLICIES)
    assert text.count("629") == 2  # rule, +10 points, all eight
    assert text.count("score above 1") == 8


@pytest.mark.parametrize("policy", list(POLICIES))
def test_few_tasks_judge_without_a_crash_and_say_so(policy: str, params: Params, tmp_path: Path) -> None:
    write_evaluations(tmp_path, tasks=3, groups=2)
    judged = judge_folder(tmp_path, params.pareto.model_copy(update={"policy": policy, "draws": 500}))
    written = outputs(judged)
    assert set(written) == FILES
    json.loads(written["pareto.json"], parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    if policy == DEFAULT:
        first = judged.comparisons[0]
        assert not first.rules[policy].dominates
        assert set(first.rules[policy].env.values()) == {Verdict.TIE}
        assert judged.outcomes[policy].weights["uid0"] == 1.0
        assert first.blocker is not None
        assert first.blocker.episodes is None or first.blocker.episodes >= 200


def test_equal_models_are_open_and_the_earlier_keeps_everything(params: Params, tmp_path: Path) -> None:
    for model in ("sft", "ppo"):
        (tmp_path / model).mkdir()
        for env in ENVS:
            lines = [to_json(episode(env, i, float(i % 3 > 0), model=model)) + "\n" for i in range(210)]
            (tmp_path / model / f"{env}.jsonl").write_text("".join(lines))
    judged = judge_folder(tmp_path, params.pareto)
    (found,) = judged.comparisons
    assert pair_name(found) == "ppo_vs_sft"
    assert found.rules[DEFAULT].dominated
    assert set(found.rules[DEFAULT].env.values()) == {Verdict.LOSS}
    assert {d.effect.decision for d in found.evidence.env.values()} == {"open"}
    assert all(d.effect.p_better == pytest.approx(0.5, abs=0.02) for d in found.evidence.env.values())
    assert found.evidence.joint.all_better.value == pytest.approx(0.5**8, abs=0.003)
    assert judged.outcomes[DEFAULT].weights == {"sft": 1.0, "ppo": 0.0}
    assert found.blocker is not None
    assert found.blocker.episodes is None
    assert "more episodes alone will not settle it" in explain(found, DEFAULT)


def test_the_blocker_names_the_furthest_environment_and_what_settles_it(judgement: Judgement) -> None:
    results = judgement.results
    verdict = apply_rule(POLICIES[DEFAULT], results, "sft", "ppo")  # sft as if it came later: it loses everywhere
    found = blocker(POLICIES[DEFAULT], verdict, results["sft"], results["ppo"])
    assert found is not None
    assert found.gap is not None
    gaps = {env: results["ppo"][env].mean - results["sft"][env].mean for env in ENVS}
    assert found.gap > max(gaps.values())
    assert found.episodes is None
    champion = POLICIES["affine-2026-07-24"]
    turned_away = apply_rule(champion, results, "sft", "ppo")
    shortfall = blocker(champion, turned_away, results["sft"], results["ppo"])
    assert shortfall is not None
    assert shortfall.gap == pytest.approx(
        max(0.98 * results["ppo"][env].mean - results["sft"][env].mean for env in ENVS)
    )


def test_intervals_widen_where_tasks_share_groups(judgement: Judgement) -> None:
    scores = score(judgement.results["ppo"], 0.8)
    for env in ENVS:
        assert 0 < scores.effective[env] <= judgement.results["ppo"][env].episodes


def test_an_unknown_policy_stops_at_the_parameters(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text().replace("policy: affine-2025-10-22", "policy: affine-2025-10-21")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"pareto\.policy.*affine-2025-10-22"):
        load_params(tmp_path / "params.yaml")
