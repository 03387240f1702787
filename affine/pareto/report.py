"""A judgement, the policies and a plan as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import partial

from rich.table import Table

from affine.pareto.metrics import explain, named, pair_name
from affine.pareto.policies import POLICIES
from affine.pareto.power import episodes_for, paired_power, rule_power
from affine.pareto.verdict import Comparison, Judgement
from affine.types import ENVS, Interval

MARKS = {"win": "[blue]win[/]", "loss": "[red]loss[/]", "tie": "tie"}


def scores_table(judgement: Judgement) -> Table:
    """Every model's score per environment with its interval."""
    level = next(iter(judgement.scores.values())).overall.level
    table = Table(title=f"Scores on test tasks ({level:.0%} intervals)")
    table.add_column("environment")
    for model in judgement.scores:
        table.add_column(model, justify="right")
    for env in next(iter(judgement.scores.values())).env:
        table.add_row(env, *(_interval(scores.env[env]) for scores in judgement.scores.values()))
    table.add_section()
    table.add_row("overall", *(_interval(scores.overall) for scores in judgement.scores.values()), style="bold")
    return table


def comparison_table(comparison: Comparison, policy: str) -> Table:
    """One pair: the policy's verdict beside the paired evidence, per environment."""
    title = f"{comparison.challenger} against {comparison.incumbent}"
    table = Table(title=title, caption=explain(comparison, policy))
    table.add_column("environment")
    table.add_column("rule")
    for name in ("difference (points)", "P(better)", "P(not worse)", "tasks", "tasks needed"):
        table.add_column(name, justify="right")
    table.add_column("paired test")
    for env, found in comparison.evidence.env.items():
        effect = found.effect
        table.add_row(
            env,
            MARKS[comparison.rules[policy].env[env]],
            _points(effect.difference),
            f"{effect.p_better:.3f}",
            f"{effect.p_not_worse:.3f}",
            str(found.tasks) + (f" (+{found.left_out} unpaired)" if found.left_out else ""),
            "-" if found.tasks_needed is None else str(found.tasks_needed),
            effect.decision,
        )
    overall = comparison.evidence.overall
    table.add_section()
    table.add_row(
        "overall",
        "",
        _points(overall.difference),
        f"{overall.p_better:.3f}",
        f"{overall.p_not_worse:.3f}",
        "",
        "",
        overall.decision,
        style="bold",
    )
    return table


def verdict_lines(judgement: Judgement) -> list[str]:
    """The judgement in a few sentences: two lines per pair, one per policy."""
    lines = []
    for comparison in judgement.comparisons:
        both = comparison.evidence.joint
        lines.append(explain(comparison, judgement.policy))
        lines.append(
            f"  {pair_name(comparison)}: "
            f"P(better everywhere) {both.all_better.value:.3f} ± {both.all_better.error:.3f}, "
            f"P(some better, none worse) {both.some_better_none_worse.value:.3f}; "
            f"paired test: better in {named(comparison, 'better')}; worse in {named(comparison, 'worse')}"
        )
    for name, outcome in judgement.outcomes.items():
        weights = ", ".join(f"{model} {weight:.3f}" for model, weight in outcome.weights.items())
        lines.append(f"weights under {name}: {weights}")
    return lines


def policies_table() -> Table:
    """The dated policies, when they were in force, and every constant in which they differ or agree."""
    table = Table(title="Validators' policies")
    table.add_column("")
    for name in POLICIES:
        table.add_column(name)
    names = list(dict.fromkeys(f.name for policy in POLICIES.values() for f in fields(policy) if f.name != "name"))
    for name in names:
        values = [getattr(policy, name, None) for policy in POLICIES.values()]
        table.add_row(name.replace("_", " "), *("-" if v in (None, "") else str(v) for v in values))
    return table


PLAN_LIMIT = 100_000
"""Plans do not look beyond this many episodes per environment."""


def plan_table(
    gaps: Sequence[float], incumbent: float, *, correlation: float, power: float, level: float, error: float
) -> Table:
    """Episodes of each model per environment for a given power, by gap in points: for one environment, and for
    all eight at once (each then needs power ** (1/8)); for the interval rule and for the paired test.

    `gaps` are in points of a score in [0, 1], `incumbent` is its mean score, `correlation` that of the two
    models' outcomes on one task (paired only), `level` the rule's intervals, `error` the paired test's.
    """
    table = Table(
        title=f"Episodes per environment, incumbent at {incumbent:.2f}, power {power:.0%}",
        caption=f"rule: {level:.0%} intervals apart; paired: correlation {correlation:.2f}, error {error:.3f}",
    )
    for name in ("gap (points)", "rule, one", "rule, all eight", "paired, one", "paired, all eight"):
        table.add_column(name, justify="right")
    for gap in gaps:
        challenger = incumbent + gap
        if challenger > 1.0:
            table.add_row(f"{100 * gap:.1f}", *["score above 1"] * 4)
            continue
        tests: list[Callable[[int], float]] = [
            partial(rule_power, incumbent=incumbent, challenger=challenger, level=level),
            partial(paired_power, incumbent=incumbent, challenger=challenger, correlation=correlation, error=error),
        ]
        targets = (power, power ** (1 / len(ENVS)))
        needed = [episodes_for(test, target, PLAN_LIMIT) for test in tests for target in targets]
        table.add_row(f"{100 * gap:.1f}", *(f"> {PLAN_LIMIT}" if n is None else str(n) for n in needed))
    return table


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
