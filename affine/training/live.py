"""Training curves by dvclive, such that a resumed run writes the bytes of an uninterrupted one.

dvclive alone continues at "last logged step + 1" and keeps rows newer than the checkpoint; here the step
is the optimizer step, and rows after the checkpoint are dropped before going on. It never touches dvc.yaml.

What a clock measured (tokens per second) no two runs share, so it has curves of its own, beside those and never among
what is published as the run's result: they are for `watch`, for the trackers, and for logs/.

Inside `affine.training.track.tracked` the curves are shown where dvc.yaml declares them while the run is under way
(DVC, VS Code and `python -m affine watch` see them grow), and other trackers get the same numbers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from dvclive import Live

from affine.files import published
from affine.training.track import THROUGHPUT, mirrors

SHOW_EVERY = 5.0
"""Seconds between two copies of curves that are still growing."""


class Curves:
    """Curves in `folder` (`plots/metrics/<name>.tsv` with the columns step and value, `metrics.json` with
    the latest values, `throughput/<name>.tsv` with what a clock measured). For rank 0 only.

    `resume_step` is the step of the checkpoint that training goes on from: rows up to and including it
    are kept. 0 starts afresh.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self.folder = folder
        rows = folder / "plots" / "metrics"
        if resume_step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted([*rows.rglob("*.tsv"), *self.throughput.rglob("*.tsv")]):
            _truncate(path, resume_step)
        # The summary is rebuilt by the next log call; a stale one could hold values newer than the rows.
        (folder / "metrics.json").unlink(missing_ok=True)
        self._live = Live(str(folder), resume=resume_step > 0, save_dvc_exp=False, dvcyaml=None)
        # A work folder is named by all that determines its run, so its name is the run's identity everywhere.
        self._mirrors, self._shown = mirrors(folder.parent.name, resume_step)
        for mirror in self._mirrors:
            if not mirror.keeps:
                for step, values in self._rows():
                    mirror.log(step, values)
        self._shown_at = -SHOW_EVERY

    @property
    def throughput(self) -> Path:
        """Where the curves of `log_throughput` lie."""
        return self.folder / THROUGHPUT

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row to each named curve. `step` must not decrease; names may hold slashes."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()
        for mirror in self._mirrors:
            mirror.log(step, values)
        if self._shown is not None and time.monotonic() - self._shown_at >= SHOW_EVERY:
            self.publish(self._shown)
            self._shown_at = time.monotonic()

    def log_throughput(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row to each named curve of what a clock measured. `step` must not decrease."""
        self.throughput.mkdir(exist_ok=True)
        for name, value in values.items():
            path = self.throughput / f"{name}.tsv"
            header = "" if path.is_file() else f"step\t{name}\n"
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{header}{step}\t{value:.6g}\n")
        for mirror in self._mirrors:
            mirror.log(step, {f"{THROUGHPUT}/{name}": value for name, value in values.items()})

    def _rows(self) -> list[tuple[int, dict[str, float]]]:
        """What was logged so far, step by step, as mirrors get it."""
        found: dict[int, dict[str, float]] = {}
        for folder, prefix in ((self.folder / "plots" / "metrics", ""), (self.throughput, f"{THROUGHPUT}/")):
            for path in sorted(folder.rglob("*.tsv")):
                name = prefix + path.relative_to(folder).with_suffix("").as_posix()
                for row in path.read_text(encoding="utf-8").splitlines()[1:]:
                    step, value = row.split("\t")
                    found.setdefault(int(step), {})[name] = float(value)
        return sorted(found.items())

    def publish(self, target: Path) -> None:
        """Copy the curves (the tsv files alone, without throughput) to the folder `target`, at once and whole."""
        _copy_curves(self.folder / "plots" / "metrics", target)

    def publish_throughput(self, target: Path) -> None:
        """Copy the curves of `log_throughput` to the folder `target`, at once and whole."""
        _copy_curves(self.throughput, target)


def _copy_curves(rows: Path, target: Path) -> None:
    with published(target) as partial:
        for path in sorted(rows.rglob("*.tsv")):
            copy = partial / path.relative_to(rows)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)


def _truncate(path: Path, last: int) -> None:
    """Drop rows after step `last`, and a last row that was being written when the process died."""
    header, *rows = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split("\t")[0]) <= last]
    if kept:
        path.write_text(header + "".join(kept), encoding="utf-8")
    else:
        path.unlink()  # the next row writes the header anew
