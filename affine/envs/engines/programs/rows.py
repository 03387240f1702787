"""Rows of the upstream program data set (rl-python), read from a local JSON-lines file.

One object a line, with any of: `program`, `inputs`, `output` (abduction); `prompt`, and
`verification_info` or else `test_cases` (deduction), each a JSON or Python literal holding a list
`test_cases` of {type: stdin_stdout | function_call, input, output, fn_name}.
"""

from __future__ import annotations

import ast
import functools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine.envs.env import EnvError, digest

PATH_VARIABLE = "AFFINE_RL_PYTHON"


@dataclass(frozen=True, slots=True)
class Case:
    """One test of a program: `kind` is "stdin_stdout" or "function_call" (upstream has no other).

    For stdin_stdout `stdin` is the whole standard input; for function_call `arguments` is the JSON text of
    the argument list of `function`.
    """

    kind: str
    expected: str
    stdin: str = ""
    function: str = ""
    arguments: str = "[]"


@dataclass(frozen=True, slots=True)
class Row:
    """One row; texts it lacks are empty. `cases` holds the known kinds, `unknown` counts the others."""

    program: str
    inputs: str
    output: str
    prompt: str
    cases: tuple[Case, ...]
    unknown: int


def load_rows(path: Path) -> tuple[Row, ...]:
    """The rows of the file. Raises EnvError, naming file and line, where it is not such a file."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise EnvError(f"{path}: cannot be read ({error}); {PATH_VARIABLE} must name a JSON-lines file") from error
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, TypeError, AttributeError, KeyError, SyntaxError) as error:
                raise EnvError(f"{path}:{number}: not a row of the program data set ({error})") from error
    if not rows:
        raise EnvError(f"{path}: holds no rows")
    return tuple(rows)


def user_rows() -> tuple[Row, ...]:
    """The rows of the file that the environment variable names. Raises EnvError where there is none."""
    return _cached(*_file())[0]


def row_group(number: int) -> str:
    """What row `number` of that file may not share between splits, in ABD and in DED: the hash of its program and its
    specification, with those of all rows that have either in common, directly or over other rows."""
    return _cached(*_file())[1][number]


def _file() -> tuple[str, int]:
    """The path of the user's file and when it changed."""
    path = os.environ.get(PATH_VARIABLE)
    if not path:
        raise EnvError(
            f"abd, ded: the upstream level needs the rl-python rows; set {PATH_VARIABLE} to their JSON-lines file"
        )
    return path, Path(path).stat().st_mtime_ns if Path(path).is_file() else 0


@functools.lru_cache(maxsize=2)
def _cached(path: str, _changed: int) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    rows = load_rows(Path(path))
    return rows, _groups(rows)


def _groups(rows: Sequence[Row]) -> tuple[str, ...]:
    """Each row's group; the rows' order does not matter."""
    leader: dict[str, str] = {}

    def lead(text: str) -> str:
        while leader.setdefault(text, text) != text:
            leader[text] = text = leader[leader[text]]
        return text

    texts = [
        [digest(kind, text) for kind, text in (("program", row.program), ("prompt", row.prompt)) if text]
        or [digest("neither", number)]
        for number, row in enumerate(rows)
    ]
    for first, *others in texts:
        for other in others:
            small, large = sorted((lead(first), lead(other)))
            leader[large] = small
    return tuple(lead(first) for first, *_ in texts)


def _row(data: Mapping[str, Any]) -> Row:
    raw = data.get("verification_info") or data.get("test_cases") or []
    tests = _literal(raw)
    listed = tests.get("test_cases", []) if isinstance(tests, dict) else tests
    known = [test for test in listed if test.get("type") in ("stdin_stdout", "function_call")]
    return Row(
        program=str(data.get("program") or ""),
        inputs=_lines(data.get("inputs")),
        output=_lines(data.get("output")),
        prompt=str(data.get("prompt") or ""),
        cases=tuple(_case(test) for test in known),
        unknown=len(listed) - len(known),
    )


def _literal(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return ast.literal_eval(value)


def _lines(value: Any) -> str:
    """Lists joined by newlines, what is not text as JSON."""
    if value is None:
        return ""
    parts = value if isinstance(value, list) else [value]
    return "\n".join(part if isinstance(part, str) else json.dumps(part) for part in parts)


def _case(test: Mapping[str, Any]) -> Case:
    if test["type"] == "stdin_stdout":
        return Case("stdin_stdout", _lines(test["output"]), stdin=_lines(test["input"]) + "\n")
    outputs = test["output"]
    first = outputs[0] if isinstance(outputs, list) and outputs else outputs
    arguments = test["input"] if isinstance(test["input"], list) else [test["input"]]
    expected = first if isinstance(first, str) else str(first)  # as print shows the result
    return Case("function_call", expected, function=str(test["fn_name"]), arguments=json.dumps(arguments))
