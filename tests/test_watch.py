"""`watch`: the curves that are there, their extremes and shapes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from affine.__main__ import main
from affine.cli.watch import source, sparkline
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


def test_sparklines() -> None:
    assert sparkline([(k, float(k)) for k in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert sparkline([(k, 1.0) for k in range(3)], 8) == "▁▁▁"
    assert len(sparkline([(k, k % 7) for k in range(1000)], 40)) == 40
    assert sparkline([(1, float("nan")), (2, 1.0), (3, 2.0)], 8) == "▁█"
    assert sparkline([(1, float("nan"))], 8) == ""
