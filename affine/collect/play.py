"""Play one task with an expert, with or without noise, and record the trajectory.

Replies are written in one of three styles (`Writing`): "action" alone; "thought", the reason in the environment's own
format ("Thought: ... Action: ..."); "think", the reason in a <think> block before the action, as reasoning models write
theirs. A reason says what follows from what the agent was shown; after a turn that did nothing, or was played
without insight, it says so first, so that the way back is part of the demonstration.
"""

from __future__ import annotations

import random
from typing import Literal

from affine.envs.env import Env, GaveUp, Move, make_expert
from affine.types import StopReason, Task, Trajectory, Turn

Writing = Literal["action", "thought", "think"]
WRITINGS: tuple[Writing, ...] = ("action", "thought", "think")


def write(env: Env, move: Move, style: Writing, before: Turn | None = None) -> str:
    """The reply that makes `move` in a style; `before` is the last turn, None in the first."""
    thought = move.thought
    if thought and before is not None and not thought.startswith("That "):
        if not before.valid:
            thought = f"That was not possible. {thought}"
        elif not before.expert:
            thought = f"Back to the task. {thought}"
    if style != "think":
        return env.format(thought, move.action, style)
    answer = env.format("", move.action, "action")
    return f"<think>\n{thought}\n</think>\n\n{answer}" if thought else answer


def play(env: Env, task: Task, rng: random.Random, *, style: Writing = "action", noise: float = 0.0) -> Trajectory:
    """Play `task` with the environment's expert.

    With probability `noise` a turn is played by `Expert.wander` instead of `Expert.act`; an expert that
    gives up ends the episode as failed. Deterministic for a given `rng` state.
    """
    opening = tuple(env.reset(task))
    expert = make_expert(env, rng)
    turns: list[Turn] = []
    stop = StopReason.TURN_LIMIT
    score = env.score()
    while len(turns) < env.turn_limit:
        wandering = rng.random() < noise
        try:
            move = expert.wander(rng) if wandering else expert.act()
        except GaveUp:
            stop = StopReason.FAILED
            break
        reply = write(env, move, style, turns[-1] if turns and not wandering else None)
        result = env.step(reply)
        expert.observe(move.action, result)
        observation = "" if result.done else result.observation
        before, score = score, env.score()
        turns.append(
            Turn(reply, observation, result.reward, result.valid, expert=not wandering, progress=score - before)
        )
        if result.done:
            stop = StopReason.SOLVED if env.solved() else StopReason.FAILED
            break
    return Trajectory(task, opening, tuple(turns), env.score(), env.solved(), stop)
