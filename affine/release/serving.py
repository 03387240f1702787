"""How others serve the release: engines with an OpenAI-compatible endpoint, one command each.

No reasoning parser is switched on: it would move text out of `content`, and the validators score `content`.
"""

from __future__ import annotations

import shlex


def serve_commands(model: str, revision: str = "") -> dict[str, str]:
    """Engine -> the command that serves `model` (a repository or a folder), pinned to `revision` (a commit)
    unless that is empty."""
    name = shlex.quote(model)
    pin = f" --revision {revision}" if revision else ""
    return {
        "vLLM": f"vllm serve {name}{pin}",
        "SGLang": f"python -m sglang.launch_server --model-path {name}{pin}",
        "Transformers": f"transformers serve {name}{f'@{revision}' if revision else ''}",
    }
