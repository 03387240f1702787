"""Stage `endpoint`: a policy served over the OpenAI protocol plays the held-out tasks (affine/endpoint.py)."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from affine.endpoint import evaluate_endpoint
from affine.params import load_params
from affine.stage import main


def run() -> None:
    console = Console(stderr=True)
    evaluate_endpoint(load_params(), Path.cwd(), console=console if console.is_terminal else None)


if __name__ == "__main__":
    main(run)
