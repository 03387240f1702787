"""Writes a new environment into params.yaml and the pipelines, after the others: its tasks and demonstrations, and its
files in every stage that names each environment's. What stands there already stays as it is, comments too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from affine.deps import env_file, expert_file, write
from affine.errors import AffineError
from affine.params import load_params
from affine.types import ENVS

TASKS = {"levels": [0], "train": 1000, "validation": 40, "test": 200}
DEMONSTRATIONS = {"episodes": 200}
"""What a new environment's sections hold, to be changed by its owner."""


class DeclareError(AffineError):
    """The files are not as expected; the message names the file."""


def declare(root: Path) -> list[str]:
    """Add every registered environment that is missing; "file: what" for each addition, nothing where all are there.

    Raises DeclareError where a file is missing, ParamsError and DepsError where a file is wrong.
    """
    graph = root / "dvc.yaml"
    yaml, document = _yaml(graph)
    listed = next(stage["foreach"] for stage in document["stages"].values() if "foreach" in stage)
    new = {env: _item(root, env) for env in ENVS if env not in listed}
    model = [env for env in ENVS if env in listed][-1]
    added = _to_params(root / "params.yaml")
    if new:
        for env, item in new.items():
            listed[env] = _flow(item)
        _save(yaml, document, graph)
        for path in (graph, *sorted(root.glob("*/dvc.yaml"))):
            added += [f"{path.relative_to(root)}: {line}" for line in _to_pipeline(path, model, list(new))]
    load_params(root / "params.yaml")
    return [*added, *(write(root) if added else [])]


def _yaml(path: Path) -> tuple[YAML, Any]:
    if not path.is_file():
        raise DeclareError(f"{path}: no such file; run from the repository's root")
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 200
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml, yaml.load(path)


def _save(yaml: YAML, document: Any, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


def _flow(values: dict[str, Any]) -> CommentedMap:
    entry = CommentedMap(values)
    entry.fa.set_flow_style()
    return entry


def _to_params(path: Path) -> list[str]:
    yaml, document = _yaml(path)
    added = []
    for section, values in (("tasks", TASKS), ("collect", DEMONSTRATIONS)):
        for env in ENVS:
            if env not in document[section]:
                last = max(k for k, key in enumerate(document[section]) if key in ENVS)
                document[section].insert(last + 1, env, _flow(values))
                added.append(f"{path.name}: {section}.{env}")
    if added:
        _save(yaml, document, path)
    return added


def _item(root: Path, env: str) -> dict[str, str]:
    """The folder behind an environment, or its own file where it has none, and its expert's file."""
    module = env_file(env)
    if not (root / module).is_file():
        raise DeclareError(f"{root / module}: no such file; {env} is registered as being there")
    folder = Path("affine/envs/engines") / env
    engine = folder if (root / folder).is_dir() else module
    return {"engine": str(engine), "expert": str(expert_file(root, env))}


def _to_pipeline(path: Path, model: str, new: list[str]) -> list[str]:
    yaml, document = _yaml(path)
    added = []
    for name, stage in document["stages"].items():
        added += [f"{name}: {file}" for file in _beside(stage.get("do", stage)["deps"], model, new)]
    if added:
        _save(yaml, document, path)
    return added


def _beside(deps: Any, model: str, new: list[str]) -> list[str]:
    """Insert, after each file under data/ or metrics/ that belongs to `model`, the new environments' files."""
    added = []
    for k in reversed(range(len(deps))):
        path = Path(str(deps[k]))
        if path.parts[0] in ("data", "metrics") and model in (*path.parts, path.stem):
            files = [str(deps[k]).replace(model, env) for env in new]
            for file in reversed(files):
                deps.insert(k + 1, file)
            added += files
    return added
