"""Runs in a forked process that die when they are told to: what is left must be taken up again."""

from __future__ import annotations

import itertools
import os
import signal
import traceback
from collections.abc import Callable

import torch


def in_child(run: Callable[[], object], arrange: Callable[[], None] = lambda: None) -> int:
    """`run` after `arrange` in a forked process, on one thread; returns the signal that ended it, 0 if it finished."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            arrange()
            run()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def die_at(owner: object, name: str, number: int) -> Callable[[], None]:
    """Arrange for death by SIGKILL in place of the call `number` of `owner.name`."""

    def arrange() -> None:
        original, calls = getattr(owner, name), itertools.count(1)

        def wrapped(*args: object, **kwargs: object) -> object:
            if next(calls) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    return arrange
