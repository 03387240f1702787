"""The judgement as pictures: PNG bytes that depend on nothing but the judgement.

`style`, `rows_axis` and `png` make any figure of results look and be written the same (`affine.report` has more).
Colours are Okabe and Ito's, which stay apart for colour-blind readers; markers repeat what colours say.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from affine.pareto.metrics import pair_name
from affine.pareto.verdict import Comparison, Judgement
from affine.types import ENVS

COLOURS = ("#7f7f7f", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
MARKERS = ("o", "s", "D", "^", "v", "P")

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "x",
    "grid.color": "#e6e6e6",
    "legend.frameon": False,
    "figure.dpi": 120,
}


@contextmanager
def style() -> Iterator[None]:
    """The settings of `STYLE` on top of matplotlib's defaults, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(STYLE)
        yield


def png(figure: Figure) -> bytes:
    """The picture without the metadata that would change with the version of matplotlib."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def rows_axis(axes: Any, labels: list[str]) -> None:
    """One line per environment, the first on top, the last ("overall") set apart by a rule and bold type."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.axhline(len(labels) - 1.5, color="#333333", linewidth=0.8)
    for label in axes.get_yticklabels()[-1:]:  # none on panels that share another's labels
        label.set_fontweight("bold")


def _envs(judgement: Judgement) -> list[str]:
    """Every environment that some model has, in the usual order."""
    return [env for env in ENVS if any(env in scores.env for scores in judgement.scores.values())]


def forest(judgement: Judgement) -> bytes:
    """Every model's score and interval in every environment, and overall."""
    envs = _envs(judgement)
    with style():
        figure = Figure(figsize=(7.0, 0.9 + 0.42 * (len(envs) + 1)), layout="constrained")
        axes = figure.subplots()
        count = len(judgement.scores)
        for m, (model, scores) in enumerate(judgement.scores.items()):
            shown = {envs.index(env): interval for env, interval in scores.env.items()}
            if scores.overall is not None:
                shown[len(envs)] = scores.overall
            intervals = list(shown.values())
            axes.errorbar(
                [i.mean for i in intervals],
                [row + (m - (count - 1) / 2) * 0.6 / count for row in shown],
                xerr=[[max(0.0, i.mean - i.low) for i in intervals], [max(0.0, i.high - i.mean) for i in intervals]],
                fmt=MARKERS[m % len(MARKERS)],
                color=COLOURS[m % len(COLOURS)],
                markersize=4.5,
                elinewidth=1.6,
                label=model,
            )
        rows_axis(axes, [*envs, "overall"])
        level = next(iter(next(iter(judgement.scores.values())).env.values())).level
        axes.set_xlim(-0.02, 1.02)
        axes.set_xlabel(f"mean score on test tasks, with {level:.0%} intervals")
        figure.legend(loc="outside upper center", ncols=min(count, 5))
        return png(figure)


PANELS = 3
"""Comparisons side by side; further ones go below."""


def differences(judgement: Judgement) -> bytes:
    """Paired differences per environment and overall, one panel per comparison; filled where decided."""
    with style():
        count = max(1, len(judgement.comparisons))
        envs = _envs(judgement)
        columns = min(PANELS, count)
        rows = -(-count // columns)
        height = 1.1 + 0.32 * (len(envs) + 1)
        figure = Figure(figsize=(2.0 + 2.6 * columns, height * rows), layout="constrained")
        panels = figure.subplots(rows, columns, sharey=True, sharex=True, squeeze=False).flatten()
        for axes, comparison in zip(panels, judgement.comparisons, strict=False):
            _difference_panel(axes, comparison, envs)
        for axes in panels[len(judgement.comparisons) :]:
            axes.set_visible(False)
        level = judgement.comparisons[0].evidence.overall.difference.level if judgement.comparisons else 0.8
        figure.suptitle(f"paired difference, {level:.0%} interval (blue better, orange worse, hollow open)", fontsize=9)
        return png(figure)


def _difference_panel(axes: Any, comparison: Comparison, envs: list[str]) -> None:
    effects = {envs.index(env): found.effect for env, found in comparison.evidence.env.items()}
    effects[len(envs)] = comparison.evidence.overall
    axes.axvline(0.0, color="#333333", linewidth=0.8)
    for row, effect in effects.items():
        colour = {"better": "#0072B2", "worse": "#D55E00", "open": "#7f7f7f"}[effect.decision]
        shown = effect.difference
        axes.plot([100 * shown.low, 100 * shown.high], [row, row], color=colour, linewidth=1.6)
        face = "white" if effect.decision == "open" else colour
        axes.plot([100 * shown.mean], [row], "o", color=colour, markerfacecolor=face, markersize=5)
    axes.set_title(f"{comparison.challenger} − {comparison.incumbent}", fontsize=9)
    rows_axis(axes, [*envs, "overall"])
    axes.set_xlabel("points")


def dominance(judgement: Judgement) -> bytes:
    """P(better everywhere) and P(some better, none worse) as tasks accumulate, a colour per comparison."""
    with style():
        figure = Figure(figsize=(7.0, 3.0), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        titles = ("better in every environment", "some better, none worse")
        for axes, title in zip(panels, titles, strict=True):
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("tasks per environment")
            axes.set_ylim(-0.03, 1.03)
            axes.grid(axis="y")
        panels[0].set_ylabel("probability")
        for index, comparison in enumerate(judgement.comparisons):
            steps = comparison.accumulated
            if not steps:  # nothing to pair: an incumbent of which only totals are known
                continue
            look: dict[str, Any] = {
                "color": COLOURS[(index + 1) % len(COLOURS)],
                "marker": MARKERS[index % len(MARKERS)],
                "markersize": 4,
                "label": pair_name(comparison).replace("_", " "),
            }
            panels[0].plot([s.tasks for s in steps], [s.p_all_better for s in steps], **look)
            panels[1].plot([s.tasks for s in steps], [s.p_some_better_none_worse for s in steps], **look)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=max(1, min(3, len(labels))))
        return png(figure)
