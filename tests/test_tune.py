"""The search: its space, its trials as DVC experiments, stopped and gone on with."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from dvc.cli import main as dvc_main

from affine.__main__ import main
from affine.cli.experiments import changed, experiments, table
from affine.cli.tune import interval
from affine.tune import (
    PATIENCE,
    Dimension,
    Metric,
    Search,
    Trial,
    TuneError,
    parse_dimension,
    run_experiment,
    study_name,
)
from tests import small_graph
from tests.killed import die_at, in_child

SPACE = [parse_dimension("sft.learning_rate=1e-5..1e-1:log"), parse_dimension("ppo.kl=0.0,0.1,0.3")]
METRIC = Metric("metrics/evaluate.json", "ppo.overall")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=1e-5..1e-3:log", Dimension("a.b", (), 1e-5, 1e-3, log=True)),
        ("a=1..8", Dimension("a", (), 1, 8)),
        ("a=0.01,0.03", Dimension("a", (0.01, 0.03))),
        ("a=turn,token", Dimension("a", ("turn", "token"))),
        ("a=true,false", Dimension("a", (True, False))),
        ("base.revision=0123,1e5,abc", Dimension("base.revision", ("0123", "1e5", "abc"))),
    ],
)
def test_dimensions(text: str, expected: Dimension) -> None:
    assert parse_dimension(text) == expected


@pytest.mark.parametrize("text", ["a", "a=", "=1..2", "a=2..1", "a=0..1:log", "a=x..y", "a=1..2:linear", "a=1..inf"])
def test_a_wrong_dimension_is_named(text: str) -> None:
    with pytest.raises(TuneError, match=rf"^{text.replace('.', '[.]')}"):
        parse_dimension(text)


def objective(values: Mapping[str, Any]) -> float:
    import math

    return 0.9 - abs(math.log10(values["sft.learning_rate"]) + 3) / 10 - float(values["ppo.kl"])


class Runs:
    """Instead of DVC: scores in closed form; stops or fails when told to."""

    def __init__(self, stop_at: int = -1) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []
        self.stop_at = stop_at

    def __call__(self, name: str, values: Mapping[str, Any]) -> str:
        self.seen.append((name, dict(values)))
        if len(self.seen) == self.stop_at:
            raise KeyboardInterrupt
        return json.dumps({"ppo": {"overall": objective(values)}})


def search(root: Path, runs: Runs) -> Search:
    return Search(root, "tune-test", SPACE, METRIC, seed=3, run=runs)


def test_a_stopped_search_goes_on_with_the_trial_that_was_cut(tmp_path: Path) -> None:
    first = Runs(stop_at=4)
    one = search(tmp_path, first)
    for _ in range(3):
        one.step()
    with pytest.raises(KeyboardInterrupt):
        one.step()
    again = Runs()
    two = search(tmp_path, again)
    assert len(two.finished()) == 3
    while len(two.finished()) < 12:
        two.step()
    assert again.seen[0] == first.seen[3]  # same name and values: its checkpoints are found again
    names = [name for name, _ in [*first.seen[:3], *again.seen]]
    assert len(names) == len(set(names))
    best = two.best()
    assert best
    assert best.score == max(objective(values) for _, values in [*first.seen, *again.seen])
    assert dict(best.values)["ppo.kl"] == 0.0


def test_values_that_were_tried_are_not_run_again(tmp_path: Path) -> None:
    runs = Runs()
    few = Search(tmp_path, "tune-few", [Dimension("ppo.kl", (0.1, 0.2)), Dimension("sft.learning_rate", (1e-3,))],
                 METRIC, seed=0, run=runs)  # fmt: skip
    for _ in range(8):
        few.step()
    assert len(few.finished()) == 8
    assert len(runs.seen) == len({values["ppo.kl"] for _, values in runs.seen}) == 2


def test_the_search_is_named_by_its_question() -> None:
    assert study_name(SPACE, METRIC, "abc") == study_name(list(SPACE), METRIC, "abc")
    others = {
        study_name(SPACE, METRIC, "abd"), study_name(SPACE[:1], METRIC, "abc"),
        study_name(SPACE, Metric("metrics/evaluate.json", "sft.overall"), "abc"),
    }  # fmt: skip
    assert len(others | {study_name(SPACE, METRIC, "abc")}) == 4


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(TuneError, match=r"metrics/evaluate.json has no number ppo.overall"):
        METRIC.read('{"ppo": {"overall": "high"}}')


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = small_graph.make(tmp_path / "repository")
    small_graph.enter(folder, monkeypatch)
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ppo.kll=0.1,0.2"], "params.yaml has no ppo.kll"),
        (["ppo.kl=-1..1"], "ppo.kl: Input should be greater than or equal to 0"),
        (["ppo.kl=0.1,0.2", "ppo.kl=0.3,0.4"], "ppo.kl: named twice"),
    ],
)
def test_an_impossible_space_is_refused_before_any_trial(
    repository: Path, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert not (repository / "work").exists()


def test_trials_are_experiments(
    repository: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On DVC itself: two trials in a copy of the workspace, listed, and the best one applied."""
    before = (repository / "params.yaml").read_bytes()
    assert main(["tune", "ppo.kl=0.1,0.2", "sft.learning_rate=0.001,0.01", "--trials", "2"]) == 0
    said = capsys.readouterr().out
    assert (repository / "params.yaml").read_bytes() == before
    assert small_graph.git(repository, "status", "--porcelain") == ""
    rows = list(experiments(repository))
    trials = {row.name: row for row in rows if row.child}
    best = said.split("best: ")[1].split(",")[0]
    scores = {name: row.scores["ppo"]["overall"] for name, row in trials.items()}
    assert scores[best] == max(scores.values())
    assert f"{scores[best]:.4f} ({scores[best] - 0.05:.4f} to {scores[best] + 0.05:.4f})" in said
    assert "looks better than it is" in said
    parent = next(row for row in rows if not row.child and row.name != "workspace")
    assert all(
        changed(row.params, parent.params).startswith(("ppo.kl=", "sft.learning_rate=")) for row in trials.values()
    )
    for command in (
        ["exp", "show", "--only-changed", "--no-pager"],
        ["exp", "diff", best],
        ["exp", "branch", best, "try"],
    ):
        assert dvc_main(command) == 0
    assert small_graph.git(repository, "show", "try:metrics/evaluate.json")
    capsys.readouterr()
    log = (repository / "logs" / best / "ppo.log").read_text()
    [spent] = [float(seconds) for seconds in re.findall(r"=== done after ([\d.]+) s", log)]
    assert trials[best].seconds == spent
    for width in (80, 130):
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["experiments"]) == 0
        shown = capsys.readouterr().out
        assert ("textcraft" in shown.splitlines()[0]) is (width == 130)
        assert f"{100 * scores[best]:.1f}±5.0" in shown
        assert "blocked:" in shown
        assert "…" not in shown
        heads = shown.splitlines()[0].split()
        [line] = [row.split() for row in shown.splitlines() if row.split()[:1] == [best]]
        assert heads.index("tokens") == heads.index("time") - 1
        assert line[4:6] == ["41", f"{spent:.0f}s"]  # after overall and two environments
        assert max(len(line) for line in shown.splitlines()) <= width
    assert table(rows, "ppo").row_count == len(rows) == 4
    assert dvc_main(["exp", "apply", best]) == 0
    assert small_graph.evaluate(repository)["ppo"]["overall"] == scores[best]


def test_a_search_killed_after_its_experiment_was_saved_reads_it(
    repository: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Dead between DVC's saving and the study's hearing of it: the result is there, so it is taken and not run again
    (DVC would give nothing for a name it has, and the trial would count as failed)."""
    counted = repository.parent / "runs"
    train = repository / "train.py"
    train.write_text(f"open({str(counted)!r}, 'a').write('run\\n')\n" + train.read_text())
    small_graph.git(repository, "commit", "-qam", "count")
    command = ["tune", "ppo.kl=0.1,0.2", "--trials", "1", "--metric", "metrics/evaluate.json:ppo.env.textcraft"]
    assert in_child(lambda: main(command), die_at(optuna.Study, "tell", 1)) == signal.SIGKILL
    [saved] = [row for row in experiments(repository) if row.child]
    assert counted.read_text() == "run\n"
    capfd.readouterr()
    assert main(command) == 0
    said = capfd.readouterr().out
    score = saved.scores["ppo"]["env"]["textcraft"]
    assert f"best: {saved.name}, {score:.4f} ({score - 0.1:.4f} to {score + 0.1:.4f})" in said
    assert counted.read_text() == "run\n"
    assert [row.name for row in experiments(repository) if row.child] == [saved.name]


def test_an_experiment_with_other_values_is_not_taken_for_the_trials(repository: Path) -> None:
    assert dvc_main(["exp", "run", "--temp", "-q", "-n", "tune-x-0", "-S", "ppo.kl=0.1"]) == 0
    assert run_experiment(repository, METRIC, "tune-x-0", {"ppo.kl": 0.1})
    with pytest.raises(TuneError, match=r"tune-x-0 exists with ppo.kl=0.1, and the search wants 0.2.*dvc exp remove"):
        run_experiment(repository, METRIC, "tune-x-0", {"ppo.kl": 0.2})


def test_a_failed_trial_leaves_its_log(repository: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """DVC deletes the copy that a trial ran in; what its stages said lies in the repository."""
    assert main(["tune", "ppo.kl=0.95,0.99", "--trials", "1"]) == 1
    said = capfd.readouterr()
    folders = re.findall(r"failed; what its stages said is in (logs/tune-\w+-\d)/", said.out)
    assert len(folders) == PATIENCE
    assert folders[0].rpartition("-")[0] + "-*/" in said.err
    for folder in folders:
        assert "AssertionError: diverged" in (repository / folder / "ppo.log").read_text()
    assert sorted(path.name for path in (repository / "logs").iterdir()) == sorted(f[5:] for f in folders)
    assert dvc_main(["exp", "run", "-q", "-n", "here", "-S", "ppo.kl=0.2"]) == 0  # no copy, so no folder
    assert "\nkl 0.2\n" in (repository / "logs" / "ppo.log").read_text()


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("metrics/evaluate.json:ppo.overall", "0.6523 (0.6023 to 0.7023)"),
        ("metrics/evaluate.json:ppo.env.textcraft", "0.3261 (0.2261 to 0.4261)"),
        ("metrics/evaluate.json:base.env.sat", "0.6523 (no interval in metrics/plots/scores.csv)"),
        ("metrics/evaluate.json:ppo.tokens", "41.0000 (no interval in metrics/evaluate.json)"),
        ("metrics/pareto.json:size", "3.0000 (no interval in metrics/pareto.json)"),
    ],
)
def test_the_best_trial_is_shown_with_its_interval(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, said: str
) -> None:
    """Of what tests/small_graph.py writes for kl 0.2, by hand: 0.9 - (log10(0.003) + 3) / 10 - 0.2 = 0.65229."""
    row = {
        "overall": 0.65229,
        "low": 0.60229,
        "high": 0.70229,
        "tokens": 41.0,
        "env": {"sat": 0.65229, "textcraft": 0.326145},
    }
    files = {
        "metrics/evaluate.json": json.dumps({"base": row, "ppo": row}),
        "metrics/pareto.json": json.dumps({"size": 3}),
        "metrics/plots/scores.csv": "model,env,low,high\nppo,sat,0.55,0.75\nppo,textcraft,0.226145,0.426145\n",
    }
    monkeypatch.setattr("affine.cli.tune.read_experiment", lambda root, name, file: files[file])
    file, _, key = metric.partition(":")
    what = Metric(file, key)
    assert interval(tmp_path, what, Trial("x", {}, what.read(files[file]))) == said
