"""Every expert on held-out tasks: the environment's own verdict against the documented success rate."""

from __future__ import annotations

import importlib
import math
import random

import pytest

from affine.collect.play import play
from affine.envs.env import REGISTRY, make
from affine.tasks import draw_tasks
from affine.types import ENVS, Split

TASKS = 20


@pytest.mark.parametrize("name", ENVS)
def test_expert_reaches_its_documented_success_on_held_out_tasks(name: str) -> None:
    documented = importlib.import_module(f"{REGISTRY[name].partition(':')[0]}_expert").SUCCESS[0]
    env = make(name)
    try:
        tasks = draw_tasks(env, 0, 3, {Split.TRAIN: 0, Split.VALIDATION: 0, Split.TEST: TASKS})
        assert all(task.split == Split.TEST for task in tasks)
        solved = [play(env, task, random.Random(f"held out/{task.id}")).solved for task in tasks]
    finally:
        env.close()
    assert sum(solved) >= math.floor(TASKS * documented), f"{sum(solved)} of {TASKS}, documented {documented}"
