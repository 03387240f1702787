"""Episodes packed for the page: a small index of all tasks, and the trajectories in compressed blocks that
the browser opens one by one when somebody reads them.

A *row* is one try of one task: what every model made of it, side by side.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from affine.files import read_records
from affine.types import ENVS, Episode, StopReason, episode_from_json

BLOCK = 40
"""Rows in one compressed block: some 30 kB, which opens in a few milliseconds."""

Key = tuple[int, int, int, int, int]
"""Position of the environment, level, id, seed, sample."""


@dataclass(frozen=True, slots=True)
class Packed:
    """`index` and `blocks` are base64 of gzipped JSON; the page's script documents how it reads them."""

    index: str
    blocks: tuple[str, ...]
    episodes: int
    rows: int


def read_episodes(folder: Path, models: Sequence[str]) -> Iterator[tuple[str, Episode]]:
    """All records of `folder`/<model>/<env>.jsonl with their model. Raises FileError."""
    for model in models:
        for env in ENVS:
            for episode in read_records(folder / model / f"{env}.jsonl", episode_from_json):
                yield model, episode


def pack(episodes: Iterable[tuple[str, Episode]], models: Sequence[str]) -> Packed:
    """Pack the episodes of `models`, each given with its model."""
    position = {model: k for k, model in enumerate(models)}
    rows: dict[Key, list[Any]] = {}
    openings: dict[Key, list[dict[str, str]]] = {}
    count = 0
    for model, episode in episodes:
        task = episode.trajectory.task
        key = (ENVS.index(task.env), task.level, task.id, task.seed, episode.sample)
        if key not in rows:
            rows[key] = [None] * len(models)
            openings[key] = [{"role": m.role, "content": m.content} for m in episode.trajectory.opening]
        rows[key][position[model]] = _played(episode)
        count += 1
    keys = sorted(rows)
    index = {
        "envs": ENVS,
        "models": list(models),
        "stops": [str(stop) for stop in StopReason],
        "block": BLOCK,
        "rows": [[*key, [_summary(played) for played in rows[key]]] for key in keys],
    }
    texts = [{"opening": openings[key], "played": rows[key]} for key in keys]
    blocks = tuple(_squeeze(texts[k : k + BLOCK]) for k in range(0, len(texts), BLOCK))
    return Packed(_squeeze(index), blocks, count, len(keys))


def _played(episode: Episode) -> dict[str, Any]:
    trajectory = episode.trajectory
    return {
        "score": round(trajectory.score, 4),
        "solved": trajectory.solved,
        "stop": list(StopReason).index(trajectory.stop),
        "fingerprint": episode.fingerprint,
        "turns": [
            [t.text, t.observation, round(t.reward, 4), t.valid, len(t.token_ids), round(sum(t.logprobs), 2)]
            for t in trajectory.turns
        ],
    }


def _summary(played: dict[str, Any] | None) -> list[Any] | None:
    """Score, solved, stop reason, number of turns and of sampled tokens; None where the model did not play."""
    if played is None:
        return None
    turns = played["turns"]
    return [played["score"], int(played["solved"]), played["stop"], len(turns), sum(turn[4] for turn in turns)]


def _squeeze(data: Any) -> str:
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()
