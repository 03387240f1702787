"""Which model to release: the one the evidence supports, or the one asked for if the evidence allows it.

`best` is the model with the highest overall score among those that the paired test finds worse than their
base in no environment (metrics/pareto.json, "worse" of <model>_vs_base); of equal scores the earlier
model's wins. If no trained model qualifies, that is the base itself. `allow_regression` lifts the condition.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from affine.errors import AffineError

BASE = "base"
NONE = "none"


class ReleaseError(AffineError):
    """There is nothing that may be released; says why and what to change."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The model to release. `regressions` are the environments in which it is worse than its base."""

    model: str
    reason: str
    regressions: tuple[str, ...]


def choose(
    wanted: Literal["best", "base", "sft", "ppo"],
    evaluate: Mapping[str, Any],
    pareto: Mapping[str, Any],
    *,
    allow_regression: bool,
) -> Choice:
    """Choose from metrics/evaluate.json and metrics/pareto.json.

    Raises ReleaseError for a model that was not evaluated, for one asked for by name that is worse than its
    base somewhere unless `allow_regression`, and where none qualifies.
    """
    if wanted != "best":
        return _named(wanted, evaluate, pareto, allow_regression=allow_regression)
    by_score = sorted(evaluate, key=lambda model: -_overall(evaluate, model))  # stable: the earlier first
    worse = {model: _worse(pareto, model) for model in by_score}
    qualified = by_score if allow_regression else [model for model in by_score if not worse[model]]
    if not qualified:
        raise ReleaseError(
            "release.model: best finds no model that is nowhere worse than base, and base was not evaluated"
        )
    model = qualified[0]
    passed_over = "; ".join(
        f"{m} scores {_overall(evaluate, m):.2f} but is worse than base in {', '.join(worse[m])}"
        for m in by_score[: by_score.index(model)]
    )
    condition = "" if allow_regression else ", worse than base in no environment"
    reason = f"highest overall score ({_overall(evaluate, model):.2f}) of {', '.join(evaluate)}{condition}"
    return Choice(model, f"{reason}; {passed_over}" if passed_over else reason, worse[model])


def _named(model: str, evaluate: Mapping[str, Any], pareto: Mapping[str, Any], *, allow_regression: bool) -> Choice:
    if model not in evaluate:
        raise ReleaseError(f"release.model: {model} was not evaluated (there are {', '.join(evaluate)})")
    worse = _worse(pareto, model)
    if worse and not allow_regression:
        raise ReleaseError(
            f"release.model: {model} is significantly worse than its base in {', '.join(worse)}; set release.model to"
            " best, or release.allow_regression to true to release it all the same"
        )
    return Choice(model, f"asked for by name (overall score {_overall(evaluate, model):.2f})", worse)


def _overall(evaluate: Mapping[str, Any], model: str) -> float:
    try:
        return float(evaluate[model]["overall"])
    except (KeyError, TypeError, ValueError):
        raise ReleaseError(f"metrics/evaluate.json: no overall score of {model}; run `dvc repro pareto`") from None


def _worse(pareto: Mapping[str, Any], model: str) -> tuple[str, ...]:
    if model == BASE:
        return ()
    try:
        named = str(pareto[f"{model}_vs_{BASE}"]["worse"])
    except (KeyError, TypeError):
        raise ReleaseError(f"metrics/pareto.json: nothing about {model} against base; run `dvc repro pareto`") from None
    return () if named == NONE else tuple(named.split(", "))
