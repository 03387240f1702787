"""A pull request's comment: the verdict first, then what it rests on, in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from affine.report.changes import Change, Changes, Decision, Effect
from affine.report.stale import Fit

MARKER = "<!-- affine report -->"
"""The first line, by which the comment is found again and updated in place."""

LIMIT = 65_000
"""GitHub refuses a comment of more than 65,536 characters."""

CUT = "*Cut at GitHub's limit.*"

SIGNS = {Decision.BETTER: "🟢", Decision.WORSE: "🔴", Decision.NOISE: "⚪", Decision.OTHER: "⚠️"}


def render(changes: Changes, level: float, figures: Sequence[str] = (), run_url: str = "") -> str:
    """The comment; `level` is that of the intervals, `figures` are the names of pictures attached to the run at
    `run_url` ("": without a link). Beyond GitHub's limit, metrics are left out first; the last lines always stay."""
    top = [
        MARKER,
        f"### {headline(changes)}",
        *_stale(changes.fit),
        *_scores(changes, level),
        *_verdicts(changes),
        *_changed("Parameters", changes.params, _value),
        *_changed("Data", changes.data, _data),
    ]
    foot = [f"<sub>{changes.head} against {changes.base}. No data or model was needed for this.</sub>"]
    if figures:
        place = f"in the artifact `report` of [this run]({run_url})" if run_url else "attached to this run"
        foot.insert(0, f"Curves and intervals as pictures: {', '.join(figures)}, {place}.")
    text = _text([*top, *_metrics(changes.metrics), *foot])
    if len(text) <= LIMIT:
        return text
    foot.insert(0, CUT)
    shown = len(changes.metrics)
    while len(text) > LIMIT and shown:
        shown = 9 * shown // 10
        text = _text([*top, *_metrics(changes.metrics, shown), *foot])
    if len(text) > LIMIT:
        room = LIMIT - len(_text(["", *foot]))
        text = _text([_text(top)[:room].rpartition("\n")[0], *foot])
    return text


def _text(parts: Sequence[str]) -> str:
    return "\n\n".join(parts) + "\n"


def headline(changes: Changes) -> str:
    """The verdict in a sentence."""
    if not changes.effects:
        return "Nothing to compare: one of the two commits has no scores"
    overall = changes.effects[-1]
    same = all(effect.before == effect.after for effect in changes.effects)
    if same:
        return f"`{changes.model}` scores as before"
    groups = {
        decision: [effect.env for effect in changes.effects[:-1] if effect.decision is decision]
        for decision in Decision
    }
    said = [f"{decision} in {', '.join(envs)}" for decision, envs in groups.items() if envs and decision != "noise"]
    rest = groups[Decision.NOISE]
    if rest:
        said.append("noise in the rest" if said else "no difference beyond noise")
    words = {Decision.BETTER: "is better", Decision.WORSE: "is worse", Decision.NOISE: "is undecided"}
    if overall.decision is Decision.OTHER:
        return f"`{changes.model}` was scored by another evaluator: {'; '.join(said)}"
    return f"`{changes.model}` {words[overall.decision]} overall ({_points(overall)}): {'; '.join(said)}"


def _stale(fit: Fit) -> list[str]:
    left = [f"Not comparable without the data: {_short(fit.unproven, 3)}."] if fit.unproven else []
    if not fit.stale:
        return [" ".join(["`dvc.lock` fits code, parameters and metrics: no stage is stale.", *left])]
    together: dict[tuple[str, ...], list[str]] = {}
    for name, causes in fit.stale.items():
        together.setdefault(tuple(causes), []).append(name)
    lines = [f"> - {_short(names, 12)} ({_short(causes, 3)})" for causes, names in together.items()]
    head = (
        "> [!WARNING]\n> `dvc.lock` does not fit what is in this commit; run `dvc repro` and commit the result. Stale:"
    )
    return ["\n".join([head, *lines]), *left]


def _short(names: Sequence[str], most: int) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _scores(changes: Changes, level: float) -> list[str]:
    if not changes.effects:
        return []
    rows = [
        [
            SIGNS[effect.decision],
            f"**{effect.env}**" if effect.env == "overall" else effect.env,
            _score(effect.before.mean, effect.before.low, effect.before.high),
            _score(effect.after.mean, effect.after.low, effect.after.high),
            "" if effect.decision is Decision.OTHER else _points(effect),
            effect.decision,
        ]
        for effect in [changes.effects[-1], *changes.effects[:-1]]
    ]
    head = ["", "environment", "before", "after", "difference, points", ""]
    note = (
        f"Mean scores of `{changes.model}` with {level:.0%} intervals. The difference's interval follows from theirs"
        " (MOVER, not paired by task): better or worse is said where it leaves out zero."
    )
    return [table(head, rows), note]


def _verdicts(changes: Changes) -> list[str]:
    if not changes.verdicts:
        return []
    return ["**Within this commit**", "\n".join(f"- {verdict}" for verdict in changes.verdicts)]


def _changed(title: str, changed: Sequence[Change], show: Any) -> list[str]:
    if not changed:
        return [f"**{title}**: unchanged."]
    rows = [[f"`{change.key}`", show(change.before), show(change.after)] for change in changed]
    return [f"**{title}**", table([title.lower(), "before", "after"], rows)]


def _metrics(changed: Sequence[Change], shown: int | None = None) -> list[str]:
    """The first `shown` of them, or all."""
    if not changed:
        return ["**Metrics**: unchanged."]
    rows = [
        [f"`{change.key}`", _value(change.before), _value(change.after), _delta(change.before, change.after)]
        for change in changed[:shown]
    ]
    title = f"{len(changed)} metrics changed" + (f", {len(rows)} of them here" if len(rows) < len(changed) else "")
    if not rows:
        return [f"**Metrics**: {title}."]
    body = table(["metric", "before", "after", "difference"], rows)
    return [f"<details><summary>{title}</summary>\n\n{body}\n\n</details>"]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _score(mean: float, low: float, high: float) -> str:
    return f"{mean:.3f} ({low:.2f} to {high:.2f})"


def _points(effect: Effect) -> str:
    return f"{100 * effect.difference:+.1f} ({100 * effect.low:+.1f} to {100 * effect.high:+.1f})"


def _value(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.5g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else f"{value}"


def _delta(before: Any, after: Any) -> str:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (before, after))
    return f"{after - before:+.4g}" if numbers else ""


def _data(value: tuple[str, int, int] | None) -> str:
    if value is None:
        return "–"
    digest, size, files = value
    return f"{size / 1e6:,.2f} MB in {files:,} {'file' if files == 1 else 'files'} (`{digest[:8]}`)"
