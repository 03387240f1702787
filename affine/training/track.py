"""The curves of a run, mirrored to what teams already look at: Weights & Biases and TensorBoard.

dvclive's files stay the record (they are what git and DVC compare); a mirror gets the same numbers at the same steps.
A run that is killed and goes on stays one run there too, without gaps or doubled rows: its identity is the name of its
work folder, which is a hash of all that determines it, and steps that have arrived are not sent twice.

`WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_MODE` and `WANDB_API_KEY` are read by Weights & Biases itself.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Protocol

from affine.errors import AffineError
from affine.logs import log_root

THROUGHPUT = "throughput"
"""The folder of what a clock measured, in the work folder and in logs/, and its curves' prefix in trackers."""

PROJECT = "affine"
"""The Weights & Biases project, unless WANDB_PROJECT names another."""


class TrackingError(AffineError):
    """A tracker's package or its key is missing; the message says what to do."""


class Mirror(Protocol):
    """Somewhere else that curves are sent to."""

    keeps: ClassVar[bool]
    """Whether every row is there for good once `log` returns. If not, a run that goes on sends the rows up to its
    checkpoint again, and `log` drops those that had arrived."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send one row."""

    def close(self) -> None:
        """Send what is buffered."""


class TensorBoard:
    """An event file below logs/tensorboard/<run>."""

    keeps: ClassVar[bool] = True

    def __init__(self, root: Path, run: str, resume_step: int, config: Mapping[str, Any]) -> None:
        _need("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        # Rows after the checkpoint that an interrupted run had written are purged when the files are read.
        self._writer: Any = SummaryWriter(
            str(log_root(root) / "tensorboard" / run), purge_step=resume_step + 1 if resume_step else None
        )
        if not resume_step:
            self._writer.add_text("params", "\n".join(f"    {key}: {value}" for key, value in sorted(config.items())))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB:
    """A Weights & Biases run; its local files lie below logs/wandb.

    Rows on their way are lost when the process is killed: online what was not sent yet, offline what was not written,
    which may be all. The server says which steps it has; offline each process writes all rows, and what a killed one
    left is removed, so that `wandb sync` sends every step once."""

    keeps: ClassVar[bool] = False

    def __init__(self, root: Path, run: str, resume_step: int, config: Mapping[str, Any]) -> None:
        _need("wandb")
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online" and not os.environ.get("WANDB_API_KEY"):
            raise TrackingError(
                "tracking: wandb needs WANDB_API_KEY in the environment, or WANDB_MODE=offline (and `wandb sync` later)"
            )
        import wandb

        folder = log_root(root)
        folder.mkdir(parents=True, exist_ok=True)
        if mode == "offline":
            for left in folder.glob(f"wandb/offline-run-*-{run}"):
                shutil.rmtree(left)
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run,
            name=run,
            resume="allow",
            dir=str(folder),
            config=dict(config),
            # Our own log is kept anyway, and without secrets; nothing of the terminal or the code is sent.
            settings=wandb.Settings(console="off", save_code=False, disable_git=True, silent=True),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._run.step:  # what had arrived before has the same values
            self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


MIRRORS: dict[str, Callable[[Path, str, int, Mapping[str, Any]], Mirror]] = {
    "wandb": WandB,
    "tensorboard": TensorBoard,
}
"""Name in `tracking` -> what makes it, given root, the run's name, the step it goes on from, and its parameters."""


class _Tracking:
    """What the block of `tracked` set up, and the mirrors opened inside it."""

    def __init__(self, root: Path, names: Sequence[str], config: Mapping[str, Any], shown: Path) -> None:
        self.root, self.names, self.config, self.shown = root, names, config, shown
        self.open: list[Mirror] = []


_current: _Tracking | None = None


@contextmanager
def tracked(root: Path, names: Sequence[str], config: Mapping[str, Any], shown: Path) -> Iterator[None]:
    """Curves that are begun inside the block go to the trackers `names` too, with the parameters `config`, and to the
    folder `shown` while the run is under way. Raises TrackingError before anything is trained."""
    global _current  # noqa: PLW0603 - a stage trains once per process; passing this down would thread it through PPO
    for name in names:
        if name in MIRRORS:
            _need(name)
    _current = _Tracking(root, names, config, shown)
    try:
        yield
    finally:
        for mirror in _current.open:
            mirror.close()
        _current = None


def mirrors(run: str, resume_step: int) -> tuple[list[Mirror], Path | None]:
    """The mirrors for the run `run`, and the folder that shows curves while it is under way; none outside `tracked`."""
    if _current is None:
        return [], None
    made = [
        MIRRORS[name](_current.root, run, resume_step, _current.config) for name in _current.names if name in MIRRORS
    ]
    _current.open += made
    return made, _current.shown


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _need(package: str) -> None:
    try:
        importlib.import_module(package)
    except ModuleNotFoundError:
        raise TrackingError(
            f"tracking: {package} is not installed: .venv/bin/pip install -e '.[tracking]', or take it from params.yaml"
        ) from None
