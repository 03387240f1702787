"""Play one task with an expert, with or without noise, and record the trajectory."""

from __future__ import annotations

import random

from affine.envs.env import Env, GaveUp, Style, make_expert
from affine.types import StopReason, Task, Trajectory, Turn


def play(env: Env, task: Task, rng: random.Random, *, style: Style = "action", noise: float = 0.0) -> Trajectory:
    """Play `task` with the environment's expert.

    With probability `noise` a turn is played by `Expert.wander` instead of `Expert.act`; an expert that
    gives up ends the episode as failed. Deterministic for a given `rng` state.
    """
    opening = tuple(env.reset(task))
    expert = make_expert(env, rng)
    turns: list[Turn] = []
    stop = StopReason.TURN_LIMIT
    while len(turns) < env.turn_limit:
        wandering = rng.random() < noise
        try:
            move = expert.wander(rng) if wandering else expert.act()
        except GaveUp:
            stop = StopReason.FAILED
            break
        reply = env.format(move.thought, move.action, style)
        result = env.step(reply)
        expert.observe(move.action, result)
        observation = "" if result.done else result.observation
        turns.append(Turn(reply, observation, result.reward, result.valid, expert=not wandering))
        if result.done:
            stop = StopReason.SOLVED if env.solved() else StopReason.FAILED
            break
    return Trajectory(task, opening, tuple(turns), env.score(), env.solved(), stop)
