"""One judgement of a field of models: scores, the validators' rules, the evidence, and what stands in the way.

A pure function of episode summaries and the section `pareto` of params.yaml: the same records give the same
judgement without a model or an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite

from affine.params import ParetoParams
from affine.pareto.champion import contest, judge_contest, reign, replaces
from affine.pareto.dominance import Outcome, dominates, outcome, standings, win_masks, wins
from affine.pareto.evidence import Accumulated, Evidence, accumulate, effective_size, pair_all, weigh
from affine.pareto.intervals import effective_interval, overall_interval
from affine.pareto.paired import Cluster
from affine.pareto.policies import POLICIES, ChampionRule, IntervalRule, Policy
from affine.pareto.power import episodes_to_clear, gap_points
from affine.pareto.summary import EnvResult, EvaluationError, Evaluations
from affine.types import ENVS, Interval, Verdict


@dataclass(frozen=True, slots=True)
class Scores:
    """One model's intervals: `overall` is the plain mean of its environments' mean scores, None for a model that
    lacks some of the eight. `effective` is the effective sample size per environment."""

    overall: Interval | None
    env: Mapping[str, Interval]
    effective: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What a policy says about a challenger against an incumbent: each environment as the challenger sees it,
    and whether the challenger dominates (replaces) the incumbent, or is dominated (turned away)."""

    env: Mapping[str, Verdict]
    dominates: bool
    dominated: bool


@dataclass(frozen=True, slots=True)
class Blocker:
    """The environment furthest from letting the challenger dominate.

    `gap`: points (of a score in [0, 1]) its mean must rise at the present sample sizes; None where not even
    1 would do. `episodes`: of each model, that would settle it with means as they are; None where no number
    (within reach) does.
    """

    env: str
    gap: float | None
    episodes: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A challenger against an incumbent that came before it. `apart`: the challenger's overall interval lies
    wholly above the incumbent's."""

    challenger: str
    incumbent: str
    rules: Mapping[str, RuleVerdict]
    evidence: Evidence
    accumulated: tuple[Accumulated, ...]
    blocker: Blocker | None
    apart: bool


@dataclass(frozen=True, slots=True)
class Judgement:
    """Everything decided about a field of models, in order of seniority; the first of them, `incumbents`, come from
    files."""

    policy: str
    incumbents: tuple[str, ...]
    results: Evaluations
    scores: Mapping[str, Scores]
    outcomes: Mapping[str, Outcome]
    comparisons: tuple[Comparison, ...]


def score(results: Mapping[str, EnvResult], level: float, cluster: Cluster = "group") -> Scores:
    """Intervals per environment (clustered Jeffreys) and overall."""
    intervals, effective = {}, {}
    for env, result in results.items():
        effective[env] = effective_size(result, cluster, level)
        intervals[env] = effective_interval(result.mean, effective[env], level)
    overall = None
    if all(env in results for env in ENVS):
        overall = overall_interval([i.mean for i in intervals.values()], list(effective.values()), level)
    return Scores(overall, intervals, effective)


def _totals(results: Evaluations) -> dict[str, dict[str, tuple[float, int]]]:
    return {m: {env: (r.total, r.episodes) for env, r in by_env.items()} for m, by_env in results.items()}


def apply_rule(policy: Policy, results: Evaluations, challenger: str, incumbent: str) -> RuleVerdict:
    """The policy's verdict on two models, the incumbent being the earlier."""
    envs = tuple(env for env in ENVS if env in results[incumbent] or env in results[challenger])
    if isinstance(policy, ChampionRule):
        verdicts = {
            env: judge_contest(policy, contest(policy, results[challenger].get(env), results[incumbent].get(env)))
            for env in envs
        }
        wins_over = replaces(policy, list(verdicts.values()))
        return RuleVerdict(verdicts, dominates=wins_over, dominated=not wins_over)
    field = standings(_totals({m: results[m] for m in (incumbent, challenger)}), envs)
    wins_MKE = wins(policy, field)
    dominates_MK = dominates(win_masks(wins_MKE), (1 << len(envs)) - 1)
    verdicts = {
        env: Verdict.WIN if wins_MKE[1, 0, e] else Verdict.LOSS if wins_MKE[0, 1, e] else Verdict.TIE
        for e, env in enumerate(envs)
    }
    return RuleVerdict(verdicts, dominates=bool(dominates_MK[1, 0]), dominated=bool(dominates_MK[0, 1]))


def pay(policy: Policy, results: Evaluations) -> Outcome:
    """Points and weights of all models. The champion rule pays its last champion everything."""
    if isinstance(policy, ChampionRule):
        champion = reign(policy, results)
        takes = {model: float(model == champion) for model in results}
        return Outcome(eligible=tuple(results), frontier=(champion,), points=takes, weights=takes)
    envs = tuple(env for env in ENVS if any(env in by_env for by_env in results.values()))
    return outcome(policy, standings(_totals(results), envs))


def blocker(
    policy: Policy, verdict: RuleVerdict, ours: Mapping[str, EnvResult], theirs: Mapping[str, EnvResult]
) -> Blocker | None:
    """What keeps the challenger from dominating; None where it does."""
    if verdict.dominates:
        return None
    if isinstance(policy, ChampionRule):
        return _champion_blocker(policy, verdict, ours, theirs)
    return max(
        (
            _interval_blocker(policy, env, ours.get(env), theirs.get(env))
            for env, v in verdict.env.items()
            if v != Verdict.WIN
        ),
        key=lambda b: (float("inf") if b.gap is None else b.gap, b.episodes or 0),
    )


def _interval_blocker(rule: IntervalRule, env: str, ours: EnvResult | None, theirs: EnvResult | None) -> Blocker:
    total, n = (ours.total, ours.episodes) if ours else (0.0, 0)
    their_total, their_n = (theirs.total, theirs.episodes) if theirs else (0.0, 0)
    gap = gap_points((their_total, their_n), (total, n), rule.level)
    least = max(rule.min_samples, n, their_n)
    episodes = episodes_to_clear(their_total / max(1, their_n), total / max(1, n), rule.level, least)
    return Blocker(env, gap if isfinite(gap) else None, episodes)


def _champion_blocker(
    rule: ChampionRule, verdict: RuleVerdict, ours: Mapping[str, EnvResult], theirs: Mapping[str, EnvResult]
) -> Blocker:
    """The largest shortfall of those that are worse; if none is, the smallest one from being dominant."""
    contests = {env: contest(rule, ours.get(env), theirs.get(env)) for env in verdict.env}
    worse = {env: c for env, c in contests.items() if verdict.env[env] == Verdict.LOSS}
    if worse:
        short = {env: rule.keep * c.champion - c.challenger for env, c in worse.items()}
        env = max(short, key=lambda e: short[e])
        gap: float | None = max(0.0, short[env])
    else:
        short = {env: c.champion + rule.margin - c.challenger for env, c in contests.items()}
        env = min(short, key=lambda e: short[e])
        gap = short[env] if contests[env].champion + rule.margin <= 1.0 else None
    needed = contests[env].required
    return Blocker(env, gap, needed if contests[env].common < needed else None)


def judge(results: Evaluations, params: ParetoParams, incumbents: Evaluations | None = None) -> Judgement:
    """Judge models that stand in order of seniority, after the `incumbents`, who are not compared among themselves.
    Raises EvaluationError where two cannot be compared."""
    first = dict(incumbents or {})
    if taken := [model for model in results if model in first]:
        raise EvaluationError(f"{', '.join(taken)}: both an incumbent's file and an evaluation; rename one of them")
    results = {**first, **results}
    models = list(results)
    scores = {model: score(by_env, params.confidence, params.cluster) for model, by_env in results.items()}
    pairs = [
        (challenger, incumbent)
        for challenger in reversed(models[len(first) :])
        for incumbent in reversed(models[: models.index(challenger)])
    ]
    comparisons = [_compare(results, scores, challenger, incumbent, params) for challenger, incumbent in pairs]
    outcomes = {name: pay(p, results) for name, p in POLICIES.items()}
    return Judgement(
        params.policy, tuple(first), results, scores, outcomes, tuple(c for c in comparisons if c is not None)
    )


def _compare(
    results: Evaluations, scores: Mapping[str, Scores], challenger: str, incumbent: str, params: ParetoParams
) -> Comparison | None:
    """One comparison; None where the two have no environment in common."""
    pairs = pair_all(
        results[challenger],
        results[incumbent],
        level=params.confidence,
        cluster=params.cluster,
        may_differ=params.may_differ,
    )
    if not pairs:
        return None
    stream = f"{challenger}/{incumbent}"
    rules = {name: apply_rule(p, results, challenger, incumbent) for name, p in POLICIES.items()}
    ours, theirs = scores[challenger].overall, scores[incumbent].overall
    return Comparison(
        challenger=challenger,
        incumbent=incumbent,
        rules=rules,
        evidence=weigh(
            pairs, stream, level=params.confidence, margin=params.margin, error=params.error, draws=params.draws
        ),
        accumulated=tuple(accumulate(pairs, stream, margin=params.margin, draws=max(1, params.draws // 10))),
        blocker=blocker(POLICIES[params.policy], rules[params.policy], results[challenger], results[incumbent]),
        apart=ours is not None and theirs is not None and ours.low > theirs.high,
    )
