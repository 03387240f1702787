"""The evaluator fingerprint: a hash of everything that changes a score but is not the model.

It stands in every episode record; comparing runs with different fingerprints is refused. The components are
written beside the records, so that a refusal can name what differs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from affine.envs.env import EnvSettings, make
from affine.params import Params
from affine.types import Task

RENDERING = "chatml-1"
"""Raise the number whenever `affine.models.chat` renders a conversation differently."""


SERVED = "by the server"
"""In place of `RENDERING` where a server renders the conversation with its own chat template."""


def components(params: Params, env: str, tasks: Sequence[Task], rendering: str = RENDERING) -> dict[str, Any]:
    """What the fingerprint of one environment's evaluation is made of."""
    instance = make(env, EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe))
    identity = instance.identity()
    instance.close()
    keys = "\n".join(f"{task.level} {task.id} {task.seed} {task.key}" for task in tasks)
    return {
        **identity,
        "levels": {str(level): instance.levels[level].turn_limit for level in sorted({task.level for task in tasks})},
        "tasks": hashlib.sha256(keys.encode()).hexdigest()[:16],
        "task_count": len(tasks),
        "rendering": rendering,
        "context": params.rollout.context,
        "reply": params.rollout.reply,
        "sampling": params.evaluate.model_dump(include={"temperature", "top_p", "samples"}),
    }


def fingerprint(parts: dict[str, Any]) -> str:
    """16 hex digits over the components."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
