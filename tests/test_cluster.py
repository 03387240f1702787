"""A Ray cluster of two nodes on this machine: the same episodes, none lost or counted twice, whoever is killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from test_rollout import LIMITS, SETTINGS, episodes
from tiny import make_tiny_adapter, make_tiny_base

from affine.cluster import TRIES, ClusterError, Crew
from affine.collect.cluster import cluster_trajectories
from affine.collect.collect import Attempts, trajectories
from affine.envs.env import EnvError, make
from affine.rollout.cluster import ClusterPool
from affine.rollout.episodes import Ticket
from affine.rollout.pool import Players
from affine.rollout.sampling import Sampling
from affine.rollout.weights import read_adapter
from affine.tasks import draw_tasks
from affine.types import Split, Task, Trajectory


class Worker:
    """Squares numbers; dies at some, the first time or always; refuses negative ones."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def square(self, number: int) -> tuple[int, int]:
        (self.folder / f"begun-{number}-{os.getpid()}").touch()
        if number < 0:
            raise EnvError(f"no root of {number}")
        if number == 13 or (number % 5 == 2 and not (self.folder / f"died-{number}").exists()):
            (self.folder / f"died-{number}").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number**2, os.getpid()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    pytest.importorskip("ray", reason="the extra `cluster` is not installed")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        # Tests' own modules must be found by the workers too.
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]))
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


def test_every_job_is_done_once_although_workers_are_killed(address: str, tmp_path: Path) -> None:
    with Crew(address, Worker, (str(tmp_path),)) as crew:
        assert len(crew) == 2  # a core on each node
        results = list(crew.run("square", ((number,) for number in range(12))))
    assert sorted((number, result[0]) for number, result in results) == [(n, n**2) for n in range(12)]
    assert sorted(path.name for path in tmp_path.glob("died-*")) == ["died-2", "died-7"]
    assert len(list(tmp_path.glob("begun-2-*"))) == 2  # by another process
    with Crew(address, Worker, (str(tmp_path),)) as crew:
        with pytest.raises(EnvError, match="no root of -1"):
            list(crew.run("square", iter([(-1,)])))
        with pytest.raises(ClusterError, match=f"{TRIES} workers of the cluster died over the same work"):
            list(crew.run("square", iter([(13,)])))


def test_episodes_are_those_of_one_process(address: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    base = make_tiny_base(tmp_path / "base")
    weights = read_adapter(make_tiny_adapter(base, tmp_path / "adapter"))
    drawn = {name: draw_tasks(make(name), 0, 0, {Split.TRAIN: 4}) for name in ("sat", "textcraft", "babyai")}
    tickets = [Ticket(task, 0, 5) for row in zip(*drawn.values(), strict=True) for task in row]
    told: list[Trajectory] = []
    with ClusterPool(Players(base, SETTINGS, LIMITS, slots=2), 1, address) as pool:
        pool.load(weights)

        def tell(trajectory: Trajectory) -> None:
            if not told:
                pool._crew._ray.kill(pool._crew._hands[1])  # as kill -9 does
            told.append(trajectory)

        played = pool.play(tickets, Sampling(), tell)
    expected = episodes(base, tickets, 4, weights=weights)
    assert [t.task for t in played] == [ticket.task for ticket in tickets]
    for ours, alone in zip(played, expected, strict=True):
        assert (ours.stop, ours.score) == (alone.stop, alone.score)
        assert [turn.token_ids for turn in ours.turns] == [turn.token_ids for turn in alone.turns]
    assert sorted(map(repr, told)) == sorted(map(repr, played))


def test_demonstrations_are_those_of_local_processes(address: str) -> None:
    tasks: list[Task] = draw_tasks(make("textcraft"), 0, 0, {Split.TRAIN: 12})
    how = Attempts("textcraft", SETTINGS, 3, "action", 0.2, 0.5, 60.0)
    assert list(cluster_trajectories(how, tasks, 2, address)) == list(trajectories(how, tasks, 2, 1))


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Any = None
    monkeypatch.setitem(sys.modules, "ray", absent)
    with pytest.raises(ClusterError, match=r"AFFINE_RAY is set, but Ray is missing: .*\[cluster\]"):
        Crew("auto", Worker, ())
