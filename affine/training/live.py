"""Training curves by dvclive, such that a resumed run writes the bytes of an uninterrupted one.

dvclive alone continues at "last logged step + 1" and keeps rows newer than the checkpoint; here the step
is the optimizer step, and rows after the checkpoint are dropped before going on. It never touches dvc.yaml.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from dvclive import Live

from affine.files import published


class Curves:
    """Curves in `folder` (`plots/metrics/<name>.tsv` with the columns step and value, `metrics.json` with
    the latest values). For rank 0 only.

    `resume_step` is the step of the checkpoint that training goes on from: rows up to and including it
    are kept. 0 starts afresh.
    """

    def __init__(self, folder: Path, resume_step: int = 0) -> None:
        self.folder = folder
        rows = folder / "plots" / "metrics"
        if resume_step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(rows.rglob("*.tsv")):
            _truncate(path, resume_step)
        # The summary is rebuilt by the next log call; a stale one could hold values newer than the rows.
        (folder / "metrics.json").unlink(missing_ok=True)
        self._live = Live(str(folder), resume=resume_step > 0, save_dvc_exp=False, dvcyaml=None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add one row to each named curve. `step` must not decrease; names may hold slashes."""
        self._live.step = step
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def publish(self, target: Path) -> None:
        """Copy the curves (the tsv files alone) to the folder `target`, at once and whole."""
        rows = self.folder / "plots" / "metrics"
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
