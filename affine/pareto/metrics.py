"""A judgement as metrics and tables: JSON that reads well in `dvc metrics diff`, CSV with everything.

The two JSON files hold few, well-named numbers, because every leaf is a column of `dvc exp show`; what they
leave out stands in the CSV files, one row per fact.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from affine.pareto.evidence import Effect
from affine.pareto.policies import POLICIES
from affine.pareto.repeats import best_mean, pass_rates
from affine.pareto.sequential import Sequential
from affine.pareto.summary import EnvResult
from affine.pareto.verdict import Comparison, Judgement
from affine.types import Interval, StopReason, Verdict

DIGITS = 4
"""Decimals in every metrics file: finer than any interval here, and free of floating-point noise."""

MOST = 1e6
"""E-values are written up to here; more would only be noise in a diff."""

Row = dict[str, Any]


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def pair_name(comparison: Comparison) -> str:
    """The comparison's name in every file: challenger_vs_incumbent."""
    return f"{comparison.challenger}_vs_{comparison.incumbent}"


def evaluate_metrics(judgement: Judgement) -> dict[str, Any]:
    """metrics/evaluate.json: per model that played here the overall score with its interval, rates over all
    episodes, and the mean score in every environment. With several tries per task also pass@k and the mean of each
    task's best. Incumbents from files stand in the tables only."""
    metrics: dict[str, Any] = {}
    for model, scores in judgement.scores.items():
        if model in judgement.incumbents:
            continue
        assert scores.overall is not None
        metrics[model] = {
            "overall": _round(scores.overall.mean),
            "low": _round(scores.overall.low),
            "high": _round(scores.overall.high),
            **_conduct(list(judgement.results[model].values())),
            "env": {env: _round(interval.mean) for env, interval in scores.env.items()},
        }
    return metrics


def _conduct(results: Sequence[EnvResult]) -> dict[str, Any]:
    """Rates over all episodes of all environments; `solved`, `best` and pass@k are means over environments."""
    episodes, turns = sum(r.episodes for r in results), sum(r.turns for r in results)
    row: dict[str, Any] = {
        "solved": _round(sum(r.solved for r in results) / len(results)),
        "episodes": episodes,
        "turns": _round(turns / episodes),
        "invalid": _round(sum(r.invalid for r in results) / max(1, turns)),
        "tokens": _round(sum(r.tokens for r in results) / episodes),
    }
    repeated = [_repeats(r) for r in results]
    if all(repeated):
        shared = [name for name in repeated[0] if all(name in one for one in repeated)]
        row |= {name: _round(sum(one[name] for one in repeated) / len(repeated)) for name in shared}
    return row


def _repeats(result: EnvResult) -> dict[str, float]:
    """pass@k and the mean of the best score per task; empty where tasks were tried once."""
    rates = pass_rates(result.tasks.values())
    if len(rates) < 2:
        return {}
    return {"best": best_mean(result.tasks.values()), **{f"pass@{k}": rate for k, rate in rates.items()}}


def pareto_metrics(judgement: Judgement) -> dict[str, Any]:
    """metrics/pareto.json: per pair the rule's verdict, the evidence and what blocks; per policy the weights."""
    metrics: dict[str, Any] = {"policy": judgement.policy}
    for comparison in judgement.comparisons:
        metrics[pair_name(comparison)] = _comparison_metrics(comparison, judgement.policy)
    metrics["field"] = {
        name: {
            "frontier": ", ".join(outcome.frontier) or "nobody eligible",
            "points": {model: _round(value) for model, value in outcome.points.items()},
            "weights": {model: _round(value) for model, value in outcome.weights.items()},
        }
        for name, outcome in judgement.outcomes.items()
    }
    return metrics


def _comparison_metrics(comparison: Comparison, policy: str) -> dict[str, Any]:
    evidence, blocker = comparison.evidence, comparison.blocker
    verdicts = list(comparison.rules[policy].env.values())
    effects: dict[str, Effect] = {"overall": evidence.overall, **{e: d.effect for e, d in evidence.env.items()}}
    joint = evidence.joint
    return {
        "verdict": explain(comparison, policy),
        "dominates": {name: verdict.dominates for name, verdict in comparison.rules.items()},
        "wins": verdicts.count(Verdict.WIN),
        "ties": verdicts.count(Verdict.TIE),
        "losses": verdicts.count(Verdict.LOSS),
        "apart": comparison.apart,
        "difference": {name: _round(e.difference.mean) for name, e in effects.items()},
        "p_better": {name: _round(e.p_better) for name, e in effects.items()},
        "better": named(comparison, "better"),
        "worse": named(comparison, "worse"),
        "worse_holm": ", ".join(env for env, d in evidence.env.items() if d.worse_holm) or "none",
        "p_all_better": _round(joint.all_better.value),
        "p_all_better_error": _round(joint.all_better.error),
        "p_some_better_none_worse": _round(joint.some_better_none_worse.value),
        "p_some_better_none_worse_error": _round(joint.some_better_none_worse.error),
        "sequential_better": _settled(comparison, "better"),
        "sequential_worse": _settled(comparison, "worse"),
        "expected_better": _round(joint.expected_better),
        "e_all_better": None if evidence.e_all_better is None else _round(min(evidence.e_all_better, MOST)),
        "blocks": blocker.env if blocker else "nothing",
        "gap": _round(blocker.gap) if blocker else 0.0,
        "episodes_needed": blocker.episodes if blocker else 0,
    }


def _settled(comparison: Comparison, decision: str) -> str:
    """The environments that the sequential test settles so, or "none"."""
    tests = {env: found.sequential for env, found in comparison.evidence.env.items()}
    return ", ".join(env for env, test in tests.items() if test and test.decision == decision) or "none"


def named(comparison: Comparison, decision: str) -> str:
    """The environments with this decision of the paired test (where play was stopped early: of the sequential
    one), or "none"."""
    return ", ".join(env for env, d in comparison.evidence.env.items() if d.effect.decision == decision) or "none"


def explain(comparison: Comparison, policy: str) -> str:
    """The rule's verdict and what to do about it, in one line."""
    who, whom, blocker = comparison.challenger, comparison.incumbent, comparison.blocker
    if blocker is None:
        return f"{who} dominates {whom} under {policy}"
    text = f"{who} does not dominate {whom} under {policy}: {blocker.env} blocks"
    if blocker.gap is None:
        return f"{text}, no score at this number of episodes can clear {whom}'s"
    if blocker.episodes is not None:
        short = f", {100 * blocker.gap:.1f} points short" if blocker.gap > 0 else ""
        return f"{text}{short}, or {blocker.episodes:,} episodes of each if the means stay"
    return f"{text}, {100 * blocker.gap:.1f} points short, and more episodes alone will not settle it"


def score_rows(judgement: Judgement) -> list[Row]:
    """metrics/plots/scores.csv: a row per model and environment, and per model one for "overall".

    `solved` and the columns named by stop reason are shares of episodes, `invalid` of turns; `turns` and `tokens`
    are means per episode; `effective` is the effective sample size of the interval. An incumbent's file says
    nothing of conduct, and its columns stay empty.
    """
    rows: list[Row] = []
    for model, scores in judgement.scores.items():
        results = judgement.results[model]
        if scores.overall is not None:
            rows.append({"model": model, "env": "overall", **_interval_columns(scores.overall)})
        for env, interval in scores.env.items():
            result = results[env]
            row: Row = {"model": model, "env": env, **_interval_columns(interval)}
            played = result.known == "episodes"
            if played:
                row["solved"] = _round(result.solved)
            row["n"] = result.episodes
            if result.tasks:
                row |= {"tasks": len(result.tasks), "groups": result.groups}
            row["effective"] = _round(scores.effective[env])
            if played:
                row |= {
                    "turns": _round(result.turns / result.episodes),
                    "invalid": _round(result.invalid / max(1, result.turns)),
                    "tokens": _round(result.tokens / result.episodes),
                    **{f"stop_{stop}": _round(result.stops[stop] / result.episodes) for stop in StopReason},
                    **{name: _round(value) for name, value in _repeats(result).items()},
                }
            rows.append({**row, "fingerprint": result.fingerprint})
    return rows


def _interval_columns(interval: Interval) -> Row:
    return {"score": _round(interval.mean), "low": _round(interval.low), "high": _round(interval.high)}


def difference_rows(judgement: Judgement) -> list[Row]:
    """metrics/plots/differences.csv: a row per pair and environment (and "overall"), with every policy's
    verdict on it."""
    rows: list[Row] = []
    for comparison in judgement.comparisons:
        pair, evidence = pair_name(comparison), comparison.evidence
        rows.append({"pair": pair, "env": "overall", **_effect_columns(evidence.overall)})
        for env, found in evidence.env.items():
            rows.append(
                {
                    "pair": pair,
                    "env": env,
                    **_effect_columns(found.effect),
                    "p_better_types": _round(found.p_better_types),
                    "share": _round(evidence.joint.share[env]),
                    "worse_holm": found.worse_holm,
                    "tasks": found.tasks,
                    "groups": found.groups,
                    "left_out": found.left_out,
                    "tasks_needed": found.tasks_needed,
                    **_sequential_columns(found.sequential),
                    "early": found.early,
                    "differing": ", ".join(found.differing),
                    **{name: str(comparison.rules[name].env[env]) for name in POLICIES},
                }
            )
    return rows


def _effect_columns(effect: Effect) -> Row:
    return {
        "difference": _round(effect.difference.mean),
        "low": _round(effect.difference.low),
        "high": _round(effect.difference.high),
        "p_better": _round(effect.p_better),
        "p_not_worse": _round(effect.p_not_worse),
        "decision": effect.decision,
    }


def _sequential_columns(test: Sequential | None) -> Row:
    if test is None:
        return {}
    return {
        "e_better": _round(min(test.e_better, MOST)),
        "e_worse": _round(min(test.e_worse, MOST)),
        "sequential": test.decision,
        "settled": test.settled,
    }


def dominance_rows(judgement: Judgement) -> list[Row]:
    """metrics/plots/dominance.csv: a row per pair and number of tasks, the joint probabilities so far."""
    return [
        {
            "pair": pair_name(comparison),
            "tasks": step.tasks,
            "p_all_better": _round(step.p_all_better),
            "p_some_better_none_worse": _round(step.p_some_better_none_worse),
            "p_better_overall": _round(step.p_better_overall),
        }
        for comparison in judgement.comparisons
        for step in comparison.accumulated
    ]
