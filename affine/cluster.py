"""Work on the machines of a Ray cluster (extra `cluster`): hands on every node, jobs dealt out as they get free.

A job whose hand dies (killed, out of memory, its machine gone) is given to another one; a result counts once, however
often its job was begun. This package travels to the cluster with the work, so that every machine runs the same code;
libraries must be installed there.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import affine
from affine.errors import AffineError
from affine.launch import RAY

TRIES = 4
"""How often a job is begun before its hands' deaths are taken for its own fault."""


class ClusterError(AffineError):
    """There is no cluster, or its workers keep dying; says what to do."""


class _Hand:
    """An actor: what `make(*arguments)` made, and its methods called by name."""

    def __init__(self, make: Callable[..., Any], arguments: Sequence[Any]) -> None:
        self._worker = make(*arguments)

    def do(self, method: str, *arguments: Any) -> Any:
        return getattr(self._worker, method)(*arguments)


class Crew:
    """`per_node` workers (by default one a core), each `make(*arguments)`, on every machine of the cluster at
    `address`; where `gpu` is asked for and machines have some, one worker per GPU. Use as a context manager."""

    def __init__(
        self, address: str, make: Callable[..., Any], arguments: Sequence[Any], per_node: int = 0, *, gpu: bool = False
    ) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise ClusterError(f"{RAY} is set, but Ray is missing: .venv/bin/pip install -e '.[cluster]'") from None
        package = Path(affine.__file__).parent
        # Ray would otherwise send the whole repository, models and data included.
        environment = {"py_modules": [str(package)], "excludes": ["__pycache__"]}
        try:
            self._ray.init(address=address, runtime_env=environment, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ClusterError(f"{RAY}={address}: no Ray cluster answers there ({_line(error)})") from None
        self._make, self._arguments, self._gpu = make, arguments, gpu
        self._hands = [self._hire(node) for node, count in self._nodes(per_node) for _ in range(count)]

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._hands)

    def _nodes(self, per_node: int) -> list[tuple[str, int]]:
        """Living nodes and how many hands each gets."""
        alive = sorted((n for n in self._ray.nodes() if n["Alive"]), key=lambda n: str(n["NodeID"]))
        gpus = [int(node["Resources"].get("GPU", 0)) for node in alive]
        self._gpu = self._gpu and any(gpus)
        cores = [per_node or int(node["Resources"].get("CPU", 0)) for node in alive]
        return [(node["NodeID"], count) for node, count in zip(alive, gpus if self._gpu else cores, strict=True)]

    def _hire(self, node: str | None) -> Any:
        """A new hand, on `node` or wherever there is room."""
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        where = strategies.NodeAffinitySchedulingStrategy(node, soft=False) if node else "SPREAD"
        options = {"scheduling_strategy": where, "num_cpus": 1, "num_gpus": 1 if self._gpu else 0}
        return self._ray.remote(_Hand).options(**options).remote(self._make, self._arguments)

    def share(self, value: Any) -> Any:
        """`value` in the cluster's store, to be given to many jobs."""
        return self._ray.put(value)

    def run(self, method: str, jobs: Iterator[Sequence[Any]]) -> Iterator[tuple[int, Any]]:
        """Call `method` of a free worker with each job's arguments; (number of the job, result) as they finish.

        Jobs are taken from the iterator only when a worker is free for them. Raises what a job raised, ClusterError
        where a job's workers died `TRIES` times.
        """
        exceptions = importlib.import_module("ray.exceptions")
        queue = enumerate(jobs)
        again: list[tuple[int, Sequence[Any]]] = []
        begun: dict[int, int] = {}
        busy: dict[Any, tuple[int, tuple[int, Sequence[Any]]]] = {}
        idle = list(range(len(self._hands)))
        while True:
            while idle and (job := again.pop() if again else next(queue, None)) is not None:
                hand = idle.pop(0)
                begun[job[0]] = begun.get(job[0], 0) + 1
                busy[self._hands[hand].do.remote(method, *job[1])] = hand, job
            if not busy:
                return
            [ready], _ = self._ray.wait(list(busy), num_returns=1)
            hand, job = busy.pop(ready)
            try:
                result = self._ray.get(ready)
            except (exceptions.RayActorError, exceptions.WorkerCrashedError, exceptions.ObjectLostError) as error:
                if begun[job[0]] == TRIES:
                    raise ClusterError(
                        f"{TRIES} workers of the cluster died over the same work ({_line(error)}); if memory ran out,"
                        " lower rollout.slots"
                    ) from None
                again.append(job)
                self._hands[hand] = self._hire(None)
            except exceptions.RayTaskError as error:
                raise error.cause from None
            else:
                yield job[0], result
            idle.append(hand)

    def close(self) -> None:
        """Let the workers go and leave the cluster."""
        for hand in self._hands:
            self._ray.kill(hand)
        self._ray.shutdown()


def _line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
