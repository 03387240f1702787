"""Code dependencies of the stages: what `dvc.yaml` declares against what the scripts really import.

DVC has nothing built in for this, and an undeclared module means stale results without a word. The import
closure of a stage's script is read from the sources (nothing is run). Environments are imported by name
(`affine.envs.env.REGISTRY`), which no parser sees: a stage of one environment (`stages/tasks.py sat`) gets that
environment's modules, and stages that play all of them (`PLAYS_ALL`) get all.

    python -m affine deps --check     compare; exit 1 and list the differences
    python -m affine deps --write     rewrite the code dependencies in dvc.yaml, comments kept

Library versions that training stages depend on are held equal to requirements.lock by the way (`affine.pins`).
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from affine.envs.env import REGISTRY
from affine.errors import AffineError
from affine.pins import PROJECT, stale_pins, write_pins

FIRST_PARTY = ("affine", "stages")
PLAYS_ALL = {"pretrain", "ppo", "evaluate", "endpoint"}
"""Stages whose workers make every environment."""
EXPERTS = {"collect", "pretrain"}
"""Stages that play experts too."""
STOPPING = ("affine/pareto/__init__.py", "affine/pareto/stopping.py", "affine/pareto/summary.py")
POLICY = ("affine/collect/policy.py",)
CLUSTER = "affine/rollout/cluster.py"
LAZY = {
    "collect": ("affine/collect/cluster.py", CLUSTER),
    "pretrain": ("affine/collect/cluster.py", *POLICY),
    "ppo": (CLUSTER,),
    "evaluate": (CLUSTER,),
    "endpoint": (*STOPPING, CLUSTER),
}
"""First-party imports inside functions that have no say in what a stage writes, left out on purpose: who plays an
episode changes nothing of it, pretraining has experts play, and a served model plays to the end. What has a say with
some parameters only stands in `OPTIONS`."""
OPTIONS = {
    "collect": ("collect.source", "policy", POLICY),
    "evaluate": ("evaluate.stop", "sequential", STOPPING),
}
"""Stage -> a parameter, the value with which it runs more code, and where that code begins. It belongs to the stage's
dependencies while params.yaml has that value, and not otherwise: a change of the statistics evaluates nothing anew, and
one of the rollout engine collects nothing anew. So whoever sets it runs `--write`, of which `--check` reminds; an
experiment with `-S` alone is run with `--force` after such code has changed."""


ENGINES = ("affine", "envs", "engines")
ITEMS = ("${item.engine}", "${item.expert}")
"""What dvc.yaml says of each environment: where its engine lies, and its expert."""
PLACE = "CODE"
"""What a new stage may write in `deps` where `--write` is to put its code."""


class DepsError(AffineError):
    """dvc.yaml is not as expected."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One stage's code dependencies that are missing from dvc.yaml, or stand there for nothing."""

    stage: str
    missing: list[str]
    superfluous: list[str]


def module_file(root: Path, module: str) -> Path | None:
    """The source file of a first-party module, relative to `root`; None for anything else."""
    path = Path(*module.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if (root / candidate).is_file():
            return candidate
    return None


@cache
def _read(source: str) -> tuple[list[ast.Import | ast.ImportFrom], list[str]]:
    """A module's imports and strings. Kept: a file is asked for once per stage and environment that reaches it."""
    nodes = list(ast.walk(ast.parse(source)))
    strings = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)], strings


def imports(root: Path, file: Path) -> set[Path]:
    """First-party files that `file` imports, at the top or inside functions, and their packages."""
    found: set[str] = set()
    for node in _read((root / file).read_text(encoding="utf-8"))[0]:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        else:
            # One dot is the file's own package, each further one the package around that.
            around = file.parent.parts[: len(file.parent.parts) - node.level + 1] if node.level else ()
            module = ".".join([*around, *([node.module] if node.module else [])])
            found.add(module)
            found.update(f"{module}.{alias.name}" for alias in node.names)
    files: set[Path] = set()
    for module in found:
        parts = module.split(".")
        if parts[0] not in FIRST_PARTY:
            continue
        for k in range(1, len(parts) + 1):
            if path := module_file(root, ".".join(parts[:k])):
                files.add(path)
    return files


def closure(root: Path, start: Iterable[Path], without: Iterable[Path] = ()) -> set[Path]:
    """All first-party files reachable from `start` by imports, `start` included."""
    excluded = set(without)
    seen: set[Path] = set()
    queue = list(start)
    while queue:
        file = queue.pop()
        if file not in seen and file not in excluded:
            seen.add(file)
            queue += sorted(imports(root, file))
    return seen


def env_file(env: str) -> Path:
    """The module that the registry names for an environment."""
    return Path(*REGISTRY[env].partition(":")[0].split(".")).with_suffix(".py")


def expert_file(root: Path, env: str) -> Path:
    """The module with an environment's expert: one of its own, or the environment's."""
    module = env_file(env)
    beside = module.with_name(f"{module.stem}_expert.py")
    return beside if (root / beside).is_file() else module


def data_files(root: Path, modules: Iterable[Path]) -> set[Path]:
    """Tables and templates that a module names as a string, lying beside it."""
    found: set[Path] = set()
    for module in modules:
        for name in _read((root / module).read_text(encoding="utf-8"))[1]:
            if "." in name[1:] and "\n" not in name and "/" not in name and len(name) < 80 and not name.endswith(".py"):
                beside = module.parent / name
                if (root / beside).is_file():
                    found.add(beside)
    return found


def left_out(root: Path, stage: str) -> list[Path]:
    """Modules that `stage` imports and does not use with the parameters in `root`. Raises DepsError."""
    files = list(LAZY.get(stage, ()))
    if stage in OPTIONS:
        key, value, code = OPTIONS[stage]
        section, _, name = key.partition(".")
        if _load(root / "params.yaml")[1][section][name] != value:
            files += code
    return [Path(file) for file in files]


def code_of(root: Path, stage: str, env: str | None) -> list[str]:
    """The code that decides what `stage` writes: script, import closure, tables; sorted paths."""
    start = [Path("stages") / f"{stage}.py"]
    for name in [env] if env else REGISTRY if stage in PLAYS_ALL else []:
        start += [env_file(name), *([expert_file(root, name)] if stage in EXPERTS else [])]
    modules = closure(root, start, left_out(root, stage))
    return sorted(str(path) for path in modules | data_files(root, modules))


def _is_code(dependency: str) -> bool:
    return dependency.startswith((*(f"{package}/" for package in FIRST_PARTY), *ITEMS)) or dependency == PLACE


def _pipelines(root: Path) -> list[Path]:
    return [root / "dvc.yaml", root / "deploy" / "dvc.yaml", root / "endpoint" / "dvc.yaml"]


def _load(path: Path) -> tuple[YAML, Any]:
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    if not path.is_file():
        raise DepsError(f"{path}: no such file; run from the repository's root")
    return yaml, yaml.load(path)


def _stages(document: Any) -> Iterator[tuple[str, Any, dict[str, dict[str, str]]]]:
    """(name, the stage's mapping, environment -> its engine's folder and its expert's file; empty where it is not per
    environment)."""
    for name, stage in document["stages"].items():
        if "foreach" in stage:
            members = stage["foreach"].items()
            yield name, stage["do"], {env: dict(item) for env, item in members if "engine" in item}
        else:
            yield name, stage, {}


def _fill(dependency: str, env: str, item: dict[str, str]) -> str:
    for name, value in item.items():
        dependency = dependency.replace(f"${{item.{name}}}", value)
    return dependency.replace("${key}", env)


def declared_code(root: Path) -> list[tuple[str, str | None, set[str]]]:
    """(stage, environment, code dependencies) as the pipelines declare them."""
    rows: list[tuple[str, str | None, set[str]]] = []
    for path in _pipelines(root):
        for name, stage, items in _stages(_load(path)[1]):
            listed = [str(dep) for dep in stage["deps"] if _is_code(str(dep))]
            for env in items or [None]:
                rows.append((name, env, {_fill(dep, env, items[env]) if env else dep for dep in listed}))
    return rows


def compare(root: Path) -> list[Difference]:
    """Every stage whose declared code differs from its closure.

    A declared folder stands for all in it, and what one environment of a group needs may stand in all of it.
    """
    differences = []
    wanted: dict[str, set[str]] = defaultdict(set)
    for name, env, _ in declared_code(root):
        wanted[name].update(code_of(root, name, env))
    for name, env, declared in declared_code(root):
        needed = set(code_of(root, name, env))
        folders = {dep for dep in declared if (root / dep).is_dir()}

        def covered(file: str, folders: set[str] = folders) -> bool:
            return any(file.startswith(f"{folder}/") for folder in folders)

        missing = {file for file in needed - declared if not covered(file)}
        idle = {folder for folder in folders if not any(file.startswith(f"{folder}/") for file in needed)}
        superfluous = (declared - wanted[name] - folders) | idle
        if missing or superfluous:
            label = f"{name}@{env}" if env else name
            differences.append(Difference(label, sorted(missing), sorted(superfluous)))
    return differences


def _as_listed(root: Path, name: str, items: dict[str, dict[str, str]]) -> list[str]:
    """Code dependencies as dvc.yaml should list them: engine folders whole, and `${key}`, `${item.expert}` and
    `${item.engine}` for what differs from environment to environment."""
    if not items:
        return sorted({_folder(file) for file in code_of(root, name, None)})
    common: set[str] = set()
    for env, item in items.items():
        files = {file for file in code_of(root, name, env) if not file.startswith(f"{item['engine']}/")}
        common |= files - {str(env_file(env)), str(expert_file(root, env))}
    listed = ["affine/envs/${key}.py", *(["${item.expert}"] if name in EXPERTS else []), "${item.engine}"]
    return [*listed, *sorted(common)]


def _folder(file: str) -> str:
    parts = Path(file).parts
    return str(Path(*parts[:4])) if parts[:3] == ENGINES and len(parts) > len(ENGINES) + 1 else file


def write(root: Path) -> list[str]:
    """Rewrite the code dependencies in the pipelines; the files that changed."""
    changed = []
    for path in _pipelines(root):
        yaml, document = _load(path)
        for name, stage, items in _stages(document):
            data = [dep for dep in stage["deps"] if not _is_code(str(dep))]
            wanted = [*_as_listed(root, name, items), *data]
            if list(stage["deps"]) != wanted:
                while stage["deps"]:
                    stage["deps"].pop()
                stage["deps"].extend(wanted)
                changed.append(f"{path.relative_to(root)}: {name}")
        if any(line.startswith(f"{path.relative_to(root)}: ") for line in changed):
            with path.open("w", encoding="utf-8") as file:
                yaml.dump(document, file)
    return changed


def main(argv: list[str]) -> int:
    """`python -m affine deps`."""
    parser = argparse.ArgumentParser(prog="python -m affine deps", description=__doc__.split("\n\n", maxsplit=1)[0])
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="compare only (the default); exit 1 on a difference")
    group.add_argument("--write", action="store_true", help="rewrite the code dependencies in dvc.yaml")
    arguments = parser.parse_args(argv)
    root = Path.cwd()
    if arguments.write:
        for line in [*write(root), *write_pins(root)] or ["nothing to change"]:
            print(line)
        return 0
    differences = compare(root)
    for difference in differences:
        for file in difference.missing:
            print(f"{difference.stage}: {file} is imported but not declared")
        for file in difference.superfluous:
            print(f"{difference.stage}: {file} is declared but not imported")
    pins = stale_pins(root)
    for name, (old, new) in pins.items():
        print(f"{PROJECT}: tool.affine.training has {name} {old}, requirements.lock {new}")
    if differences or pins:
        print("run `python -m affine deps --write`")
    return 1 if differences or pins else 0
