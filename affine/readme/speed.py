"""The section on speed, from benchmarks/results/*.json (`make bench` writes them)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from affine.files import read_json
from affine.readme.table import table


def speed(root: Path, _: str) -> str:
    """What was measured last, as ratios and rates, with the machine it was measured on."""
    parts = [
        describe(read_json(path))
        for name, describe in (
            ("envs", _envs),
            ("rollout", _rollout),
            ("grpo", _grpo),
            ("sft", _sft),
            ("ppo", _ppo),
            ("verdict", _verdict),
            ("graph", _graph),
        )
        if (path := root / "benchmarks" / "results" / f"{name}.json").is_file()
    ]
    return "\n\n".join(parts) if parts else "*Not measured yet: run `make bench`.*"


def _envs(result: dict[str, Any]) -> str:
    head = ["environment", "steps/s in process", "over HTTP", "ratio", "in a pool", "episodes/s", "start-up, s", "MB"]
    rows = []
    for env, row in result["envs"].items():
        expert = row["expert"]
        rates = f"{expert['steps_per_s']:,.0f}", f"{expert['http_steps_per_s']:,.0f}", f"{expert['ratio']:,.0f} x"
        pool, episodes = f"{row['pool']['steps_per_s']:,.0f}", f"{expert['episodes_per_s']:,.1f}"
        memory = f"{row['python_mb'] + row['engines_mb']:,.0f}"
        rows.append([env, *rates, pool, episodes, f"{row['start_s']:.1f}", memory])
    for name, row in result["references"].items():
        if "missing" in row:
            rows.append([name, f"not installed: `{row['missing']}`", *[""] * 6])
            continue
        ratio = f"{row['ratio']:,.{0 if row['ratio'] >= 10 else 1}f} x"
        rows.append([name, f"{row['ours']:,.0f}", f"{row['theirs']:,.1f} (its own)", ratio, *[""] * 4])
    return "\n".join([table(head, rows, right=7), "", *_behind(result), *_targets(result), _where(result)])


def _targets(result: dict[str, Any]) -> list[str]:
    """The targets with what was measured, as a table, and the empty line after it."""
    rows = []
    for row in result.get("targets", ()):
        measured = "" if row["measured"] is None else f"{row['measured']:,.4g}"
        rows.append(
            [row["name"], row["target"], measured, {True: "met", False: "**missed**", None: "not measured"}[row["met"]]]
        )
    return [table(["target", "wanted", "measured", ""], rows), ""] if rows else []


def _behind(result: dict[str, Any]) -> list[str]:
    """What stands behind the environments, as far as it was measured; a list and the empty line after it."""
    lines = [
        f"- WebShop's search over {row['products']:,} products: {row['median_ms']:.2f} ms a query (median;"
        f" 95 % under {row['p95_ms']:.2f} ms)."
        for row in result.get("search", ())
    ]
    if box := result.get("sandbox"):
        lines.append(f"- The sandbox ({box['level']}) runs {box['programs_per_s']:,.0f} small programs a second.")
    if seconds := result.get("collect_s"):
        lines.append(
            f"- Collecting the default run's demonstrations of {len(seconds)} environments takes"
            f" {sum(seconds.values()):,.0f} s."
        )
    return [*lines, ""] if lines else []


SIDES = {
    "engine": "this engine",
    "generate": "`model.generate`, every turn encoded anew",
    "paged": "transformers' continuous batching, every turn encoded anew",
}


def _rollout(result: dict[str, Any]) -> str:
    rows = []
    for key, name in SIDES.items():
        if row := result.get(key):
            ratio = result["ratio"].get(key)
            faster = f"{ratio['episodes_per_s']:.1f} x" if ratio else ""
            rows.append([name, f"{row['tokens_per_s']:,.0f}", f"{row['episodes_per_s']:,.1f}", faster])
    engine = result["engine"]
    played = (
        f"{engine['episodes']} episodes of {engine['turns']:.1f} turns, {result['model']}; the environments took"
        f" {engine['environment']:.1%} of the engine's time."
    )
    head = ["rollouts", "sampled tokens/s", "episodes/s", "this engine is faster by"]
    return "\n".join([table(head, rows, right=3), "", played, _where(result)])


def _grpo(result: dict[str, Any]) -> str:
    rows = []
    for key, name in (("engine", "this engine"), ("grpo", "TRL's `GRPOTrainer` with `environment_factory`")):
        row = result[key]
        faster = f"{result['ratio']['episodes_per_s']:.1f} x" if key == "grpo" else ""
        rows.append([name, f"{row['tokens_per_s']:,.0f}", f"{row['episodes_per_s']:,.1f}", faster])
    head = ["rollouts in groups", "sampled tokens/s", "episodes/s", "this engine is faster by"]
    played = (
        f"{result['engine']['episodes']} episodes, {result['group']} of each task, {result['model']}. TRL's clock runs"
        " while it generates and plays, not while it scores and updates."
    )
    return "\n".join([table(head, rows, right=3), "", played, _where(result)])


TRAINERS = {
    "ours": "stage `sft`",
    "trl-default": "SFTTrainer, defaults",
    "trl-packed": "SFTTrainer, packed",
    "trl-grouped": "SFTTrainer, padded batches of similar length",
    "trl-packed-ours": "SFTTrainer, packed, with this project's attention",
}


def _sft(result: dict[str, Any]) -> str:
    rows = []
    for key, name in TRAINERS.items():
        if row := result["methods"].get(key):
            ratio = result["ratio"].get(key)
            faster = f"{ratio:.1f} x" if ratio else ""
            rows.append([name, f"{row['tokens_per_s']:,.0f}", f"{row['peak_gb']:.2f} GB", faster])
    head = ["SFT", "tokens/s", "peak memory", "stage `sft` is faster by"]
    return "\n".join(
        [table(head, rows, right=3), "", f"Model: {result['model']}, on {result['device']}.", _where(result)]
    )


PARTS = {
    "generate": "generate",
    "environment": "environments",
    "annotate": "old and reference log-probabilities, values",
    "update": "update",
}


def _ppo(result: dict[str, Any]) -> str:
    rows = [[name, f"{result['seconds'][key]:.2f}", f"{result['share'][key]:.1%}"] for key, name in PARTS.items()]
    of = (
        f"The mean of {result['iterations']} iterations of {result['episodes']} episodes in {len(result['envs'])}"
        f" environments, {result['workers']} rollout workers, {result['model']}, on {result['device']};"
        f" {result['informative']:.0%} of the episodes had something to teach."
    )
    return "\n".join([table(["a PPO iteration", "s", "share"], rows, right=2), "", of, _where(result)])


def _verdict(result: dict[str, Any]) -> str:
    rows = []
    field = result["field"]
    for policy, seconds in field["s"].items():
        what = f"{field['models']} models, {field['subsets']} subsets of environments, `{policy}`"
        rows.append([what, f"{seconds:.2f}", ""])
    for row in result["episodes"]:
        what = f"{row['episodes']:,} stored episodes of {row['tasks']:,} tasks read, {row['bytes'] / 1e9:.1f} GB"
        rows.append([what, f"{row['s']:.1f}", f"{max(row['peak_mb'], row['worker_mb']):,}"])
    return "\n".join([table(["verdicts", "s", "memory, MB"], rows, right=2), "", _where(result)])


def _graph(result: dict[str, Any]) -> str:
    rows = []
    if "no_op" in result:
        rows.append(["`dvc repro` with nothing to do", f"{result['no_op']['repro_s']:.1f} s"])
    if "parallel" in result:
        row = result["parallel"]
        rows.append(["`tasks` and `collect` of the smoke preset, `dvc repro`", f"{row['serial_s']:.0f} s"])
        rows.append([f"the same by `affine repro -j {row['jobs']}`", f"{row['parallel_s']:.0f} s"])
    if "report" in result:
        row = result["report"]
        taken = f"{row['s']:.1f} s, {row['bytes'] / 1e6:.1f} MB"
        rows.append([f"report.html of {row['episodes']:,} episodes", taken])
    if "remote" in result:
        row = result["remote"]
        size = f"{row['objects']} objects, {row['bytes'] / 1e6:.0f} MB"
        rows.append([f"push the run's data to S3 on loopback ({size})", f"{row['push_s']:.1f} s"])
        rows.append(["pull it into a fresh clone", f"{row['pull_s']:.1f} s"])
    reruns = [[change, _stages(names)] for change, names in result["reruns"].items()]
    tables = [table(["the daily loop", ""], rows, right=1), table(["changed", "stages that run for it"], reruns)]
    return "\n\n".join([*tables, _where(result)])


def _stages(names: list[str]) -> str:
    """Names, those of a group counted; "none"."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("@")[0], []).append(name)
    shown = [found[0] if len(found) == 1 else f"{group} x {len(found)}" for group, found in groups.items()]
    return ", ".join(f"`{name}`" for name in shown) or "none"


def _where(result: dict[str, Any]) -> str:
    machine = result["machine"]
    return (
        f"Measured on {machine['processor']} ({machine['cores']} cores, load {machine['load']:.1f} before), Python"
        f" {machine['python']}, commit {result['commit'] or 'unknown'}."
    )
