"""Markdown tables, as all generated sections write them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[object]], right: int | range = 0) -> str:
    """A Markdown table; the last `right` columns, or those in that range, are aligned right."""
    columns = range(len(head))
    numbers = right if isinstance(right, range) else columns[len(head) - right :]
    rule = ["--:" if column in numbers else "---" for column in columns]
    return "\n".join([_line(head), _line(rule), *map(_line, rows)])


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
