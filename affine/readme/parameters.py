"""Every key of params.yaml as a table row: its default, what it may be, and what it does.

Types and limits come from `affine.params`, what a key does from effects.yaml beside this file, where `ENV`
stands for every environment.
"""

from __future__ import annotations

import types
import typing
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from affine.params import Params
from affine.types import ENVS


@dataclass(frozen=True, slots=True)
class Parameter:
    """A row: `default` is the value in params.yaml, `allowed` what it may be."""

    key: str
    default: str
    allowed: str


def effects() -> dict[str, str]:
    """Dotted key -> what it does, in a sentence or two."""
    loaded: dict[str, str] = yaml.safe_load(Path(__file__).with_name("effects.yaml").read_text(encoding="utf-8"))
    return loaded


def parameters(params: Params) -> list[Parameter]:
    """All keys in the order of `affine.params`; those of the environments once, as ENV."""
    values: dict[str, list[tuple[str, Any]]] = {}
    fields: dict[str, FieldInfo] = {}
    for path, info, value in _leaves(params, ()):
        env = next((part for part in path if part in ENVS), "")
        key = ".".join("ENV" if part in ENVS else part for part in path)
        values.setdefault(key, []).append((env, value))
        fields[key] = info
    return [Parameter(key, _default(values[key]), _allowed(fields[key])) for key in values]


def _leaves(section: BaseModel, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], FieldInfo, Any]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*path, name))
        else:
            yield (*path, name), info, value


def _default(values: list[tuple[str, Any]]) -> str:
    """The value most environments have, and the exceptions."""
    shown = [(env, _text(value)) for env, value in values]
    common = Counter(text for _, text in shown).most_common(1)[0][0]
    others = [f"{env} {text}" for env, text in shown if text != common]
    return common + (f" ({'; '.join(others)})" if others else "")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "(empty)"
    return str(value) or "(empty)"


_BOUNDS = {Gt: "> ", Ge: ">= ", Lt: "< ", Le: "<= ", MultipleOf: "multiple of "}


def _allowed(info: FieldInfo) -> str:
    """Choices, or the kind of value and its limits."""
    annotation = info.annotation
    if typing.get_origin(annotation) is typing.Literal:
        return ", ".join(map(str, typing.get_args(annotation)))
    kinds = {bool: "true, false", int: "whole number", float: "number", str: "text"}
    many = isinstance(annotation, types.GenericAlias) or typing.get_origin(annotation) is tuple
    kind = "list" if many else kinds[typing.cast(type, annotation)]
    limits = [f"{sign}{_limit(bound)}" for bound in info.metadata for c, sign in _BOUNDS.items() if type(bound) is c]
    return " ".join([kind, ", ".join(limits)]).strip()


def _limit(bound: Any) -> str:
    """The number of a pydantic limit."""
    return str(next(getattr(bound, name) for name in ("gt", "ge", "lt", "le", "multiple_of") if hasattr(bound, name)))
