"""A judgement, the policies and a plan as tables for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

from rich.table import Table

from affine.pareto.evidence import EnvEffect
from affine.pareto.metrics import explain, named, pair_name
from affine.pareto.policies import POLICIES
from affine.pareto.power import episodes_for, paired_power, rule_power
from affine.pareto.verdict import Comparison, Judgement
from affine.types import ENVS, Interval

MARKS = {"win": "[blue]win[/]", "loss": "[red]loss[/]", "tie": "tie"}


def scores_table(judgement: Judgement) -> Table:
    """Every model's score per environment with its interval."""
    level = next(iter(next(iter(judgement.scores.values())).env.values())).level
    table = Table(title=f"Scores on test tasks ({level:.0%} intervals)")
    table.add_column("environment")
    for model in judgement.scores:
        table.add_column(model, justify="right")
    for env in ENVS:
        if any(env in scores.env for scores in judgement.scores.values()):
            table.add_row(env, *(_interval(scores.env.get(env)) for scores in judgement.scores.values()))
    table.add_section()
    table.add_row("overall", *(_interval(scores.overall) for scores in judgement.scores.values()), style="bold")
    return table


def comparison_table(comparison: Comparison, policy: str) -> Table:
    """One pair: the policy's verdict beside the paired evidence, per environment."""
    title = f"{comparison.challenger} against {comparison.incumbent}"
    table = Table(title=title, caption=explain(comparison, policy))
    table.add_column("environment")
    table.add_column("rule")
    for name in ("difference (points)", "P(better)", "over types", "P(not worse)", "tasks", "tasks needed"):
        table.add_column(name, justify="right")
    table.add_column("paired test")
    table.add_column("sequential test")
    for env, found in comparison.evidence.env.items():
        effect = found.effect
        table.add_row(
            env,
            MARKS[comparison.rules[policy].env[env]],
            _points(effect.difference),
            f"{effect.p_better:.3f}",
            "-" if found.p_better_types is None else f"{found.p_better_types:.3f}",
            f"{effect.p_not_worse:.3f}",
            _common(found),
            "-" if found.tasks_needed is None else str(found.tasks_needed),
            effect.decision,
            _sequential(found),
        )
    overall = comparison.evidence.overall
    table.add_section()
    table.add_row(
        "overall",
        "",
        _points(overall.difference),
        f"{overall.p_better:.3f}",
        "",
        f"{overall.p_not_worse:.3f}",
        "",
        "",
        overall.decision,
        "",
        style="bold",
    )
    return table


def _common(found: EnvEffect) -> str:
    """The tasks both have, and what speaks against taking them for the whole."""
    if found.sequential is None:
        return "unpaired"
    notes = [f"+{found.left_out} unpaired"] if found.left_out else []
    notes += ["stopped early"] if found.early else []
    notes += [f"differing in {', '.join(found.differing)}"] if found.differing else []
    return f"{found.tasks} ({'; '.join(notes)})" if notes else str(found.tasks)


def _sequential(found: EnvEffect) -> str:
    test = found.sequential
    if test is None:
        return "-"
    if test.settled is None:
        return f"open (e = {max(test.e_better, test.e_worse):.2g})"
    return f"{test.decision} after {test.settled}"


def verdict_lines(judgement: Judgement) -> list[str]:
    """The judgement in a few sentences: two lines per pair, one per policy."""
    lines = []
    for comparison in judgement.comparisons:
        both, shared = comparison.evidence.joint, len(comparison.evidence.env)
        everywhere = (
            "everywhere" if shared == len(comparison.rules[judgement.policy].env) else f"in all {shared} shared"
        )
        lines.append(explain(comparison, judgement.policy))
        lines.append(
            f"  {pair_name(comparison)}: "
            f"P(better {everywhere}) {both.all_better.value:.3f} ± {both.all_better.error:.3f}, "
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
        table.add_column(name, overflow="fold")  # a source is told whole
    names = list(dict.fromkeys(f.name for policy in POLICIES.values() for f in fields(policy) if f.name != "name"))
    for name in names:
        values = [getattr(policy, name, None) for policy in POLICIES.values()]
        table.add_row(name.replace("_", " "), *("-" if v in (None, "") else str(v) for v in values))
    return table


PLAN_LIMIT = 100_000
"""Plans do not look beyond this many episodes per environment."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a plan assumes: the chance to see a gain that is there (`power`), the correlation of the two models'
    outcomes on one task (paired only), the level of the rule's intervals, and the paired test's error."""

    power: float
    correlation: float
    level: float
    error: float

    def needed(self, incumbent: float, gap: float) -> list[str]:
        """Episodes of each model in one environment: by the interval rule for this environment alone and as one of
        all eight (each then needs power ** (1/8)), and the same two by the paired test."""
        challenger = incumbent + gap
        if challenger > 1.0:
            return ["score above 1"] * 4
        tests: list[Callable[[int], float]] = [
            partial(rule_power, incumbent=incumbent, challenger=challenger, level=self.level),
            partial(
                paired_power,
                incumbent=incumbent,
                challenger=challenger,
                correlation=self.correlation,
                error=self.error,
            ),
        ]
        targets = (self.power, self.power ** (1 / len(ENVS)))
        numbers = [episodes_for(test, target, PLAN_LIMIT) for test in tests for target in targets]
        return [f"> {PLAN_LIMIT}" if n is None else str(n) for n in numbers]

    def _table(self, title: str, first: Sequence[str]) -> Table:
        table = Table(
            title=title,
            caption=f"rule: {self.level:.0%} intervals apart; paired: correlation {self.correlation:.2f}, "
            f"error {self.error:.3f}",
        )
        for name in (*first, "rule, one", "rule, all eight", "paired, one", "paired, all eight"):
            table.add_column(name, justify="right")
        return table

    def gaps_table(self, gaps: Sequence[float], incumbent: float) -> Table:
        """A row per gap (of a score in [0, 1]) over an incumbent with this mean score."""
        title = f"Episodes per environment, incumbent at {incumbent:.2f}, power {self.power:.0%}"
        table = self._table(title, ["gap (points)"])
        for gap in gaps:
            table.add_row(f"{100 * gap:.1f}", *self.needed(incumbent, gap))
        return table

    def envs_table(self, gap: float, model: str, means: Mapping[str, float]) -> Table:
        """A row per environment: what it takes to see this gap over what `model` scores there."""
        title = f"Episodes of each model to see {100 * gap:.1f} points over {model}, power {self.power:.0%}"
        table = self._table(title, ["environment", "score"])
        for env, mean in means.items():
            table.add_row(env, f"{mean:.3f}", *self.needed(mean, gap))
        return table


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def _points(interval: Interval) -> str:
    return f"{100 * interval.mean:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
