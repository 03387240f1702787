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


SECRET = "not-for-any-file-0123456789"


def offline(root: Path, code: str) -> int:
    """Python in a process of its own, where Weights & Biases has no network; its exit status."""
    environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": str(ROOT), "HF_TOKEN": SECRET}
    given = "from pathlib import Path; from tests.test_track import train; import os; root = Path.cwd(); "
    return subprocess.run([sys.executable, "-c", given + code], env=environment, check=False, cwd=root).returncode


def sent(root: Path) -> tuple[list[dict[str, float]], dict[str, str]]:
    """(rows in their order, parameters) in all .wandb files below logs/, which `wandb sync` would send."""
    from wandb.proto import wandb_internal_pb2

    rows: list[dict[str, float]] = []
    config: dict[str, str] = {}
    for path in sorted((root / "logs" / "wandb").glob("offline-run-*/*.wandb")):
        for data in records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
            elif record.WhichOneof("record_type") == "run":
                assert (record.run.run_id, record.run.project) == ("sft-0123", "affine")
                config |= {item.key or ".".join(item.nested_key): item.value_json for item in record.run.config.update}
    return rows, config


def test_weights_and_biases_offline_has_the_same_numbers(tmp_path: Path) -> None:
    assert offline(tmp_path, "train(root, ['dvclive', 'wandb'], 1, 6)") == 0
    rows, config = sent(tmp_path)
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(step, value(step)) for step in range(1, 7)]
    assert [row["throughput/tokens_per_second"] for row in rows] == [1000 * step + 1 for step in range(1, 7)]
    assert config["sft.learning_rate"] == "0.003"
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


def test_weights_and_biases_offline_has_every_row_once_after_a_kill(tmp_path: Path) -> None:
    """Its client writes blocks of 32 KiB, so that a killed process leaves a part of its rows, or none."""
    kill = "from affine.training import track; track.WandB.close = lambda self: os.kill(os.getpid(), 9); "
    assert offline(tmp_path, f"{kill}train(root, ['dvclive', 'wandb'], 1, 6)") == -9
    assert offline(tmp_path, "train(root, ['dvclive', 'wandb'], 5, 9, resume=4)") == 0
    rows, _ = sent(tmp_path)
    assert [(row["_step"], row["train/loss"]) for row in rows] == [(step, value(step)) for step in range(1, 10)]
    first = [1, 1, 1, 1, 5, 5, 5, 5, 5]  # rows after the checkpoint are the second process's
    assert [row["throughput/tokens_per_second"] for row in rows] == [1000.0 * (k + 1) + first[k] for k in range(9)]


class Server:
    """Stands for Weights & Biases' client and its server: an existing run that has `arrived` rows."""

    Settings = dict

    def __init__(self, arrived: int) -> None:
        self.step = arrived + 1 if arrived else 0
        self.rows: list[tuple[int, dict[str, float]]] = []

    def init(self, *, id: str, resume: str, **_: object) -> Server:
        assert (id, resume) == ("sft-0123", "allow")
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.rows.append((step, values))
        self.step = step

    def finish(self) -> None:
        """Nothing is buffered."""


@pytest.mark.parametrize("arrived", [0, 3, 6])
def test_weights_and_biases_online_gets_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrived: int
) -> None:
    """Against a stand-in for the client: a killed process's last rows did not reach the server, or reached it although
    they lie after the checkpoint."""
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    train(tmp_path, ["dvclive"], 1, 6)
    server = Server(arrived)
    monkeypatch.setitem(sys.modules, "wandb", server)  # type: ignore[arg-type]  # a stand-in for the module
    train(tmp_path, ["dvclive", "wandb"], 5, 9, resume=4)
    losses = {step: values["train/loss"] for step, values in server.rows if "train/loss" in values}
    assert losses == {step: value(step) for step in range(arrived + 1, 10)}
    assert sum("train/loss" in values for _, values in server.rows) == len(losses)


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


def test_dvc_plots_curves_over_their_own_steps(tmp_path: Path) -> None:
    """Left to itself DVC counts rows from 0, whatever a curve's `step` says."""
    shown = subprocess.run(
        [sys.executable, "-m", "dvc", "plots", "show", "--json", "--out", str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    plots = {name: entry for name, entry in json.loads(shown.stdout)["data"].items() if name.endswith(".tsv")}
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "metrics" / "curves").rglob("*.tsv")}
    assert set(plots) == files
    for name, [plot] in plots.items():
        drawn = [(row["step"], row[Path(name).stem]) for row in plot["content"]["data"]["values"]]
        rows = (ROOT / name).read_text(encoding="utf-8").splitlines()[1:]
        assert drawn == [tuple(row.split("\t")) for row in rows], name
