"""The page itself: one HTML file with its style, its script, its pictures and its episodes inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from affine.report import figures
from affine.report.figures import Mark
from affine.report.gather import Results, Row, Series
from affine.report.graph import svg
from affine.types import ENVS


def render(results: Results, commit: str) -> str:
    """The page's HTML; `commit` says what it was made from ("" where that is unknown)."""
    environment = Environment(
        loader=PackageLoader("affine.report", ""), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    environment.filters |= {"score": _score, "signed": _signed, "percent": _percent, "tenths": _tenths}
    return environment.get_template("page.html.jinja").render(
        results=results,
        commit=commit,
        level=f"{results.level:.0%}",
        forest=_forest(results),
        differences={pair: _differences(results, pair) for pair in results.pairs},
        curves={stage: list(_panels(curves)) for stage, curves in results.curves.items() if curves},
        graph=svg(results.graph),
    )


def _score(value: str | float) -> str:
    return f"{float(value):.3f}"


def _signed(value: str | float) -> str:
    return f"{100 * float(value):+.1f}"


def _tenths(value: str | float) -> str:
    return f"{float(value):.1f}"


def _percent(value: str | float) -> str:
    return f"{100 * float(value):.0f} %"


def _forest(results: Results) -> Markup:
    rows = {}
    for env in (*results.envs, "overall"):
        found = [(k, model, results.scores.get((model, env))) for k, model in enumerate(results.models)]
        rows[env] = [
            _mark(row, "score", f"m{k}", f"{model}, {env}: {_score(row['score'])}") for k, model, row in found if row
        ]
    return figures.intervals(rows, (0.0, 1.0), f"mean score on test tasks, {results.level:.0%} intervals")


def _differences(results: Results, pair: str) -> Markup:
    """Paired differences in points; every pair on the same axis, so that panels can be compared."""
    reach = 100 * max(abs(float(row[side])) for row in results.effects.values() for side in ("low", "high"))
    low, high = figures.padded(-reach, reach)
    rows = {}
    for env in (*results.envs, "overall"):
        row = results.effects[pair, env]
        points = {**row, **{key: str(100 * float(row[key])) for key in ("difference", "low", "high")}}
        rows[env] = [_mark(points, "difference", row["decision"], f"{env}: {_signed(row['difference'])} points")]
    return figures.intervals(rows, (low, high), "difference in points", zero=True)


def _mark(row: Row, mean: str, kind: str, what: str) -> Mark:
    values = {key: float(row[key]) for key in (mean, "low", "high")}
    hint = f"{what} ({values['low']:.3g} to {values['high']:.3g})"
    return Mark(values[mean], values["low"], values["high"], kind, hint)


JOINED: Mapping[str, Mapping[str, str]] = {
    "loss (nats)": {"train": "train/loss", "validation": "validation/loss"},
}
"""Curves that share a chart: title -> label -> curve."""


def _panels(curves: Mapping[str, Series]) -> Iterator[tuple[bool, Markup]]:
    """Charts of one stage, the telling ones (True) before the rest."""
    left = dict(curves)
    for title, members in JOINED.items():
        series = {label: left.pop(name) for label, name in members.items() if name in left}
        if series:
            yield True, figures.curve(title, series)
    for name in sorted(left, key=_order):
        yield _telling(name), figures.curve(name.replace("_", " "), {name: left[name]})


def _telling(name: str) -> bool:
    group, _, rest = name.partition("/")
    return name == "validation_score" or rest == "overall" or (group in ("score", "validation") and rest in ENVS)


def _order(name: str) -> tuple[Any, ...]:
    group, _, rest = name.partition("/")
    position = ENVS.index(rest) if rest in ENVS else -1
    return (not _telling(name), group, position, rest)
