"""The model card without a model: rendered from metrics files, and the numbers that it must then show.

`expected_numbers` says for every number of the card, in reading order, which key of which file it is; it reads the
files itself. `sentinels` writes metrics in which no two numbers are alike, so that no key can stand in for another.
"""

from __future__ import annotations

import csv
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from release_inputs import ROOT

from affine.params import Params, PpoParams, load_params
from affine.release.card import Sources, describe
from affine.release.choose import choose
from affine.release.lineage import OUTPUTS
from affine.types import ENVS

NUMBER = re.compile(r"(?<![\w.\-])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?(?![\w-])")
_DIGEST = re.compile(r"`[0-9a-f]{16,}(?:\.dir)?`")
NOT_SHOWN = {"enabled", "log_every", "evaluate_every", "save_every"}
OF_THE_VALUE_HEAD = {key for key in PpoParams.model_fields if key.startswith("value_")} | {
    "gamma",
    "gae",
    "lam",
    "shaping",
}


def render(root: Path, params: Params, report: str | None = None) -> str:
    """The card of what is under `root`, whose models and data need not be there."""
    for path in OUTPUTS:
        (root / path).mkdir(parents=True, exist_ok=True)
    sources = Sources(root)
    evaluate, pareto = sources.json("metrics/evaluate.json"), sources.json("metrics/pareto.json")
    choice = choose(params.release.model, evaluate, pareto, allow_regression=params.release.allow_regression)
    return describe(params, choice, sources, report or (root / "metrics/release.json").read_text())["README.md"]


def committed(root: Path, **sections: dict[str, Any]) -> Params:
    """The repository's own metrics under `root`, and its parameters with some of their `sections` changed."""
    shutil.copytree(ROOT / "metrics", root / "metrics")
    return changed(load_params(ROOT / "params.yaml"), sections)


def changed(params: Params, sections: dict[str, dict[str, Any]]) -> Params:
    """`params` with other values, checked as a file's would be."""
    data = params.model_dump(mode="json")
    for section, values in sections.items():
        data[section] |= values
    return Params.model_validate(data)


def numbers(card: str) -> list[str]:
    """Every number of the card in reading order, code and head included; without hashes, dates and names."""
    return [found.replace(",", "").lstrip("+") for found in NUMBER.findall(_DIGEST.sub("", card))]


def check_numbers(card: str, root: Path, params: Params) -> None:
    """Fails where a number of the card is not the one of its place."""
    wanted = list(expected_numbers(root, params))
    found = numbers(card)
    for token, (key, text) in zip(found, wanted, strict=False):
        assert token == text, f"{token} is on the card in the place of {key}, which is {text}"
    assert len(found) == len(wanted), f"{len(found)} numbers are on the card, {len(wanted)} are accounted for"


class _Metrics:
    """Files under metrics/ by dotted key, and rows of their tables."""

    def __init__(self, root: Path) -> None:
        self.root = root / "metrics"

    def json(self, name: str) -> Any:
        return json.loads((self.root / name).read_text())

    def rows(self, name: str, *keys: str) -> dict[tuple[str, ...], dict[str, str]]:
        with (self.root / name).open() as file:
            return {tuple(row[key] for key in keys): row for row in csv.DictReader(file)}


def expected_numbers(root: Path, params: Params) -> Iterator[tuple[str, str]]:
    """(key, the number as the card shows it) for every place of the card, in reading order."""
    metrics = _Metrics(root)
    release, evaluate, base = (metrics.json(f"{name}.json") for name in ("release", "evaluate", "base"))
    model, models = release["model"], list(evaluate)
    scores = metrics.rows("plots/scores.csv", "model", "env")
    level = ("pareto.confidence", str(round(100 * params.pareto.confidence)))
    sampling = [
        ("evaluate.temperature", str(params.evaluate.temperature)),
        ("evaluate.top_p", str(params.evaluate.top_p)),
    ]

    def two(key: str, value: Any) -> tuple[str, str]:
        return key, f"{float(value):.2f}"

    def interval(name: str, column: str = "score") -> list[tuple[str, str]]:
        row = scores[name, column]
        return [two(f"scores.{name}.{column}.{key}", row[key]) for key in ("score", "low", "high")]

    for env in (*ENVS, "overall"):
        yield f"model-index.{env}", str(float(scores[model, env]["score"]))
    # The summary
    yield "base.parameters", str(base["parameters"])
    yield "base.vocabulary", str(base["vocabulary"])
    yield from _texts("release.reason", release["reason"])
    for number, name in enumerate((model, "base")):  # of the base itself, both are one
        yield two(f"evaluate.{name}.overall", evaluate[name]["overall"])
        if number == 0:
            yield level
        yield two(f"evaluate.{name}.low", evaluate[name]["low"])
        yield two(f"evaluate.{name}.high", evaluate[name]["high"])
    # The snippet
    yield "the step of its question", "1"
    yield "rollout.reply", str(params.rollout.reply)
    yield from sampling
    yield "its first row", "0"
    yield "its second dimension", "1"
    # Results
    yield level
    yield from sampling
    yield "rollout.context", str(params.rollout.context)
    yield "rollout.reply", str(params.rollout.reply)
    effects = metrics.rows("plots/differences.csv", "pair", "env")
    for env in (*ENVS, "overall"):
        for name in models:
            yield from interval(name, env)
        if model != "base":
            row = effects[f"{model}_vs_base", env]
            for key in ("difference", "low", "high"):
                yield f"differences.{env}.{key}", f"{float(row[key]):.2f}"
        episodes = evaluate[model]["episodes"] if env == "overall" else scores[model, env]["n"]
        yield f"episodes.{env}", str(episodes)
    if model != "base":
        comparison = metrics.json("pareto.json")[f"{model}_vs_base"]
        yield level
        yield "pareto.error", str(params.pareto.error)
        yield from _texts("pareto.verdict", comparison["verdict"])
        for key in ("wins", "ties", "losses"):
            yield f"pareto.{key}", str(comparison[key])
        p = comparison["p_all_better"]
        yield "pareto.p_all_better", "0.99" if 0.995 <= p <= 1 else "0.01" if p < 0.005 else f"{p:.2f}"
    # Data
    dataset = metrics.json("dataset.json")
    supervised = model != "base" and params.sft.epochs > 0
    if supervised:
        if params.collect.source == "policy":
            yield "collect.temperature", f"{params.collect.temperature:g}"
        for key in ("demonstrations", "agent_tokens", "tokens"):
            yield f"dataset.all.{key}", str(dataset["all"][key])
    elif model != "base":
        yield "sft.epochs", "0"
    for env in ENVS:
        for number in getattr(params.tasks, env).levels:
            yield f"tasks.{env}.levels", str(number)
        if supervised:
            for key in ("demonstrations", "tokens"):
                yield f"dataset.envs.{env}.{key}", str(dataset["envs"][env][key])
            yield two(f"collect.{env}.success", metrics.json(f"collect/{env}.json")["success"])
    # Training
    if supervised:
        yield from _settings("sft", params.sft)
    if model == "ppo" and params.ppo.enabled:
        yield from _settings("ppo", params.ppo)
        ppo = metrics.json("ppo.json")
        if "kept_iteration" in ppo:
            yield "ppo.kept_iteration", str(ppo["kept_iteration"])
            yield two("ppo.validation_score", ppo["validation_score"])
            yield two("ppo.validation.0", ppo["validation"][min(ppo["validation"], key=int)])
    # Limits
    weakest = min(ENVS, key=lambda env: float(scores[model, env]["score"]))
    yield from interval(model, weakest)
    for env in ENVS:
        for key in ("stop_failed", "stop_turn_limit", "stop_context_limit", "invalid"):
            yield two(f"scores.{model}.{env}.{key}", scores[model, env][key])
    for name in sorted(release["checks"]):
        yield from _texts(f"release.checks.{name}", release["checks"][name])


def _texts(key: str, text: str) -> Iterator[tuple[str, str]]:
    for found in numbers(text):
        yield key, found


def _settings(stage: str, section: BaseModel) -> Iterator[tuple[str, str]]:
    """Numbers among a section's settings in their order; weights that are all alike are worded."""
    values = section.model_dump(mode="json")
    unused = OF_THE_VALUE_HEAD if values.get("advantage") == "group" else set()
    for key, value in values.items():
        if key in NOT_SHOWN | unused:
            continue
        if isinstance(value, dict):
            if key == "weights" and len(set(value.values())) == 1:
                continue
            items = [(f"{stage}.{key}.{name}", inner) for name, inner in value.items()]
        else:
            items = [(f"{stage}.{key}", value)]
        for name, inner in items:
            if isinstance(inner, int | float) and not isinstance(inner, bool):
                yield name, str(inner)


# Metrics in which no two numbers are alike


class _Draw:
    """Numbers that differ in their integer parts, in an order that tells nothing."""

    def __init__(self) -> None:
        self.left = list(range(10_000, 99_000, 7))
        random.Random(0).shuffle(self.left)

    def like(self, value: Any) -> Any:
        """A number of the same kind in the place of each one in `value`."""
        if isinstance(value, dict):
            return {key: self.like(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [self.like(inner) for inner in value]
        if isinstance(value, int) and not isinstance(value, bool):
            return self.left.pop()
        if isinstance(value, float):
            return self.left.pop() + 0.3789
        return value

    def cell(self, text: str) -> str:
        try:
            float(text)
        except ValueError:
            return text
        return str(self.like(int(text) if text.isdigit() else float(text)))


def sentinels(root: Path) -> Params:
    """The committed metrics under `root` with every number exchanged for one of its own, and parameters likewise."""
    draw = _Draw()
    params = committed(root)
    for path in sorted((root / "metrics").rglob("*.json")):
        path.write_text(json.dumps(draw.like(json.loads(path.read_text()))))
    for path in sorted((root / "metrics").rglob("*.csv")):
        with path.open() as file:
            head, *rows = list(csv.reader(file))
        fixed = {head.index("fingerprint")} if "fingerprint" in head else set()
        with path.open("w", newline="") as file:
            changed_rows = [[c if k in fixed else draw.cell(c) for k, c in enumerate(row)] for row in rows]
            csv.writer(file).writerows([head, *changed_rows])
    pareto = json.loads((root / "metrics/pareto.json").read_text())
    pair = pareto["ppo_vs_base"]
    pair["verdict"] = f"ppo does not dominate base: {draw.like(0.5)} points short, or {draw.like(1)} episodes of each"
    (root / "metrics/pareto.json").write_text(json.dumps(pareto))
    ppo = json.loads((root / "metrics/ppo.json").read_text())
    ppo["validation"] = {"0": draw.like(0.5), str(ppo["kept_iteration"]): ppo["validation_score"]}
    (root / "metrics/ppo.json").write_text(json.dumps(ppo))
    release = json.loads((root / "metrics/release.json").read_text())
    release["checks"] = {name: f"{draw.like(1)} seen, {draw.like(0.5)} of it" for name in release["checks"]}
    overall = json.loads((root / "metrics/evaluate.json").read_text())["ppo"]["overall"]
    release |= {"model": "ppo", "reason": f"asked for by name (overall score {overall:.2f})"}
    (root / "metrics/release.json").write_text(json.dumps(release))
    named = params.model_copy(update={"release": params.release.model_copy(update={"model": "ppo"})})
    return _alike(named, draw, ("sft", "rollout", "ppo", "evaluate", "pareto"))


def _alike(params: Params, draw: _Draw, sections: tuple[str, ...]) -> Params:
    """`params` with other numbers in `sections`: such as no file could hold, so that they are not checked."""

    def renewed(model: BaseModel) -> BaseModel:
        values = {
            name: renewed(value) if isinstance(value, BaseModel) else draw.like(value)
            for name in type(model).model_fields
            for value in [getattr(model, name)]
        }
        return model.model_copy(update=values)

    return params.model_copy(update={name: renewed(getattr(params, name)) for name in sections})
