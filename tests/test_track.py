"""Curves, and their mirrors: the same numbers at the same steps, one run however often it is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from affine.training.live import Curves
from affine.training.track import TrackingError, flat, tracked

ROOT = Path(__file__).parents[1]


def value(step: int) -> float:
    return 1 / (step + 1)


def train(root: Path, trackers: Sequence[str], first: int, last: int, resume: int = 0) -> Curves:
    with tracked(root, trackers, {"sft.learning_rate": 0.003}, root / "metrics" / "curves" / "sft"):
        curves = Curves(root / "work" / "sft-0123" / "live", resume)
        for step in range(first, last + 1):
            curves.log(step, {"train/loss": value(step), "train/learning_rate": step / 10})
            curves.log_throughput(step, {"tokens_per_second": 1000.0 * step + first})  # another in every run
    return curves


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_resumed_run_ends_in_the_bytes_of_an_uninterrupted_one(tmp_path: Path) -> None:
    train(tmp_path / "whole", ["dvclive"], 1, 9).publish(tmp_path / "whole" / "curves")
    train(tmp_path / "killed", ["dvclive"], 1, 6)
    rows = tmp_path / "killed" / "work" / "sft-0123" / "live" / "plots" / "metrics" / "train" / "loss.tsv"
    rows.write_text(rows.read_text() + "7\t0.1")  # a row that was being written
    train(tmp_path / "killed", ["dvclive"], 5, 9, resume=4).publish(tmp_path / "killed" / "curves")
    assert tree(tmp_path / "killed" / "curves") == tree(tmp_path / "whole" / "curves")
    assert not list(tmp_path.rglob("dvc.yaml"))


def test_what_a_clock_measured_is_kept_apart(tmp_path: Path) -> None:
    train(tmp_path, ["dvclive"], 1, 6)
    curves = train(tmp_path, ["dvclive"], 5, 9, resume=4)
    curves.publish(tmp_path / "curves")
    assert {path.name for path in (tmp_path / "curves").rglob("*.tsv")} == {"loss.tsv", "learning_rate.tsv"}
    assert not [path for path in tmp_path.rglob("metrics.json") if "tokens_per_second" in path.read_text()]
    curves.publish_throughput(tmp_path / "logs" / "throughput")
    [path] = (tmp_path / "logs" / "throughput").iterdir()
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert rows[0] == ["step", "tokens_per_second"]
    first = [1, 1, 1, 1, 5, 5, 5, 5, 5]  # rows after the checkpoint are the second run's
    assert [(int(a), float(b)) for a, b in rows[1:]] == [(k + 1, 1000.0 * (k + 1) + first[k]) for k in range(9)]


def test_curves_are_seen_while_a_run_goes_on(tmp_path: Path) -> None:
    shown = tmp_path / "metrics" / "curves" / "sft"
    with tracked(tmp_path, ["dvclive"], {}, shown):
        curves = Curves(tmp_path / "work" / "sft-0" / "live")
        curves.log(1, {"train/loss": 2.0})
        assert (shown / "train" / "loss.tsv").read_text() == "step\tloss\n1\t2.0\n"
        curves.log(2, {"train/loss": 1.0})  # too soon to be copied again
        assert len((shown / "train" / "loss.tsv").read_text().splitlines()) == 2
        assert [path.name for path in shown.parent.iterdir()] == ["sft"]  # no half-copied folder is left


def test_outside_a_tracked_block_nothing_is_mirrored(tmp_path: Path) -> None:
    Curves(tmp_path / "work" / "sft-0" / "live").log(1, {"loss": 1.0})
    assert [path.name for path in tmp_path.iterdir()] == ["work"]


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: {event.step: event.value for event in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_tensorboard_has_the_same_numbers_also_after_a_kill(tmp_path: Path) -> None:
    train(tmp_path, ["dvclive", "tensorboard"], 1, 6)
    train(tmp_path, ["dvclive", "tensorboard"], 5, 9, resume=4)
    [folder] = (tmp_path / "logs" / "tensorboard").iterdir()
    assert folder.name == "sft-0123"
    found = scalars(folder)
    assert set(found) == {"train/loss", "train/learning_rate", "throughput/tokens_per_second"}
    assert list(found["train/loss"]) == list(range(1, 10))
    assert found["train/loss"] == pytest.approx({step: value(step) for step in range(1, 10)}, rel=1e-6)


def records(path: Path) -> Iterator[bytes]:
    """The records of a .wandb file: after a header of 7 bytes, LevelDB's log format in blocks of 32 KiB."""
    data = path.read_bytes()
    position, record = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def test_weights_and_biases_offline_has_the_same_numbers(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from tests.test_track import train; root = Path(__import__('sys').argv[1]);"
        "train(root, ['dvclive', 'wandb'], 1, 6)"
    )
    secret = "not-for-any-file-0123456789"
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT), "HF_TOKEN": secret}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=True, cwd=tmp_path)
    from wandb.proto import wandb_internal_pb2

    [path] = (tmp_path / "logs" / "wandb").glob("offline-run-*/run-sft-0123.wandb")
    rows: dict[int, float] = {}
    config = {}
    for data in records(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            rows[row["_step"]] = row["train/loss"]
            assert row["throughput/tokens_per_second"] == 1000 * row["_step"] + 1
        elif record.WhichOneof("record_type") == "run":
            assert (record.run.run_id, record.run.project) == ("sft-0123", "affine")
            config |= {item.key or ".".join(item.nested_key): item.value_json for item in record.run.config.update}
    assert rows == {step: value(step) for step in range(1, 7)}
    assert config["sft.learning_rate"] == "0.003"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_a_missing_key_or_package_is_said_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    with (
        tracked(tmp_path, ["dvclive", "wandb"], {}, tmp_path / "curves"),
        pytest.raises(TrackingError, match="WANDB_API_KEY"),
    ):
        Curves(tmp_path / "work" / "sft-0" / "live")
    monkeypatch.setitem(sys.modules, "wandb", None)
    with (
        pytest.raises(TrackingError, match=r"wandb is not installed.*\[tracking\]"),
        tracked(tmp_path, ["wandb"], {}, tmp_path / "curves"),
    ):
        pass
    assert Curves(tmp_path / "work" / "sft-1" / "live").log(1, {"loss": 1.0}) is None  # nothing is left switched on


def test_parameters_go_by_their_dotted_names() -> None:
    assert flat({"a": 1, "b": {"c": {"d": [2]}}}) == {"a": 1, "b.c.d": [2]}
