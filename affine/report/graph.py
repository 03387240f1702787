"""The pipeline's graph as dvc.yaml declares it: which stage reads what which other stage makes.

Stages repeated by `matrix` or `foreach` count as one node, and those repeated over an empty list not at all. An
edge stands where a dependency of one stage is, holds or lies in an output of another.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from markupsafe import Markup, escape

from affine.errors import AffineError

_TEMPLATE = re.compile(r"\$\{(\w+(?:\.\w+)?)\}")


class GraphError(AffineError):
    """dvc.yaml cannot be read as a graph."""


@dataclass(frozen=True, slots=True)
class Node:
    """A stage and how many times `matrix` or `foreach` repeats it (1 without them)."""

    name: str
    variants: int


@dataclass(frozen=True, slots=True)
class Graph:
    """Stages in the order of the file, and edges (maker, reader) in that order too."""

    nodes: tuple[Node, ...]
    edges: tuple[tuple[str, str], ...]

    def readers(self, name: str) -> list[str]:
        """Stages that read what `name` makes."""
        return [reader for maker, reader in self.edges if maker == name]

    def depth(self) -> dict[str, int]:
        """Length of the longest path that ends at each stage."""
        makers = {node.name: [m for m, r in self.edges if r == node.name] for node in self.nodes}
        depths: dict[str, int] = {}

        def walk(name: str) -> int:
            if name not in depths:
                depths[name] = 1 + max((walk(maker) for maker in makers[name]), default=-1)
            return depths[name]

        return {node.name: walk(node.name) for node in self.nodes}


def read_graph(path: Path) -> Graph:
    """The graph of a dvc.yaml. Raises GraphError where the file is missing or not a pipeline."""
    try:
        stages = yaml.safe_load(path.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        raise GraphError(f"{path}: no such file; run from the repository's root") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise GraphError(f"{path}: not a DVC pipeline ({error})") from None
    values = _params(path.with_name("params.yaml"))
    nodes, reads, makes = [], {}, {}
    for name, declared in stages.items():
        items = list(_items(declared, values))
        if not items:
            continue
        nodes.append(Node(name, len(items)))
        stage = declared.get("do", declared)
        reads[name] = _paths(stage.get("deps", ()), items)
        outputs = itertools.chain(*(stage.get(kind, ()) for kind in ("outs", "metrics", "plots")))
        makes[name] = _paths(outputs, items)
    edges = tuple(
        (maker, reader)
        for maker in makes
        for reader in reads
        if maker != reader and any(_touch(a, b) for a in makes[maker] for b in reads[reader])
    )
    return Graph(tuple(nodes), edges)


def _params(path: Path) -> Mapping[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _axis(axis: Any, params: Mapping[str, Any]) -> list[Any]:
    """A matrix axis: a list, or the parameter that holds it."""
    if isinstance(axis, list):
        return axis
    found = _TEMPLATE.fullmatch(str(axis))
    value: Any = params
    for key in found[1].split(".") if found else ():
        value = value.get(key) if isinstance(value, dict) else None
    if not isinstance(value, list):
        raise GraphError(f"params.yaml has no list for {axis}, which dvc.yaml repeats a stage over")
    return value


def _items(stage: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What `${key}`, `${item}` and `${item.name}` stand for, once per variant."""
    if "matrix" in stage:
        axes = {name: _axis(axis, params) for name, axis in stage["matrix"].items()}
        for values in itertools.product(*axes.values()):
            yield {f"item.{axis}": str(value) for axis, value in zip(axes, values, strict=True)}
    elif isinstance(each := stage.get("foreach"), dict):
        for key, value in each.items():
            fields = value if isinstance(value, dict) else {}
            yield {"key": str(key), "item": str(value), **{f"item.{name}": str(v) for name, v in fields.items()}}
    elif each is not None:
        yield from ({"item": str(value)} for value in each)
    else:
        yield {}


def _paths(entries: Any, items: list[dict[str, str]]) -> set[PurePosixPath]:
    """Concrete paths of all variants; an entry is a path or a mapping from it to its options."""
    names = [next(iter(entry)) if isinstance(entry, dict) else str(entry) for entry in entries]
    return {
        PurePosixPath(_TEMPLATE.sub(lambda found: item.get(found[1], found[0]), name))  # noqa: B023 - used at once
        for name in names
        for item in items
    }


def _touch(a: PurePosixPath, b: PurePosixPath) -> bool:
    return a == b or a in b.parents or b in a.parents


def mermaid(graph: Graph) -> str:
    """The graph for GitHub's renderer, one line per stage that others read."""
    lines = ["flowchart LR"]
    for node in graph.nodes:
        readers = graph.readers(node.name)
        label = f'{node.name}["{node.name} x {node.variants}"]' if node.variants > 1 else node.name
        lines.append(f"    {label}" + (f" --> {' & '.join(readers)}" if readers else ""))
    return "\n".join(lines)


_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 92, 34, 34, 16


def svg(graph: Graph) -> Markup:
    """The graph as inline SVG: a column per depth; edges that skip columns swing below the boxes."""
    depth = graph.depth()
    rows: dict[str, int] = {}
    for node in graph.nodes:
        rows[node.name] = sum(depth[other] == depth[node.name] for other in rows)
    columns = max(depth.values()) + 1
    floor = (max(rows.values()) + 1) * (_HEIGHT + _GAP_Y)
    at = {
        name: (2 + depth[name] * (_WIDTH + _GAP_X), 2 + rows[name] * (_HEIGHT + _GAP_Y))
        for name in (n.name for n in graph.nodes)
    }
    longest = max((depth[r] - depth[m] for m, r in graph.edges), default=1)
    parts = [_edge(at[maker], at[reader], depth[reader] - depth[maker], floor) for maker, reader in graph.edges]
    for node in graph.nodes:
        x, y = at[node.name]
        note = f"x {node.variants}" if node.variants > 1 else ""
        parts.append(f'<rect class="box" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>')
        middle = x + _WIDTH / 2
        parts.append(f'<text class="stage" x="{middle}" y="{y + (15 if note else 21)}">{escape(node.name)}</text>')
        if note:
            parts.append(f'<text class="small middle" x="{middle}" y="{y + 28}">{escape(note)}</text>')
    width, height = (
        columns * (_WIDTH + _GAP_X) - _GAP_X + 4,
        round(0.75 * (floor + 14 * (longest - 1) - 12) + 0.25 * _HEIGHT) + 8,
    )
    return Markup(  # noqa: S704 - numbers and escaped names only
        f'<svg class="graph" viewBox="0 0 {width} {height}" role="img" aria-label="stages of the pipeline">'
        f'<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        f'<path d="M0 0L6 3L0 6z" class="tip"/></marker></defs>{"".join(parts)}</svg>'
    )


def _edge(start: tuple[int, int], end: tuple[int, int], span: int, floor: int) -> str:
    x1, y1, x2, y2 = start[0] + _WIDTH, start[1] + _HEIGHT // 2, end[0] - 1, end[1] + _HEIGHT // 2
    style, bends = "edge", ((x1 + x2) // 2, y1, (x1 + x2) // 2, y2)
    if span > 1:
        x1, y1, x2, y2 = (
            start[0] + _WIDTH * 7 // 10,
            start[1] + _HEIGHT,
            end[0] + _WIDTH * 3 // 10,
            end[1] + _HEIGHT + 1,
        )
        low = floor + 14 * (span - 1) - 12
        style, bends = "edge far", (x1 + 20, low, x2 - 20, low)
    curve = " ".join(map(str, bends))
    return f'<path class="{style}" d="M{x1} {y1}C{curve} {x2} {y2}" marker-end="url(#tip)"/>'
