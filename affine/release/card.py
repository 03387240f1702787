"""The files that describe a release: a card from a template, filled from metrics files that it names with their
hashes, and the scores for machines.

No number is computed here: the card formats what stands in metrics/ and in the release's settings.json.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateError

from affine.models.checkpoint import sha256
from affine.params import BaseParams, Params, TaskSet
from affine.release.choose import BASE, Choice, ReleaseError
from affine.release.lineage import OUTPUTS, folder_hash
from affine.release.origins import origin, used_levels
from affine.release.results import EVAL_RESULTS, Scores, benchmark, card_metadata, eval_results
from affine.release.serving import serve_commands
from affine.types import ENVS

NANO = "the nano model {}, made from scratch on noisy play of these environments' training tasks and on exercises"
SHIPPED = "pretrained/nano"

UNSHOWN = ("enabled", "log_every", "evaluate_every", "save_every")
"""Training parameters that cannot change the weights."""

VALUED = ("value_learning_rate", "value_warmup", "value_clip", "value_coef", "gamma", "gae", "lam", "shaping")
"""Those that cannot where a group's mean is the baseline and there is no value head (`ppo.advantage` group)."""


@dataclass
class Sources:
    """Files read under `root`, with the hash of what was read."""

    root: Path
    digests: dict[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """The file's text. Raises ReleaseError where it is missing."""
        try:
            data = (self.root / path).read_bytes()
        except FileNotFoundError:
            raise ReleaseError(f"{path}: no such file; run `dvc repro` for the stage that makes it") from None
        self.digests[path] = hashlib.sha256(data).hexdigest()
        return data.decode()

    def note(self, path: str) -> None:
        """Record the hash of a file that need not be read whole."""
        self.digests[path] = sha256(self.root / path)

    def json(self, path: str) -> Any:
        """A JSON file's value. Raises ReleaseError where it is missing or not JSON."""
        try:
            return json.loads(self.text(path))
        except ValueError as error:
            raise ReleaseError(f"{path}: not JSON ({error}); run `dvc repro -f` for the stage that makes it") from None

    def rows(self, path: str) -> list[dict[str, str]]:
        """A CSV file's rows."""
        return list(csv.DictReader(self.text(path).splitlines()))


def describe(params: Params, choice: Choice, sources: Sources, release: str) -> dict[str, str]:
    """The files that describe the release, path -> text: the card, and the scores for machines.

    `release` is the content of metrics/release.json, not yet written. Raises ReleaseError where a file that they
    draw on is missing or lacks something.
    """
    scores = {(row["model"], row["env"]): row for row in sources.rows("metrics/plots/scores.csv")}
    envs = [env for env in ENVS if (choice.model, env) in scores]
    outputs = {path: folder_hash(sources.root / path) for path in OUTPUTS}
    template = _environment().get_template("card.md.jinja")
    try:
        facts = _facts(params, choice, sources, scores, envs)
        sources.digests["metrics/release.json"] = hashlib.sha256(release.encode()).hexdigest()
        digests = dict(sorted(sources.digests.items()))
        card: str = template.render(facts, release=json.loads(release), outputs=outputs, sources=digests)
        return {"README.md": card, EVAL_RESULTS: eval_results(params, choice, scores, envs)}
    except (LookupError, ValueError, TypeError, TemplateError) as error:
        raise ReleaseError(
            f"the metrics do not hold what the card needs: {error!r}; run `dvc repro -f pareto`"
        ) from None


def _facts(params: Params, choice: Choice, sources: Sources, scores: Scores, envs: list[str]) -> dict[str, Any]:
    """What the template shows, by name."""
    evaluate, pareto = sources.json("metrics/evaluate.json"), sources.json("metrics/pareto.json")
    pair = f"{choice.model}_vs_{BASE}"
    effects = {row["env"]: row for row in sources.rows("metrics/plots/differences.csv") if row["pair"] == pair}
    base = sources.json("metrics/base.json")
    settings = made_with(params, choice.model)
    ppo = sources.json("metrics/ppo.json") if "ppo" in _stages(params, choice.model) else {}
    return {
        "metadata": card_metadata(params, choice, base, scores, envs),
        "name": params.release.name,
        "repository": params.deploy.repo,
        "eval_results": EVAL_RESULTS,
        "benchmark": benchmark(params.deploy),
        "serve": serve_commands(params.deploy.repo),
        "base_name": base["repository"] or _local_base(params.base),
        "choice": choice,
        "base": base,
        "params": params,
        "level": f"{round(100 * params.pareto.confidence)} %",
        "models": list(evaluate),
        "envs": envs,
        "evaluate": evaluate,
        "scores": scores,
        "effects": effects,
        "comparison": pareto.get(pair),
        "undecided": ", ".join(env for env in envs if effects.get(env, {}).get("decision") == "open"),
        "weakest": min((scores[choice.model, env] for env in envs), key=lambda row: float(row["score"])),
        "dataset": sources.json("metrics/dataset.json"),
        "ppo": ppo,
        "collect": {env: sources.json(f"metrics/collect/{env}.json") for env in envs},
        "levels": {env: _levels(getattr(params.tasks, env)) for env in envs},
        "origins": {env: origin(env, used_levels(env, getattr(params.tasks, env))) for env in envs},
        "training": {stage: _shown(settings[stage]) for stage in _stages(params, choice.model)},
    } | _making(params, choice.model, ppo)


def _stages(params: Params, model: str) -> list[str]:
    """The stages that trained `model`: with no epochs, or with ppo off, a stage only passes on what it was given."""
    supervised = model != BASE and params.sft.epochs > 0
    reinforced = model == "ppo" and params.ppo.enabled
    return ["sft"] * supervised + ["ppo"] * reinforced


def _making(params: Params, model: str, ppo: Mapping[str, Any]) -> dict[str, Any]:
    """How the card words the way in which `model` was made; `ppo` is metrics/ppo.json where it took part in that."""
    expert = params.collect.source == "expert"
    play = "expert play" if expert else "an earlier model's own successes"
    stages = _stages(params, model)
    if ppo.get("kept_iteration") == 0:
        stages.remove("ppo")
    made_by = {
        (): "which no stage trained (`sft.epochs` 0 and no iteration of PPO kept)",
        ("sft",): f"trained by supervised fine-tuning on {play}",
        ("ppo",): "trained by multi-turn PPO in the environments, from its base's own policy on",
        ("sft", "ppo"): f"trained by supervised fine-tuning on {play} and then multi-turn PPO in the environments",
    }[tuple(stages)]
    return {
        "supervised": "sft" in stages,
        "made_by": made_by,
        "demonstrator": "programmed experts"
        if expert
        else f"an earlier model (the checkpoint `{params.collect.policy_digest[:12]}`, at temperature"
        f" {params.collect.temperature:g})",
        "writer": "the expert" if expert else "that model",
        "writer_s": "expert's" if expert else "that model's",
        "started_from": next((score for k, score in ppo.get("validation", {}).items() if int(k) == 0), None),
    }


def _local_base(base: BaseParams) -> str:
    """A base that is no repository of the Hub."""
    if base.source == "pretrain":
        return NANO.format("as the pipeline's stage `pretrain` makes it")
    if base.path == SHIPPED:
        return NANO.format("that comes with the pipeline")
    return "a checkpoint that does not come with the pipeline (`metrics/base.json` has the hashes of its files)"


def _levels(tasks: TaskSet) -> str:
    listed = ", ".join(map(str, tasks.levels))
    return f"{listed}; tested on upstream's ids `{tasks.test_ids}`" if tasks.test_ids else listed


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("affine.release", ""),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown, from our own files
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "grouped": _grouped, "score": _score, "probability": _probability, "cell": _cell, "effect": _effect,
    }  # fmt: skip
    environment.filters.update(filters)
    return environment


def _grouped(number: int | str) -> str:
    return f"{int(number):,}"


def _score(value: float | str) -> str:
    return f"{float(value):.2f}"


def _probability(value: float | str) -> str:
    """Two decimals, but no certainty that rounding made: 0.9999 is not 1.00."""
    if 0.995 <= float(value) <= 1:
        return "above 0.99"
    return _score(value) if float(value) >= 0.005 else "below 0.01"


def _cell(row: Mapping[str, str]) -> str:
    return f"{_score(row['score'])} ({_score(row['low'])} to {_score(row['high'])})"


def _effect(row: Mapping[str, str]) -> str:
    difference, low, high = (f"{float(row[key]):+.2f}" for key in ("difference", "low", "high"))
    decision = {"open": "undecided"}.get(row["decision"], row["decision"])
    return f"{difference} ({low} to {high}), {decision}"


def made_with(params: Params, model: str) -> dict[str, Any]:
    """The parameters that made and measured `model`, by section: what settings.json holds."""
    training = {"base": (), "sft": ("collect", "dataset", "sft"), "ppo": ("collect", "dataset", "sft", "ppo")}[model]
    sections = ("envs", "tasks", *training, "rollout", "evaluate", "pareto")
    return {section: getattr(params, section).model_dump(mode="json", exclude={"endpoint"}) for section in sections}


def _shown(values: Mapping[str, Any]) -> dict[str, str]:
    """A section as dotted keys and texts, without what cannot change the weights."""
    flat: dict[str, str] = {}
    unshown = UNSHOWN + (VALUED if values.get("advantage") == "group" else ())
    for key, value in values.items():
        if key in unshown:
            continue
        if isinstance(value, Mapping):
            inner = _shown(value)
            equal = key == "weights" and len(set(inner.values())) == 1
            flat |= {key: "equal"} if equal else {f"{key}.{name}": text for name, text in inner.items()}
        else:
            flat[key] = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return flat
