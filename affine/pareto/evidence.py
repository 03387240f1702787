"""The evidence we believe in, kept apart from the validators' rule: paired, clustered, joint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from affine.pareto.joint import Joint, holm, joint
from affine.pareto.paired import Pairs, clusters, first_tasks, pair, posterior
from affine.pareto.power import tasks_to_decide
from affine.pareto.summary import EnvResult
from affine.types import Interval

Decision = Literal["better", "worse", "open"]
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
    """

    effect: Effect
    tasks: int
    groups: int
    left_out: int
    worse_holm: bool
    tasks_needed: int | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything paired about one challenger against one incumbent."""

    overall: Effect
    env: Mapping[str, EnvEffect]
    joint: Joint


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


def pair_all(challenger: Mapping[str, EnvResult], incumbent: Mapping[str, EnvResult]) -> dict[str, Pairs]:
    """Pairs in every environment that both models have. Raises EvaluationError (`paired.pair`)."""
    return {env: pair(result, incumbent[env]) for env, result in challenger.items() if env in incumbent}


def weigh(
    pairs: Mapping[str, Pairs], stream: str, *, level: float, margin: float, error: float, draws: int
) -> Evidence:
    """All evidence in `pairs`; `stream` names the random stream, so that equal input gives equal output.

    The overall difference is the plain mean over environments, draw by draw.
    """
    drawn = {env: posterior(p, draws, stream) for env, p in pairs.items()}
    effects = {env: effect(drawn[env], p.mean, level, margin, error) for env, p in pairs.items()}
    corrected = dict(zip(effects, holm([e.p_better for e in effects.values()]), strict=True))
    mean = sum(p.mean for p in pairs.values()) / len(pairs)
    return Evidence(
        overall=effect(np.mean(np.column_stack(list(drawn.values())), axis=1), mean, level, margin, error),
        env={
            env: EnvEffect(
                effect=effects[env],
                tasks=len(p.differences),
                groups=len(clusters(p)[0]),
                left_out=p.only_challenger + p.only_incumbent,
                worse_holm=corrected[env] <= error,
                tasks_needed=tasks_to_decide(p.mean, effects[env].spread, len(p.differences), error),
            )
            for env, p in pairs.items()
        },
        joint=joint(drawn, margin),
    )


def accumulate(pairs: Mapping[str, Pairs], stream: str, *, margin: float, draws: int) -> list[Accumulated]:
    """The joint probabilities after 1/`STEPS`, 2/`STEPS`, ... of each environment's common tasks.

    Looking at them before the end and stopping where they please is not allowed for in the probabilities.
    """
    rows: list[Accumulated] = []
    for step in range(1, STEPS + 1):
        known = {env: first_tasks(p, max(1, len(p.differences) * step // STEPS)) for env, p in pairs.items()}
        drawn = {env: posterior(p, draws, f"{stream}/{step}") for env, p in known.items()}
        both = joint(drawn, margin)
        rows.append(
            Accumulated(
                tasks=round(sum(len(p.differences) for p in known.values()) / len(known)),
                p_all_better=both.all_better.value,
                p_some_better_none_worse=both.some_better_none_worse.value,
                p_better_overall=float(np.mean(np.mean(np.column_stack(list(drawn.values())), axis=1) > 0.0)),
            )
        )
    return rows
