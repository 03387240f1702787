"""For all tests."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest


def pytest_configure() -> None:
    """Ctrl-C reaches the processes that tests start, also where the suite itself runs in a shell's background and so
    ignores it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def one_thread() -> None:
    """Torch computes on one thread: tiny models are slower on several."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """PPO's tiny base."""
    from ppo_inputs import make_base

    return make_base(tmp_path_factory.mktemp("ppo") / "base")


@pytest.fixture(scope="module")
def sft(base: Path) -> Path:
    """The adapter that PPO starts from."""
    from ppo_inputs import make_sft

    return make_sft(base)
