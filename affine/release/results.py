"""The measured scores in the two forms that the Hub reads by machine: `model-index` in the card's head, and
entries for `.eval_results/`. Both hold what stands in metrics/plots/scores.csv, no more and no less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from affine.params import DeployParams, Params
from affine.release.choose import Choice

EVAL_RESULTS = ".eval_results/affine.yaml"
"""The entries' place in the repository (https://huggingface.co/docs/hub/eval-results)."""

Scores = Mapping[tuple[str, str], Mapping[str, str]]
"""(model, environment) -> its row of metrics/plots/scores.csv."""


def card_metadata(params: Params, choice: Choice, base: Mapping[str, Any], scores: Scores, envs: Sequence[str]) -> str:
    """The card's YAML head with a `model-index` of the measured scores; `base` is metrics/base.json."""
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="playing held-out tasks",
            dataset_type=f"affine-{env}",
            dataset_name=env,
            dataset_split="test",
            metric_type="score",
            metric_name="mean score",
            metric_value=float(scores[choice.model, env]["score"]),
        )
        for env in (*envs, "overall")
    ]
    data = ModelCardData(
        language="en",
        license=params.release.license,
        library_name="transformers",
        pipeline_tag="text-generation",
        base_model=base["repository"] or None,
        tags=["affine", "agent", *envs],
        model_name=params.release.name,
        eval_results=results,
    )
    return str(data.to_yaml()).strip()


def benchmark(deploy: DeployParams) -> str:
    """The data set that the entries of `.eval_results/` name.

    The format asks for one that is registered as a benchmark. The tasks are no data set of somebody else's, so it is
    named in the owner's own namespace, where nobody else can put another; until the owner makes it, the Hub shows the
    entries nowhere, which the card and `make deploy` say.
    """
    return f"{deploy.repo.partition('/')[0]}/affine-tasks"


def eval_results(params: Params, choice: Choice, scores: Scores, envs: Sequence[str]) -> str:
    """The YAML of `.eval_results/`: one entry per environment and one for the mean over them."""
    level = f"{round(100 * params.pareto.confidence)} %"
    entries = []
    for env in (*envs, "overall"):
        row = scores[choice.model, env]
        notes = f"mean score on held-out tasks; {level} interval {row['low']} to {row['high']}"
        if env != "overall":
            notes += f"; {row['n']} episodes; evaluator fingerprint {row['fingerprint']}"
        entries.append(
            EvalResultEntry(dataset_id=benchmark(params.deploy), task_id=env, value=float(row["score"]), notes=notes)
        )
    return str(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, width=1000))
