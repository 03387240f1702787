"""The champion rule applied: one champion, challengers in order of seniority, means on common tasks only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from affine.pareto.policies import ChampionRule, required_tasks
from affine.pareto.summary import EnvResult
from affine.types import ENVS, Verdict


@dataclass(frozen=True, slots=True)
class Contest:
    """One environment of a challenge: mean scores on the `common` tasks, and how many were `required`."""

    challenger: float
    champion: float
    common: int
    required: int


def contest(rule: ChampionRule, challenger: EnvResult | None, champion: EnvResult | None) -> Contest:
    """The contest of two results in one environment; the champion's tasks are the pool that was drawn.

    A champion without data counts as 0, on whatever the challenger played; a challenger without any, or two of
    which one is known by its totals only, have no common task.
    """
    ours = {} if challenger is None else challenger.tasks
    if champion is None or not champion.episodes:
        count = challenger.episodes if challenger is not None else 0
        return Contest(challenger.mean if challenger is not None else 0.0, 0.0, count, count)
    theirs = champion.tasks
    common = [task for task in theirs if task in ours]
    count = max(1, len(common))
    return Contest(
        challenger=sum(ours[task].mean for task in common) / count,
        champion=sum(theirs[task].mean for task in common) / count,
        common=len(common),
        required=required_tasks(rule, len(theirs)),
    )


def judge_contest(rule: ChampionRule, result: Contest) -> Verdict:
    """WIN where the challenger is dominant, TIE where it is not worse, LOSS where it is worse or has too few
    common tasks."""
    if result.common == 0 or result.common < result.required:
        return Verdict.LOSS
    if result.challenger > result.champion + rule.margin + rule.tolerance:
        return Verdict.WIN
    if result.challenger >= rule.keep * result.champion - rule.tolerance:
        return Verdict.TIE
    return Verdict.LOSS


def replaces(rule: ChampionRule, verdicts: Sequence[Verdict]) -> bool:
    """Whether a challenger with these verdicts becomes champion."""
    return Verdict.LOSS not in verdicts and verdicts.count(Verdict.WIN) >= rule.min_dominant


def reign(rule: ChampionRule, results: Mapping[str, Mapping[str, EnvResult]]) -> str:
    """The champion after every model, earliest first, has challenged the champion of its day."""
    models = list(results)
    champion = models[0]
    for challenger in models[1:]:
        verdicts = [
            judge_contest(rule, contest(rule, results[challenger].get(env), results[champion].get(env)))
            for env in ENVS
            if env in results[challenger] or env in results[champion]
        ]
        if replaces(rule, verdicts):
            champion = challenger
    return champion
