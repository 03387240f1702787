"""`policies`: the validators' dated rules side by side."""

from __future__ import annotations

import argparse

from rich.console import Console

from affine.pareto.report import policies_table


def run(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m affine policies",
        description="The validators' dated rules (pareto.policy in params.yaml): when in force, with which constants.",
    )
    parser.parse_args(arguments)
    table = policies_table()
    for column in table.columns[1:]:
        column.min_width = len(str(column.header))  # a policy's name is what one copies into params.yaml
    table.pad_edge = False
    Console().print(table)
    return 0
