"""Everything that the stage `release` reads, for a tiny model: real checkpoints, real statistics."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pareto_episodes import RATES, write_evaluations
from tiny import make_tiny_adapter, make_tiny_base

from affine.dataset.build import Candidate
from affine.dataset.report import report
from affine.dataset.sequences import Demonstration
from affine.files import write_json
from affine.models.base import make_base
from affine.params import BaseParams, DeployParams, Params, ReleaseParams, load_params
from affine.pareto.run import run_pareto
from affine.types import ENVS

ROOT = Path(__file__).parents[1]


def release_params(path: str = "pretrained/nano", **release: object) -> Params:
    """The repository's parameters with another base, other release settings and a name to deploy to."""
    params = load_params(ROOT / "params.yaml")
    changed = params.release.model_dump() | {"shard_size": "40KB"} | release
    return params.model_copy(
        update={
            "base": BaseParams.model_validate(params.base.model_dump() | {"source": "shipped", "path": path}),
            "release": ReleaseParams.model_validate(changed),
            "deploy": DeployParams(repo="ada/Affine-nano"),
        }
    )


def make_inputs(root: Path, rates: Mapping[str, float] = RATES) -> Path:
    """Fill `root` with models/ and metrics/ as the stages before `release` would."""
    params = release_params()
    make_tiny_base(root / "pretrained/nano")
    make_base(params, root)
    for seed, model in enumerate(("sft", "ppo")):
        make_tiny_adapter(root / "models/base", root / "models" / model, seed)
    for number, env in enumerate(ENVS, 1):
        played = 10 * number
        metrics = {"played": played, "solved": played - 1, "success": round(1 - 1 / played, 4)}
        write_json(root / "metrics/collect" / f"{env}.json", metrics)
    rows = {
        env: [Candidate(Demonstration(env, f"0/{i}", (5, 6, 7, 1), (0, 0, 1, 1)), f"g{i}", 1, 0) for i in range(n)]
        for n, env in enumerate(ENVS, 2)
    }
    write_json(root / "data/dataset/train.json", {env: len(kept) for env, kept in rows.items()})
    ppo = {
        "enabled": True,
        "kept_iteration": 30,
        "validation_score": 0.6125,
        "validation": {"00": 0.5875, "30": 0.6125},
    }
    write_json(root / "metrics/ppo.json", ppo)
    write_json(root / "metrics/dataset.json", report({env: (r[1:], r[:1], {"too_long": 0}) for env, r in rows.items()}))
    write_evaluations(root / "evaluations", tasks=60, rates=rates)
    run_pareto(params, root)
    return root
