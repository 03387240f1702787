"""`preset`: merge one of presets/*.yaml into params.yaml, the only file that DVC reads."""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from affine.errors import AffineError
from affine.files import write_text
from affine.params import ParamsError, is_text, load_params

FOLDER = Path("presets")
PARAMS = Path("params.yaml")

_PLAIN = re.compile(r"[A-Za-z_][\w./-]*")
"""Strings that DVC's `-S key=value` takes without quotes, unless they are among `_CONSTANTS`."""

_CONSTANTS = ("true", "false", "null", "nan", "inf")


class PresetError(AffineError):
    """There is no such preset, or it doesn't fit params.yaml; the message names the key."""


@dataclass(frozen=True, slots=True)
class Change:
    """One value that a preset sets. `old` is None where params.yaml doesn't mention the key (`known` False)."""

    key: str
    old: Any
    new: Any
    known: bool


def run(arguments: list[str]) -> int:
    """List, show or apply presets. Raises PresetError and ParamsError; then nothing was written."""
    parser = argparse.ArgumentParser(
        prog="python -m affine preset",
        description="Merge presets/NAME.yaml into params.yaml, keeping its comments; then `dvc repro` runs with it."
        " `git checkout params.yaml` goes back.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the preset; without one, they are listed")
    parser.add_argument(
        "-S",
        dest="given",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a value on top of the preset's, such as -S seed=1; may be repeated",
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--list", action="store_true", help="list the presets")
    how.add_argument("--show", action="store_true", help="print what would change, and change nothing")
    how.add_argument("--args", action="store_true", help="print the difference as options for `dvc exp run`")
    chosen = parser.parse_args(arguments)
    if chosen.list or chosen.name is None:
        for name in names():
            print(f"{name:<14} {summary(FOLDER / f'{name}.yaml')}")
        return 0
    overlay = read_preset(chosen.name)
    for assignment in chosen.given:
        assign(overlay, assignment)
    changes = list(compare(overlay, read_yaml(PARAMS)))
    text = merge(chosen.name, overlay)
    if chosen.args:
        print(" ".join(shlex.join(["-S", override(change)]) for change in changes))
        return 0
    for change in changes:
        print(_show(change))
    if not changes:
        print(f"{PARAMS} already is as {chosen.name} has it")
    elif chosen.show:
        print(f"{len(changes)} {'value differs' if len(changes) == 1 else 'values differ'}; nothing was written")
    else:
        write_text(PARAMS, text)
        print(f"{PARAMS}: {len(changes)} {'value' if len(changes) == 1 else 'values'} set; run `dvc repro`")
    return 0


def names() -> list[str]:
    """The presets there are."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def summary(path: Path) -> str:
    """A preset's first comment line."""
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    return first.lstrip("# ")


def read_preset(name: str) -> Any:
    """The mapping in presets/<name>.yaml. Raises PresetError."""
    path = FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(names()) or "none here; run from the repository's root"
        raise PresetError(f"no preset {name!r} (presets: {known})")
    return read_yaml(path)


def read_yaml(path: Path) -> Any:
    """A mapping with its comments. Raises PresetError."""
    try:
        data = _yaml().load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PresetError(f"{path}: no such file; run from the repository's root") from None
    except YAMLError as error:
        raise PresetError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping):
        raise PresetError(f"{path}: expected a mapping of sections")
    return data


def compare(overlay: Mapping[str, Any], params: Mapping[str, Any], prefix: str = "") -> Iterator[Change]:
    """The values that `overlay` sets differently from `params`, mappings key by key."""
    for key, new in overlay.items():
        known = key in params
        old = params[key] if known else None
        if isinstance(new, Mapping) and isinstance(old, Mapping | None):
            yield from compare(new, old or {}, f"{prefix}{key}.")
        elif not known or old != new:
            yield Change(f"{prefix}{key}", old, new, known)


def assign(overlay: Any, assignment: str) -> None:
    """Put a "section.key=value" into `overlay`, the value being YAML; where params.yaml holds text, what looks like a
    number or a date (a commit hash of digits only) is text too. Raises PresetError."""
    key, equals, value = assignment.partition("=")
    if not equals or not all(key.split(".")):
        raise PresetError(f"-S {assignment}: expected KEY=VALUE, such as -S ppo.kl=0.03")
    *sections, last = key.split(".")
    for section in sections:
        overlay = overlay.setdefault(section, {})
        if not isinstance(overlay, dict):
            raise PresetError(f"-S {assignment}: {section} is a value and has no keys")
    try:
        overlay[last] = (YAML(typ="base") if is_text(key) and value not in ("null", "~") else _yaml()).load(value)
    except (YAMLError, ValueError) as error:  # ValueError: a date that isn't one
        raise PresetError(f"-S {assignment}: not valid YAML: {' '.join(str(error).split())}") from None


def merge(name: str, overlay: Mapping[str, Any]) -> str:
    """params.yaml with the preset `name` (its values in `overlay`) merged into it, comments kept. Raises
    PresetError where the result would not be valid."""
    params = read_yaml(PARAMS)
    _overlay(overlay, params)
    stream = io.StringIO()
    _yaml().dump(params, stream)
    text = stream.getvalue()
    with tempfile.TemporaryDirectory() as folder:
        merged = Path(folder) / PARAMS.name
        merged.write_text(text, encoding="utf-8")
        try:
            load_params(merged)
        except ParamsError as error:
            reason = str(error).replace(str(merged), f"preset {name}")
            raise PresetError(f"{reason}\n{PARAMS} was left as it is; give what is missing with -S KEY=VALUE") from None
    return text


def _overlay(overlay: Mapping[str, Any], params: Any) -> None:
    for key, new in overlay.items():
        if isinstance(new, Mapping) and isinstance(params.get(key), Mapping):
            _overlay(new, params[key])
        elif key not in params or params[key] != new:  # an equal value keeps how it is written
            params[key] = new


def override(change: Change) -> str:
    """A change as `dvc exp run -S` takes it; a "+" adds a key that params.yaml doesn't mention."""
    return f"{'' if change.known else '+'}{change.key}={_hydra(change.new)}"


def _hydra(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(_hydra(item) for item in value)}]"
    if isinstance(value, str) and not (_PLAIN.fullmatch(value) and value.lower() not in _CONSTANTS):
        escaped = value.replace("'", "\\'")
        return f"'{escaped}'"
    return value if isinstance(value, str) else json.dumps(value)


def _show(change: Change) -> str:
    old = json.dumps(change.old) if change.known else "(default)"
    return f"{change.key}: {old} -> {json.dumps(change.new)}"


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # lines stay as they are, however long
    return yaml
