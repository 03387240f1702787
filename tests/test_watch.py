"""`watch`: the curves that are there, their extremes and shapes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest
from rich.console import Console

import affine.cli.watch
from affine.__main__ import main
from affine.cli.watch import source, sparkline
from affine.report.gather import read_curves
from affine.training.live import Curves


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AFFINE_WORK", raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    return tmp_path


def test_what_was_written_last_is_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Curves(folder / "work" / "sft-1" / "live")
    done.log(1, {"train/loss": 2.0})
    done.publish(folder / "metrics" / "curves" / "sft")
    ppo = Curves(folder / "work" / "ppo-2" / "live")
    for step in range(1, 6):
        ppo.log(step, {"score/overall": step / 8, "approx_kl": 0.5 / step})
    for path in folder.rglob("*.tsv"):  # the clock of files may be coarse
        os.utime(path, (9, 9) if "ppo-2" in path.parts else (5, 5))
    assert source(folder, None) == ("ppo", folder / "work" / "ppo-2" / "live" / "plots" / "metrics")
    assert main(["watch", "--once"]) == 0
    said = capsys.readouterr().out
    assert "ppo  step 5  under way, in ppo-2" in said
    assert [line.split() for line in said.splitlines() if line.startswith("score/overall")] == [
        ["score/overall", "0.625", "0.125", "0.625", "▁▃▅▆█"]
    ]
    assert main(["watch", "sft", "--once", "--only", "loss"]) == 0
    assert "train/loss" in capsys.readouterr().out


def test_tokens_per_second_stand_beside_the_curves_they_belong_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, done = Curves(folder / "work" / "sft-1" / "live"), folder / "metrics" / "curves" / "sft"
    run.log(10, {"train/loss": 2.0})
    run.log_throughput(10, {"tokens_per_second": 9000.0})

    def seen() -> bool:
        assert main(["watch", "sft", "--once"]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        return ["throughput/tokens_per_second", "9000"] in [row[:2] for row in rows]

    assert seen()
    run.publish(done)
    run.publish_throughput(folder / "logs" / "throughput" / "sft")
    shutil.rmtree(folder / "work")
    assert seen()
    [path] = done.rglob("*.tsv")  # as after a checkout: these curves are another run's
    os.utime(path, (path.stat().st_mtime + 9,) * 2)
    assert not seen()


def test_no_curves_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--once"]) == 1
    assert "no curves of sft or ppo yet" in capsys.readouterr().err


def test_a_row_that_is_being_written_is_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loss = folder / "metrics" / "curves" / "sft" / "train" / "loss.tsv"
    loss.parent.mkdir(parents=True)
    for torn in ("2", "2\t", "2\t0.1"):
        loss.write_text(f"step\tloss\n1\t2.0\n{torn}")
        assert read_curves(loss.parents[1]) == {"train/loss": [(1.0, 2.0)]}
        assert main(["watch", "--once"]) == 0
        assert "sft  step 1 " in capsys.readouterr().out
    for begun in ("", "step\tlo", "step\tloss\n", "step\tloss\n1\t2"):
        loss.write_text(begun)
        assert main(["watch", "--once"]) == 1
        assert "sft: no curve with a whole row yet" in capsys.readouterr().err


def test_live_it_waits_for_the_first_row_and_outlives_a_folder_that_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As when it is started before training, and when training ends between the listing and the reading."""
    seen: list[str] = []
    work = folder / "work" / "sft-1"

    def next_scene(seconds: float) -> None:
        seen.append(capsys.readouterr().out)
        if len(seen) == 1:
            curves.append(Curves(work / "live"))
            curves[0].log(1, {"train/loss": 2.0})
        elif len(seen) == 2:
            monkeypatch.setattr(affine.cli.watch, "read_curves", gone)
        elif len(seen) == 3:
            monkeypatch.setattr(affine.cli.watch, "read_curves", read_curves)
            curves[0].publish(folder / "metrics" / "curves" / "sft")
            shutil.rmtree(work)
        else:
            raise KeyboardInterrupt

    def gone(path: Path) -> NoReturn:
        (path / "train" / "nothing.tsv").read_text()
        raise AssertionError

    curves: list[Curves] = []
    monkeypatch.setattr(affine.cli.watch, "Console", lambda: Console(force_terminal=True, width=300))
    monkeypatch.setattr("time.sleep", next_scene)
    main(["watch"])
    assert "waiting: no curves of sft or ppo yet" in seen[0]
    assert "under way, in sft-1" in seen[1]
    assert "waiting: " in seen[2]
    assert "nothing.tsv has just gone" in seen[2]
    assert "as committed or done" in seen[3]


def test_sparklines() -> None:
    assert sparkline([(k, float(k)) for k in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([(k, 1.0) for k in range(3)], 8) == "▁▁▁"
    assert len(sparkline([(k, k % 7) for k in range(1000)], 40)) == 40
    assert sparkline([(1, float("nan")), (2, 1.0), (3, 2.0)], 8) == "▁█"
    assert sparkline([(1, float("nan"))], 8) == ""
