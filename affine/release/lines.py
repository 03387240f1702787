"""The nouns of submission checks: what is submitted, what is known about it, and a line for each requirement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Status(StrEnum):
    """A line's outcome."""

    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    UNKNOWN = "not checkable here"


@dataclass(frozen=True, slots=True)
class Line:
    """One requirement; `advice` says what was seen or what to do."""

    name: str
    status: Status
    advice: str


def line(name: str, good: bool, seen: str, remedy: str) -> Line:
    """PASS with what was seen, or FAIL with the remedy."""
    return Line(name, Status.PASS if good else Status.FAIL, seen if good else remedy)


@dataclass(frozen=True, slots=True)
class Page:
    """What the Hub tells a stranger about a repository. `found`: anyone may see it; `revision`: the full hash
    of the commit that was asked for, empty where there is none; `titles`: its commits', newest first."""

    found: bool
    gated: bool = False
    revision: str = ""
    titles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """Turns of probe episodes in one environment, and how many held an action that it understood and could do; how many
    replies were empty (which validators score 0), and how many were cut at the longest reply allowed."""

    turns: int
    usable: int
    empty: int = 0
    cut: int = 0

    def words(self) -> str:
        """The counts for people."""
        more = [f"{count} {what}" for count, what in ((self.empty, "empty"), (self.cut, "cut")) if count]
        return f"{self.usable}/{self.turns}" + (f" ({', '.join(more)})" if more else "")


@dataclass(frozen=True, slots=True)
class Submission:
    """What is to be submitted: the release folder, and what is known beyond it.

    `deployed` is deploy/deployed.json, empty before a deployment; `page` what the Hub says about it, None where
    it was not asked; `weights_of` the hashes of earlier models' weight files by the model's name; `champion` the
    signature of the champion's tokenizer; `formats` the tallies of probes by environment; `chute_file` the Chutes
    deployment file.
    """

    release: Path
    deployed: Mapping[str, Any]
    chute_id: str = ""
    hotkey: str = ""
    page: Page | None = None
    weights_of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    champion: str = ""
    formats: Mapping[str, Tally] = field(default_factory=dict)
    chute_file: Path | None = None
