"""The evidence we believe in, kept apart from the validators' rule: paired, clustered, joint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from affine.pareto.intervals import effective_samples
from affine.pareto.joint import Joint, holm, joint
from affine.pareto.paired import (
    Cluster,
    Pairs,
    Unpaired,
    cluster_names,
    clusters,
    first_tasks,
    pair,
    posterior,
    sequence,
    unpaired_posterior,
)
from affine.pareto.power import tasks_to_decide
from affine.pareto.sequential import Decision, Sequential, sequential
from affine.pareto.summary import EnvResult
from affine.types import Interval

Floats = NDArray[np.float64]

STEPS = 10
"""At how many points accumulating evidence is shown, the last being all tasks."""


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference (challenger - incumbent) and its posterior.

    `spread` is the posterior's standard deviation, `p_better` P(difference > 0), `p_not_worse`
    P(difference > -margin). `decision` is better or worse where the probability of it is at least 1 - error,
    else open.
    """

    difference: Interval
    spread: float
    p_better: float
    p_not_worse: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class EnvEffect:
    """The effect in one environment and what it rests on.

    `tasks` are common to both sides, in `groups` clusters; `left_out` tasks only one side has.
    `worse_holm`: worse even with all environments tested at once. `tasks_needed`: common tasks at which a
    difference that stays as it is would be called better; None where it is not above 0 or out of reach.
    `sequential` is the test that may be looked at at any time; where play was stopped `early` by it, `decision` of
    the effect is its decision, because the paired test does not allow for that. `p_better_types` is P(difference > 0)
    with whole task types as clusters, that is over types like these and not only these; None where there are too few
    of them. Two results that share no tasks (an incumbent of which only totals are known) have no common tasks and no
    `sequential`.
    """

    effect: Effect
    tasks: int
    groups: int
    left_out: int
    worse_holm: bool
    tasks_needed: int | None
    sequential: Sequential | None = None
    early: bool = False
    differing: tuple[str, ...] = ()
    p_better_types: float | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything about one challenger against one incumbent, over the environments that both have.

    `e_all_better` is the smallest e-value of "better" over the environments, and so one for "better in all of
    them" (None where an environment has none).
    """

    overall: Effect
    env: Mapping[str, EnvEffect]
    joint: Joint
    e_all_better: float | None


@dataclass(frozen=True, slots=True)
class Accumulated:
    """What was known after `tasks` common tasks per environment (on average)."""

    tasks: int
    p_all_better: float
    p_some_better_none_worse: float
    p_better_overall: float


def effect(draws: Floats, mean: float, level: float, margin: float, error: float) -> Effect:
    """The effect that `draws` from the posterior of a difference show, around its observed `mean`."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(draws, [tail, 1.0 - tail])
    p_better = float(np.mean(draws > 0.0))
    decision: Decision = "better" if p_better >= 1.0 - error else "worse" if p_better <= error else "open"
    p_not_worse = float(np.mean(draws > -margin))
    return Effect(Interval(mean, float(low), float(high), level), float(np.std(draws)), p_better, p_not_worse, decision)


def pair_all(
    challenger: Mapping[str, EnvResult],
    incumbent: Mapping[str, EnvResult],
    *,
    level: float,
    cluster: Cluster = "group",
    may_differ: Sequence[str] = (),
) -> dict[str, Pairs | Unpaired]:
    """Pairs in every environment that both models have; results side by side where one is known by totals only.
    Raises EvaluationError (`paired.pair`)."""
    found: dict[str, Pairs | Unpaired] = {}
    for env, ours in challenger.items():
        theirs = incumbent.get(env)
        if theirs is None or not (ours.episodes and theirs.episodes):
            continue
        if ours.known == "totals" or theirs.known == "totals":
            sizes = [(result.mean, effective_size(result, cluster, level)) for result in (ours, theirs)]
            found[env] = Unpaired(env, *sizes)
        else:
            found[env] = pair(ours, theirs, cluster, may_differ)
    return found


def effective_size(result: EnvResult, cluster: Cluster, level: float) -> float:
    """How many independent episodes a result is worth (`intervals.effective_samples`); of totals, every one."""
    if result.known == "totals":
        return float(result.episodes)
    names = cluster_names(result.tasks, cluster)
    tasks = result.tasks.values()
    return effective_samples([t.total for t in tasks], [t.tries for t in tasks], list(names.values()), level)


def _draw(pairs: Pairs | Unpaired, draws: int, stream: str) -> Floats:
    if isinstance(pairs, Pairs):
        return posterior(pairs, draws, stream)
    return unpaired_posterior(pairs, draws, stream)


def _by_type(pairs: Pairs, draws: int, stream: str) -> float | None:
    """P(difference > 0) with types as clusters; None without them."""
    if not pairs.types:
        return None
    return float(np.mean(posterior(replace(pairs, groups=pairs.types), draws, f"{stream}/types") > 0.0))


def weigh(
    pairs: Mapping[str, Pairs | Unpaired], stream: str, *, level: float, margin: float, error: float, draws: int
) -> Evidence:
    """All evidence in `pairs`; `stream` names the random stream, so that equal input gives equal output.

    The overall difference is the plain mean over environments, draw by draw.
    """
    drawn = {env: _draw(p, draws, stream) for env, p in pairs.items()}
    effects = {env: effect(drawn[env], p.mean, level, margin, error) for env, p in pairs.items()}
    tests = {env: sequential(*sequence(p), error) for env, p in pairs.items() if isinstance(p, Pairs)}
    early = {env for env, p in pairs.items() if isinstance(p, Pairs) and p.early}
    chances = [min(1.0, 1 / tests[env].e_worse) if env in early else e.p_better for env, e in effects.items()]
    corrected = dict(zip(effects, holm(chances), strict=True))
    mean = sum(p.mean for p in pairs.values()) / len(pairs)
    found = {}
    for env, p in pairs.items():
        worse = corrected[env] <= error
        if isinstance(p, Unpaired):
            found[env] = EnvEffect(effects[env], 0, 0, 0, worse, None)
            continue
        shown = replace(effects[env], decision=tests[env].decision) if p.early else effects[env]
        found[env] = EnvEffect(
            effect=shown,
            tasks=len(p.differences),
            groups=len(clusters(p)[0]),
            left_out=p.only_challenger + p.only_incumbent,
            worse_holm=worse,
            tasks_needed=tasks_to_decide(p.mean, effects[env].spread, len(p.differences), error),
            sequential=tests[env],
            early=p.early,
            differing=p.differing,
            p_better_types=_by_type(p, draws, stream),
        )
    return Evidence(
        overall=effect(np.mean(np.column_stack(list(drawn.values())), axis=1), mean, level, margin, error),
        env=found,
        joint=joint(drawn, margin),
        e_all_better=min(test.e_better for test in tests.values()) if len(tests) == len(pairs) else None,
    )


def accumulate(pairs: Mapping[str, Pairs | Unpaired], stream: str, *, margin: float, draws: int) -> list[Accumulated]:
    """The joint probabilities after 1/`STEPS`, 2/`STEPS`, ... of each environment's common tasks; none where no
    environment has common tasks.

    Looking at them before the end and stopping where they please is not allowed for in the probabilities.
    """
    rows: list[Accumulated] = []
    sizes = [len(p.differences) for p in pairs.values() if isinstance(p, Pairs)]
    for step in range(1, STEPS + 1) if sizes else ():
        known = {
            env: first_tasks(p, max(1, len(p.differences) * step // STEPS)) if isinstance(p, Pairs) else p
            for env, p in pairs.items()
        }
        drawn = {env: _draw(p, draws, f"{stream}/{step}") for env, p in known.items()}
        both = joint(drawn, margin)
        rows.append(
            Accumulated(
                tasks=round(sum(max(1, size * step // STEPS) for size in sizes) / len(sizes)),
                p_all_better=both.all_better.value,
                p_some_better_none_worse=both.some_better_none_worse.value,
                p_better_overall=float(np.mean(np.mean(np.column_stack(list(drawn.values())), axis=1) > 0.0)),
            )
        )
    return rows
