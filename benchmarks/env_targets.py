"""What the environments' speed should be, beside what was measured: one row a target, met or missed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from affine.types import ENVS

STOCK_SCIENCEWORLD = "ScienceWorld's stock `env.step`"
REAL_TEXTWORLD = "ALFWorld's real TextWorld engine"
"""References are named by these and a level (`env_engines.references`)."""


@dataclass(frozen=True, slots=True)
class Target:
    """`bound` in `unit`: at least that where more is better, else at most. `measure` finds the number in a result, None
    where it was not measured."""

    name: str
    bound: float
    unit: str
    more_is_better: bool
    measure: Callable[[Mapping[str, Any]], float | None]


@dataclass(frozen=True, slots=True)
class Row:
    """A target and what came of it; `measured` and `met` are None where nothing was measured."""

    name: str
    target: str
    measured: float | None
    met: bool | None


def _over_http(env: str) -> Callable[[Mapping[str, Any]], float | None]:
    """The smaller of the two players' ratios."""

    def measure(result: Mapping[str, Any]) -> float | None:
        row = result["envs"].get(env)
        return min(row[player]["ratio"] for player in ("expert", "random")) if row else None

    return measure


def _beside(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """The ratio to the reference called `name`."""
    return lambda result: result["references"].get(name, {}).get("ratio")


def _search(products: int) -> Callable[[Mapping[str, Any]], float | None]:
    """The mean milliseconds of a query over so many products."""
    return lambda result: next((r["mean_ms"] for r in result.get("search", ()) if r["products"] == products), None)


def _collection(result: Mapping[str, Any]) -> float | None:
    """Seconds for all environments; None where some were left out."""
    seconds = result.get("collect_s", {})
    return float(sum(seconds.values())) if set(seconds) == set(ENVS) else None


def _programs(result: Mapping[str, Any]) -> float | None:
    rate: float | None = result.get("sandbox", {}).get("programs_per_s")
    return rate


TARGETS = (
    *(
        Target(f"{env} in process beside HTTP", 100, "x", True, _over_http(env))
        for env in ("textcraft", "sat", "alfworld")
    ),
    Target("sciworld beside the stock step (level 3)", 5, "x", True, _beside(f"{STOCK_SCIENCEWORLD}, level 3")),
    Target("alfworld beside the real TextWorld (level 4)", 300, "x", True, _beside(f"{REAL_TEXTWORLD}, level 4")),
    Target("webshop's search over 10,000 products", 0.5, "ms", False, _search(10_000)),
    Target("webshop's search over 1,000,000 products", 25, "ms", False, _search(1_000_000)),
    Target("the default run's demonstrations, two cores", 120, "s", False, _collection),
    Target("programs in the sandbox", 200, "/s", True, _programs),
)


def compared(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every target with what `result` (of bench_envs) says of it."""
    rows = []
    for target in TARGETS:
        measured = target.measure(result)
        sign = "at least" if target.more_is_better else "at most"
        met = None
        if measured is not None:
            met = measured >= target.bound if target.more_is_better else measured <= target.bound
        rows.append(asdict(Row(target.name, f"{sign} {target.bound:g} {target.unit}", measured, met)))
    return rows


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def pinned(count: int) -> Iterator[bool]:
    """This thread and all processes that it starts keep to `count` cores, where the system can say so (Linux); gives
    whether it could."""
    if not hasattr(os, "sched_setaffinity"):
        yield False
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:count]))
    try:
        yield True
    finally:
        os.sched_setaffinity(0, before)
