"""The released model plays a few held-out tasks of each environment: does it answer in their formats?"""

from __future__ import annotations

from pathlib import Path

from affine.dataset.sequences import load_tokenizer
from affine.envs.env import EnvSettings, make
from affine.models.chat import Renderer
from affine.params import Params
from affine.release.lines import Tally
from affine.rollout.episodes import Ticket
from affine.rollout.pool import RolloutPool, players_of
from affine.rollout.sampling import Sampling
from affine.tasks import draw_tasks, load_tasks
from affine.types import ENVS, Split, Task

EPISODES = 4
"""Probes of each environment: enough to tell a format that is kept from one that is not known."""


def probe_formats(params: Params, release: Path, root: Path) -> dict[str, Tally]:
    """Environment -> the tally of its probes, played as `evaluate` plays. Test tasks are those of `root`/data,
    or drawn anew where that is not there. Raises EnvError, RolloutError."""
    settings = EnvSettings(params.envs.mode, params.envs.prompts, params.sandbox.unsafe)
    tickets = [Ticket(task, 0, params.seed) for env in ENVS for task in _tasks(params, settings, env, root)]
    with RolloutPool(players_of(params, release), 1) as pool:
        played = pool.play(tickets, Sampling(params.evaluate.temperature, params.evaluate.top_p))
    end = Renderer(load_tokenizer(release)).end_of_turn
    tallies = {}
    for env in ENVS:
        turns = [turn for trajectory in played if trajectory.task.env == env for turn in trajectory.turns]
        tallies[env] = Tally(
            len(turns),
            usable=sum(turn.valid for turn in turns),
            empty=sum(not turn.text.strip() for turn in turns),
            cut=sum(turn.token_ids[-1:] != (end,) for turn in turns),
        )
    return tallies


def _tasks(params: Params, settings: EnvSettings, name: str, root: Path) -> list[Task]:
    if (root / "data" / "tasks" / name / f"{Split.TEST}.jsonl").is_file():
        return load_tasks(root, name, Split.TEST)[:EPISODES]
    env = make(name, settings)
    try:
        level = getattr(params.tasks, name).levels[0]
        return draw_tasks(env, level, params.tasks.seed, {Split.TEST: EPISODES})
    finally:
        env.close()
